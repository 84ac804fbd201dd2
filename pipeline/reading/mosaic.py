"""Several scenes as one: the first valid pixel wins, each scene is brought onto the grid by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import sampling
from ussfc.pipeline.tiling.grid import ALIGNED_PX, footprint_box, near_longitudes
from ussfc.pipeline.types import Box, Pixels, SceneInfo, ScenePart, SceneReader


@dataclass(frozen=True)
class PlacedPart:
    """A scene of a mosaic on the grid."""

    reader: SceneReader
    box: Box
    """Pixels of the grid that it may cover."""
    gains: tuple[tuple[float, float], ...] | None
    """Factor and term of each band that is read, which bring its numbers to those of the first scene; None: neither."""


class MosaicReader:
    """Scenes seen on the grid as one. A scene further back is read where those before it leave pixels open."""

    def __init__(self, parts: Sequence[PlacedPart], shape: Sequence[int], bands: int) -> None:
        """Open nothing yet; the first read does.

        Args:
            parts: the scenes, the first on top.
            shape: (rows, cols) of the grid.
            bands: number of bands that are read.
        """
        self._parts = parts
        self._shape = shape[0], shape[1]
        self._bands = bands

    def read(self, box: Box) -> Pixels:
        """Read the pixels of ``box``; see :class:`ussfc.pipeline.types.SceneReader`."""
        # One type for every window, whichever scenes it meets.
        values = np.zeros((self._bands, *box.shape), np.float32)
        valid = np.zeros(box.shape, bool)
        for part in self._parts:
            common = part.box.intersect(box)
            if not common.pixels:
                continue
            place = common.within(box).slices
            missing = ~valid[place]
            if not missing.any():
                continue
            found = part.reader.read(common)
            taken = missing & found.valid
            numbers = found.values
            if part.gains is not None:
                factors, terms = (
                    np.array(column, np.float32)[:, None, None] for column in zip(*part.gains, strict=True)
                )
                numbers = numbers * factors + terms
            values[(slice(None), *place)][:, taken] = numbers[:, taken]
            valid[place] |= taken
        return Pixels(values, valid)

    def sample(self, most: int | None = None) -> Pixels:
        """Read a sample of the scenes in windows."""
        rows, cols = self._shape
        most = most or sampling.SAMPLE_PIXELS
        if rows * cols <= most:
            return self.read(Box(0, 0, rows, cols))
        return sampling.sample_windows(self, (rows, cols), most)


def placed(part: ScenePart, reader: SceneReader, grid: GeoBox, bands: Sequence[int]) -> PlacedPart:
    """Return a scene of a mosaic on the grid.

    Args:
        part: the scene.
        reader: of it on the grid.
        grid: the common grid.
        bands: numbers of the bands that are read, from 1.
    """
    gains = None if part.gains is None else tuple(part.gains[band - 1] for band in bands)
    return PlacedPart(reader, footprint_box(part.geobox, grid), gains)


def merged(infos: Sequence[SceneInfo], shown: str) -> SceneInfo:
    """Return the header of scenes as one, on the pixels of the first.

    Args:
        infos: headers of the scenes, each with its part; the first is on top.
        shown: name of the mosaic for messages.

    Raises:
        ReadError: they do not fit together.
    """
    first = infos[0]
    for other in infos[1:]:
        _check_alike(first, other, shown)
    notes = [note for info in infos for note in info.notes] + _unit_notes(infos, shown)
    parts = [info.parts[0] for info in infos]
    if len(infos) > 1:
        parts = [replace(part, gains=_gains(info, first)) for part, info in zip(parts, infos, strict=True)]
    return replace(
        first,
        uri=shown,
        geobox=union_grid([info.geobox for info in infos]) if len(infos) > 1 else first.geobox,
        dtype=np.result_type(*(info.dtype for info in infos)).name,
        bytes_per_pixel=max(info.bytes_per_pixel for info in infos),
        block_bytes=max(info.block_bytes for info in infos),
        notes=tuple(dict.fromkeys(notes)),
        parts=tuple(parts),
    )


def _check_alike(first: SceneInfo, other: SceneInfo, shown: str) -> None:
    if first.product != other.product:
        raise ReadError(
            f"{shown}: {first.uri} is {first.product or 'no product'} and {other.uri} is "
            f"{other.product or 'no product'}; lay scenes of one kind and level side by side"
        )
    names = [[band.description or "without a name" for band in info.bands] for info in (first, other)]
    if [name.lower() for name in names[0]] != [name.lower() for name in names[1]]:
        listed = [", ".join(found) for found in names]
        raise ReadError(
            f"{shown}: {first.uri} has the bands {listed[0]}, {other.uri} {listed[1]}; all must have the same"
        )
    if first.geobox.crs is None or other.geobox.crs is None:
        bare = first if first.geobox.crs is None else other
        raise ReadError(
            f"{bare.uri}: has no CRS and cannot be laid beside other images; assign its position (gdal_edit.py -a_srs "
            "-a_ullr), or give one image"
        )


def _unit_notes(infos: Sequence[SceneInfo], shown: str) -> list[str]:
    """Return a warning of numbers that may be of different units, since their types differ and nothing states one."""
    kinds = {(np.dtype(info.dtype).kind == "f", np.dtype(info.dtype).itemsize) for info in infos}
    stated = any((band.scale, band.offset) != (1.0, 0.0) for info in infos for band in info.bands)
    if len(kinds) == 1 or stated:
        return []
    types = ", ".join(dict.fromkeys(info.dtype for info in infos))
    return [
        f"{shown}: its files hold numbers of different types ({types}) and declare neither scale nor offset; they are "
        "taken for one unit: give files of one kind, or declare their scale (gdal_edit.py -scale -offset)"
    ]


def _gains(info: SceneInfo, first: SceneInfo) -> tuple[tuple[float, float], ...] | None:
    """Return what brings the stored numbers of a scene to those of the first."""
    numbers = tuple(band.index for band in info.bands)
    if info.scales(numbers) == first.scales(numbers):
        return None
    return tuple(
        (scale / first_scale, (offset - first_offset) / first_scale)
        for (scale, offset), (first_scale, first_offset) in zip(
            info.scales(numbers), first.scales(numbers), strict=True
        )
    )


def union_grid(grids: Sequence[GeoBox]) -> GeoBox:
    """Return the pixels of the first grid, continued as far as all of them reach.

    Args:
        grids: north-up, with a CRS.
    """
    first = grids[0]
    assert first.crs is not None
    rows, cols = first.shape
    top, left, bottom, right = 0, 0, rows, cols
    for other in grids[1:]:
        near = near_longitudes(other, first)
        bounds = (near if near.crs == first.crs else near.footprint(first.crs, buffer=0)).boundingbox
        x0, y0 = ~first.affine * (bounds.left, bounds.top)
        x1, y1 = ~first.affine * (bounds.right, bounds.bottom)
        left, top = min(left, math.floor(x0 + ALIGNED_PX)), min(top, math.floor(y0 + ALIGNED_PX))
        right, bottom = max(right, math.ceil(x1 - ALIGNED_PX)), max(bottom, math.ceil(y1 - ALIGNED_PX))
    return GeoBox((bottom - top, right - left), first.affine * Affine.translation(left, top), first.crs)
