"""The page about Python: public names of ``ussfc``, by signature and docstring."""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import ussfc
from ussfc.pipeline.terminal.markdown import attribute_docs, definitions, plain, table

GROUPS: Mapping[str, Sequence[str]] = {
    "Arrays": ("detect_changes", "classify", "polygons"),
    "Runs": ("run", "plan", "load_config", "RunConfig"),
    "Models": ("find_model", "list_models", "ModelSpec", "load_weights", "USSFCNet"),
    "Detectors": (
        "DetectorOptions",
        "detector_spec",
        "detector_choices",
        "fastest",
        "anywhere",
        "engine_was_chosen",
        "patches_per_second",
        "gpus",
    ),
    "Errors and warnings": (
        "PipelineError",
        "ClusterError",
        "ConfigError",
        "GridError",
        "InsufficientMemoryError",
        "ReadError",
        "StoreError",
        "TileError",
        "DataError",
        "ModelError",
        "TrainingError",
        "PipelineWarning",
    ),
}
"""Public names by heading; all but ``__version__``."""

WIDTH = 100
"""Longest signature on one line, characters."""

SECTIONS = ("Args", "Returns", "Raises")
"""Sections of a docstring that are shown as tables and paragraphs of their own."""

ELSEWHERE = {"RunConfig": "Its keys are those of [the configuration](configuration.md)."}
"""Classes whose fields have a page of their own."""


def python_page() -> Iterator[str]:
    """Yield the lines of the page."""
    yield (
        "`from ussfc import ...` gives every name of this page; each is imported on first use. Arrays are (y, x) or "
        "(band, y, x). The exit status that the command line has for an error is in [exit statuses](exit-statuses.md)."
    )
    for heading, names in GROUPS.items():
        yield from ("", f"## {heading}")
        for name in names:
            yield from _entry(name)


def _entry(name: str) -> Iterator[str]:
    owner = getattr(ussfc, name)
    node = definitions(sys.modules[owner.__module__])[name]
    yield from ("", f"### `{name}`", "")
    if isinstance(node, ast.FunctionDef):
        yield from ("```text", *_signature(node), "```", "")
    elif issubclass(owner, Exception):
        yield from (f"Subclass of `{owner.__base__.__name__}`.", "")
    summary, sections = _sections(ast.get_docstring(node) or "")
    yield from summary
    if name in ELSEWHERE:
        yield from ("", ELSEWHERE[name])
    elif isinstance(node, ast.ClassDef):
        yield from _members(node)
    for title, lines in sections.items():
        yield from _section(title, lines)


def _signature(node: ast.FunctionDef) -> Iterator[str]:
    words = list(_parameters(node.args))
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({', '.join(words)}){returned}"
    if len(line) <= WIDTH:
        yield line
    else:
        yield from (f"{node.name}(", *(f"    {word}," for word in words), f"){returned}")


def _parameters(arguments: ast.arguments) -> Iterator[str]:
    without = [None] * (len(arguments.args) - len(arguments.defaults))
    for argument, value in zip(arguments.args, (*without, *arguments.defaults), strict=True):
        yield _parameter(argument, value)
    if arguments.kwonlyargs:
        yield "*"
    for argument, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(argument, value)


def _parameter(argument: ast.arg, value: ast.expr | None) -> str:
    return ast.unparse(argument) if value is None else f"{ast.unparse(argument)} = {ast.unparse(value)}"


def _sections(docstring: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the paragraphs before the first section, and the lines of each section."""
    pieces = re.split(rf"^({'|'.join(SECTIONS)}):\n", docstring, flags=re.MULTILINE)
    paragraphs = [plain(part) for part in re.split(r"\n\s*\n", pieces[0]) if part.strip()]
    summary = [line for part in paragraphs for line in (part, "")][:-1]
    sections = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    return summary, {title: textwrap.dedent(text).splitlines() for title, text in sections.items()}


def _section(title: str, lines: Sequence[str]) -> Iterator[str]:
    text = "\n".join(lines)
    if title == "Returns":
        yield from ("", f"Returns: {plain(text)}")
        return
    entries = re.findall(r"^(\S[^:\n]*): (.*(?:\n[ ]+.*)*)", text, re.MULTILINE)
    heads = ("argument", "meaning") if title == "Args" else ("error", "when")
    rows = [(f"`{names.replace(', ', '`, `')}`", plain(meaning)) for names, meaning in entries]
    yield ""
    yield from table(heads, rows)


def _members(node: ast.ClassDef) -> Iterator[str]:
    """Yield a table of the attributes that have a docstring."""
    rows = [
        (f"`{name}`", meaning)
        for name, meaning in attribute_docs(node.body).items()
        if meaning and not name.startswith("_")
    ]
    rows += [
        (f"`{member.name}`", plain((ast.get_docstring(member) or "").split("\n\n")[0]))
        for member in node.body
        if isinstance(member, ast.FunctionDef)
        and not member.name.startswith("_")
        and any(ast.unparse(mark) == "property" for mark in member.decorator_list)
    ]
    if rows:
        yield ""
        yield from table(("attribute", "meaning"), rows)
