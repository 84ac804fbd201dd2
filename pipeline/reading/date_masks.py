"""The mask of one date on the common grid: a raster or polygons, which a worker reads tile by tile."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from ussfc.addresses import shown_address
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.pixels.dilation import dilate, reach
from ussfc.pipeline.reading.aoi import on_grid
from ussfc.pipeline.reading.identity import combined_identity, scene_identity
from ussfc.pipeline.reading.mask_rules import MaskRule
from ussfc.pipeline.reading.opening import opened_raster, retry_gdal
from ussfc.pipeline.reading.sampling import SAMPLE_PIXELS, read_windows, spread_windows
from ussfc.pipeline.reading.warp import WARP_TOLERANCE, crs_wkt, warp_blocks
from ussfc.pipeline.storage import remote
from ussfc.pipeline.tiling.grid import near_longitudes, warp_crs
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import BoolArray, Box, Pixels, SceneReader, SourceArray
from ussfc.pipeline.waiting import waiting_for

FINER = (1, 4)
"""Factors of the number of windows along each axis with which a part that no mask hides is looked for."""


MADE = "made:"
"""Start of the identity of a mask that a run makes for itself, under a name that follows from all that decides it."""


class MaskSource(Protocol):
    """A mask on a grid before it grows."""

    @property
    def grid(self) -> GeoBox:
        """Grid that boxes are counted on."""

    @property
    def files(self) -> tuple[str, ...]:
        """Rasters that are read; none where the mask travels with the plan."""

    def read(self, box: Box) -> BoolArray:
        """Return the masked pixels of a box, (rows, cols); it may reach beyond the grid."""


@dataclass(frozen=True)
class PolygonMask:
    """Polygons that hide the ground."""

    wkb: bytes = field(repr=False)
    """Their union in the CRS of the grid."""
    grid: GeoBox
    files: tuple[str, ...] = ()

    def read(self, box: Box) -> BoolArray:
        """Return the pixels whose centre lies inside a polygon."""
        return on_grid(Geometry(shapely.from_wkb(self.wkb), self.grid.crs), self.grid).mask(box)


@dataclass(frozen=True)
class RasterMask:
    """A raster whose numbers hide the ground: a pixel has the nearest number, and none is hidden beyond the file."""

    # Dask logs the arguments of a task that fails.
    uri: str = field(repr=False)
    """Path or URI, as given."""
    grid: GeoBox
    band: int
    """Number from 1."""
    rule: MaskRule
    margin: tuple[int, int] = (0, 0)
    """Rows and columns beyond the grid that a box may reach."""
    block_cache: int = GDAL_CACHE
    """GDAL's cache of decoded blocks in the process that reads, bytes."""

    @property
    def files(self) -> tuple[str, ...]:
        """The file."""
        return (self.uri,)

    def read(self, box: Box) -> BoolArray:
        """Return the pixels whose number hides the ground.

        Raises:
            ReadError: the file cannot be read there.
        """
        values, covered = self.numbers(box)
        return self.rule.masked(values) & covered

    def numbers(self, box: Box) -> tuple[SourceArray, BoolArray]:
        """Return the numbers of a box and the pixels that the file covers, (rows, cols) each.

        Raises:
            ReadError: the file cannot be read there.
        """
        shown = shown_address(self.uri)

        def read(_: Mapping[str, str]) -> tuple[SourceArray, BoolArray]:
            # Opened for each tile: a mask is small, and no handle outlives an error.
            with opened_raster(self.uri, shown) as source:
                return (
                    self._read_plain(source, box) if self.grid.crs is None else self._read_warped(source, box)
                )

        failure = f"rows {box.y0}..{box.y1}, columns {box.x0}..{box.x1} of the mask cannot be read ({{}})"
        with waiting_for(remote.host_of(self.uri)):
            return retry_gdal(self.uri, shown, self.block_cache, read, failure)

    def _read_plain(self, source: Any, box: Box) -> tuple[SourceArray, BoolArray]:
        rows, cols = round(self.grid.affine.f), round(self.grid.affine.c)
        asked = Box(box.y0 + rows, box.x0 + cols, box.y1 + rows, box.x1 + cols)
        common = asked.intersect(Box(0, 0, *source.shape))
        values, covered = np.zeros(box.shape, source.dtypes[self.band - 1]), np.zeros(box.shape, bool)
        if common.pixels:
            window = Window(common.x0, common.y0, common.shape[1], common.shape[0])
            place = common.within(asked).slices
            values[place], covered[place] = source.read(self.band, window=window), True
        return values, covered

    def _read_warped(self, source: Any, box: Box) -> tuple[SourceArray, BoolArray]:
        rows, cols = self.margin
        shape = self.grid.shape[0] + 2 * rows, self.grid.shape[1] + 2 * cols
        wide = GeoBox(shape, self.grid.affine * Affine.translation(-cols, -rows), self.grid.crs)
        asked = Box(box.y0 + rows, box.x0 + cols, box.y1 + rows, box.x1 + cols)
        values, covered = np.zeros(box.shape, source.dtypes[self.band - 1]), np.zeros(box.shape, bool)
        with ExitStack() as stack:
            view = _warped(source, wide, stack)
            alpha = view.colorinterp.index(ColorInterp.alpha) + 1
            for block in warp_blocks(asked, shape):
                window = Window(block.x0, block.y0, block.shape[1], block.shape[0])
                common = block.intersect(asked)
                found, place = common.within(block).slices, common.within(asked).slices
                values[place] = view.read(self.band, window=window)[found]
                covered[place] = view.read(alpha, window=window)[found] > 0
        return values, covered


