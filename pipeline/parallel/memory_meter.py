"""Peak memory of this process and all its children, sampled while they run."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

INTERVAL_SECONDS = 1.0
"""Time between two samples: ten a second took 3.7 % of a run's samples in a profile, to walk /proc."""


class MemoryMeter:
    """A context manager that samples resident memory until it ends, and once more then.

    Attributes:
        peak: largest sum of resident sizes seen, bytes.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ussfc-memory", daemon=True)

    def __enter__(self) -> MemoryMeter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        running = True
        while running:
            running = not self._stop.wait(INTERVAL_SECONDS)
            # Also after the end: a run shorter than the interval has a peak too.
            self.peak = max(self.peak, _resident(own))


def _resident(own: psutil.Process) -> int:
    total = own.memory_info().rss
    for child in own.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return int(total)
