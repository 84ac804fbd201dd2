"""CPU time of what surrounds the network: reading a pair, the two steps of that, and encoding.

    python benchmarks/reading.py [FOLDER] [--side 8192] [--rounds 3]
    python benchmarks/reading.py [FOLDER] --threads 12

A pair of SIDE x SIDE px (the demo images repeated with noise, 3 bands with nodata 0, GeoTIFFs in blocks of 512 px) is
written for every compression and dtype; an eighth of the scene is nodata in those so named. Then all tiles of
2048 px with their halos are read on the pair's own grid, in the order of a run and with its block cache. Numbers are
Mpx/s of the thread's CPU time, pixels of the window counted once for both dates; *decode* is GDAL alone, every window
of both files once in the files' own dtype. The median of the rounds is printed.

With --threads so many readers go side by side, as beside a GPU, over DEFLATE uint16 without nodata: first as a CPU's
network wants its tiles, mapped, then as a GPU takes them, as they are: each tile by itself, and with the blocks that
tiles share. The scene is read twice, and the second time counts, when arrays are used again. CPU seconds are the
process's; *blocks* is how often a block is read and decoded, by the bytes that the process reads (Linux) over the size
of both files.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from ussfc.pipeline.execution.tile_job import OpenPair
from ussfc.pipeline.pixels.encoding import encode
from ussfc.pipeline.pixels.radiometry import pair, range_mapping
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.reading.shared_blocks import share
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.tiling.memory import GDAL_CACHE, SHARED_BLOCKS
from ussfc.pipeline.types import Box

DATES = ("before", "after")
BLOCK = 512
BANDS = (1, 2, 3)
RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 3500.0)}
CASES = [
    (compression, dtype, nodata)
    for compression in ("deflate", "zstd")
    for dtype in ("uint8", "uint16")
    for nodata in (False, True)
]


def write_scene(path: Path, date: str, side: int, dtype: str, compression: str, nodata: bool) -> None:
    if path.exists():
        return
    with rasterio.open(
        str(resources.files("ussfc.configs").joinpath("demo", f"beirut_{date}.tif"))
    ) as source:
        image = source.read().astype(np.float32)
    if dtype == "uint8":
        image *= 255 / RANGES["uint16"][1]
    noise = np.random.default_rng(DATES.index(date))
    profile = {
        "driver": "GTiff", "count": 3, "dtype": dtype, "height": side, "width": side, "nodata": 0, "tiled": True,
        "blockxsize": BLOCK, "blockysize": BLOCK, "interleave": "pixel", "compress": compression, "predictor": 2,
        "crs": "EPSG:32636", "transform": Affine(10, 0, 0, 0, -10, 0),
    }  # fmt: skip
    rows, cols = image.shape[1:]
    with rasterio.open(path, "w", **profile) as target:
        for y in range(0, side, BLOCK):
            block = np.take(image, np.arange(y, min(y + BLOCK, side)) % rows, axis=1)
            strip = np.take(block, np.arange(side) % cols, axis=2)
            strip = strip + noise.normal(0, 4, strip.shape)
            strip = strip.clip(1, np.iinfo(dtype).max).astype(dtype)
            if nodata:
                # A slanted border, as between two orbits.
                line, column = np.mgrid[y : y + strip.shape[1], :side]
                strip[:, line + 2 * column < side * 0.707] = 0
            target.write(strip, window=Window(0, y, side, strip.shape[1]))


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def bytes_read() -> int:
    """Return the bytes that this process has read from files, those in the kernel's cache included."""
    return int(Path("/proc/self/io").read_text("ascii").split("rchar: ")[1].split()[0])


def windows(side: int) -> Iterator[Box]:
    plan = TilePlan.of((side, side), 2048, 256, 0.125)
    return (plan.tile(index).halo for index in plan.indices())


def decode(files: list[Path], side: int) -> float:
    def work() -> None:
        with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE, GDAL_NUM_THREADS=1):
            for file in files:
                with rasterio.open(file) as source:
                    for box in windows(side):
                        source.read(BANDS, window=Window(box.x0, box.y0, box.shape[1], box.shape[0]))

    return cpu_seconds(work)


