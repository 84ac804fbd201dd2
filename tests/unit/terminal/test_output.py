"""Output of a command."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from ussfc.pipeline.terminal.output import Output

Capture = pytest.CaptureFixture[str]


def lines() -> Iterator[str]:
    yield "first"
    yield "second"


def untouched() -> Iterator[str]:
    raise AssertionError("lines that are not printed are not made")
    yield


def test_result_is_lines(capsys: Capture) -> None:
    Output().result({"b": 1}, lines())
    assert capsys.readouterr() == ("first\nsecond\n", "")


def test_quiet_prints_no_result(capsys: Capture) -> None:
    Output(quiet=True).result({"b": 1}, untouched())
    assert capsys.readouterr() == ("", "")


def test_json_is_printed_also_when_quiet(capsys: Capture) -> None:
    Output(quiet=True, as_json=True).result({"b": 1, "a": [2]}, untouched(), sort_keys=True)
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"a": [2], "b": 1}
    assert printed.index('"a"') < printed.index('"b"')


def test_notices_go_to_standard_error(capsys: Capture) -> None:
    Output(quiet=True).notice("careful")
    assert capsys.readouterr() == ("", "careful\n")


def test_log_lines_have_the_time_outside_of_a_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Output().log("infer: begins")
    stamp, _, line = capsys.readouterr().err.partition(" infer: ")
    assert datetime.fromisoformat(stamp).tzinfo is not None
    assert line == "begins\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Output().log("infer: begins")
    assert capsys.readouterr().err == "infer: begins\n"


def test_elapsed_counts_from_the_command() -> None:
    assert 5 <= Output(start=time.monotonic() - 5).elapsed < 6
