"""Output of a command: results on standard output, notices on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import click

from ussfc.pipeline.progress import timestamp


@dataclass(frozen=True)
class Output:
    """The output of one command, as its options ask for it."""

    quiet: bool = False
    """True: errors and JSON alone."""
    verbose: bool = False
    """True: every stage is printed."""
    as_json: bool = False
    """True: the result is JSON."""
    start: float = field(default_factory=time.monotonic)
    """Moment at which the command began, seconds of the monotonic clock."""

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self.start

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

    def log(self, line: str) -> None:
        """Print a line about what is going on on standard error, after the time where that is no terminal."""
        self.notice(log_line(line))


def log_line(line: str) -> str:
    """Return a line for standard error: after the time where that is no terminal, but a file or another program."""
    return line if sys.stderr.isatty() else f"{timestamp()} {line}"
