"""Squares of the products that are made while other tiles are still in the network.

A square can be made once every tile that it is made of is in the store; with a filter these are its neighbours as well.
What is not made by the end of the inference, for whatever reason, is made with the products.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ussfc.pipeline.execution.errors import errors_of
from ussfc.pipeline.execution.square_job import SquareJob
from ussfc.pipeline.execution.worker_cache import PROCESS_CACHE, WorkerCache
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, Index, TileResult


@dataclass(frozen=True)
class ReadySquare:
    """A square of which all tiles are in the store. It travels to a worker."""

    jobs: tuple[SquareJob, ...]
    """Products to make of it, of one plan and one filter."""
    index: Index
    """Row and column of the square."""
    checksums: tuple[tuple[Index, int], ...]
    """Tiles that it is made of, each with the checksum of its pixels."""


class FollowUps:
    """The squares of a run, and the tiles that each still waits for. Not thread-safe."""

    def __init__(
        self,
        jobs: Sequence[SquareJob],
        tiles: TilePlan,
        done: Mapping[Index, int],
        on_made: Callable[[TileResult], None],
    ) -> None:
        """Begin with the tiles of an earlier process.

        Args:
            jobs: what is made of every square, of one plan and one filter.
            tiles: how the grid is cut for the network.
            done: checksum of each tile that is in the store.
            on_made: receives every square that was made.
        """
        self.on_made = on_made
        self._jobs = tuple(jobs)
        self._tiles = tiles
        # Of tiles that a square still waits for: a run may have a million.
        self._checksums = dict(done)
        self._made = bytearray(jobs[0].plan.tile_count if jobs else 0)

    def add(self, result: TileResult) -> list[ReadySquare]:
        """Note a tile that is in the store, and return the squares that can be made now."""
        if result.checksum is None or not self._jobs:
            return []
        self._checksums[result.index] = result.checksum
        found = []
        for square in self._squares_of(result.index):
            needed = self._tiles_of(square)
            if not self._is_made(square) and all(tile in self._checksums for tile in needed):
                self._made[self._number(square)] = True
                found.append(
                    ReadySquare(self._jobs, square, tuple((tile, self._checksums[tile]) for tile in needed))
                )
        for tile in {tile for square in found for tile in self._tiles_of(square.index)}:
            if all(self._is_made(square) for square in self._squares_of(tile)):
                del self._checksums[tile]
        return found

    def _squares_of(self, tile: Index) -> list[Index]:
        """Return the squares that are made of a tile."""
        return list(_touching(self._jobs[0].around(self._tiles.core(tile)), self._jobs[0].plan))

    def _tiles_of(self, square: Index) -> list[Index]:
        """Return the tiles that a square is made of."""
        return list(_touching(self._jobs[0].around(self._jobs[0].plan.core(square)), self._tiles))

    def _is_made(self, square: Index) -> bool:
        return bool(self._made[self._number(square)])

    def _number(self, square: Index) -> int:
        return square[0] * self._jobs[0].plan.tiles_shape[1] + square[1]


def make_ready(square: ReadySquare, cache: WorkerCache = PROCESS_CACHE) -> TileResult:
    """Make all that is wanted of a square, reading it once.

    Raises:
        PipelineError: it cannot be read, or written; the products then make it.
    """
    with errors_of(square.jobs[0].tile_name(square.index)):
        opened = [cache.open_squares(job, following=True) for job in square.jobs]
        for each in opened:
            each.store.learn(dict(square.checksums))
        begun, start = time.time(), time.perf_counter()
        stored = opened[0].read(square.index)
        read = "read", begun, time.perf_counter() - start
        results = [each.make(square.index, stored) for each in opened]
    timelines = [result.timeline for result in results if result.timeline is not None]
    steps = (read, *itertools.chain.from_iterable(timeline.steps for timeline in timelines))
    return replace(results[0], timeline=replace(timelines[0], steps=steps))


def _touching(box: Box, plan: TilePlan) -> Iterator[Index]:
    """Yield the tiles of a plan with a pixel in a box, row by row."""
    side = plan.tile_size
    return itertools.product(
        range(box.y0 // side, -(-box.y1 // side)), range(box.x0 // side, -(-box.x1 // side))
    )
