"""Output of a command."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ussfc.pipeline.terminal.output import Output, format_duration

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


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (89.9, "89.9 s"), (90, "1.5 min"), (5400, "1.5 h")]
)
def test_durations_have_a_fitting_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
