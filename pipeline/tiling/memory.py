"""Peak memory of a run, projected before it starts. Numbers are bytes unless another unit is given."""

from __future__ import annotations

from dataclasses import dataclass

from ussfc.pipeline.errors import InsufficientMemoryError
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import DISTANCE_ROWS

MB = 1_000_000

# Resident sizes after the imports, fitted to the peaks of benchmarks/overheads.py (Linux, Python 3.11,
# versions of constraints.txt).
BASE_RASTERS = 160 * MB
"""Resident size of a process with its imports: rasterio, zarr, NumPy, SciPy."""
BASE_NETWORK = 400 * MB
"""torch, the weights, and memory that its libraries keep after the first call."""
BASE_CUDA = 1500 * MB
"""The same with a CUDA device: PyTorch's CUDA libraries, the driver's context, the compiled kernels."""
COMPARISON = 650 * MB
"""Peak of a comparison of engines above the libraries: several networks are compiled, one after the other."""
COMPARED = 100 * MB
"""Memory of a comparison that the libraries keep."""
PATCH_CACHE = 64 * MB
"""Predictions of patches that reach into several tiles, kept for the next of these tiles."""
BASE_DASK = 60 * MB
"""distributed, in every process of the run."""
BASE_STORES = 40 * MB
"""Clients of object stores, in a process that reads a remote scene: botocore, s3fs, curl."""
FINISHING = 200 * MB
"""Additional memory of mosaic and vectorise: squares of the rasters in work, one row of regions, both dates below them,
Arrow."""
LARGE_BLOCK = 8 * MB
"""Decoded blocks up to this size are part of GDAL's cache; larger ones stand beside it, in every handle."""
COORDINATE_BYTES = 24
"""Coordinates of a row or column while the store is made: float64, and two copies in encoding."""
GDAL_CACHE = 128 * MB
"""GDAL's decoded blocks in a process that reads local files; GDAL's default is a share of the machine's memory."""
SHARED_BLOCKS = 256 * MB
"""Decoded blocks that tiles share where they are read for a device; a row of a strip takes 60 MB of uint16."""
SQUARE = 75 * MB
"""Making a square of the products of a noisy map, of 2048 px a side; one that is all change takes three times that."""
SQUARES_BESIDE = 4
"""Most squares that are made at a time beside a device, by threads of their own."""
FETCHED = 64 * MB
"""Compressed blocks of one window of a remote scene, which GDAL keeps until they are decoded."""
REMOTE_BLOCK = 512
"""Assumed side of the blocks of a remote scene, pixels: the default of writers of cloud optimised files."""
COSTLY_BLOCK = 1024
"""Assumed side of blocks that are costly to decode, pixels: that of Sentinel-2's JPEG 2000."""
ACTIVATION_BYTES_PER_PIXEL = 1100
"""Live feature maps of the network at ratio 0.5 over the pixels of the patches in flight, float32."""
ACTIVATION_BYTES_LOCAL = 1400
"""The same with local SSFC means, whose sums are maps of their own."""
FRAGMENTATION = 1.3
"""Resident over allocated bytes of arrays that come and go."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Properties of a run that decide how much memory it takes, beside its tiles."""

    bands: int
    """Bands of each date that the network takes."""
    source_bytes: int
    """Uncompressed size of both dates, which bounds GDAL's cache."""
    processes: int
    """Worker processes; 0 when the run's own process computes the tiles."""
    threads: int
    """Tiles that one process works on at a time; one of them is in the network."""
    patches_in_flight: int
    """Patches inside the network at the same time, in one process."""
    network: bool
    """True if the detector is the network; a stand-in needs no torch."""
    local: bool = False
    """True if the network's SSFC means are local."""
    remote: bool = False
    """True if a scene is read over a network."""
    costly: bool = False
    """True if decoding a block costs more than keeping it: JPEG 2000."""
    on_gpu: bool = False
    """True if the network and its activations are on a GPU."""
    block_bytes: int = 0
    """Decoded size of one block of each file together: a read of any window decodes whole blocks."""
    values: int = 0
    """Bands of each date that are read and kept beside the network, for the values of polygons; 0: none are."""
    masks: int = 0
    """Masks of the dates."""
    combines: bool = False
    """True if the network's answer is combined with IR-MAD."""
    compares_engines: bool = False
    """True if engines are compared before the first tile, as on a machine where none was chosen yet."""


@dataclass(frozen=True, slots=True)
class MemoryProjection:
    """Projected peaks."""

    worker: int
    """Peak of one process while it computes tiles."""
    total: int
    """Peak of all processes of the run together."""
    block_cache: int = GDAL_CACHE
    """GDAL's cache of decoded blocks in each process."""


def block_cache(plan: TilePlan, pixel_bytes: float, block: int = REMOTE_BLOCK) -> int:
    """Return the size of GDAL's cache with which the blocks of a scene are fetched or decoded once in a strip of tiles.

    Tiles overlap by their halos: a row of a strip reads the last blocks of the row above again, and finds them
    when the cache holds a row.

    Args:
        plan: how the grid is cut; its order of tiles is by strips.
        pixel_bytes: uncompressed bytes of a pixel, all bands of the files of both dates.
        block: side of a block, pixels.
    """
    reach = 2 * (plan.patch_size - 1) + block
    rows = min(plan.shape[0], plan.tile_size) + reach
    cols = min(plan.shape[1], plan.strip_columns * plan.tile_size) + reach
    # A twentieth for what GDAL counts beside the pixels.
    return max(GDAL_CACHE, int(1.05 * rows * cols * pixel_bytes))