@dataclass(frozen=True)
class LayeredMask:
    """Masks of scenes that lie side by side: a pixel has that of the first scene which saw it."""

    parts: tuple[RasterMask, ...]
    """Masks of the scenes, the first on top."""
    grid: GeoBox

    @property
    def files(self) -> tuple[str, ...]:
        """The files of all scenes."""
        return tuple(part.uri for part in self.parts)

    def read(self, box: Box) -> BoolArray:
        """Return the pixels whose number hides the ground.

        Raises:
            ReadError: a file cannot be read there.
        """
        values, covered = self.numbers(box)
        return self.parts[0].rule.masked(values) & covered

    def numbers(self, box: Box) -> tuple[SourceArray, BoolArray]:
        """Return the numbers of a box and the pixels that a file covers, (rows, cols) each.

        Raises:
            ReadError: a file cannot be read there.
        """
        values, covered = replace(self.parts[0], grid=self.grid).numbers(box)
        left = ~covered | self.parts[0].rule.missing(values)
        for part in self.parts[1:]:
            if not left.any():
                break
            others, there = replace(part, grid=self.grid).numbers(box)
            taken = left & there
            values[taken] = others[taken]
            covered |= there
            left &= ~there | part.rule.missing(others)
        return values, covered


def _warped(source: Any, grid: GeoBox, stack: ExitStack) -> Any:
    """Return a view of a file on a grid; a number that the file declares as nodata is one like any other."""
    options: dict[str, Any] = {}
    if source.crs is None:
        # rasterio drops control points where a target is given, so they go first and alone.
        source = stack.enter_context(_nearest(source, crs=source.gcps[1]))
    own = GeoBox(source.shape, source.transform, str(source.crs.to_wkt()))
    near = near_longitudes(own, grid)
    if near.affine != own.affine or near.boundingbox.right > 180 or near.boundingbox.left < -180:
        options = {"src_transform": near.affine, "src_crs": warp_crs(near)}
    rows, cols = grid.shape
    view = _nearest(source, transform=grid.affine, height=rows, width=cols, crs=crs_wkt(grid), **options)
    return stack.enter_context(view)


def _nearest(source: Any, **options: Any) -> Any:
    return WarpedVRT(
        source,
        resampling=Resampling.nearest,
        src_nodata=None,
        add_alpha=ColorInterp.alpha not in source.colorinterp,
        tolerance=WARP_TOLERANCE,
        **options,
    )


