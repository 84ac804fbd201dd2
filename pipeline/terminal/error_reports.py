"""Errors as a user of the command line sees them: one line and an exit status."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

import click

from ussfc.addresses import without_secrets
from ussfc.local_files import UNDECODABLE, undecodable
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.parallel.memory_limit import address_limit, check_address_space, is_out_of_memory
from ussfc.pipeline.progress import notice_line
from ussfc.pipeline.terminal.advice import with_flags
from ussfc.pipeline.terminal.exit_statuses import STATUSES, ExitStatus, status_of
from ussfc.pipeline.terminal.help_pages import GroupedHelp
from ussfc.pipeline.terminal.output import log_line
from ussfc.pipeline.terminal.streams import lossy_streams
from ussfc.pipeline.waiting import report_waits

GIVEN = "ussfc.arguments"
"""Key of the arguments in click's context."""

MOST_REASON = 200
"""Characters of a library's text about missing memory that are shown: some explain for pages."""

LOADED_LIBRARIES = 600_000_000
"""Addresses that the libraries of any command take, bytes."""

INTERRUPTED = "interrupted; the same command continues where it stopped"


class Commands(GroupedHelp):
    """Commands whose errors end in one line and an exit status, whatever becomes of their text."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run as a program, also where standard output or error cannot be written."""
        if not options.get("standalone_mode", True):
            # Called by a program, which goes on afterwards.
            return super().main(*args, **options)
        with lossy_streams():
            return super().main(*args, **options)

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Take the arguments apart, and keep them as they were given."""
        context.meta[GIVEN] = list(args)
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        """Run the command that was chosen."""
        with reported_errors(), _sigterm_raises(), report_waits(_print_notice):
            _check_encoding(context.meta.get(GIVEN, ()))
            # Below that, numerical libraries end the process as they are loaded.
            check_address_space(0, reserved=LOADED_LIBRARIES)
            return super().invoke(context)


def _check_encoding(arguments: Sequence[str]) -> None:
    """Refuse names of bytes that are no text: GDAL and every record take text.

    Raises:
        ConfigError: an argument holds such bytes.
    """
    for argument in arguments:
        if (shown := undecodable(argument)) is not None:
            raise ConfigError(f"{shown}: {UNDECODABLE}")


class Terminated(KeyboardInterrupt):
    """SIGTERM has come, as scancel, kubectl and service managers send it: everything ends as after Ctrl-C."""

    def __str__(self) -> str:
        return "terminated"


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Raise :class:`Terminated` at SIGTERM, unless a program around us has plans of its own for it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def end(number: int, frame: object) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _print_notice(event: Event) -> None:
    if isinstance(event, Notice):
        click.echo(log_line(with_flags(notice_line(event))), err=True)


@contextmanager
def reported_errors(interrupted: str = INTERRUPTED) -> Iterator[None]:
    """Turn the errors that a user can meet into one line and an exit status.

    With ``--debug`` they are raised as they are; a defect always is.

    Args:
        interrupted: line after Ctrl-C, and with another first word after SIGTERM.
    """
    try:
        yield
    except Terminated as error:
        click.echo(interrupted.replace("interrupted", f"{error} (SIGTERM)"), err=True)
        sys.exit(ExitStatus.TERMINATED)
    except KeyboardInterrupt:
        click.echo(interrupted, err=True)
        sys.exit(ExitStatus.INTERRUPTED)
    except tuple(kind for kind, _ in STATUSES) as error:
        # Arguments are looked at before the group has set its object.
        if (click.get_current_context().find_root().obj or {}).get("debug"):
            raise
        click.echo(f"error: {error_line(error)}", err=True)
        sys.exit(status_of(error))
    except (MemoryError, OSError, ImportError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        limit = address_limit()
        limited = (
            f", of which a process may have {limit / 1e9:.2f} GB of addresses (`ulimit -v`)" if limit else ""
        )
        reason = " ".join(str(error).split())[:MOST_REASON] or type(error).__name__
        click.echo(
            f"error: too little memory{limited}: {reason}; raise the limit or use a larger machine", err=True
        )
        sys.exit(ExitStatus.MEMORY)


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback without secrets, in place of Python's own way: libraries quote addresses in their errors."""
    lines = traceback.format_exception(kind, error, trace)
    click.echo(without_secrets("".join(lines)), err=True, nl=False)


def error_line(error: Exception) -> str:
    """Return an error's message on one line, with the flags that do what it advises."""
    return with_flags(" ".join(str(error).split()))
