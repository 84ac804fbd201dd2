"""Reference pages of the documentation, made from the code: commands, configuration, files, Python, exit statuses.

    python -m ussfc.pipeline.terminal.reference docs/reference

writes the pages again; a test compares them.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import click

from ussfc.pipeline.config.load import ENV_PREFIX, documented_keys
from ussfc.pipeline.config.schema import CLUSTERS, RunConfig
from ussfc.pipeline.terminal.exit_statuses import STATUSES, ExitStatus
from ussfc.pipeline.terminal.file_reference import files_page
from ussfc.pipeline.terminal.markdown import table
from ussfc.pipeline.terminal.python_reference import python_page

MADE = (
    "<!-- Made by `python -m ussfc.pipeline.terminal.reference docs/reference`; changes go into the code. -->"
)

BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "multipleOf": "a multiple of",
}

TYPES = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "array": "list of integers",
    "object": "mapping",
}


def page(name: str, commands: click.Group) -> str:
    """Return a page.

    Args:
        name: of its file, a key of :data:`PAGES`.
        commands: the command line.
    """
    title, lines = PAGES[name]
    body = "\n".join(lines(commands)).strip("\n")
    return f"# {title}\n\n{MADE}\n\n{body}\n"


def _configuration_page() -> Iterator[str]:
    yield (
        "Every key may be set in a YAML file (`--config`), as `--set tiling.tile_size=1024`, or as an environment "
        f"variable (`{ENV_PREFIX}TILING__TILE_SIZE=1024`). Later sources of this list go before earlier ones:"
    )
    yield ""
    yield "1. the packaged `configs/default.yaml`, and for `--cluster` a file of `configs/clusters` or your own,"
    yield "2. the YAML file,"
    yield "3. environment variables,"
    yield "4. `--set`,"
    yield "5. options of the command such as `--threshold`."
    yield ""
    yield "`ussfc config` lists the keys as well. A key that a kind of cluster does not use is refused."
    schema = RunConfig.model_json_schema()
    rows: dict[str, list[tuple[str, ...]]] = {}
    for key, default, description in documented_keys():
        section = key.partition(".")[0] if "." in key else ""
        shown = "required" if _is_required(key) else f"`{json.dumps(default)}`"
        cells = [f"`{key}`", shown, _values(_property(schema, key)), description]
        if section == "cluster":
            cells.append(_kinds(key))
        rows.setdefault(section, []).append(tuple(cells))
    heads = ("key", "default", "values", "meaning")
    for section, found in rows.items():
        yield from ("", f"## {section or 'Model and threshold'}", "")
        yield from table((*heads, "kinds") if section == "cluster" else heads, found)


def _property(schema: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the JSON schema of a key."""
    section, _, name = key.partition(".")
    if key == "cluster.kind":
        return {"enum": list(CLUSTERS)}
    if section == "cluster":
        models = (model for model in CLUSTERS.values() if name in model.model_fields)
        found: Mapping[str, Any] = next(models).model_json_schema()["properties"][name]
        return found
    top: Mapping[str, Any] = schema["properties"][section]
    if not name:
        return top
    inner: Mapping[str, Any] = schema["$defs"][top["$ref"].rpartition("/")[2]]["properties"][name]
    return inner


def _is_required(key: str) -> bool:
    section, _, name = key.partition(".")
    return section == "cluster" and any(
        name in model.model_fields and model.model_fields[name].is_required() for model in CLUSTERS.values()
    )


def _kinds(key: str) -> str:
    name = key.partition(".")[2]
    kinds = [kind for kind, model in CLUSTERS.items() if name in model.model_fields]
    return "all" if len(kinds) == len(CLUSTERS) else ", ".join(kinds)


def _values(schema: Mapping[str, Any]) -> str:
    """Return the values that a key takes, in words."""
    if "anyOf" in schema:
        return _values(next(kind for kind in schema["anyOf"] if kind.get("type") != "null"))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "enum" in schema.get("items", {}):
        return f"one or several of {_values(schema['items'])}"
    bounds = [f"{words} {schema[bound]:g}" for bound, words in BOUNDS.items() if bound in schema]
    return ", ".join([TYPES[schema["type"]], *bounds])


def _cli_page(commands: click.Group) -> Iterator[str]:
    root = click.Context(commands, info_name="ussfc")
    yield from _command(commands, root)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    words = ["COMMAND"] if isinstance(command, click.Group) else []
    for param in command.params:
        if isinstance(param, click.Argument):
            word = param.human_readable_name.upper()
            words.append(word if param.required else f"[{word}]")
    yield from ("", f"## `{' '.join([context.command_path, *words])}`", "")
    yield from _prose(command.help or "")
    options = [_option(param, context) for param in command.params if isinstance(param, click.Option)]
    if options:
        yield ""
        yield from table(("option", "meaning"), options)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, click.Context(inner, parent=context, info_name=name))


def _prose(text: str) -> Iterator[str]:
    """Yield the lines of a help text; a paragraph after click's mark is shown as it is."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ""
        if paragraph.startswith("\b"):
            yield from ("```text", *paragraph.splitlines()[1:], "```")
        else:
            yield " ".join(paragraph.split())


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    record = option.get_help_record(context)
    assert record is not None
    names, text = record
    return f"`{names}`", " ".join(text.split())


def _status_page() -> Iterator[str]:
    errors: dict[ExitStatus, list[str]] = {}
    for kind, status in STATUSES:
        errors.setdefault(status, []).append(f"`{kind.__name__}`")
    rows = [(str(int(status)), status.meaning, ", ".join(errors.get(status, ()))) for status in ExitStatus]
    yield from table(("status", "meaning", "errors in Python"), rows)


PAGES: Mapping[str, tuple[str, Callable[[click.Group], Iterator[str]]]] = {
    "cli.md": ("Commands", _cli_page),
    "configuration.md": ("Configuration", lambda _: _configuration_page()),
    "files.md": ("Files in OUT", lambda _: files_page()),
    "python.md": ("Python", lambda _: python_page()),
    "exit-statuses.md": ("Exit statuses", lambda _: _status_page()),
}
"""Title and lines of each page, by the name of its file."""


def main(folder: str) -> None:
    """Write the pages into a folder."""
    # By name: the command line imports this package, not the other way round.
    commands = resolve_name("ussfc.cli:main")
    for name in PAGES:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_text(page(name, commands), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
