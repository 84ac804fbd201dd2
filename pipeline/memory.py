"""Peak memory of a run, projected before it starts. Numbers are bytes unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import MemoryRefused
from pipeline.tiling import TilePlan

MB = 1_000_000

# Resident sizes after the imports, fitted to the peaks of benchmarks/overheads.py (Linux, Python 3.11,
# versions of constraints.txt).
BASE_RASTERS = 130 * MB
"""Resident size of a process with its imports: rasterio, zarr, NumPy, SciPy."""
BASE_NETWORK = 300 * MB
"""torch, the weights, and what its libraries keep after the first call."""
BASE_DASK = 60 * MB
"""distributed, in every process that takes part."""
FINISHING = 130 * MB
"""What mosaic and vectorise add: compression buffers of the COG driver, one row of regions, Arrow."""
GDAL_CACHE = 128 * MB
ACTIVATION_BYTES_PER_PIXEL = 1100
"""Live feature maps of the network at ratio 0.5 over the pixels of the patches in flight, float32."""
ACTIVATION_BYTES_LOCAL = 1400
"""The same with local SSFC means, whose sums are maps of their own."""
FRAGMENTATION = 1.3
"""Resident over allocated bytes of arrays that come and go."""


@dataclass(frozen=True, slots=True)
class MemoryProjection:
    """Projected peaks."""

    worker: int
    """One process while it computes tiles."""
    total: int
    """All processes of the run together, at the worst moment."""


def project(
    plan: TilePlan,
    bands: int,
    source_bytes: int,
    processes: int,
    threads: int,
    patches_in_flight: int,
    network: bool,
    local: bool = False,
) -> MemoryProjection:
    """Project the peak of a run.

    Args:
        plan: how the grid is cut.
        bands: bands of each date.
        source_bytes: uncompressed bytes of both dates, which bounds GDAL's cache.
        processes: worker processes; 0 when the run's own process computes the tiles.
        threads: tiles that one process computes at the same time.
        patches_in_flight: patches inside the network at the same time, in one process.
        network: whether the detector is the network (a stand-in needs no torch).
        local: whether its SSFC means are local.
    """
    tile = min(plan.shape[0], plan.tile_size), min(plan.shape[1], plan.tile_size)
    reach = 2 * (plan.patch_size - 1)
    halo = min(plan.shape[0], tile[0] + reach) * min(plan.shape[1], tile[1] + reach)
    core = tile[0] * tile[1]
    # Both dates as float32 plus, while one is stretched, one more copy of it and the validity.
    reading = halo * (3 * bands * 4 + 4)
    # Weighted sum, weight, mean, and the encoded levels.
    blending = core * 20
    kept = halo * (2 * bands * 4 + 2)
    live = ACTIVATION_BYTES_LOCAL if local else ACTIVATION_BYTES_PER_PIXEL
    activations = patches_in_flight * plan.patch_size**2 * (live if network else 4 * bands * 3)
    tiles = int(threads * FRAGMENTATION * (max(reading, kept + blending) + activations))
    cache = min(GDAL_CACHE, source_bytes)
    worker = BASE_RASTERS + (BASE_NETWORK if network else 0) + cache + tiles
    if processes == 0:
        total = max(worker, BASE_RASTERS + (BASE_NETWORK if network else 0) + cache + FINISHING)
        return MemoryProjection(worker, total)
    worker += BASE_DASK
    return MemoryProjection(worker, processes * worker + BASE_RASTERS + BASE_DASK)


def refuse_beyond(projection: MemoryProjection, allowed: int) -> None:
    """Refuse a run that does not fit.

    Args:
        projection: of the run.
        allowed: what it may use.

    Raises:
        MemoryRefused: names both numbers and the settings that lower the projection.
    """
    if projection.total > allowed:
        raise MemoryRefused(
            f"the run would need about {projection.total / 1e9:.2f} GB and may use {allowed / 1e9:.2f} GB; lower "
            "tiling.tile_size or compute.workers, or raise compute.memory_gb"
        )
