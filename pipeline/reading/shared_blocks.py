"""Blocks of a scene that neighbouring tiles share: each is read and decoded once in a process.

Every thread has GDAL handles of its own, and each handle its own decoded blocks: tiles side by side would decode
what lies between them once each.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, Pixels, SceneReader

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """Division of the grid into parts that are decoded, or warped, as a whole."""

    origin: tuple[int, int]
    """(row, column) of the grid where one part begins; others follow in both directions."""
    size: tuple[int, int]
    """(rows, cols) of a part."""

    def places(self, box: Box) -> Iterator[Place]:
        """Yield the (row, column) of the parts that touch ``box``, row by row."""
        (top, left), (rows, cols) = self.origin, self.size
        return itertools.product(
            range((box.y0 - top) // rows, -(-(box.y1 - top) // rows)),
            range((box.x0 - left) // cols, -(-(box.x1 - left) // cols)),
        )

    def box(self, place: Place, shape: tuple[int, int]) -> Box:
        """Return a part, cut to a grid of (rows, cols)."""
        y, x = (at * side + start for at, side, start in zip(place, self.size, self.origin, strict=True))
        return Box(y, x, y + self.size[0], x + self.size[1]).intersect(Box(0, 0, *shape))


@runtime_checkable
class BlockReader(SceneReader, Protocol):
    """A scene that is decoded in blocks of the grid."""

    def blocks(self) -> BlockGrid | None:
        """Return the blocks; None: it has none, and any window is read alike."""

    def empty(self, shape: tuple[int, int]) -> Pixels:
        """Return arrays for a window of (rows, cols), with any content."""

    def read_into(self, box: Box, target: Pixels) -> None:
        """Read the pixels of ``box`` into arrays of its shape."""


@dataclass(eq=False)
class _Block:
    """A block in hand, or kept for other tiles."""

    left: int
    """Number of tiles that have not asked for it yet."""
    shared: bool
    """True if more than one tile reaches into it."""
    users: int = 1
    """Tiles that have it in hand."""
    there: threading.Event = field(default_factory=threading.Event)
    pixels: Pixels | None = None
    """None while it is read, and after that has failed."""


class BlockCache:
    """BlockGrid of both dates, kept until the last tile that reaches into them has been read.

    A tile may never come: it was done by an earlier run, or another process has it. The block used longest ago goes
    when there is no room.
    """

    def __init__(self, room: int) -> None:
        """Begin empty.

        Args:
            room: most bytes that are kept.
        """
        self._room = room
        self._kept: OrderedDict[tuple[int, Place], _Block] = OrderedDict()
        self._free: dict[tuple[object, ...], list[Pixels]] = {}
        self._bytes = 0
        self._changing = threading.Lock()

    @property
    def kept_bytes(self) -> int:
        """Size of the blocks that are kept or in hand."""
        return self._bytes

    def take(self, key: tuple[int, Place], uses: int) -> tuple[_Block, bool]:
        """Return a block, and True if the caller is the one who has to read it.

        Args:
            key: date and place of the block.
            uses: number of tiles that reach into it.
        """
        with self._changing:
            block = self._kept.get(key)
            if block is None:
                block = _Block(uses - 1, uses > 1)
                if block.shared:
                    self._kept[key] = block
                return block, True
            block.left -= 1
            block.users += 1
            self._kept.move_to_end(key)
            if not block.left:
                del self._kept[key]
            return block, False

    def put(self, block: _Block, pixels: Pixels | None) -> None:
        """Hand a block that was read to those who wait for it; None: it could not be read."""
        if pixels is not None:
            copy = self._arrays(pixels)
            np.copyto(copy.values, pixels.values)
            np.copyto(copy.valid, pixels.valid)
            block.pixels = copy
        block.there.set()

    def give_back(self, key: tuple[int, Place], block: _Block) -> None:
        """End the use of a block; the one that nothing needs any more makes room."""
        with self._changing:
            block.users -= 1
            if block.pixels is None and self._kept.get(key) is block:
                del self._kept[key]
            self._release(key, block)
            if self._bytes > self._room:
                for other in [other for other, kept in self._kept.items() if not kept.users]:
                    self._release(other, self._kept.pop(other))
                    if self._bytes <= self._room:
                        break

    def _arrays(self, like: Pixels) -> Pixels:
        """Return arrays for a block, those of an earlier one where there are: fresh memory is slow."""
        kind = like.values.shape, like.values.dtype
        with self._changing:
            self._bytes += _nbytes(like)
            if self._free.get(kind):
                return self._free[kind].pop()
        return Pixels(np.empty_like(like.values), np.empty_like(like.valid))

    def _release(self, key: tuple[int, Place], block: _Block) -> None:
        if block.pixels is None or block.users or self._kept.get(key) is block:
            return
        self._bytes -= _nbytes(block.pixels)
        kind = block.pixels.values.shape, block.pixels.values.dtype
        self._free.setdefault(kind, []).append(block.pixels)


def _nbytes(pixels: Pixels) -> int:
    return pixels.values.nbytes + pixels.valid.nbytes


class SharedReader:
    """A scene whose blocks are shared by the tiles of a run; see :class:`ussfc.pipeline.types.SceneReader`.

    What :meth:`read` returns holds until the same thread reads again.
    """

    def __init__(self, reader: BlockReader, date: int, plan: TilePlan, cache: BlockCache) -> None:
        """Share the blocks of a scene.

        Args:
            reader: of the scene.
            date: number of the scene in the cache.
            plan: of the tiles that will be read.
            cache: of the run.
        """
        self._reader = reader
        self._date = date
        self._plan = plan
        self._cache = cache
        self._local = threading.local()

    def read(self, box: Box) -> Pixels:
        """Read the pixels of ``box``."""
        blocks = self._reader.blocks()
        if blocks is None:
            return self._reader.read(box)
        boxes = {place: blocks.box(place, self._plan.shape) for place in blocks.places(box)}
        first, last = next(iter(boxes.values())), list(boxes.values())[-1]
        hull = Box(first.y0, first.x0, last.y1, last.x1)
        found = self._buffer(hull.shape)
        mine: dict[Place, _Block] = {}
        others: dict[Place, _Block] = {}
        for place, part in boxes.items():
            block, own = self._cache.take((self._date, place), self._plan.tiles_reading(part))
            (mine if own else others)[place] = block
        self._read_own(mine, boxes, hull, found)
        for place, block in others.items():
            block.there.wait()
            target = found.part(boxes[place].within(hull))
            if block.pixels is not None:
                np.copyto(target.values, block.pixels.values)
                np.copyto(target.valid, block.pixels.valid)
        for place, block in others.items():
            failed = block.pixels is None
            self._cache.give_back((self._date, place), block)
            if failed:
                self._reader.read_into(boxes[place], found.part(boxes[place].within(hull)))
        return found.part(box.within(hull))

    def sample(self, most: int | None = None) -> Pixels:
        """Read pixels that represent the whole scene."""
        return self._reader.sample(most)

    def _read_own(self, mine: dict[Place, _Block], boxes: dict[Place, Box], hull: Box, found: Pixels) -> None:
        """Read the blocks that fall to this tile, in few windows, and hand on those that others want."""
        waiting = dict(mine)
        try:
            for window in _windows(list(mine), boxes):
                self._reader.read_into(window, found.part(window.within(hull)))
            for place, block in mine.items():
                # A copy, for the arrays are used again; of a block that no other tile wants there is none.
                if block.shared:
                    self._cache.put(block, found.part(boxes[place].within(hull)))
                self._cache.give_back((self._date, place), waiting.pop(place))
        finally:
            for place, block in waiting.items():
                self._cache.put(block, None)
                self._cache.give_back((self._date, place), block)

    def _buffer(self, shape: tuple[int, int]) -> Pixels:
        """Return this thread's arrays for a window; memory that is fresh from the kernel costs as much as decoding."""
        kept: Pixels | None = getattr(self._local, "pixels", None)
        if kept is None or any(have < need for have, need in zip(kept.valid.shape, shape, strict=True)):
            self._local.pixels = None
            kept = self._local.pixels = self._reader.empty(shape)
        return kept.part(Box(0, 0, *shape))


def _windows(places: Sequence[Place], boxes: dict[Place, Box]) -> Iterator[Box]:
    """Yield windows that cover blocks once: runs of columns, continued as long as the next row has the same."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, group in itertools.groupby(places, key=lambda place: place[0]):
        for run in _runs([col for _, col in group]):
            rows.setdefault(run, []).append(row)
    for run, lines in rows.items():
        for stretch in _runs(lines):
            first, last = boxes[stretch[0], run[0]], boxes[stretch[-1], run[-1]]
            yield Box(first.y0, first.x0, last.y1, last.x1)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the stretches of numbers that follow each other."""
    for _, group in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        yield tuple(number for _, number in group)


def share(readers: Sequence[SceneReader], plan: TilePlan, room: int) -> list[SceneReader]:
    """Return the readers of both dates with shared blocks, where a reader has such.

    Args:
        readers: of the dates.
        plan: of the tiles that will be read.
        room: most bytes that are kept of both.
    """
    cache = BlockCache(room)
    return [
        SharedReader(reader, date, plan, cache) if isinstance(reader, BlockReader) else reader
        for date, reader in enumerate(readers)
    ]
