"""Rasters for tests: probabilities, grids, and both kinds of file written and read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning
from rio_cogeo.cogeo import cog_validate

from tests.support.probabilities import ArraySource
from ussfc.pipeline.events import Event, ignore
from ussfc.pipeline.pixels.encoding import decode
from ussfc.pipeline.rasters.cog import ChangeRaster, ClassCounts, CogOptions, ProbabilityRaster, write

UTM = Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0)
SMALL_BLOCKS = CogOptions(block_size=256)
Pixels = npt.NDArray[Any]


def probabilities(shape: tuple[int, int], dtype: str = "uint8", seed: int = 0) -> Pixels:
    """Return mostly low, some high values, an area and single pixels without data."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 90, shape, dtype=np.uint8)
    values[rng.random(shape) < 0.001] = 200
    values[rng.random(shape) < 0.01] = 255
    values[shape[0] // 2 :, : shape[1] // 3] = 255
    return values if dtype == "uint8" else decode(values)


def grid(shape: tuple[int, int], crs: str | None = "EPSG:32632", affine: Affine = UTM) -> GeoBox:
    """Return a grid of this shape."""
    return GeoBox(shape, affine, crs)


def load(file: Path, level: int | None = None) -> Pixels:
    """Read full resolution, or an overview."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        how = {} if level is None else {"overview_level": level}
        with rasterio.open(file, **how) as raster:
            pixels: Pixels = raster.read(1)
    return pixels


def is_valid_cog(file: Path) -> bool:
    """Validate strictly; remarks fail the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        ok, errors, remarks = cog_validate(file, strict=True, quiet=True)
    assert (errors, remarks) == ([], [])
    return bool(ok)


def write_change(
    source: ArraySource,
    path: Path,
    options: CogOptions = SMALL_BLOCKS,
    geobox: GeoBox | None = None,
    tags: dict[str, str] | None = None,
    subscriber: Callable[[Event], None] = ignore,
) -> ClassCounts:
    """Write the classes alone, with scratch files in a folder beside them."""
    raster = ChangeRaster(path, tags or {}, 0.5)
    place = geobox or grid(source.shape)
    counts = write(source, place, [raster], path.parent / "scratch", options, subscriber)
    assert counts is not None
    return counts


def write_probability(
    source: ArraySource,
    path: Path,
    options: CogOptions = SMALL_BLOCKS,
    geobox: GeoBox | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    """Write the probabilities alone, with scratch files in a folder beside them."""
    raster = ProbabilityRaster(path, tags or {})
    assert write(source, geobox or grid(source.shape), [raster], path.parent / "scratch", options) is None


def change_of(
    values: Pixels, folder: Path, options: CogOptions = SMALL_BLOCKS, geobox: GeoBox | None = None
) -> Path:
    """Write ``change.tif`` of these probabilities."""
    path = folder / "change.tif"
    write_change(ArraySource(values), path, options, geobox)
    return path


def probability_of(
    values: Pixels, folder: Path, options: CogOptions = SMALL_BLOCKS, geobox: GeoBox | None = None
) -> Path:
    """Write ``probability.tif`` of these probabilities."""
    path = folder / "probability.tif"
    write_probability(ArraySource(values), path, options, geobox)
    return path


def files_under(folder: Path) -> set[str]:
    """Return the names of all files in a folder and below."""
    return {item.name for item in folder.rglob("*") if item.is_file()}
