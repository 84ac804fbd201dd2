"""The log of a run beside its products: what its subscriber received, line by line, with the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ussfc.addresses import without_addresses, without_secrets
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.events import Advanced, Event, Notice, StageFinished, StageStarted, Subscriber
from ussfc.pipeline.progress import StageMeter, format_duration, notice_line, timestamp
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.waiting import report_waits

PROGRESS_SECONDS = 60
"""Distance of progress lines, and of writes to an object store, which holds whole objects only."""


@contextmanager
def recorded(out: Folder, subscriber: Subscriber) -> Iterator[Subscriber]:
    """Yield a subscriber that passes everything on and keeps it in ``OUT/run.log``, below what is there.

    The first stage opens the log: a folder that is refused before stays as it is, and so does that of a run which is
    done already. A log that cannot be written ends with a warning, the run goes on. Long waits for other machines are
    part of it.

    Args:
        out: output folder.
        subscriber: of the run.
    """
    log = _RunLog(out, subscriber)
    try:
        with report_waits(log):
            yield log
        log.add("ended")
    except BaseException as error:
        reason = without_secrets(" ".join(str(error).split()))
        if isinstance(error, KeyboardInterrupt):
            log.add(reason or "interrupted")
        else:
            log.add(f"error: {reason or type(error).__name__}")
        raise
    finally:
        log.flush()


class _RunLog:
    def __init__(self, out: Folder, subscriber: Subscriber) -> None:
        self._out = out
        self._subscriber = subscriber
        self._lines: list[str] = []
        self._open = self._broken = False
        self._meter: StageMeter | None = None
        self._written = self._measured = time.monotonic()
        # Notices of long waits come from threads of their own.
        self._turn = threading.RLock()

    def __call__(self, event: Event) -> None:
        """Pass an event on and write a line about it, where one is due."""
        self._subscriber(event)
        if isinstance(event, StageStarted):
            self._open = True
            self._meter, self._measured = StageMeter(event), time.monotonic()
            self.add(f"{event.stage}: begins")
        elif isinstance(event, Advanced):
            self._advance(event)
        elif isinstance(event, StageFinished):
            self.add(f"{event.stage}: done in {format_duration(event.seconds)}")
        elif isinstance(event, Notice):
            self.add(notice_line(event))

    def _advance(self, event: Advanced) -> None:
        if self._meter is None:
            return
        self._meter.add(event)
        if event.pixels >= 0 and time.monotonic() - self._measured >= PROGRESS_SECONDS:
            self._measured = time.monotonic()
            self.add(self._meter.line)

    def add(self, line: str) -> None:
        """Add a line."""
        with self._turn:
            self._lines.append(f"{timestamp()} {without_addresses(line)}\n")
            due = self._out.local is not None or time.monotonic() - self._written >= PROGRESS_SECONDS
            if self._open and due:
                self.flush()

    def flush(self) -> None:
        """Write the lines that are not written yet."""
        with self._turn:
            if not self._open or self._broken or not self._lines:
                return
            self._written = time.monotonic()
            text, self._lines = "".join(self._lines), []
            try:
                self._out.append(layout.LOG, text.encode())
            except StoreError as error:
                self._broken = True
                self._subscriber(Notice(f"the log ends here, the run goes on: {error}"))