@dataclass(frozen=True)
class DateMask:
    """The mask of one date: small and picklable, opened by each worker."""

    source: MaskSource
    uri: str = field(repr=False)
    """Path or URI, as given."""
    identity: str
    """Text that changes when the content changes; a file with another one is refused."""
    kind: str
    """Kind of the raster, or ``polygons``."""
    rule: MaskRule | None = None
    """Numbers that are masked; None for polygons."""
    distance: float = 0.0
    """Distance that masked areas grow by, metres."""
    pixel: tuple[float, float] = (1.0, 1.0)
    """Height and width of a pixel of the grid, metres."""
    own: bool = False
    """True: found with the scene, not given."""

    def masked(self, box: Box) -> BoolArray:
        """Return the pixels that are masked, (rows, cols); the same whatever box they are read with.

        Args:
            box: part of the grid.

        Raises:
            ReadError: the file cannot be read there.
        """
        rows, cols = reach(self.distance, self.pixel)
        wide = self.source.read(Box(box.y0 - rows, box.x0 - cols, box.y1 + rows, box.x1 + cols))
        if not rows and not cols:
            return wide
        inner = slice(rows, rows + box.shape[0]), slice(cols, cols + box.shape[1])
        return dilate(wide, self.distance, self.pixel)[inner]

    def on(self, grid: GeoBox) -> DateMask:
        """Return the mask on another grid of the same size, as that of a date that is read elsewhere."""
        return replace(self, source=replace(self.source, grid=grid))  # type: ignore[type-var]

    def with_cache(self, block_cache: int) -> DateMask:
        """Return the mask with another cache of GDAL's where it is a raster."""
        source = self.source
        if isinstance(source, RasterMask):
            return replace(self, source=replace(source, block_cache=block_cache))
        if isinstance(source, LayeredMask):
            parts = tuple(replace(part, block_cache=block_cache) for part in source.parts)
            return replace(self, source=replace(source, parts=parts))
        return self

    def check_unchanged(self) -> None:
        """Compare the file with the one that the run was planned for; polygons travel with the plan.

        Raises:
            ReadError: it has changed.
        """
        if not self.source.files or self.identity.startswith(MADE):
            return
        shown, marks = shown_address(self.uri), []
        for uri in self.source.files:
            with waiting_for(remote.host_of(uri)):
                marks.append(scene_identity(uri, shown_address(uri))[0])
        if combined_identity(marks) != self.identity:
            raise ReadError(
                f"{shown}: the mask has changed since the run began, and tiles of both states would mix; give the same "
                "command again once it is whole"
            )


class MaskedReader:
    """A scene whose masked pixels are invalid. See :class:`ussfc.pipeline.types.SceneReader`."""

    def __init__(self, reader: SceneReader, masks: tuple[DateMask, ...], shape: tuple[int, int]) -> None:
        """Take over a reader.

        Args:
            reader: the scene on the grid.
            masks: of either date or both.
            shape: (rows, cols) of the grid.
        """
        self._reader = reader
        self._masks = masks
        self._shape = shape

    def read(self, box: Box) -> Pixels:
        """Read the pixels of ``box``."""
        pixels = self._reader.read(box)
        return Pixels(pixels.values, pixels.valid & ~self._hidden(box))

    def sample(self, most: int | None = None) -> Pixels:
        """Read a sample of the scene, in windows: a mask has no overviews that fit those of the scene.

        Where the masks hide all of it, windows that they leave open are looked for between.
        """
        most = most or SAMPLE_PIXELS
        rows, cols = self._shape
        if rows * cols <= most:
            return self.read(Box(0, 0, rows, cols))
        spread = spread_windows(self._shape, most)
        for finer in FINER:
            windows = (box for box in spread_windows(self._shape, most, finer) if not self._hidden(box).all())
            if found := list(islice(windows, len(spread))):
                return read_windows(self, found)
        return read_windows(self, spread)

    def _hidden(self, box: Box) -> BoolArray:
        hidden = np.zeros(box.shape, np.bool_)
        for mask in self._masks:
            hidden |= mask.masked(box)
        return hidden


def masked_reader(
    reader: SceneReader, masks: tuple[DateMask | None, ...], shape: tuple[int, int]
) -> SceneReader:
    """Return a reader that knows masks; the reader itself where there are none."""
    given = tuple(mask for mask in masks if mask is not None)
    return MaskedReader(reader, given, shape) if given else reader


def describe_mask(mask: DateMask) -> str:
    """Return the file, kind, numbers and distance of a mask in words."""
    parts = [mask.kind]
    if mask.rule is not None and mask.rule.classes is not None:
        parts.append(f"masked: {', '.join(map(str, mask.rule.classes))}")
    if mask.rule is not None and mask.rule.bits is not None:
        parts.append(f"masked: bits {', '.join(map(str, mask.rule.bits))}")
    if mask.distance:
        parts.append(f"grown by {mask.distance:g} m")
    if mask.own:
        parts.append("found with the scene")
    return f"{shown_address(mask.uri)} ({'; '.join(parts)})"
