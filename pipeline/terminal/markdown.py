"""Parts of the reference pages: tables, and the docstrings of attributes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import ModuleType


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def plain(text: str) -> str:
    """Return the text of a docstring on one line, its marks of reStructuredText as those of Markdown."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`")


@cache
def module_tree(module: ModuleType) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(inspect.getsource(module))


def definitions(module: ModuleType) -> Mapping[str, ast.ClassDef | ast.FunctionDef]:
    """Return the classes and functions of a module by name."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name: node for node in module_tree(module).body if isinstance(node, kinds)}


def attribute_docs(body: Sequence[ast.stmt]) -> Mapping[str, str]:
    """Return the docstrings below the assignments of a class or a module, by name; empty where there is none."""
    found: dict[str, str] = {}
    for node, after in zip(body, (*body[1:], None), strict=True):
        target = getattr(node, "target", None) or (node.targets[0] if isinstance(node, ast.Assign) else None)
        if not isinstance(target, ast.Name):
            continue
        found[target.id] = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[target.id] = plain(str(after.value.value))
    return found
