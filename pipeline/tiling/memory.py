"""Peak memory of a run, projected before it starts. Numbers are bytes unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from ussfc.pipeline.errors import InsufficientMemoryError
from ussfc.pipeline.tiling.lattice import TilePlan

MB = 1_000_000

# Resident sizes after the imports, fitted to the peaks of benchmarks/overheads.py (Linux, Python 3.11,
# versions of constraints.txt).
BASE_RASTERS = 130 * MB
"""Resident size of a process with its imports: rasterio, zarr, NumPy, SciPy."""
BASE_NETWORK = 400 * MB
"""torch, the weights, and what its libraries keep after the first call."""
BASE_CUDA = 1500 * MB
"""The same with a CUDA device: torch's CUDA libraries, the driver's context, the compiled kernels."""
PATCH_CACHE = 64 * MB
"""Predictions of patches that reach into several tiles, kept for the next of them."""
BASE_DASK = 60 * MB
"""distributed, in every process that takes part."""
BASE_STORES = 40 * MB
"""Clients of object stores, in a process that reads a remote scene: botocore, s3fs, curl."""
FINISHING = 130 * MB
"""What mosaic and vectorise add: squares of the rasters in work, one row of regions, Arrow."""
GDAL_CACHE = 128 * MB
"""GDAL's decoded blocks in a process that reads local files; its own default is a share of the machine's memory."""
FETCHED = 64 * MB
"""Compressed blocks of one window of a remote scene, which GDAL holds until they are decoded."""
REMOTE_BLOCK = 512
"""Side of the blocks that a remote scene is taken to have, pixels: what writers of cloud optimised files use."""
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
    block_cache: int = GDAL_CACHE
    """GDAL's cache of decoded blocks that each process is to have."""


def block_cache(plan: TilePlan, pixel_bytes: float) -> int:
    """GDAL's cache with which the blocks of a remote scene are fetched once in a strip of tiles.

    Tiles overlap by their halos: a row of a strip reads the last blocks of the row above again, and finds them
    when the cache holds a row.

    Args:
        plan: how the grid is cut; its order of tiles is by strips.
        pixel_bytes: uncompressed bytes of a pixel, all bands of the files of both dates.
    """
    reach = 2 * (plan.patch_size - 1) + REMOTE_BLOCK
    rows = min(plan.shape[0], plan.tile_size) + reach
    cols = min(plan.shape[1], plan.strip_tiles * plan.tile_size) + reach
    # A twentieth for what GDAL counts beside the pixels.
    return max(GDAL_CACHE, int(1.05 * rows * cols * pixel_bytes))


def project(
    plan: TilePlan,
    bands: int,
    source_bytes: int,
    processes: int,
    threads: int,
    patches_in_flight: int,
    network: bool,
    local: bool = False,
    remote: bool = False,
    on_gpu: bool = False,
) -> MemoryProjection:
    """Project the peak of a run.

    Args:
        plan: how the grid is cut.
        bands: bands of each date.
        source_bytes: uncompressed bytes of both dates, which bounds GDAL's cache.
        processes: worker processes; 0 when the run's own process computes the tiles.
        threads: tiles that one process has under way; one of them is in the network.
        patches_in_flight: patches inside the network at the same time, in one process.
        network: whether the detector is the network (a stand-in needs no torch).
        local: whether its SSFC means are local.
        remote: whether a scene is read over a network.
        on_gpu: whether the network and its activations are on a GPU.
    """
    tile = min(plan.shape[0], plan.tile_size), min(plan.shape[1], plan.tile_size)
    reach = 2 * (plan.patch_size - 1)
    halo = min(plan.shape[0], tile[0] + reach) * min(plan.shape[1], tile[1] + reach)
    core = tile[0] * tile[1]
    # Both dates as they are read, 16 bits a number, and as float32 in the model's range, and the validity. Dates that
    # are read as float32 take 4 bytes a band more in the place of what FRAGMENTATION adds: nothing else comes and goes.
    reading = halo * (3 * bands * 4 + 4)
    # Weighted sum, weight, mean, and the encoded levels.
    blending = core * 20
    kept = halo * (2 * bands * 4 + 2)
    if on_gpu:
        # The tile once more in pinned memory, on its way to the device.
        activations, base = halo * 2 * bands * 4, BASE_CUDA
    else:
        live = ACTIVATION_BYTES_LOCAL if local else ACTIVATION_BYTES_PER_PIXEL
        pixel = live if network else 4 * bands * 3
        activations, base = patches_in_flight * plan.patch_size**2 * pixel, BASE_NETWORK
    # What a tile leaves for its neighbours is less than its own blending at most.
    memory = min(PATCH_CACHE, core * 4)
    one = max(reading, kept + blending)
    tiles = int(FRAGMENTATION * (threads * one + activations * (threads if on_gpu else 1)) + memory)
    allowed = block_cache(plan, source_bytes / (plan.shape[0] * plan.shape[1])) if remote else GDAL_CACHE
    cache = min(allowed, source_bytes)
    if remote:
        cache += BASE_STORES + threads * min(FETCHED, source_bytes)
    worker = BASE_RASTERS + (base if network else 0) + cache + tiles
    if processes == 0:
        total = max(worker, BASE_RASTERS + (base if network else 0) + cache + FINISHING)
        return MemoryProjection(worker, total, allowed)
    worker += BASE_DASK
    return MemoryProjection(worker, processes * worker + BASE_RASTERS + BASE_DASK, allowed)


def refuse_beyond(projection: MemoryProjection, allowed: int) -> None:
    """Refuse a run that does not fit.

    Args:
        projection: of the run.
        allowed: what it may use.

    Raises:
        InsufficientMemoryError: names both numbers and the settings that lower the projection.
    """
    if projection.total > allowed:
        raise InsufficientMemoryError(
            f"the run would need about {projection.total / 1e9:.2f} GB and may use {allowed / 1e9:.2f} GB; lower "
            "tiling.tile_size or cluster.workers, or raise compute.memory_gb"
        )
