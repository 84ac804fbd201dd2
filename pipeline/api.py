"""Change detection in Python, on xarray arrays: lazy, chunked, georeferenced; the numbers of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

import ussfc
from ussfc.pipeline.choices import Taper
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.execution.computers import open_computer
from ussfc.pipeline.execution.worker_cache import PROCESS_CACHE
from ussfc.pipeline.pixels import radiometry
from ussfc.pipeline.pixels.encoding import decode, encode
from ussfc.pipeline.reading import choose_bands
from ussfc.pipeline.reading.array import ArrayReader, Placement, describe_array, with_bands
from ussfc.pipeline.runs.pair import scene_mapping
from ussfc.pipeline.runs.resolve import resolve_layout
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.tiling.grid import common_grid
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import DetectorSpec, FloatArray, RadiometricMapping, Tile


def detect_changes(
    before: xr.DataArray,
    after: xr.DataArray,
    model: str | None = None,
    config: RunConfig | None = None,
    detector: DetectorSpec | None = None,
) -> xr.DataArray:
    """Change probability of two georeferenced arrays.

    Nothing but the sample for the radiometric percentiles is read before the result is computed; each chunk
    reads just its own window of both dates. The two grids may differ as on the command line.

    Args:
        before: earlier image, (band, y, x) or (y, x), NumPy or Dask inside, with a CRS that odc-geo or rioxarray
            finds (or none on both).
        after: later image, likewise.
        model: name, card or weights file; by default the configuration's.
        config: from :func:`ussfc.load_config`; the packaged defaults without it. ``compute``, ``vector``
            and ``grid.aoi`` do not apply.
        detector: another detector than the model's network, with the same patch size.

    Returns:
        (y, x) float32 in [0, 1], NaN where either date has no data, in chunks of ``tiling.tile_size``, with
        coordinates and CRS of the common grid. Values are those of the stored product: with
        ``output.probability_dtype`` uint8 multiples of 1/254.

    Raises:
        ReadError, GridError, ConfigError, ussfc.ModelError: as the command line.
    """
    config = config or load_config()
    card = ussfc.find_model(model or config.model)
    layout = resolve_layout(config, card)
    spec = detector or ussfc.detector_spec(
        card,
        ussfc.DetectorOptions(
            patch_size=layout.patch_size,
            ssfc=layout.ssfc,
            engine=config.inference.engine,
            precision=config.inference.precision,
            device=config.inference.device,
            batch_size=config.inference.batch_size,
            streams=1,
        ),
    )
    before_reader, after_reader, mappings, grid = _open_arrays(before, after, config, card)
    job = _ChunkJob(mappings, spec, layout.taper, config.output.probability_dtype)
    plan = TilePlan.of((grid.shape[0], grid.shape[1]), layout.tile_size, spec.patch_size, layout.overlap)
    compute = dask.delayed(_compute_core, pure=False)

    def chunk(index: tuple[int, int]) -> da.Array:
        tile = plan.tile(index)
        lazy = compute(
            before_reader.block(tile.halo).data,
            after_reader.block(tile.halo).data,
            (before_reader.placement(tile.halo), after_reader.placement(tile.halo)),
            tile,
            job,
        )
        result: da.Array = da.from_delayed(lazy, plan.core(index).shape, np.float32)
        return result

    rows, cols = plan.tiles_shape
    chunks = [[chunk((row, col)) for col in range(cols)] for row in range(rows)]
    result = xr.DataArray(da.block(chunks), dims=("y", "x"), name="change_probability")
    if grid.crs is not None:
        from odc.geo.xr import xr_coords

        result = xr.DataArray(result.data, coords=xr_coords(grid), dims=grid.dimensions, name=result.name)
    result.attrs |= {"long_name": "change probability", "units": "1", "model": card.name, "nodata": np.nan}
    return result


def _open_arrays(
    before: xr.DataArray, after: xr.DataArray, config: RunConfig, card: ussfc.ModelSpec
) -> tuple[ArrayReader, ArrayReader, tuple[RadiometricMapping, RadiometricMapping], GeoBox]:
    """Return a reader of each date on the common grid, the radiometric constants, and the grid."""
    arrays = with_bands(before, "before"), with_bands(after, "after")
    infos = [describe_array(array, name, "") for array, name in zip(arrays, ("before", "after"), strict=True)]
    grid = common_grid(infos[0], infos[1], config.grid.reference, config.grid.crs, config.grid.resolution)
    model_bands = [(band.name, band.common_name) for band in card.bands]
    readers, mappings = [], []
    for array, info, chosen in zip(arrays, infos, (config.bands.before, config.bands.after), strict=True):
        bands, _ = choose_bands(info, model_bands, chosen)
        readers.append(ArrayReader(array, grid, bands, config.grid.resampling))
        mappings.append(scene_mapping(card, readers[-1], info.uri, info.scales(bands)))
    return readers[0], readers[1], (mappings[0], mappings[1]), grid


@dataclass(frozen=True)
class _ChunkJob:
    """Settings that every chunk of a result shares."""

    mappings: tuple[RadiometricMapping, RadiometricMapping]
    detector: DetectorSpec
    taper: Taper
    dtype: str
    """Type of the stored product whose levels the values have."""


def _compute_core(
    before: Any, after: Any, placements: tuple[Placement, Placement], tile: Tile, job: _ChunkJob
) -> FloatArray:
    """Compute one chunk; runs on whatever scheduler computes the array."""
    images = radiometry.pair(placements[0](before), placements[1](after), job.mappings)
    spec = job.detector
    computer = open_computer(PROCESS_CACHE.detector(spec), taper_weights(spec.patch_size, job.taper))
    probability, _ = computer.blend(tile, images)
    valid = images.valid[tile.core.within(tile.halo).slices]
    return decode(encode(probability, valid, np.dtype(job.dtype)))
