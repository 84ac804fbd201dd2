"""Errors as a user of the command line sees them: one line and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from ussfc.local_files import UNDECODABLE, undecodable
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.terminal.advice import with_flags
from ussfc.pipeline.terminal.exit_statuses import STATUSES, ExitStatus, status_of
from ussfc.pipeline.terminal.streams import lossy_streams

GIVEN = "ussfc.arguments"
"""Key of the arguments in click's context."""

INTERRUPTED = "interrupted; the same command continues where it stopped"


class Commands(click.Group):
    """Commands whose errors end in one line and an exit status, whatever becomes of their text."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as a program, also where standard output or error cannot be written."""
        with lossy_streams():
            return super().main(*args, **options)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Take the arguments apart, and keep them as they were given."""
        context.meta[GIVEN] = list(args)
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        """Run the command that was chosen."""
        with reported_errors():
            _check_encoding(context.meta.get(GIVEN, ()))
            return super().invoke(context)


def _check_encoding(arguments: Sequence[str]) -> None:
    """Refuse names of bytes that are no text: GDAL and every record take text.

    Raises:
        ConfigError: an argument holds such bytes.
    """
    for argument in arguments:
        if (shown := undecodable(argument)) is not None:
            raise ConfigError(f"{shown}: {UNDECODABLE}")


@contextmanager
def reported_errors(interrupted: str = INTERRUPTED) -> Iterator[None]:
    """Turn the errors that a user can meet into one line and an exit status.

    With ``--debug`` they are raised as they are; a defect always is.

    Args:
        interrupted: line after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        click.echo(interrupted, err=True)
        sys.exit(ExitStatus.INTERRUPTED)
    except tuple(kind for kind, _ in STATUSES) as error:
        # Arguments are looked at before the group has set its object.
        if (click.get_current_context().find_root().obj or {}).get("debug"):
            raise
        click.echo(f"error: {error_line(error)}", err=True)
        sys.exit(status_of(error))


def error_line(error: Exception) -> str:
    """Return an error's message on one line, with the flags that do what it advises."""
    return with_flags(" ".join(str(error).split()))
