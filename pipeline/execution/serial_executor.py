"""Tiles in this process: one in the network, others read and written beside it."""

from __future__ import annotations

import concurrent.futures
import math
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ussfc.cores import cores
from ussfc.pipeline.errors import StoreError, TileError
from ussfc.pipeline.execution.executor import TILE_BACKOFF, handle_failure
from ussfc.pipeline.execution.follow_ups import FollowUps, make_ready
from ussfc.pipeline.execution.square_job import Job
from ussfc.pipeline.execution.tile import compute_item
from ussfc.pipeline.execution.tile_parts import TileParts
from ussfc.pipeline.execution.worker_cache import PROCESS_CACHE, WorkerCache
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.parallel.schedule import Schedule
from ussfc.pipeline.tiling.memory import SQUARES_BESIDE
from ussfc.pipeline.types import Index, TileFailure, TileResult

REPORT_SECONDS = 0.5
"""Distance of two reports of unfinished tiles."""

Answer = TypeVar("Answer")


class SerialExecutor:
    """Computes tiles in this process, one after the other in the network."""

    def __init__(
        self,
        backoff: Backoff = TILE_BACKOFF,
        concurrent_tiles: int = 1,
        cache: WorkerCache = PROCESS_CACHE,
    ) -> None:
        """Do nothing before :meth:`run`.

        Args:
            backoff: attempts of every tile.
            concurrent_tiles: tiles under way, the one in the network included.
            cache: keeps scenes and detectors open.
        """
        self._backoff = backoff
        self._concurrent_tiles = concurrent_tiles
        self._cache = cache

    def run(
        self,
        job: Job,
        indices: Iterable[Index],
        on_result: Callable[[TileResult], None],
        on_failure: Callable[[TileFailure], None],
        on_pixels: Callable[[int], None] | None = None,
        follow_ups: FollowUps | None = None,
    ) -> None:
        """Compute all tiles; see :class:`ussfc.pipeline.execution.executor.Executor`."""
        schedule = Schedule(indices, self._backoff)
        stop = threading.Event()
        under_way: dict[Future[TileResult], Index] = {}
        parts = TileParts(job, on_pixels)
        squares = _Squares(follow_ups, self._cache)
        with ThreadPoolExecutor(self._concurrent_tiles, "ussfc-tile") as threads:
            try:
                while True:
                    while len(under_way) < self._concurrent_tiles and (index := schedule.take()) is not None:
                        future = threads.submit(
                            compute_item, job, index, stop, self._cache, parts.reporter(index)
                        )
                        under_way[future] = index
                    if not under_way:
                        if schedule.over:
                            return
                        time.sleep(schedule.due_in())
                        continue
                    patience = schedule.due_in() if len(under_way) < self._concurrent_tiles else math.inf
                    completed = _completed(under_way, min(patience, REPORT_SECONDS))
                    parts.report(under_way.values())
                    for future in completed:
                        index = under_way.pop(future)
                        parts.forget(index)
                        try:
                            result = future.result()
                        except (TileError, StoreError) as error:
                            handle_failure(schedule, job, index, error, on_failure)
                        else:
                            schedule.done(index)
                            on_result(result)
                            squares.add(result)
                    squares.report()
            finally:
                # Whatever ended the run, its threads must not go on for minutes.
                stop.set()
                squares.end(whole=schedule.over)

    @property
    def worker_count(self) -> int:
        """One: this process."""
        return 1

    def ask(self, function: Callable[..., Answer], *args: object) -> list[Answer]:
        """Return the answer of the one worker, which is this process."""
        return [function(*args)]


class _Squares:
    """Squares that are made beside the tiles, on threads of their own."""

    def __init__(self, follow_ups: FollowUps | None, cache: WorkerCache) -> None:
        self._follow_ups = follow_ups
        self._cache = cache
        self._threads = ThreadPoolExecutor(max(1, min(SQUARES_BESIDE, cores() // 2)), "ussfc-square")
        self._under_way: list[Future[TileResult]] = []

    def add(self, result: TileResult) -> None:
        """Begin with the squares for which this tile was the last."""
        for square in [] if self._follow_ups is None else self._follow_ups.add(result):
            self._under_way.append(self._threads.submit(make_ready, square, self._cache))

    def report(self) -> None:
        """Report those that are made, in the thread of the executor."""
        completed = [future for future in self._under_way if future.done()]
        for future in completed:
            self._under_way.remove(future)
            # One that fails is made with the products, which report what is wrong.
            if self._follow_ups is not None and future.exception() is None:
                self._follow_ups.on_made(future.result())

    def end(self, whole: bool) -> None:
        """Wait for all squares, or, of a run that ends before its time, for those that are begun."""
        self._threads.shutdown(wait=True, cancel_futures=not whole)
        if whole:
            self.report()


def _completed(futures: Iterable[Future[TileResult]], patience: float) -> Iterable[Future[TileResult]]:
    """Return the futures that are done, waiting for the first, or for so many seconds."""
    timeout = None if patience == math.inf else patience
    return concurrent.futures.wait(futures, timeout, concurrent.futures.FIRST_COMPLETED).done
