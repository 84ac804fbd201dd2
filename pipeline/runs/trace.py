"""Time line of a run in the format of Chrome's traces, which Perfetto and ``chrome://tracing`` draw."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.events import Advanced, Event, Notice, StageFinished, StageStarted, Subscriber
from ussfc.pipeline.storage.folder import Folder


@contextmanager
def traced(path: Path | None, subscriber: Subscriber) -> Iterator[Subscriber]:
    """Yield a subscriber that passes everything on and keeps the moments of it for a file.

    The file is written at the end, also at that of a run that failed. One that cannot be written is reported as a
    warning.

    Args:
        path: the file, a local one; None: nothing is kept.
        subscriber: of the run.
    """
    if path is None:
        yield subscriber
        return
    trace = Trace(subscriber)
    try:
        yield trace
    finally:
        try:
            Folder.of(path.parent).write(path.name, json.dumps(trace.content()).encode())
        except StoreError as error:
            subscriber(Notice(f"the time line is missing: {error}"))


class Trace:
    """A subscriber that keeps stages, steps of tiles by process and thread, and pixels by stage."""

    def __init__(self, subscriber: Subscriber) -> None:
        """Begin empty.

        Args:
            subscriber: receives every event.
        """
        self._subscriber = subscriber
        self._events: list[dict[str, Any]] = []
        self._processes: dict[str, int] = {}
        self._pixels: dict[str, int] = {}
        # Stages report from threads of their own.
        self._turn = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Keep the moment of an event, and pass it on."""
        with self._turn:
            self._keep(event, time.time())
        self._subscriber(event)

    def content(self) -> dict[str, Any]:
        """Return the trace: a JSON object with microseconds since 1970."""
        with self._turn:
            names = [
                {"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": name}}
                for name, number in self._processes.items()
            ]
            return {"traceEvents": [*names, *self._events], "displayTimeUnit": "ms"}

    def _keep(self, event: Event, now: float) -> None:
        if isinstance(event, StageStarted):
            self._pixels[event.stage] = 0
        elif isinstance(event, StageFinished):
            self._span(f"{platform.node()} {os.getpid()}", 0, event.stage, now - event.seconds, event.seconds)
        elif isinstance(event, Advanced):
            self._pixels[event.stage] = self._pixels.get(event.stage, 0) + event.pixels
            self._add(
                f"{platform.node()} {os.getpid()}",
                {
                    "name": f"{event.stage}, Mpx done",
                    "ph": "C",
                    "ts": now * 1e6,
                    "args": {"Mpx": self._pixels[event.stage] / 1e6},
                },
            )
            if event.timeline is not None:
                for name, start, seconds in event.timeline.steps:
                    self._span(event.timeline.process, event.timeline.thread, name, start, seconds)

    def _span(self, process: str, thread: int, name: str, start: float, seconds: float) -> None:
        self._add(process, {"name": name, "ph": "X", "ts": start * 1e6, "dur": seconds * 1e6, "tid": thread})

    def _add(self, process: str, event: dict[str, Any]) -> None:
        number = self._processes.setdefault(process, len(self._processes) + 1)
        self._events.append({"pid": number, "tid": 0, **event})
