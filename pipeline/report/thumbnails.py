"""Small pictures of single changes: before, after, and after with the change outlined."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pyproj
from odc.geo.geobox import GeoBox

from ussfc.pipeline.reading.opening import opened_raster, retry_gdal
from ussfc.pipeline.reading.recipe import SceneRecipe
from ussfc.pipeline.report.changes import Change
from ussfc.pipeline.report.overviews import mapped
from ussfc.pipeline.report.pictures import (
    QUALITY,
    colored,
    data_address,
    enlarged,
    outlined,
    shrunk,
    webp,
)
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import BoolArray, Box, ByteArray, FloatArray, RadiometricMapping

LEAST_SIDE = 40
"""Smallest side of a picture, pixels of the grid: a single pixel needs its surroundings."""

MOST_SIDE = 512
"""Largest side, pixels of the grid; of a larger change the middle is shown."""

MARGIN = 1.5
"""Side of a picture over that of its change."""

SHOWN = 160
"""Side of an encoded picture at least, pixels."""

MOST_BYTES = 400_000
"""Size of all pictures together, bytes; coarser where they would grow larger."""

COARSER = ((256, QUALITY), (160, 60), (96, 50))
"""Longest sides and qualities of WebP that are tried one after the other."""

THREADS = 2
"""Changes that are read, and pictures that are encoded, at a time."""


@dataclass(frozen=True)
class Thumbnail:
    """Pictures of one change, as addresses of ``img`` elements."""

    change: Change
    before: str
    after: str
    outlined: str
    is_part: bool
    """True: the change is larger than the picture."""


@dataclass(frozen=True)
class Presentation:
    """Colours of a report, the same in all of its pictures."""

    mappings: tuple[RadiometricMapping, RadiometricMapping]
    bands: tuple[int, int, int]
    """Places of red, green and blue among the bands of the model."""
    ends: tuple[FloatArray, FloatArray]
    """Numbers that become black and white."""


def change_box(bounds: Sequence[float], crs: str | None, grid: GeoBox) -> tuple[Box, bool]:
    """Return the pixels of a picture of a change, and whether it shows a part of it alone.

    Args:
        bounds: left, bottom, right, top.
        crs: their reference system where it is not that of the grid.
        grid: of the run.
    """
    left, bottom, right, top = bounds
    if crs is not None and grid.crs is not None:
        project = pyproj.Transformer.from_crs(crs, str(grid.crs.to_wkt()), always_xy=True)
        left, bottom, right, top = project.transform_bounds(left, bottom, right, top)
    columns, rows = zip(*(~grid.affine * corner for corner in ((left, top), (right, bottom))), strict=True)
    long = max(max(rows) - min(rows), max(columns) - min(columns))
    side = int(min(MOST_SIDE, max(LEAST_SIDE, np.ceil(MARGIN * long))))
    starts = [
        int(np.clip(round((low + high - side) / 2), 0, max(0, length - side)))
        for (low, high), length in zip((rows, columns), grid.shape, strict=True)
    ]
    box = Box(starts[0], starts[1], starts[0] + side, starts[1] + side)
    return box.intersect(Box(0, 0, *grid.shape)), long > side


def make_thumbnails(
    out: Folder,
    recipes: tuple[SceneRecipe, SceneRecipe],
    changes: Sequence[Change],
    crs: str | None,
    presentation: Presentation,
) -> list[Thumbnail]:
    """Read the surroundings of changes from both dates and from ``change.tif``.

    Args:
        out: output folder.
        recipes: both dates on the grid of the run.
        changes: the changes.
        crs: reference system of their bounds where it is not that of the grid.
        presentation: colours.

    Raises:
        ReadError: a raster cannot be read.
    """
    readers = recipes[0].open(), recipes[1].open()
    grid = recipes[0].grid

    def pictured(change: Change) -> tuple[tuple[ByteArray, ByteArray, ByteArray], bool]:
        box, is_part = change_box(change.bounds, crs, grid)
        views = mapped(readers[0].read(box), readers[1].read(box), presentation.mappings)
        dates = [
            colored(image, valid, presentation.bands, presentation.ends)
            for image, valid in zip((views.before, views.after), views.valid, strict=True)
        ]
        # Pictures wait until all are there: none larger than it will be shown.
        most = COARSER[0][0]
        shown = [enlarged(shrunk(date, most), SHOWN) for date in dates]
        changed = enlarged(shrunk(np.where(_changed(out, box), 255, 0).astype(np.uint8), most), SHOWN) > 127
        return (shown[0], shown[1], outlined(shown[1], changed)), is_part

    with ThreadPoolExecutor(THREADS, "ussfc-report") as pool:
        made = list(pool.map(pictured, changes))
    addresses = [data_address(each) for each in _encoded([picture for three, _ in made for picture in three])]
    threes = zip(addresses[::3], addresses[1::3], addresses[2::3], strict=True)
    return [
        Thumbnail(change, before, after, marked, is_part)
        for change, (before, after, marked), (_, is_part) in zip(changes, threes, made, strict=True)
    ]


def _encoded(pictures: Sequence[ByteArray]) -> list[bytes]:
    """Encode pictures at the largest side at which all together are small enough, or at the smallest."""
    found: list[bytes] = []
    for side, quality in COARSER:
        encode = functools.partial(_encoded_at, side=side, quality=quality)
        with ThreadPoolExecutor(THREADS, "ussfc-report") as pool:
            found = list(pool.map(encode, pictures))
        if sum(map(len, found)) <= MOST_BYTES:
            break
    return found


def _encoded_at(picture: ByteArray, side: int, quality: int) -> bytes:
    return webp(shrunk(picture, side), quality=quality)


def _changed(out: Folder, box: Box) -> BoolArray:
    uri, shown = f"{out.address}/{layout.CHANGE}", f"{out}/{layout.CHANGE}"

    def read(_: object) -> BoolArray:
        with opened_raster(uri, shown) as source:
            found: BoolArray = source.read(1, window=((box.y0, box.y1), (box.x0, box.x1))) == 1
            return found

    return retry_gdal(uri, shown, GDAL_CACHE, read, "cannot be read ({}); run `ussfc validate` on the folder")


def unchecked(recipes: tuple[SceneRecipe, SceneRecipe]) -> tuple[SceneRecipe, SceneRecipe]:
    """Return recipes that accept a scene in any state: the caller has compared it already."""
    before, after = (replace(recipe, identity="") for recipe in recipes)
    return before, after
