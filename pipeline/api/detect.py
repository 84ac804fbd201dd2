"""Change detection in Python, on xarray arrays: lazy, chunked, georeferenced; the numbers of the command line."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

import ussfc
from ussfc.pipeline.api.coordinates import on_grid_of
from ussfc.pipeline.api.inputs import ArrayPair, open_arrays
from ussfc.pipeline.choices import Smoothing, Taper
from ussfc.pipeline.config.load import as_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import PipelineWarning
from ussfc.pipeline.execution.computers import open_computer
from ussfc.pipeline.execution.worker_cache import PROCESS_CACHE
from ussfc.pipeline.pixels import radiometry
from ussfc.pipeline.pixels.alteration import CombinedOdds
from ussfc.pipeline.pixels.encoding import decode, encode
from ussfc.pipeline.pixels.smoothing import median3, with_rim
from ussfc.pipeline.reading import AreaOfInterest
from ussfc.pipeline.reading.array import Placement
from ussfc.pipeline.runs.resolve import resolve_layout, resolve_smoothing
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, DetectorSpec, FloatArray, PixelPair, RadiometricMapping, Tile


def detect_changes(
    before: xr.DataArray | xr.Dataset,
    after: xr.DataArray | xr.Dataset,
    model: str | None = None,
    config: RunConfig | Mapping[str, Any] | None = None,
    detector: DetectorSpec | None = None,
) -> xr.DataArray:
    """Change probability of two georeferenced arrays.

    Before the result is computed windows of both dates are read, for their registration, for checks of their numbers,
    for IR-MAD beside the network and for radiometric percentiles; each chunk then reads just its own window of both
    dates. The two grids may differ as on the command line. What the command line would warn of is a Python warning of
    :class:`ussfc.PipelineWarning`.

    Args:
        before: earlier image, (band, y, x) or (y, x), NumPy or Dask inside, with a CRS that odc-geo or rioxarray
            finds (or none on both); dimensions of length 1, such as time, do not count. Of a Dataset the variables
            are the bands. Bands are found by the labels of their coordinate, by the names of the variables, or by
            the attribute ``long_name``.
        after: later image, likewise.
        model: name, card or weights file; by default the configuration's.
        config: from :func:`ussfc.load_config`, or a dict of keys, nested (``{"tiling": {"tile_size": 256}}``) or
            dotted (``{"tiling.tile_size": 256}``); the packaged defaults without it. ``compute``, ``cluster``,
            ``vector`` and ``dates`` do not apply.
        detector: another detector than the model's network, with the same patch size.

    Returns:
        (y, x) float32 in [0, 1], NaN where either date has no data, in chunks of ``tiling.tile_size``, with
        dimensions, coordinates, attributes and CRS of the date that ``grid.reference`` names (before), cut to the
        common part; with those of the new grid where ``grid.crs`` or ``grid.resolution`` asks for one. Values are
        those of ``probability.tif`` of a run, smoothed as there: with ``output.probability_dtype`` uint8 multiples of
        1/254.

    Raises:
        ReadError, GridError, ConfigError, ussfc.ModelError: as the command line.
    """
    settings = as_config(config)
    if model is not None:
        settings = settings.model_copy(update={"model": str(model)})
    pair = open_arrays(before, after, settings, own_network=detector is None)
    card = pair.model
    layout = resolve_layout(settings, card)
    spec = detector or ussfc.detector_spec(
        card,
        ussfc.DetectorOptions(
            patch_size=layout.patch_size,
            ssfc=layout.ssfc,
            engine=settings.inference.engine,
            precision=settings.inference.precision,
            device=settings.inference.device,
            batch_size=settings.inference.batch_size,
            streams=1,
            quality=settings.inference.quality,
        ),
    )
    for notice in pair.notices:
        warnings.warn(notice, PipelineWarning, stacklevel=2)
    smoothing = resolve_smoothing(settings, card)
    odds = None if pair.alteration is None else pair.alteration.odds
    job = _ChunkJob(
        pair.mappings, spec, layout.taper, settings.output.probability_dtype, pair.area, smoothing, odds
    )
    shape = pair.grid.shape[0], pair.grid.shape[1]
    margin = 0 if odds is None else odds.margin
    tiles = TilePlan.of(shape, layout.tile_size, spec.patch_size, layout.overlap, margin)
    own = 0 if settings.grid.reference == "before" else 1
    result = on_grid_of(
        _lazy_result(pair, tiles, job), pair.grid, pair.arrays[own], pair.arrays[1 - own], pair.southward[own]
    )
    result.name = "change_probability"
    threshold = card.threshold if settings.threshold is None else settings.threshold
    result.attrs |= {
        "long_name": "change probability",
        "units": "1",
        "model": card.name,
        "threshold": threshold,
        "smoothing": smoothing,
        "probability_dtype": settings.output.probability_dtype,
        "registration": pair.registration.state,
        "alteration": "off" if odds is None else "IR-MAD",
        "nodata": np.nan,
    }
    return result


def _lazy_result(pair: ArrayPair, tiles: TilePlan, job: _ChunkJob) -> da.Array:
    """Return the (rows, cols) probabilities, a chunk a tile."""
    compute = dask.delayed(_compute_core, pure=False)
    before, after = pair.readers

    def chunk(index: tuple[int, int]) -> da.Array:
        tile = tiles.tile(index, margin=int(job.smoothing != "none"))
        lazy = compute(
            before.block(tile.halo).data,
            after.block(tile.halo).data,
            (before.placement(tile.halo), after.placement(tile.halo)),
            tile,
            tiles.core(index),
            job,
        )
        result: da.Array = da.from_delayed(lazy, tiles.core(index).shape, np.float32)
        return result

    rows, cols = tiles.tiles_shape
    chunks = [[chunk((row, col)) for col in range(cols)] for row in range(rows)]
    whole: da.Array = da.block(chunks)
    return whole


@dataclass(frozen=True)
class _ChunkJob:
    """Settings that every chunk of a result shares."""

    mappings: tuple[RadiometricMapping, RadiometricMapping]
    detector: DetectorSpec
    taper: Taper
    dtype: str
    """Type of the stored product whose levels the values have."""
    area: AreaOfInterest | None
    smoothing: Smoothing
    odds: CombinedOdds | None
    """Regression on the network's answer and IR-MAD; None: the network's alone counts."""


def _compute_core(
    before: Any, after: Any, placements: tuple[Placement, Placement], tile: Tile, own: Box, job: _ChunkJob
) -> FloatArray:
    """Compute the pixels that a tile owns, a chunk; runs on whatever scheduler computes the array."""
    images = radiometry.pair(placements[0](before), placements[1](after), job.mappings)
    spec, core = job.detector, tile.core.within(tile.halo)
    log_distance = None
    if job.odds is not None:
        log_distance = job.odds.log_distance(images.dates, images.valid, core)
    if job.area is not None:
        images = PixelPair(images.before, images.after, images.valid & job.area.mask(tile.halo))
    computer = open_computer(PROCESS_CACHE.detector(spec), taper_weights(spec.patch_size, job.taper))
    probability, _ = computer.blend(tile, images)
    if job.odds is not None and log_distance is not None:
        probability = job.odds.combine(probability, log_distance)
    valid = images.valid[core.slices]
    stored = encode(probability, valid, np.dtype(job.dtype))
    if job.smoothing != "none":
        # Where the core ends before the grid, it has a pixel more than what is returned.
        stored = median3(with_rim(stored))
    return decode(stored[own.within(tile.core).slices])
