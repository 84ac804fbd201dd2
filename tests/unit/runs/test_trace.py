"""Time lines of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ussfc.pipeline.events import Advanced, Event, Notice, StageFinished, StageStarted
from ussfc.pipeline.runs.trace import traced
from ussfc.pipeline.timeline import TileTimeline

TILE = TileTimeline("node1 42", 7, (("read", 100.0, 0.5), ("wait", 100.5, 0.25), ("network", 100.75, 2.0)))


def test_steps_stages_and_pixels_are_kept(tmp_path: Path) -> None:
    seen: list[Event] = []
    sent = [StageStarted("infer", 2, 300), Advanced("infer", 1, 100, TILE), StageFinished("infer", 3.0, 100)]
    with traced(tmp_path / "trace.json", seen.append) as subscriber:
        for event in sent:
            subscriber(event)
    assert seen == sent
    found = json.loads((tmp_path / "trace.json").read_text("utf-8"))["traceEvents"]
    names = {event["args"]["name"]: event["pid"] for event in found if event["ph"] == "M"}
    spans = [event for event in found if event["ph"] == "X"]
    assert [(span["name"], span["ts"], span["dur"], span["tid"]) for span in spans[:3]] == [
        ("read", 100.0e6, 0.5e6, 7), ("wait", 100.5e6, 0.25e6, 7), ("network", 100.75e6, 2e6, 7),
    ]  # fmt: skip
    assert {span["pid"] for span in spans[:3]} == {names["node1 42"]}
    assert (spans[3]["name"], spans[3]["dur"]) == ("infer", 3e6)
    assert len(names) == 2
    assert [event["args"]["Mpx"] for event in found if event["ph"] == "C"] == [1e-4]


def test_a_run_that_fails_leaves_its_time_line(tmp_path: Path) -> None:
    def fail() -> None:
        with traced(tmp_path / "trace.json", lambda event: None) as subscriber:
            subscriber(StageStarted("infer", 1, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert json.loads((tmp_path / "trace.json").read_text("utf-8"))["traceEvents"] == []


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    seen: list[Event] = []
    with traced(tmp_path / "file" / "trace.json", seen.append):
        pass
    (notice,) = seen
    assert isinstance(notice, Notice)
    assert notice.warning
    assert "the time line is missing: " in notice.message
