"""Errors as a user of the command line sees them: one line and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ussfc.pipeline.terminal.advice import with_flags
from ussfc.pipeline.terminal.exit_statuses import STATUSES, ExitStatus, status_of
from ussfc.pipeline.terminal.streams import lossy_streams

INTERRUPTED = "interrupted; the same command continues where it stopped"


class Commands(click.Group):
    """Commands whose errors end in one line and an exit status, whatever becomes of their text."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as a program, also where standard output or error cannot be written."""
        with lossy_streams():
            return super().main(*args, **options)

    def invoke(self, context: click.Context) -> Any:
        """Run the command that was chosen."""
        with reported_errors():
            return super().invoke(context)


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
        if click.get_current_context().find_root().obj["debug"]:
            raise
        click.echo(f"error: {error_line(error)}", err=True)
        sys.exit(status_of(error))


def error_line(error: Exception) -> str:
    """Return an error's message on one line, with the flags that do what it advises."""
    return with_flags(" ".join(str(error).split()))
