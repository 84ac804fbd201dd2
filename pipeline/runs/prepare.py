"""A date written once as a cloud-optimised GeoTIFF: from JPEG 2000, several files or an archive."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from ussfc.addresses import shown_address
from ussfc.pipeline.errors import ConfigError, StoreError
from ussfc.pipeline.events import Advanced, Notice, Subscriber
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.reading.bands import named_bands
from ussfc.pipeline.reading.cloud_access import GDAL_ERRORS
from ussfc.pipeline.reading.date_masks import DateMask, LayeredMask, RasterMask
from ussfc.pipeline.reading.mask_files import MaskChoice, own_mask
from ussfc.pipeline.reading.masks import SMALL_INTEGERS
from ussfc.pipeline.reading.opening import opened_raster, retry_gdal
from ussfc.pipeline.reading.raster import DATE_TAG, MASK_TAG, PRODUCT_TAG
from ussfc.pipeline.reading.sources.resolve import absolute_source
from ussfc.pipeline.reading.sources.stacks import finest_bands
from ussfc.pipeline.runs.stages import stage_clock
from ussfc.pipeline.tiling.grid import crs_name
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import Box, Pixels, SceneInfo, blocks

READ_SIZE = 2048
"""Side of the windows that are read, pixels: whole blocks of the JPEG 2000 files of Sentinel-2."""

BLOCK = 512
"""Side of the blocks of the file, pixels."""

SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True)
class PreparedScene:
    """A date as it was written."""

    path: Path
    scene: str
    """The argument, without credentials."""
    bands: tuple[str, ...]
    """Names of the bands in the file, in order."""
    shape: tuple[int, int]
    """Rows, columns."""
    crs: str | None
    mask: Path | None
    """Mask of clouds beside it; None: the scene has none."""
    acquired: str | None
    bytes: int
    """Size of the file."""
    seconds: float
    """Time that it took."""


def prepare(
    scene: str,
    path: Path,
    bands: Sequence[int | str] | None,
    overwrite: bool,
    subscriber: Subscriber,
    everywhere: bool = False,
) -> PreparedScene:
    """Write a date as one file, with names, scale, offset, nodata and date.

    Args:
        scene: path, address or pattern, or several with commas between them.
        path: of the file, which appears when it is whole.
        bands: numbers or names of bands; None: those of the finest pixels.
        overwrite: replace a file that has the name.
        subscriber: receives progress.
        everywhere: True: a VRT may lead to any file.

    Raises:
        ReadError: the scene cannot be read, or lacks a band.
        ConfigError: the name does not end in .tif.
        StoreError: the file exists, or cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: expected a name that ends in .tif")
    if path.exists() and not overwrite:
        raise StoreError(f"{path}: exists; choose another name, or overwrite it")
    source, sources = absolute_source(scene), "any" if everywhere else "near"
    info = describe_scene(source, sources)
    numbers = finest_bands(info) if bands is None else named_bands(info, bands)
    mask, notes = _mask_of(info, sources)
    beside = path.with_name(f"{path.stem}_{mask.kind.upper()}.tif") if mask else None
    if beside is not None and beside.exists() and not overwrite:
        raise StoreError(f"{beside}: exists; choose another name, or overwrite it")
    for note in (*info.notes, *notes):
        subscriber(Notice(note))
    raw, cog, marks = (path.with_name(f"{path.name}{end}") for end in (".part", ".cog.part", ".mask.part"))
    rows, cols = info.geobox.shape
    try:
        with stage_clock(
            "prepare", -(-rows // READ_SIZE) * -(-cols // READ_SIZE), rows * cols, subscriber
        ) as clock:
            if mask is not None and beside is not None:
                _write_mask(mask, info.geobox, raw)
                _make_cog(raw, marks, "NEAREST")
            _write(source, info, numbers, raw, subscriber, beside)
            _make_cog(raw, cog, "AVERAGE")
            if beside is not None:
                os.replace(marks, beside)
            os.replace(cog, path)
    except (OSError, *GDAL_ERRORS) as error:
        reason = getattr(error, "strerror", None) or error.__cause__ or error
        raise StoreError(f"{path}: cannot be written ({reason})") from error
    finally:
        for place in (raw, cog, marks):
            place.unlink(missing_ok=True)
    names = {band.index: band.description or f"band {band.index}" for band in info.bands}
    return PreparedScene(
        path,
        info.uri,
        tuple(names[number] for number in numbers),
        (rows, cols),
        crs_name(info.geobox),
        beside,
        info.acquired,
        path.stat().st_size,
        clock[0],
    )


def _mask_of(info: SceneInfo, sources: str) -> tuple[DateMask | None, list[str]]:
    """Return the mask that a date comes with, and warnings."""
    found, notes, _ = own_mask(MaskChoice("", "auto", None, 0, "", sources), info, info.geobox)
    return found, notes


def _make_cog(raw: Path, cog: Path, resampling: str) -> None:
    """Copy a file to a cloud-optimised one; overviews come with the copy."""
    rasterio.shutil.copy(
        raw, cog, driver="COG", COMPRESS="DEFLATE", PREDICTOR="YES", BLOCKSIZE=str(BLOCK),
        BIGTIFF="IF_SAFER", NUM_THREADS="ALL_CPUS", OVERVIEW_RESAMPLING=resampling,
    )  # fmt: skip


def _profile(grid: GeoBox, **kind: Any) -> dict[str, Any]:
    rows, cols = grid.shape
    crs = None if grid.crs is None else grid.crs.to_wkt()
    return {
        "driver": "GTiff", "height": rows, "width": cols, "crs": crs, "transform": grid.affine, "tiled": True,
        "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "IF_SAFER", "interleave": "band", **kind,
    }  # fmt: skip


def _write_mask(mask: DateMask, grid: GeoBox, path: Path) -> None:
    """Write the numbers of a mask as a plain tiled file, window by window."""
    assert isinstance(mask.source, RasterMask | LayeredMask)
    rows, cols = grid.shape
    dtype = mask.source.numbers(Box(0, 0, 1, 1))[0].dtype
    with rasterio.open(path, "w", **_profile(grid, count=1, dtype=dtype)) as target:
        for box in blocks((rows, cols), READ_SIZE):
            target.write(mask.source.numbers(box)[0], 1, window=box.slices)


def _write(
    source: str,
    info: SceneInfo,
    numbers: tuple[int, ...],
    path: Path,
    subscriber: Subscriber,
    mask: Path | None,
) -> None:
    """Write a plain tiled file, window by window."""
    recipe = SceneRecipe.of(source, info, info.geobox, numbers, "cubic")
    reader = recipe.open()
    nodata = _common_nodata(recipe)
    scaled = any(part.gains is not None for part in info.parts)
    dtype = np.dtype(info.dtype if info.dtype in SMALL_INTEGERS and not scaled else "float32")
    rows, cols = info.geobox.shape
    profile = _profile(info.geobox, count=len(numbers), dtype=dtype, nodata=nodata)
    chosen = {band.index: band for band in info.bands}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as target:
        target.descriptions = tuple(chosen[number].description or "" for number in numbers)
        target.scales = tuple(chosen[number].scale for number in numbers)
        target.offsets = tuple(chosen[number].offset for number in numbers)
        tags = {DATE_TAG: info.acquired, PRODUCT_TAG: info.product, MASK_TAG: mask and mask.name}
        target.update_tags(**{key: value for key, value in tags.items() if value})
        windows: Iterable[Box] = blocks((rows, cols), READ_SIZE)
        for box, pixels in in_order(reader.read, windows, os.cpu_count() or 1, "ussfc-prepare"):
            window = Window(box.x0, box.y0, box.shape[1], box.shape[0])
            target.write(_stored(pixels, dtype, nodata), window=window)
            if nodata is None:
                target.write_mask(pixels.valid, window=window)
            subscriber(Advanced("prepare", 1, box.pixels))


def _stored(pixels: Pixels, dtype: np.dtype[Any], nodata: float | None) -> Any:
    values = pixels.values
    if values.dtype != dtype:
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        values = values.astype(dtype)
    if nodata:
        values = np.where(pixels.valid, values, dtype.type(nodata))
    return values


def _common_nodata(recipe: SceneRecipe) -> float | None:
    """Return the number that marks missing pixels in every band of every file; None where there is no such."""
    found: set[float | None] = set()
    shown = shown_address(recipe.uri)
    for uri, name in zip(recipe.opened, [part.shown for part in recipe.parts] or [shown], strict=True):

        def read(_: Mapping[str, str], uri: str = uri, name: str = name) -> set[float | None]:
            with opened_raster(uri, name) as source:
                return set(source.nodatavals)

        found |= retry_gdal(
            uri, name, GDAL_CACHE, read, "cannot be opened as a raster ({}); give one that GDAL reads"
        )
    number = found.pop() if len(found) == 1 else None
    return number if number is None or float(number).is_integer() or np.isnan(number) else None
