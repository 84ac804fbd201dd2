"""Progress within tiles: those who compute state shares, the thread of the executor reports pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from ussfc.pipeline.execution.square_job import Job
from ussfc.pipeline.types import Index


class TileParts:
    """Computed pixels of unfinished tiles."""

    def __init__(self, job: Job, on_pixels: Callable[[int], None] | None) -> None:
        """Begin with none.

        Args:
            job: the run.
            on_pixels: receives what was computed since its last call, see
                :class:`ussfc.pipeline.execution.executor.Executor`; None: it is left out.
        """
        self._job = job
        self._on_pixels = on_pixels
        self._shares: dict[Index, float] = {}
        self._reported: dict[Index, int] = {}

    @property
    def wanted(self) -> bool:
        """True where the parts go anywhere."""
        return self._on_pixels is not None

    def reporter(self, index: Index) -> Callable[[float], None]:
        """Return the function that takes the share of a tile, from any thread."""
        return partial(self._shares.__setitem__, index)

    def report(self, under_way: Iterable[Index]) -> None:
        """Report what was computed since the last time.

        Args:
            under_way: tiles that have not ended; what comes late of another one is left out.
        """
        if not self._shares:
            return
        known, added = set(under_way), 0
        for index, share in list(self._shares.items()):
            if index not in known:
                self._shares.pop(index, None)
                continue
            pixels = int(share * self._job.plan.core(index).pixels)
            added += pixels - self._reported.get(index, 0)
            self._reported[index] = pixels
        self._send(added)

    def forget(self, index: Index) -> None:
        """Take back what was reported of a tile that has ended, well or not."""
        self._shares.pop(index, None)
        self._send(-self._reported.pop(index, 0))

    def forget_all(self) -> None:
        """Take back what was reported of every tile."""
        for index in list(self._reported):
            self.forget(index)
        self._shares.clear()

    def _send(self, pixels: int) -> None:
        if pixels and self._on_pixels is not None:
            self._on_pixels(pixels)
