"""Progress of a stage in words: share, speed, time left; and times of log lines."""

from __future__ import annotations

import time
from datetime import datetime

from ussfc.pipeline.events import Advanced, Notice, StageStarted


def format_duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours, with its unit."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def timestamp() -> str:
    """Return the local time with its offset from UTC, to the second."""
    return datetime.now().astimezone().isoformat(" ", "seconds")


def notice_line(event: Notice) -> str:
    """Return a remark with its weight before it."""
    return f"{'warning' if event.warning else 'note'}: {event.message}"


class StageMeter:
    """The progress of one stage: by pixels where it counts some, else by units."""

    def __init__(self, stage: StageStarted) -> None:
        """Begin now."""
        self._stage = stage
        self._units = self._pixels = 0
        self._start = time.monotonic()

    def add(self, event: Advanced) -> None:
        """Count what was done."""
        self._units += event.done
        self._pixels += event.pixels

    def finish(self) -> None:
        """Count everything as done, failed units as well."""
        self._units, self._pixels = self._stage.total, self._stage.pixels

    @property
    def done(self) -> int:
        """Pixels, or units, that are done."""
        return self._pixels if self._stage.pixels else self._units

    @property
    def total(self) -> int:
        """Pixels, or units, of the stage."""
        return self._stage.pixels or self._stage.total

    @property
    def units(self) -> str:
        """Units that are done, of all."""
        return f"{self._units}/{self._stage.total}"

    @property
    def speed(self) -> str:
        """Megapixels a second; empty where the stage counts no pixels."""
        seconds = max(time.monotonic() - self._start, 1e-3)
        return f"{self._pixels / 1e6 / seconds:.2f} Mpx/s" if self._pixels else ""

    @property
    def left(self) -> str:
        """Time left at the speed so far; empty before anything is done, and at the end."""
        if not 0 < self.done < self.total:
            return ""
        spent = time.monotonic() - self._start
        return f"{format_duration(spent * (self.total - self.done) / self.done)} left"

    @property
    def line(self) -> str:
        """Everything on one line."""
        share = min(1.0, self.done / self.total) if self.total else 1.0
        parts = (f"{share:.0%}", self.units, self.speed, self.left)
        return f"{self._stage.stage}: {', '.join(part for part in parts if part)}"
