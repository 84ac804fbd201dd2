"""The log of a run beside its products."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from ussfc.pipeline import waiting
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.events import Advanced, Event, Notice, StageFinished, StageStarted
from ussfc.pipeline.runs import run_log
from ussfc.pipeline.runs.run_log import recorded
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.waiting import report_waits, waiting_for

EVENTS: tuple[Event, ...] = (
    Notice("no CRS"),
    StageStarted("infer", 1, 4_000_000),
    Advanced("infer", 0, 1_000_000),
    StageFinished("infer", 12.0, 4_000_000),
    Notice("resuming", warning=False),
)


@pytest.fixture(params=["disk", "memory"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    folder = Folder.of(tmp_path if request.param == "disk" else "memory://log")
    yield folder
    folder.remove(layout.LOG)


def lines(out: Folder) -> list[str]:
    """Return the lines of the log without their times, which are checked."""
    found = []
    for line in out.read(layout.LOG).decode().splitlines():
        moment, line = line[:25], line[26:]
        assert datetime.fromisoformat(moment).tzinfo is not None
        found.append(line)
    return found


def log(out: Folder, events: tuple[Event, ...] = EVENTS, error: BaseException | None = None) -> list[Event]:
    passed: list[Event] = []
    with recorded(out, passed.append) as subscriber:
        for event in events:
            subscriber(event)
        if error is not None:
            raise error
    return passed


BEGUN = ["warning: no CRS", "infer: begins"]


def test_log_grows_by_every_run(out: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuple(log(out)) == EVENTS
    first = [*BEGUN, "infer: done in 12.0 s", "note: resuming", "ended"]
    assert lines(out) == first
    monkeypatch.setattr(run_log, "PROGRESS_SECONDS", 0)
    log(out)
    second = lines(out)[len(first) :]
    assert second[2].startswith("infer: 25%, 0/1, ")
    assert second[:2] + second[3:] == first


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (StoreError("disk: full\nmake room"), "error: disk: full make room"),
        (MemoryError(), "error: MemoryError"),
        (
            StoreError("https://u:PW@example.org/a.tif?sig=SECRET gone"),
            "error: https://example.org/a.tif gone",
        ),
    ],
)
def test_log_has_the_reason_of_the_end(out: Folder, error: BaseException, last: str) -> None:
    with pytest.raises(type(error)):
        log(out, EVENTS[:2], error)
    assert lines(out) == [*BEGUN, last]


def test_no_stage_no_log(out: Folder) -> None:
    log(out, EVENTS[:1])
    with pytest.raises(StoreError):
        log(out, EVENTS[:1], StoreError("another run"))
    assert not out.exists(layout.LOG)


def test_log_that_cannot_be_written_ends_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / layout.LOG).mkdir()
    passed = log(Folder.of(tmp_path))
    warnings = [event.message for event in passed if isinstance(event, Notice) and event.warning]
    assert [text[:37] for text in warnings] == ["no CRS", "the log ends here, the run goes on: /"]


def test_long_waits_are_in_the_log_and_passed_on_once(out: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 0.02)
    passed: list[Event] = []
    with report_waits(passed.append), recorded(out, passed.append) as subscriber:
        # The first scene is opened before the first stage.
        with waiting_for("https://example.org"):
            time.sleep(0.2)
        subscriber(EVENTS[1])
    notice = Notice("waiting for https://example.org", warning=False)
    assert passed == [notice, EVENTS[1]]
    assert lines(out) == ["note: waiting for https://example.org", "infer: begins", "ended"]
