"""Progress of a command."""

from __future__ import annotations

import sys
import time

import pytest

from ussfc.pipeline import waiting
from ussfc.pipeline.events import Advanced, Event, Notice, StageFinished, StageStarted
from ussfc.pipeline.terminal import output as output_module
from ussfc.pipeline.terminal import progress as module
from ussfc.pipeline.terminal.output import Output
from ussfc.pipeline.terminal.progress import TrainingProgress, progress
from ussfc.training.events import StepCompleted, Validated

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "timestamp", lambda: "noon")


EVENTS: tuple[Event, ...] = (
    StageStarted("infer", 4, 4_000_000),
    Notice("no CRS"),
    Notice("resuming", warning=False),
    Advanced("infer", 1, 1_000_000),
    StageFinished("infer", 0.5, 4_000_000),
)


def printed(output: Output, capsys: Capture) -> list[str]:
    with progress(output) as subscriber:
        for event in EVENTS:
            subscriber(event)
    found = capsys.readouterr()
    assert found.out == ""
    return found.err.splitlines()


def test_notices_are_lines(capsys: Capture) -> None:
    assert printed(Output(), capsys) == ["noon warning: no CRS", "noon note: resuming"]


def test_quiet_prints_nothing(capsys: Capture) -> None:
    assert printed(Output(quiet=True), capsys) == []


def test_verbose_prints_every_stage(capsys: Capture) -> None:
    assert printed(Output(verbose=True), capsys)[-1] == "noon infer: done in 0.5 s"


def test_progress_has_speed_and_time_left(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLAIN_SECONDS", 0)
    line = printed(Output(), capsys)[2]
    assert line.startswith("noon infer: 25%, 1/4, ")
    assert " Mpx/s, " in line
    assert line.endswith(" left")


def test_terminal_gets_a_bar(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    lines = "\n".join(printed(Output(), capsys))
    assert "warning: no CRS" in lines
    assert "4/4" in lines


def test_json_gets_lines_in_a_terminal(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert printed(Output(as_json=True), capsys) == ["warning: no CRS", "note: resuming"]


def test_long_waits_are_lines(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 0)
    for output in (Output(), Output(quiet=True)):
        with progress(output), waiting.waiting_for("tcp://10.0.0.1:8786"):
            time.sleep(0.1)
    assert capsys.readouterr().err == "noon note: waiting for tcp://10.0.0.1:8786\n"


def test_training_prints_validations(capsys: Capture) -> None:
    for output in (Output(), Output(quiet=True)):
        subscriber = TrainingProgress(output)
        subscriber(StepCompleted(1, 8, 0.5, 10.0))
        subscriber(Validated(4, 0.6, 0.3, best=True))
    assert capsys.readouterr().err == "noon step 4: validation F1 0.6000 at threshold 0.3, best so far\n"
