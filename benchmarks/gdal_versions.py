"""Reading by many threads with this rasterio and with a newer one: thread-safe handles, the driver LIBERTIFF.

    python benchmarks/gdal_versions.py FOLDER --newer PYTHON [--threads 1 2 4 12] [--compression deflate zstd]

PYTHON runs rasterio 1.5 (GDAL 3.12, Python 3.12 or later) with what ussfc.pipeline.reading imports; it may be several
words. The scene and the tiles are those of benchmarks/reading.py, read twice by a process of its own for each sample:
the first time gives a checksum of all pixels, which has to be the same for every way, the second one is timed. All
ways take turns, --rounds times, and medians are printed: seconds, CPU seconds of the process, and *blocks*, how often
a block is read and decoded (bytes that the process reads over the size of both files).

*own* is a handle a thread, *one* a handle that all threads share, both GDAL alone, into arrays that a thread uses
again; *product* is this package's reader with the blocks that tiles share.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window
from reading import BANDS, DATES, bytes_read, windows, write_scene

from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.reading.shared_blocks import share
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.tiling.memory import GDAL_CACHE, SHARED_BLOCKS
from ussfc.pipeline.types import Box

Read = Callable[[Box], list[np.ndarray]]

WAYS = {
    "now": ("own GTiff", "product GTiff"),
    "newer": (
        "own GTiff", "one GTiff", "own LIBERTIFF", "one LIBERTIFF", "product GTiff", "product LIBERTIFF",
    ),
}  # fmt: skip
"""Ways to read: who has a handle, and the driver."""


def gdal_alone(files: list[Path], options: dict[str, Any], one: bool) -> Read:
    """Return a way to read windows of both files with GDAL."""
    local = threading.local()
    common = [rasterio.open(file, **options) for file in files] if one else None

    def read(box: Box) -> list[np.ndarray]:
        with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE, GDAL_NUM_THREADS=1):
            if not hasattr(local, "sources"):
                local.sources = common or [rasterio.open(file, **options) for file in files]
                local.arrays = [np.empty((len(BANDS), 2560, 2560), np.uint16) for _ in files]
            window = Window(box.x0, box.y0, box.shape[1], box.shape[0])
            targets = [array[:, : box.shape[0], : box.shape[1]] for array in local.arrays]
            for source, target in zip(local.sources, targets, strict=True):
                source.read(BANDS, window=window, out=target)
            return targets

    return read


def product(files: list[Path], side: int, options: dict[str, Any]) -> Read:
    """Return the same by this package's readers."""
    rasterio.open = partial(rasterio.open, **options)
    grid = describe_scene(str(files[0])).geobox
    readers = [SceneRecipe(str(file), grid, BANDS, "bilinear").open() for file in files]
    readers = share(readers, TilePlan.of((side, side), 2048, 256, 0.125), SHARED_BLOCKS)
    return lambda box: [reader.read(box).values for reader in readers]


def sample(files: list[Path], side: int, way: str, threads: int) -> dict[str, Any]:
    """Return checksum and times of one way."""
    handles, driver = way.split()
    options: dict[str, Any] = {} if driver == "GTiff" else {"driver": driver}
    if handles == "one":
        options["thread_safe"] = True
    read = (
        product(files, side, options)
        if handles == "product"
        else gdal_alone(files, options, handles == "one")
    )

    def sums_of(box: Box) -> list[int]:
        return [zlib.crc32(np.ascontiguousarray(values)) for values in read(box)]

    with ThreadPoolExecutor(threads) as pool:
        sums = list(pool.map(sums_of, windows(side)))
        wall, cpu, count = time.perf_counter(), time.process_time(), bytes_read()
        list(pool.map(lambda box: bool(read(box)), windows(side)))
        wall, cpu, count = time.perf_counter() - wall, time.process_time() - cpu, bytes_read() - count
    versions = (
        f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}, Python {sys.version.split()[0]}"
    )
    blocks = count / sum(file.stat().st_size for file in files)
    checksum = zlib.crc32(repr(sums).encode())
    return {"checksum": checksum, "wall": wall, "cpu": cpu, "blocks": blocks, "versions": versions}


def in_turns(
    files: list[Path], side: int, threads: int, pythons: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Return a sample of each way, each from a process of its own."""
    found = {}
    for which, python in pythons.items():
        for way in WAYS[which]:
            command = [*shlex.split(python), str(Path(__file__).resolve()), str(files[0].parent)]
            command += ["--sample", way, "--side", str(side), "--threads", str(threads), "--compression"]
            output = subprocess.run(
                [*command, files[0].name.split("_")[0]], check=True, stdout=subprocess.PIPE, text=True
            )
            found[f"{which}: {way}"] = json.loads(output.stdout)
    assert len({one["checksum"] for one in found.values()}) == 1, found
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--newer", help="Python with the newer rasterio")
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 12])
    parser.add_argument("--compression", nargs="+", default=["deflate", "zstd"])
    parser.add_argument("--sample", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for compression in options.compression:
        files = [options.folder / f"{compression}_uint16_{options.side}_{date}.tif" for date in DATES]
        if options.sample:
            print(json.dumps(sample(files, options.side, options.sample, options.threads[0])))
            return
        for file, date in zip(files, DATES, strict=True):
            write_scene(file, date, options.side, "uint16", compression, nodata=False)
        for threads in options.threads:
            pythons = {"now": sys.executable} | ({"newer": options.newer} if options.newer else {})
            rounds = [in_turns(files, options.side, threads, pythons) for _ in range(options.rounds)]
            for way, first in rounds[0].items():
                wall, cpu, blocks = (
                    statistics.median(one[way][number] for one in rounds)
                    for number in ("wall", "cpu", "blocks")
                )
                print(
                    f"{compression:<8} {threads:>2} {way:<26} {wall:6.2f} s {cpu:6.2f} CPU s, blocks {blocks:.2f}"
                    f"  ({first['versions']})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