def project(plan: TilePlan, work: Workload) -> MemoryProjection:
    """Project the peak of a run.

    Args:
        plan: how the grid is cut.
        work: the run's other properties.
    """
    allowed = GDAL_CACHE
    if work.remote or work.costly:
        block = COSTLY_BLOCK if work.costly else REMOTE_BLOCK
        allowed = block_cache(plan, work.source_bytes / (plan.shape[0] * plan.shape[1]), block)
    cache = min(allowed, work.source_bytes)
    if work.on_gpu:
        cache += min(SHARED_BLOCKS, work.source_bytes)
    if work.remote:
        cache += BASE_STORES + work.threads * min(FETCHED, work.source_bytes)
    base = (BASE_CUDA if work.on_gpu else BASE_NETWORK) if work.network else 0
    # Each thread has handles of its own. A handle decodes a block into a buffer, from which GDAL's cache takes a copy.
    blocks = 2 * work.threads * work.block_bytes if work.block_bytes > LARGE_BLOCK else 0
    worker = BASE_RASTERS + base + cache + blocks + _tile_bytes(plan, work)
    # Those of a million rows and columns are part of FINISHING, which comes later.
    coordinates = max(0, COORDINATE_BYTES * (plan.shape[0] + plan.shape[1]) - FINISHING)
    if work.processes == 0:
        if work.on_gpu:
            worker += SQUARES_BESIDE * SQUARE
        total = max(worker, BASE_RASTERS + base + cache + FINISHING) + coordinates
        if work.compares_engines:
            total = max(total + COMPARED, BASE_RASTERS + base + COMPARISON)
        return MemoryProjection(worker, total, allowed)
    worker += BASE_DASK
    total = work.processes * worker + BASE_RASTERS + BASE_DASK + coordinates
    return MemoryProjection(worker, total, allowed)


def _tile_bytes(plan: TilePlan, work: Workload) -> int:
    """Return the memory of the tiles that one process works on."""
    tile = min(plan.shape[0], plan.tile_size), min(plan.shape[1], plan.tile_size)
    reach = 2 * (plan.patch_size - 1)
    halo = min(plan.shape[0], tile[0] + reach) * min(plan.shape[1], tile[1] + reach)
    core = tile[0] * tile[1]
    if work.on_gpu:
        return int(FRAGMENTATION * work.threads * _device_tile_bytes(plan, work, halo, core))
    # Both dates as they are read, 16 bits a number, and as float32 in the model's range, and the validity. Dates that
    # are read as float32 take 4 bytes a band more in the place of what FRAGMENTATION adds: nothing else comes and goes.
    # A mask is read, grown and joined with the other one.
    raw = max(work.bands, work.values) * 4
    reading = halo * (raw + 2 * work.bands * 4 + 4 + 3 * work.masks)
    if work.combines:
        reading += core * 4
    # Weighted sum, weight, mean, and the encoded levels; what IR-MAD says waits for the network.
    blending = core * (24 if work.combines else 20)
    kept = halo * ((raw if work.values else 0) + 2 * work.bands * 4 + 2 + min(1, work.masks))
    live = ACTIVATION_BYTES_LOCAL if work.local else ACTIVATION_BYTES_PER_PIXEL
    pixel = live if work.network else 4 * work.bands * 3
    activations = work.patches_in_flight * plan.patch_size**2 * pixel
    # The predictions that a tile leaves for its neighbours are less than its own blending at most.
    patches = min(PATCH_CACHE, core * 4)
    one = max(reading, kept + blending)
    return int(FRAGMENTATION * (work.threads * one + activations) + patches)


def _device_tile_bytes(plan: TilePlan, work: Workload, halo: int, core: int) -> float:
    """Return the memory of a tile that goes to a device as it was read.

    Args:
        plan: how the grid is cut.
        work: the run's other properties.
        halo: pixels that the tile reads at most.
        core: pixels that it writes at most.
    """
    both = 2 * max(work.bands, work.values) * 4
    read = min(both, work.source_bytes / (plan.shape[0] * plan.shape[1]))
    # Read in whole blocks, with their validity; the blocks at the edges reach beyond the halo.
    reach = 2 * (plan.patch_size - 1) + 2 * REMOTE_BLOCK
    rows, cols = (min(side, plan.tile_size + reach) for side in plan.shape)
    # Once more in pinned memory, on its way to the device; mapped on the host where an edge is mirrored.
    # Where IR-MAD is beside the network, parts of both dates are mapped here as well, and their distances blurred.
    part = min(rows, DISTANCE_ROWS + 2 * plan.margin) * cols
    combined = part * (4 * work.bands * 4 + 20) + core * 8 if work.combines else 0
    return rows * cols * (read + 2) + halo * (read + 4 + 3 * work.masks) + core * 20 + combined


def check_projection(projection: MemoryProjection, allowed: int, block_bytes: int = 0) -> None:
    """Refuse a run that does not fit.

    Args:
        projection: projection of the run.
        allowed: memory that the run may use.
        block_bytes: decoded size of one block of each date together; large ones are part of the advice.

    Raises:
        InsufficientMemoryError: names both numbers and the settings that lower the projection.
    """
    if projection.total > allowed:
        tiled = (
            f"rewrite the images in small blocks, since one of theirs has {block_bytes / 1e9:.2f} GB "
            "(gdal_translate -co TILED=YES), "
            if block_bytes > LARGE_BLOCK
            else ""
        )
        raise InsufficientMemoryError(
            f"the run would need about {projection.total / 1e9:.2f} GB and may use {allowed / 1e9:.2f} GB; {tiled}"
            "lower tiling.tile_size or cluster.workers, or raise compute.memory_gb"
        )
