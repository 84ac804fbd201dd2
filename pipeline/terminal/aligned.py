"""Names and values in two columns, as the ends of `run` and `plan` have them."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator

WIDTH = 9
"""Width of the names."""

LEAST = 40
"""Narrowest column of values, characters."""

Row = tuple[str, str]
"""Name and value; an empty name goes on with the row above."""


def terminal_width() -> int | None:
    """Return the characters of a line of the terminal; None where standard output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def aligned(rows: Iterable[Row], width: int | None = None) -> Iterator[str]:
    """Yield lines with the names at the right of their column.

    Args:
        rows: in their order.
        width: characters of a line, between whose words values are broken; None: a row is one line.
    """
    for name, value in rows:
        lines = [value]
        if width is not None:
            # Paths and numbers stay whole, however long they are.
            room = max(LEAST, width - WIDTH - 2)
            lines = textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False) or [""]
        for place, line in enumerate(lines):
            yield f"{name if place == 0 else '':>{WIDTH}}  {line}"


def aligned_paths(name: str, paths: Iterable[str]) -> Iterator[str]:
    """Yield lines with one path each, whole, whatever blanks are in it."""
    for place, path in enumerate(paths):
        yield from aligned([(name if place == 0 else "", path)])
