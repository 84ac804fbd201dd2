"""Errors as a user of the command line sees them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.terminal.error_reports import INTERRUPTED, Commands, reported_errors
from ussfc.pipeline.terminal.exit_statuses import ExitStatus


def invoke(end: BaseException | Callable[[], None], *arguments: str) -> Result:
    """Run a command that raises or does something."""

    def act() -> None:
        if isinstance(end, BaseException):
            raise end
        end()

    @click.group(cls=Commands)
    @click.option("--debug", is_flag=True)
    @click.pass_context
    def commands(context: click.Context, debug: bool) -> None:
        context.obj = {"debug": debug}

    @commands.command()
    def work() -> None:
        act()

    @commands.command()
    def bench() -> None:
        with reported_errors("nothing is kept"):
            act()

    return CliRunner().invoke(commands, arguments)


def test_error_is_one_line_and_a_status() -> None:
    result = invoke(ReadError("a.tif: broken\n  at line 3"), "work")
    assert result.exit_code == ExitStatus.INPUT
    assert result.stderr == "error: a.tif: broken at line 3\n"


def test_names_that_are_no_text_are_refused() -> None:
    result = invoke(ReadError("never reached"), "work", os.fsdecode(b"caf\xe9.tif"))
    assert result.exit_code == ExitStatus.USAGE
    assert result.stderr == (
        "error: caf\\xe9.tif: holds bytes that are no UTF-8; rename the file or folder, or give a link to it\n"
    )


def test_want_of_memory_is_one_line() -> None:
    result = invoke(ImportError("libx.so: failed to map segment\nfrom shared object"), "work")
    assert result.exit_code == ExitStatus.MEMORY
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: too little memory")
    assert "libx.so: failed to map segment from shared object; raise the limit" in line


def test_debug_raises_the_error() -> None:
    error = ReadError("a.tif: broken")
    assert invoke(error, "--debug", "work").exception is error


def test_defect_is_raised() -> None:
    error = RuntimeError("defect")
    result = invoke(error, "work")
    assert result.exception is error
    assert result.exit_code == ExitStatus.DEFECT


@pytest.mark.parametrize(("command", "line"), [("work", INTERRUPTED), ("bench", "nothing is kept")])
def test_interrupt_ends_with_a_line(command: str, line: str) -> None:
    result = invoke(KeyboardInterrupt(), command)
    assert result.exit_code == ExitStatus.INTERRUPTED
    assert result.stderr == f"{line}\n"


@pytest.mark.parametrize(
    ("command", "line"),
    [("work", INTERRUPTED.replace("interrupted", "terminated (SIGTERM)")), ("bench", "nothing is kept")],
)
def test_sigterm_ends_with_a_line_and_143(command: str, line: str) -> None:
    result = invoke(lambda: os.kill(os.getpid(), signal.SIGTERM), command)
    assert result.exit_code == ExitStatus.TERMINATED == 128 + signal.SIGTERM
    assert result.stderr == f"{line}\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_stays_with_a_program_around_us() -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        result = invoke(lambda: os.kill(os.getpid(), signal.SIGTERM), "work")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert (result.exit_code, seen) == (0, [signal.SIGTERM])
