"""Both dates below the change of each tile, so that polygons get their values without a second read of the scenes.

A tile of which there is no file, or one that cannot be used, is read from the scenes instead: none of this is needed
for a right result, and none of it ends a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.pixels.kept import KeptPixels
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.storage.square_files import SquareFiles
from ussfc.pipeline.types import Box, Index

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PixelFiles:
    """The kept pixels of a run, a file a tile; safe for any number of writers of the same content."""

    work: Folder
    """The run's ``work`` folder."""
    run: str
    """Name of the run."""

    def write(self, index: Index, checksum: int, pixels: KeptPixels) -> None:
        """Write the file of a tile.

        Args:
            index: row and column of the tile.
            checksum: of its probabilities, see :func:`ussfc.pipeline.storage.tile_records.checksum`.
            pixels: what to keep.

        Raises:
            StoreError: the folder cannot be written.
        """
        arrays = {"places": pixels.places, "before": pixels.before, "after": pixels.after}
        self._files.write(index, _origin(checksum), arrays | {"valid": pixels.valid.view(np.uint8)})

    def read(self, index: Index, checksum: int) -> KeptPixels | None:
        """Return what was kept of a tile; None where it cannot be read, is damaged, or of other probabilities."""
        try:
            arrays = self._files.read(index, _origin(checksum))
        except StoreError:
            return None
        if arrays is None:
            return None
        return KeptPixels(arrays["places"], arrays["before"], arrays["after"], arrays["valid"].view(np.bool_))

    @property
    def _files(self) -> SquareFiles:
        return SquareFiles(self.work, self.run, layout.PIXELS)


class PixelSource:
    """The kept pixels of a store's tiles, for blocks of any size; safe on any number of threads."""

    def __init__(self, store: ProbabilityStore, bands: int) -> None:
        """Open the files of a run.

        Args:
            store: its probabilities.
            bands: number of bands that are wanted; files with another number do not count.
        """
        self._files = PixelFiles(store.root, store.run)
        self._store, self._bands = store, bands

    def find(self, changed: IntArray, box: Box) -> Iterator[tuple[IntArray, KeptPixels]]:
        """Yield the pixels of a block that are kept, tile by tile.

        Args:
            changed: (n,) row-major positions in the block, ascending.
            box: the block on the grid.

        Yields:
            Places in ``changed``, ascending, and the pixels there. Of a tile that lacks one of them none come.
        """
        row, col = np.divmod(changed, box.shape[1])
        row, col = row + box.y0, col + box.x0
        for tile_row, tile_col, checksum in self._store.origin(box).tolist():
            core = self._store.core((tile_row, tile_col))
            inside = (row >= core.y0) & (row < core.y1) & (col >= core.x0) & (col < core.x1)
            members = np.flatnonzero(inside)
            if not len(members):
                continue
            kept = self._files.read((tile_row, tile_col), checksum)
            if kept is None or {len(kept.before), len(kept.after)} != {self._bands}:
                continue
            found = kept.find((row[members] - core.y0) * core.shape[1] + col[members] - core.x0)
            if found is not None:
                yield members, found


def _origin(checksum: int) -> IntArray:
    return np.array([checksum], np.int64)
