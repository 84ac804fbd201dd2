"""Lattice of patches, and the tiles that own its results. Pure arithmetic: nothing here grows with the scene."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ussfc.pipeline.types import Box, Tile

STRIP_WIDTH = 4096
"""Least width of the vertical strips in which tiles are taken, pixels. Halos make two neighbouring strips read the
blocks between them twice: with blocks of 512 px a quarter of all."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """Fixed patch positions along one axis, counted from the grid's origin.

    Positions are ``0, stride, 2 stride, ...``; the last patch is shifted inward to end at the last pixel.
    An axis shorter than a patch has the one position 0, and the patch reaches beyond the grid.
    """

    length: int
    """Pixels of the grid along this axis."""
    patch: int
    """Side of a patch, pixels."""
    stride: int
    """Distance between neighbouring patches, pixels; at most ``patch``."""

    @property
    def count(self) -> int:
        """Number of positions."""
        if self.length <= self.patch:
            return 1
        return -(-(self.length - self.patch) // self.stride) + 1

    def position(self, i: int) -> int:
        """Return the first pixel of patch ``i``."""
        return max(0, min(i * self.stride, self.length - self.patch))

    def touching(self, start: int, stop: int) -> range:
        """Return the indices of the patches that have a pixel in ``[start, stop)``."""
        if self.count == 1:
            return range(1)
        # Regular patches i cover [i stride, i stride + patch): the first with an end beyond start.
        first = max(0, (start - self.patch) // self.stride + 1)
        last = min((stop - 1) // self.stride, self.count - 2)
        # The shifted last patch may touch where its regular neighbours do not, and the other way round.
        indices_end = last + 1
        if self.position(self.count - 1) < stop:
            indices_end = self.count
        return range(min(first, self.count - 1), max(indices_end, min(first, self.count - 1) + 1))


@dataclass(frozen=True, slots=True)
class TilePlan:
    """Division of a grid into tiles: cores partition it, every tile computes all patches that touch its core."""

    shape: tuple[int, int]
    """(rows, cols) of the grid."""
    tile_size: int
    """Side of a core, and of a chunk of the store, pixels."""
    patch_size: int
    """Side of a patch, pixels."""
    stride: int
    """Distance between neighbouring patches, pixels."""
    margin: int = 0
    """Pixels around a core that a tile reads at least, as far as the grid goes."""

    @classmethod
    def of(
        cls, shape: tuple[int, int], tile_size: int, patch_size: int, overlap: float, margin: int = 0
    ) -> TilePlan:
        """Return the plan for an overlap given as a share of the patch.

        Args:
            shape: (rows, cols), both at least 1.
            tile_size: side of a core, pixels, at least 1.
            patch_size: side of a patch, pixels, at least 1.
            overlap: in [0, 1); the stride is ``round(patch_size * (1 - overlap))``, at least 1.
            margin: pixels around a core that a tile reads at least, less than ``patch_size``.

        Raises:
            ValueError: a number is outside these bounds.
        """
        if min(shape) < 1 or tile_size < 1 or patch_size < 1 or not 0 <= overlap < 1:
            raise ValueError(f"no plan for {shape=}, {tile_size=}, {patch_size=}, {overlap=}")
        if not 0 <= margin < patch_size:
            raise ValueError(f"no plan for {margin=}, {patch_size=}")
        return cls(shape, tile_size, patch_size, max(1, round(patch_size * (1 - overlap))), margin)

    @property
    def tiles_shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.shape[0] // self.tile_size), -(-self.shape[1] // self.tile_size)

    @property
    def tile_count(self) -> int:
        """Number of tiles."""
        rows, cols = self.tiles_shape
        return rows * cols

    @property
    def lattices(self) -> tuple[Lattice, Lattice]:
        """Lattices along rows and along columns."""
        rows, cols = self.shape
        return Lattice(rows, self.patch_size, self.stride), Lattice(cols, self.patch_size, self.stride)

    @property
    def patch_count(self) -> int:
        """Number of patches of the lattice."""
        along_rows, along_cols = self.lattices
        return along_rows.count * along_cols.count

    @property
    def computed_patches(self) -> int:
        """Number of patches summed over all tiles; a patch of several tiles counts once for each."""
        total = 1
        for axis, lattice in enumerate(self.lattices):
            total *= sum(
                len(lattice.touching(start, min(start + self.tile_size, lattice.length)))
                for start in range(0, self.shape[axis], self.tile_size)
            )
        return total

    @property
    def redundant_share(self) -> float:
        """Share of the computed patches that repeat another tile's, in [0, 1)."""
        return 1 - self.patch_count / self.computed_patches

    def core(self, index: tuple[int, int]) -> Box:
        """Return the pixels that tile ``index`` (row, column) owns."""
        y, x = index[0] * self.tile_size, index[1] * self.tile_size
        return Box(y, x, min(y + self.tile_size, self.shape[0]), min(x + self.tile_size, self.shape[1]))

    def tile(self, index: tuple[int, int], margin: int = 0) -> Tile:
        """Return the tile at ``index`` (row, column).

        Args:
            index: of the tile.
            margin: pixels around what it owns that its core has as well, as far as the grid goes.

        Raises:
            IndexError: the plan has no such tile.
        """
        rows, cols = self.tiles_shape
        if not (0 <= index[0] < rows and 0 <= index[1] < cols):
            raise IndexError(f"tile {index} of {rows} x {cols}")
        own, grid = self.core(index), Box(0, 0, *self.shape)
        core = own.grown(margin).intersect(grid)
        along_rows, along_cols = self.lattices
        ys = [along_rows.position(i) for i in along_rows.touching(core.y0, core.y1)]
        xs = [along_cols.position(i) for i in along_cols.touching(core.x0, core.x1)]
        size = self.patch_size
        patches = tuple(Box(y, x, y + size, x + size) for y in ys for x in xs)
        around = core.grown(self.margin)
        hull = Box(
            min(ys[0], around.y0),
            min(xs[0], around.x0),
            max(ys[-1] + size, around.y1),
            max(xs[-1] + size, around.x1),
        )
        return Tile(index, core, hull.intersect(grid), patches)

    def tiles_reading(self, box: Box) -> int:
        """Return the number of tiles whose halos reach into ``box``."""
        count = 1
        spans = ((box.y0, box.y1), (box.x0, box.x1))
        for (start, stop), lattice, tiles in zip(spans, self.lattices, self.tiles_shape, strict=True):
            # A halo ends less than a patch beyond its core.
            first = max(0, (start - self.patch_size) // self.tile_size)
            last = min(tiles - 1, (stop + self.patch_size) // self.tile_size)
            count *= sum(self._reaches(lattice, tile, start, stop) for tile in range(first, last + 1))
        return count

    def _reaches(self, lattice: Lattice, tile: int, start: int, stop: int) -> bool:
        """Return True if the halo of a row or column of tiles has a pixel in ``[start, stop)``."""
        end = min((tile + 1) * self.tile_size, lattice.length)
        begin = tile * self.tile_size
        patches = lattice.touching(begin, end)
        first = min(lattice.position(patches[0]), begin - self.margin)
        last = max(lattice.position(patches[-1]) + self.patch_size, end + self.margin)
        return first < stop and start < last

    @property
    def strip_columns(self) -> int:
        """Columns of tiles in a strip."""
        return -(-STRIP_WIDTH // self.tile_size)

    def indices(self, tile_bands: int = 1) -> Iterator[tuple[int, int]]:
        """Yield all tile indices: one strip after the other, each row by row from the top.

        A row of a strip is short enough that a cache holds the blocks which the next row reads again.

        Args:
            tile_bands: number of bands of tiles: parts of equal length of this order, which are then walked side by
                side. One band a worker lets neighbouring tiles meet in one cache.
        """
        orders = [self._band(number, tile_bands) for number in range(tile_bands)]
        for side_by_side in itertools.zip_longest(*orders):
            yield from (index for index in side_by_side if index is not None)

    def tile_band(self, index: tuple[int, int], tile_bands: int) -> int:
        """Return the number of the band of tiles that :meth:`indices` has a tile in, from 0."""
        rows, cols = self.tiles_shape
        left = index[1] // self.strip_columns * self.strip_columns
        width = min(self.strip_columns, cols - left)
        position = rows * left + width * index[0] + index[1] - left
        # Band k ends at tile_count * (k + 1) // tile_bands.
        return ((position + 1) * tile_bands - 1) // self.tile_count

    def _band(self, number: int, tile_bands: int) -> Iterator[tuple[int, int]]:
        rows, cols = self.tiles_shape
        width = self.strip_columns
        order = (
            (r, c)
            for left in range(0, cols, width)
            for r in range(rows)
            for c in range(left, min(left + width, cols))
        )
        start, stop = (self.tile_count * end // tile_bands for end in (number, number + 1))
        return itertools.islice(order, start, stop)
