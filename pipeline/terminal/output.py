"""Output of a command: results on standard output, notices on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class Output:
    """The output of one command, as its options ask for it."""

    quiet: bool = False
    """True: errors and JSON alone."""
    verbose: bool = False
    """True: every stage is printed."""
    as_json: bool = False
    """True: the result is JSON."""

    def result(self, value: Any, lines: Iterable[str], sort_keys: bool = False) -> None:
        """Print a result.

        Args:
            value: the result as JSON values.
            lines: the result for people; not consumed where it is not printed.
            sort_keys: order the keys of the JSON by name.
        """
        if self.as_json:
            self.json(value, sort_keys)
        elif not self.quiet:
            self.lines(lines)

    def json(self, value: Any, sort_keys: bool = False) -> None:
        """Print JSON on standard output."""
        click.echo(json.dumps(value, indent=1, sort_keys=sort_keys))

    def lines(self, lines: Iterable[str]) -> None:
        """Print lines on standard output."""
        for line in lines:
            click.echo(line)

    def notice(self, line: str) -> None:
        """Print a line on standard error, with ``--quiet`` as well."""
        click.echo(line, err=True)


def format_duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours, with its unit."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
