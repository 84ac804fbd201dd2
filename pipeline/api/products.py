"""Classes and polygons of probabilities in memory or in Dask, equal to the products of the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from ussfc.pipeline.api.inputs import image_array
from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.pixels import encoding
from ussfc.pipeline.polygons.vectorise import RegionRules, VectorOptions, find_blocks, join_features
from ussfc.pipeline.reading.array import array_geobox, with_bands
from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS, Box, ByteArray, FloatArray, StoredArray

if TYPE_CHECKING:
    import geopandas

    from ussfc.pipeline.polygons.measure import Features

Stored = Callable[[Any], StoredArray]
"""Function from an array's numbers to stored ones, see :func:`ussfc.pipeline.pixels.encoding.encode`."""

CLASSES = {"flag_values": np.array([0, 1], np.uint8), "flag_meanings": "no_change change"}
"""Attributes of classes, after the CF conventions."""

OF_PROBABILITY = ("units", "nodata", "_FillValue", "scale_factor", "add_offset", "probability_dtype")
"""Attributes of a probability that its classes do not have."""

WHOLE_CLASS = 0.5
"""Threshold between the classes once they are levels."""

BLOCK = 2048
"""Side of the blocks that are outlined one by one, pixels."""


def classify(probability: xr.DataArray, threshold: float | None = None) -> xr.DataArray:
    """Return the classes of a change probability: those of ``change.tif``. Nothing is computed before it is asked for.

    Args:
        probability: (y, x) in [0, 1] and NaN, of :func:`ussfc.detect_changes` or a file; or uint8 as in
            ``probability.tif``, ``round(254 p)`` with nodata 255.
        threshold: in [0, 1]; a probability of at least this is change. By default that which
            :func:`ussfc.detect_changes` noted in the attributes.

    Returns:
        (y, x) uint8: 0 no change, 1 change, 255 nodata; with the coordinates of ``probability``.

    Raises:
        ConfigError: the threshold is not in [0, 1], or there is none.
        ReadError: ``probability`` is no such array.
    """
    probability = image_array(probability, "probability")
    _check(probability)
    threshold = _threshold(probability, threshold)
    classes = xr.apply_ufunc(
        partial(_classes, threshold=threshold, stored=_stored(probability)),
        probability,
        dask="parallelized",
        output_dtypes=[np.uint8],
    )
    kept = {name: value for name, value in probability.attrs.items() if name not in OF_PROBABILITY}
    classes.attrs = kept | CLASSES | {"long_name": "change", "threshold": threshold, "nodata": NODATA_BYTE}
    classes.encoding = {name: value for name, value in probability.encoding.items() if name == "grid_mapping"}
    named: xr.DataArray = classes.rename("change")
    return named


def polygons(
    change: xr.DataArray,
    threshold: float | None = None,
    min_area_m2: float = 0.0,
    simplify_m: float = 0.0,
    connectivity: Literal[4, 8] = 4,
) -> geopandas.GeoDataFrame:
    """Return the regions of change as polygons: those of ``changes.parquet``. The array is computed block by block.

    Args:
        change: (y, x) probability as :func:`classify` takes it, or classes as it returns them (uint8 or bool); where
            it is to be used again, compute it first.
        threshold: of a probability, see :func:`classify`.
        min_area_m2: least area of a region, m2.
        simplify_m: distance that an outline may move, m.
        connectivity: neighbours of a pixel: 4 share a side with it, 8 a side or a corner.

    Returns:
        ``id``, ``area_m2``, ``perimeter_m``, ``mean_probability``, ``max_probability`` (NaN of classes), ``pixels``
        and ``geometry`` in the CRS of ``change``; without one in pixel coordinates.

    Raises:
        ConfigError: the threshold is not in [0, 1], there is none, or metres are asked of a grid without a CRS.
        ReadError: ``change`` is no such array.
    """
    if min_area_m2 < 0 or simplify_m < 0 or connectivity not in (4, 8):
        raise ConfigError(
            f"min_area_m2 {min_area_m2}, simplify_m {simplify_m}, connectivity {connectivity}: expected at least 0, "
            "at least 0, and 4 or 8"
        )
    change = image_array(change, "change")
    _check(change)
    bare = _are_classes(change)
    if bare and threshold is not None:
        raise ConfigError(
            f"threshold {threshold:g}: the array holds classes already; leave the threshold out"
        )
    cut = WHOLE_CLASS if bare else _threshold(change, threshold)
    array = with_bands(change, "change")
    if len(array) != 1:
        raise ReadError(f"change: has dimensions {dict(change.sizes)}, expected (y, x)")
    geobox = array_geobox(array)
    source = _Source(array[0], _of_classes if bare else _stored(change))
    options = VectorOptions(min_area_m2, simplify_m, connectivity)
    rules = RegionRules(geobox, cut, options)
    features = list(join_features(find_blocks(source, rules, _block_size(array)), rules))
    return _frame(features, None if geobox.crs is None else geobox.crs.proj, bare)