def one_round(files: list[Path], dtype: str, side: int) -> dict[str, float]:
    """Return Mpx/s by step."""
    grid = describe_scene(str(files[0])).geobox
    readers = [SceneRecipe(str(file), grid, BANDS, "bilinear").open() for file in files]
    mapping = range_mapping(*RANGES[dtype], len(BANDS))
    opened = OpenPair(readers[0], readers[1], (mapping, mapping))
    pixels = sum(box.pixels for box in windows(side))
    seconds = {"decode": decode(files, side), "read": 0.0, "pair": 0.0, "encode": 0.0, "read_pair": 0.0}
    for box in windows(side):
        seconds["read_pair"] += cpu_seconds(lambda box=box: opened.mapped(*opened.read(box)))
    for box in windows(side):
        start = time.thread_time()
        images = [reader.read(box) for reader in readers]
        seconds["read"] += time.thread_time() - start
        start = time.thread_time()
        both = pair(images[0], images[1], (mapping, mapping))
        seconds["pair"] += time.thread_time() - start
        probability = np.abs(both.before[0] - both.after[0])
        seconds["encode"] += cpu_seconds(
            lambda both=both, probability=probability: encode(probability, both.valid, np.dtype("uint8"))
        )
    return {step: pixels / 1e6 / spent for step, spent in seconds.items()}


def side_by_side(files: list[Path], side: int, threads: int, way: str) -> None:
    """Print the time that ``threads`` readers of one process take."""
    grid = describe_scene(str(files[0])).geobox
    readers = [SceneRecipe(str(file), grid, BANDS, "bilinear").open() for file in files]
    mapping = range_mapping(*RANGES["uint16"], len(BANDS))
    if way == "shared":
        readers = share(readers, TilePlan.of((side, side), 2048, 256, 0.125), SHARED_BLOCKS)

    opened = OpenPair(readers[0], readers[1], (mapping, mapping))

    def read(box: Box) -> None:
        if way == "mapped":
            opened.mapped(*opened.read(box))
        else:
            # Both are there at the same time.
            _ = [reader.read(box) for reader in readers]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, windows(side)))
        wall, cpu, count = time.perf_counter(), time.process_time(), bytes_read()
        list(pool.map(read, windows(side)))
    wall, cpu, count = time.perf_counter() - wall, time.process_time() - cpu, bytes_read() - count
    pixels = side**2 / 1e6
    factor = count / sum(file.stat().st_size for file in files)
    print(
        f"{way:<12} {wall:6.1f} s, {cpu:6.1f} CPU s, {pixels / cpu:5.1f} Mpx of the scene a CPU second, "
        f"blocks {factor:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="readers side by side")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    if options.threads:
        files = [folder / f"deflate_uint16_{options.side}_{date}.tif" for date in DATES]
        for file, date in zip(files, DATES, strict=True):
            write_scene(file, date, options.side, "uint16", "deflate", nodata=False)
        for way in ("mapped", "as they are", "shared") * options.rounds:
            side_by_side(files, options.side, options.threads, way)
        return
    steps = ("decode", "read", "pair", "read_pair", "encode")
    print(f"{'Mpx/s of CPU time':<32}" + "".join(f"{step:>11}" for step in steps))
    for compression, dtype, nodata in CASES:
        name = f"{compression} {dtype}{' some nodata' if nodata else ''}"
        files = [folder / f"{name.replace(' ', '_')}_{options.side}_{date}.tif" for date in DATES]
        for file, date in zip(files, DATES, strict=True):
            write_scene(file, date, options.side, dtype, compression, nodata)
        rounds = [one_round(files, dtype, options.side) for _ in range(options.rounds)]
        medians = (statistics.median(rates[step] for rates in rounds) for step in steps)
        print(f"{name:<32}" + "".join(f"{median:>11.1f}" for median in medians), flush=True)


if __name__ == "__main__":
    main()
