"""Compressed blocks that wait in a scratch file until they can be copied in the order of a COG."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.rasters import tiff
from ussfc.pipeline.rasters.workspace import Workspace


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

    def put(self, number: int, row: int, col: int, cols: int, blocks: Sequence[bytes]) -> None:
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
            self._scratch.write(b"".join(blocks))

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
                for level in reversed(self.levels):
                    for row in zip(level.offsets, level.sizes, strict=True):
                        blocks = itertools.starmap(self._read, zip(*row, strict=True))
                        file.write(b"".join(map(tiff.framed, blocks)))
                file.flush()
                os.fsync(file.fileno())
            self._verify(head)

    def _read(self, offset: np.int64, size: np.uint32) -> bytes:
        return os.pread(self._scratch.fileno(), int(size), int(offset))

    def _verify(self, head: bytes) -> None:
        """Refuse a part with other bytes than were handed over: a disk may be full, or lie."""
        with self._work.part.open("rb") as file:
            same = file.read(len(head)) == head
            for level in reversed(self.levels):
                for size, checksum in zip(level.sizes.flat, level.checksums.flat, strict=True):
                    framed = file.read(tiff.LEADER + int(size) + tiff.TRAILER)
                    block = framed[tiff.LEADER : -tiff.TRAILER]
                    same = same and zlib.crc32(block) == checksum and framed == tiff.framed(block)
            if not same or file.read(1):
                raise OSError("the blocks read back are not those written")
