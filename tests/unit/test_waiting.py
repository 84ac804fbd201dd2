"""Waits for other machines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from ussfc.pipeline import waiting
from ussfc.pipeline.events import Event, Notice, ignore
from ussfc.pipeline.waiting import report_waits, waiting_for


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], list[Event]]:
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 0.02)

    def wait(host: str, seconds: float) -> list[Event]:
        events: list[Event] = []
        with (
            report_waits(lambda event: pytest.fail("the inner one takes its place")),
            report_waits(events.append),
        ):
            for _ in range(2):
                with waiting_for(host), waiting_for("https://inner"):
                    time.sleep(seconds)
        return events

    return wait


def test_a_long_wait_is_reported_once(heard: Callable[[str, float], list[Event]]) -> None:
    assert heard("https://example.org", 0.2) == [Notice("waiting for https://example.org", warning=False)]


def test_a_short_wait_is_not_reported(heard: Callable[[str, float], list[Event]]) -> None:
    assert heard("https://example.org", 0) == []
    time.sleep(0.05)


def test_a_path_of_this_machine_is_not_waited_for() -> None:
    before = threading.active_count()
    with report_waits(ignore), waiting_for(""):
        assert threading.active_count() == before


def test_without_a_subscriber_no_thread_is_started() -> None:
    before = threading.active_count()
    with waiting_for("https://example.org"):
        assert threading.active_count() == before
