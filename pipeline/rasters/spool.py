"""Compressed blocks that wait in a scratch file until they can be copied in the order of a COG."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.rasters import tiff
from ussfc.pipeline.rasters.workspace import Workspace

COPIERS = 4
"""Threads that copy blocks, and check them."""

RUN = 16
"""Blocks that a thread copies at a time: one or two megabytes, sixteen where nothing can be compressed."""


@dataclass(frozen=True, slots=True)
class LevelIndex:
    """Places of the compressed blocks of a level in the scratch file; every array is (rows, cols) of blocks."""

    shape: tuple[int, int]
    """(rows, cols) in pixels."""
    offsets: npt.NDArray[np.int64]
    """Position of the first byte."""
    sizes: npt.NDArray[np.uint32]
    """Bytes."""
    checksums: npt.NDArray[np.uint32]
    """CRC-32."""

    @classmethod
    def empty(cls, shape: tuple[int, int], block: int) -> LevelIndex:
        """Return the index of a level of (rows, cols) pixels before its first block."""
        rows, cols = (-(-side // block) for side in shape)
        zeros = np.zeros((rows, cols), np.uint32)
        return cls(shape, np.zeros((rows, cols), np.int64), zeros, zeros.copy())


class BlockSpool:
    """Scratch file of compressed blocks with an index for each level; used from one thread."""

    def __init__(self, work: Workspace, shapes: Sequence[tuple[int, int]], block: int) -> None:
        """Open the scratch file.

        Args:
            work: its folder holds the file.
            shapes: (rows, cols) of the levels in pixels, full resolution first.
            block: side of a block, pixels.
        """
        self.levels = [LevelIndex.empty(shape, block) for shape in shapes]
        self._work, self._block = work, block
        self._end = 0
        self._scratch: BinaryIO = (work.folder / "blocks").open("w+b")

    def close(self) -> None:
        """Close the scratch file; its end is not needed any more, and errors were raised when it was read."""
        with suppress(OSError):
            self._scratch.close()

    def put(self, number: int, row: int, col: int, cols: int, blocks: Sequence[bytes | memoryview]) -> None:
        """Append blocks, ``cols`` side by side, from block (row, col) of a level on.

        Raises:
            ussfc.pipeline.errors.StoreError: the scratch file cannot be written.
        """
        level = self.levels[number]
        for place, block in enumerate(blocks):
            index = row + place // cols, col + place % cols
            level.offsets[index], level.sizes[index] = self._end, len(block)
            level.checksums[index] = zlib.crc32(block)
            self._end += len(block)
        with self._work.writing():
            self._scratch.writelines(blocks)

    def assemble(self, directories: Sequence[tiff.Directory]) -> None:
        """Copy the blocks into the product's part in their order, and read back what is on the disk.

        Args:
            directories: fields to take over, one directory a level.

        Raises:
            ussfc.pipeline.errors.StoreError: the part cannot be written, or holds other bytes.
        """
        levels = [
            (directory, level.shape, level.sizes.ravel())
            for directory, level in zip(directories, self.levels, strict=True)
        ]
        with self._work.writing():
            head = tiff.lay_out(levels, self._block)
            self._scratch.flush()
            with self._work.part.open("xb") as file:
                file.write(head)
                for _, blocks in in_order(self._framed, self._runs(), COPIERS, "ussfc-blocks"):
                    file.write(blocks)
                file.flush()
                os.fsync(file.fileno())
            self._verify(head)

    def _runs(self) -> Iterator[_Run]:
        """Yield the blocks in the order of the product, a few at a time."""
        for level in reversed(self.levels):
            offsets, sizes, checksums = level.offsets.ravel(), level.sizes.ravel(), level.checksums.ravel()
            for start in range(0, sizes.size, RUN):
                run = slice(start, start + RUN)
                yield _Run(offsets[run], sizes[run], checksums[run])

    def _framed(self, run: _Run) -> bytearray:
        """Return blocks of the scratch file as they stand in the product."""
        result = bytearray(run.ends[-1])
        for offset, framed in zip(run.offsets.tolist(), run.cut(memoryview(result)), strict=True):
            # What is missing is noticed when the product is read back.
            os.preadv(self._scratch.fileno(), [framed[tiff.LEADER : -tiff.TRAILER]], offset)
            tiff.frame(framed)
        return result

    def _verify(self, head: bytes) -> None:
        """Refuse a part with other bytes than were handed over: a disk may be full, or lie."""
        with self._work.part.open("rb") as file:
            handle, end = file.fileno(), len(head)
            places = []
            for run in self._runs():
                places.append((run, end))
                end += run.ends[-1]

            def is_same(place: tuple[_Run, int]) -> bool:
                run, start = place
                content = os.pread(handle, run.ends[-1], start)
                return len(content) == run.ends[-1] and run.is_in(memoryview(content))

            same = file.read(len(head)) == head and os.fstat(handle).st_size == end
            if not same or not all(found for _, found in in_order(is_same, places, COPIERS, "ussfc-blocks")):
                raise OSError("the blocks read back are not those written")


class _Run:
    """Blocks that follow each other in a product."""

    def __init__(
        self, offsets: npt.NDArray[np.int64], sizes: npt.NDArray[np.uint32], checksums: npt.NDArray[np.uint32]
    ) -> None:
        self.offsets = offsets
        """In the scratch file."""
        self.ends: list[int] = np.cumsum(sizes.astype(np.int64) + tiff.LEADER + tiff.TRAILER).tolist()
        """In the product, framed, from the first one's beginning."""
        self._checksums = checksums

    def cut(self, content: memoryview) -> Iterator[memoryview]:
        """Yield the framed blocks of bytes that hold them all."""
        return (content[start:end] for start, end in zip([0, *self.ends], self.ends, strict=False))

    def is_in(self, content: memoryview) -> bool:
        """Return True if bytes hold these blocks, framed."""
        return all(
            tiff.is_framed(framed) and zlib.crc32(framed[tiff.LEADER : -tiff.TRAILER]) == checksum
            for framed, checksum in zip(self.cut(content), self._checksums.tolist(), strict=True)
        )
