"""The packaged pair as a model's input: patches of it, and a pair of any size that repeats it."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ussfc
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.pixels.radiometry import apply_mapping, percentile_mapping, range_mapping
from ussfc.pipeline.types import FloatArray, Pixels

DEMO_HIGH = 3500
"""Number of the demo pair (reflectance x 10000) that becomes the upper end of a model's range."""

MOST_PATCHES = 16
"""Patches that a measurement goes through."""

BLOCK = 512
"""Side of the blocks of a written pair, pixels."""


def demo_patches(model: ussfc.ModelSpec, patch_size: int) -> tuple[FloatArray, FloatArray]:
    """Return patches of the packaged pair side by side, in the input range of a model.

    Args:
        model: decides bands and range.
        patch_size: side of a patch, pixels.

    Returns:
        Before and after, ``(n, bands, patch_size, patch_size)`` float32 in [0, 1], at most :data:`MOST_PATCHES`.
    """
    cut = []
    for image in _demo(model).images:
        unit = in_unit_range(image, model)
        side = max(patch_size, unit.shape[1] // patch_size * patch_size)
        unit = _mirrored(unit, range(side), side)
        tiles = unit.reshape(len(unit), side // patch_size, patch_size, side // patch_size, patch_size)
        every = tiles.transpose(1, 3, 0, 2, 4).reshape(-1, len(unit), patch_size, patch_size)
        chosen = np.linspace(0, len(every) - 1, min(len(every), MOST_PATCHES)).round().astype(int)
        cut.append(np.ascontiguousarray(every[chosen]))
    return cut[0], cut[1]


def in_unit_range(image: npt.NDArray[Any], model: ussfc.ModelSpec) -> FloatArray:
    """Return a whole scene in the model's input range, mapped as a run maps it.

    Args:
        image: ``(bands, rows, cols)`` source numbers, all valid.
        model: decides the radiometry.

    Returns:
        The same shape, float32 in [0, 1].
    """
    radiometry = model.radiometry
    pixels = Pixels(image, np.ones(image.shape[1:], np.bool_))
    if radiometry.kind == "range":
        mapping = range_mapping(radiometry.low, radiometry.high, len(image))
    else:
        sample = Pixels(image[:, ::4, ::4], pixels.valid[::4, ::4])
        mapping = percentile_mapping(sample, radiometry.low, radiometry.high, "the pair")
    return apply_mapping(pixels, mapping)


def write_pair(model: ussfc.ModelSpec, folder: Path, size: int) -> tuple[Path, Path]:
    """Write the packaged pair repeated to ``size`` x ``size`` pixels, as tiled GeoTIFFs with DEFLATE.

    Args:
        model: decides bands and range of the numbers.
        folder: gets ``before.tif`` and ``after.tif``.
        size: side, pixels.

    Raises:
        StoreError: no room in the folder.
    """
    import rasterio
    from rasterio.windows import Window

    demo = _demo(model)
    paths = folder / "before.tif", folder / "after.tif"
    for path, image in zip(paths, demo.images, strict=True):
        try:
            with rasterio.open(
                path, "w", driver="GTiff", width=size, height=size, count=len(image), dtype=image.dtype, crs=demo.crs,
                transform=demo.transform, tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress="deflate",
                bigtiff="if_safer", num_threads="all_cpus",
            ) as target:  # fmt: skip
                target.descriptions = demo.names
                for top in range(0, size, BLOCK):
                    rows = range(top, min(top + BLOCK, size))
                    target.write(_mirrored(image, rows, size), window=Window(0, top, size, len(rows)))
        except (OSError, rasterio.errors.RasterioError) as error:
            raise StoreError(
                f"{path}: cannot be written ({error}); set TMPDIR to a folder with room"
            ) from error
    return paths


@dataclasses.dataclass(frozen=True)
class _Demo:
    """The packaged pair with the bands and the numbers of a model."""

    images: tuple[npt.NDArray[Any], npt.NDArray[Any]]
    """Before and after, (bands, rows, cols)."""
    names: tuple[str, ...]
    """Names of the bands."""
    crs: Any
    transform: Any


def _demo(model: ussfc.ModelSpec) -> _Demo:
    import rasterio

    names = tuple(band.name for band in model.bands)
    images = []
    with resources.as_file(resources.files("ussfc.configs").joinpath("demo")) as folder:
        for date in ("before", "after"):
            with rasterio.open(folder / f"beirut_{date}.tif") as source:
                found = list(source.descriptions)
                # Another band stands in for one that the pair lacks.
                bands = [
                    found.index(name) if name in found else n % len(found) for n, name in enumerate(names)
                ]
                images.append(_in_range_of(model, source.read()[bands]))
                crs, transform = source.crs, source.transform
    return _Demo((images[0], images[1]), names, crs, transform)


def _in_range_of(model: ussfc.ModelSpec, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the demo's numbers as those of a model's range: 0..3500 as 0..255, for example."""
    if model.radiometry.kind != "range":
        return image
    low, high = (
        np.broadcast_to(np.asarray(end, np.float64), len(image))[:, None, None]
        for end in (model.radiometry.low, model.radiometry.high)
    )
    scaled = low + image * ((high - low) / DEMO_HIGH)
    for dtype in (np.uint8, np.uint16):
        largest = np.iinfo(dtype).max
        # Whole numbers serve where they are fine enough.
        if (high - low).min() >= 100 and low.min() >= 0 and high.max() <= largest:
            return np.clip(np.rint(scaled), 0, largest).astype(dtype)
    return scaled.astype(np.float32)


def _mirrored(image: npt.NDArray[Any], rows: range, cols: int) -> npt.NDArray[Any]:
    """Return rows of a large image that repeats a small one, mirrored at every other turn so that seams fit.

    Args:
        image: ``(bands, side, side)``.
        rows: rows of the large image.
        cols: width of the large image, pixels.

    Returns:
        ``(bands, len(rows), cols)``.
    """

    def place(index: npt.NDArray[np.intp], length: int) -> npt.NDArray[np.intp]:
        turn = index % (2 * length)
        return np.minimum(turn, 2 * length - 1 - turn)

    y, x = place(np.arange(rows.start, rows.stop), image.shape[1]), place(np.arange(cols), image.shape[2])
    return image[:, y[:, None], x[None, :]]