@dataclass(frozen=True)
class _Source:
    """A probability source over a (y, x) array."""

    array: xr.DataArray
    stored: Stored

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape[0], self.array.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stored(np.zeros((1, 1), self.array.dtype)).dtype

    def read(self, box: Box) -> StoredArray:
        return self.stored(self.array[box.slices].values)


def _check(array: xr.DataArray) -> None:
    if array.dtype not in (np.bool_, np.uint8) and not np.issubdtype(array.dtype, np.floating):
        raise ReadError(
            f"the array holds {array.dtype}; expected probabilities (floats in [0, 1], or uint8 as in probability.tif) "
            "or classes (uint8 or bool)"
        )


def _threshold(array: xr.DataArray, threshold: float | None) -> float:
    found = array.attrs.get("threshold") if threshold is None else threshold
    if found is None:
        raise ConfigError(
            "threshold: not given, and the array does not have it among its attributes, as what detect_changes "
            "returns; give one, for example ussfc.find_model('ussfc-s2-rgb').threshold"
        )
    if not 0 <= found <= 1:
        raise ConfigError(f"threshold = {found}: expected a number in [0, 1]")
    return float(found)


def _are_classes(array: xr.DataArray) -> bool:
    """Return True for bool and for uint8 that no scale makes probabilities of."""
    scale = array.attrs.get("scale_factor", array.encoding.get("scale_factor", 1))
    return bool(array.dtype == np.bool_ or (array.dtype == np.uint8 and scale == 1))


def _stored(array: xr.DataArray) -> Stored:
    """Return the function from the numbers of a probability to those that the store of a run would hold."""
    if array.dtype == np.uint8:
        return _as_levels
    scale = array.encoding.get("scale_factor") or 0
    of_levels = array.attrs.get("probability_dtype") == "uint8" or np.isclose(scale * PROBABILITY_STEPS, 1)
    return _to_levels if of_levels else _to_floats


def _as_levels(values: Any) -> StoredArray:
    return np.asarray(values, np.uint8)


def _to_floats(values: Any) -> FloatArray:
    return np.asarray(values, np.float32)


def _to_levels(values: Any) -> StoredArray:
    numbers = _to_floats(values)
    return encoding.encode(numbers, ~np.isnan(numbers), np.dtype(np.uint8))


def _of_classes(values: Any) -> StoredArray:
    classes = np.asarray(values).astype(np.uint8)
    found = np.setdiff1d(classes, (0, 1, NODATA_BYTE))
    if len(found):
        raise ReadError(
            f"the array holds {found[0]}, classes are 0, 1 and {NODATA_BYTE}; a probability of uint8 has the attribute "
            "scale_factor"
        )
    return np.where(classes == 1, np.uint8(PROBABILITY_STEPS), classes)


def _classes(values: Any, threshold: float, stored: Stored) -> ByteArray:
    return encoding.classify(stored(values), threshold)


def _block_size(array: xr.DataArray) -> int:
    """Return the side of the blocks, pixels: whole chunks, so that none is computed twice."""
    chunk = max((max(sizes) for sizes in array.chunks[1:]), default=BLOCK) if array.chunks else BLOCK
    return int(chunk) * max(1, BLOCK // int(chunk))


def _frame(features: list[Features], crs: Any, bare: bool) -> geopandas.GeoDataFrame:
    import geopandas

    def column(values: list[Any], dtype: type) -> Any:
        return np.concatenate(values) if values else np.zeros(0, dtype)

    regions = [found.regions for found in features]
    count = sum(len(found.geometry) for found in features)
    unknown = np.full(count, np.nan)
    return geopandas.GeoDataFrame(
        {
            "id": column([each.first for each in regions], np.int64),
            "area_m2": column([found.area for found in features], np.float64),
            "perimeter_m": column([found.perimeter for found in features], np.float64),
            "mean_probability": unknown if bare else column([each.mean for each in regions], np.float64),
            "max_probability": unknown if bare else column([each.peak for each in regions], np.float64),
            "pixels": column([each.pixels for each in regions], np.int64),
        },
        geometry=column([found.geometry for found in features], np.object_),
        crs=crs,
    )
