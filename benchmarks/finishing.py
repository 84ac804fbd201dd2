"""The two finishing stages alone: rasters and polygons from a finished store.

    python benchmarks/finishing.py [SIDE] [--stage mosaic|vectorise] [--set KEY=VALUE ...]

The store is made in a temporary folder: chunks of 2048 px, mostly a smooth field of low probabilities (90 % of the
pixels are levels 0 to 3), turned rectangles of building size over it (about 2 % of the pixels), a wedge without data.
Each stage is timed in a process of its own; CPU seconds count its threads, the peak its process tree.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy import ndimage

from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.parallel.memory_meter import MemoryMeter
from ussfc.pipeline.runs import products
from ussfc.pipeline.runs.manifest import (
    Counts,
    ExecutorRecord,
    GridRecord,
    InferenceRecord,
    InputRecord,
    InputRecords,
    MappingRecord,
    ModelRecord,
    RadiometryRecord,
)
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.grid import grid_record
from ussfc.pipeline.types import TileResult, blocks

CHUNK, PERIOD = 2048, 4096
INFERENCE = layout.in_work(layout.INFERENCE)
BUILDINGS = 380
"""Number of rectangles in a square of ``PERIOD`` pixels a side."""


def city(period: int = PERIOD, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return (period, period) levels that continue over their own borders."""
    rng = np.random.default_rng(seed)

    def smooth(sigma: float) -> npt.NDArray[np.float32]:
        field = ndimage.gaussian_filter(
            rng.standard_normal((period, period), dtype=np.float32), sigma, mode="wrap"
        )
        return field / field.std()

    levels = np.exp(0.85 * smooth(3.0))
    sure = np.zeros((period, period), np.float32)
    for _ in range(BUILDINGS * period**2 // PERIOD**2):
        y, x = rng.integers(0, period, 2)
        half = rng.uniform(8, 24, 2)
        turn = rng.uniform(0, np.pi)
        reach = np.arange(-36, 37)
        along = reach[:, None] * np.sin(turn) + reach * np.cos(turn)
        across = reach[:, None] * np.cos(turn) - reach * np.sin(turn)
        inside = (np.abs(along) < half[0]) & (np.abs(across) < half[1])
        sure[np.ix_((y + reach) % period, (x + reach) % period)] += inside
    sure = ndimage.gaussian_filter(np.minimum(sure, 1), 1.5, mode="wrap")
    # The outlines of a network's regions are not straight.
    levels += sure * (235 + 15 * smooth(2.0))
    return np.clip(np.rint(levels), 0, 254).astype(np.uint8)


def make(out: Path, side: int, dtype: str) -> None:
    """Make a folder as ``ussfc infer`` leaves it."""
    grid = GeoBox((side, side), Affine(0.5, 0, 300_000, 0, -0.5, 5_000_000), "EPSG:32633")
    store = ProbabilityStore.create(out / "work", grid, dtype, CHUNK)
    pattern, valid_pixels = city(), 0
    for box in blocks(grid.shape, CHUNK):
        rows, cols = np.arange(box.y0, box.y1), np.arange(box.x0, box.x1)
        levels = pattern[np.ix_(rows % PERIOD, cols % PERIOD)]
        # A scene's edge seldom follows the grid's.
        levels[cols[None] < 0.1 * (side - rows[:, None])] = 255
        stored = levels if dtype == "uint8" else np.where(levels == 255, np.nan, levels / np.float32(254))
        valid = int((levels != 255).sum())
        valid_pixels += valid
        index = (box.y0 // CHUNK, box.x0 // CHUNK)
        store.write(box, stored.astype(dtype), TileResult(index, 1, valid, {}))
    scene = InputRecord(uri="scene.tif", identity="none", dtype="uint16", bands=(1, 2, 3), acquired=None)
    mapping = MappingRecord(low=(0.0,) * 3, high=(1.0,) * 3)
    tiles = len(list(blocks(grid.shape, CHUNK)))
    record = InferenceRecord(
        run="benchmark",
        complete=True,
        failed_tiles=(),
        inputs=InputRecords(before=scene, after=scene),
        grid=GridRecord(**grid_record(grid)),
        config={},
        model=ModelRecord(name="benchmark", sha256="0" * 64, licence=None),
        threshold=0.5,
        detector="none",
        radiometry=RadiometryRecord(before=mapping, after=mapping),
        executor=ExecutorRecord(name="serial", processes=0, threads=1),
        projected_memory_bytes=0,
        warnings=(),
        counts=Counts(
            tiles=tiles, tiles_failed=0, patches=tiles, valid_pixels=valid_pixels, pixels=side * side
        ),
        tile_seconds={},
        stages={},
    )
    record.write(Folder.of(out), INFERENCE)


def one_stage(stage: str, out: Path, sets: list[str]) -> None:
    """Run one stage and print its seconds and its peak."""
    config = load_config(sets=sets)
    wall, cpu = time.perf_counter(), time.process_time()
    with MemoryMeter() as meter:
        getattr(products, stage)(out, config)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": meter.peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", type=int, nargs="?", default=16384, help="of the scene, pixels")
    parser.add_argument("--stage", choices=["mosaic", "vectorise"], help="one of them alone")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="of the configuration")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="a store that is there already, or where to leave it")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        one_stage(given.stage, given.folder, given.sets)
        return
    with tempfile.TemporaryDirectory() as temporary:
        out = given.folder or Path(temporary)
        if not (out / INFERENCE).exists():
            make(out, given.side, load_config(sets=given.sets).output.probability_dtype)
        print("| stage | Mpx | wall s | Mpx/s | CPU s | peak MB |\n|---|---|---|---|---|---|")
        pixels = InferenceRecord.read(Folder.of(out), INFERENCE).counts.pixels
        for stage in [given.stage] if given.stage else ["mosaic", "vectorise"]:
            for _ in range(given.repeat):
                command = [sys.executable, __file__, "--child", "--stage", stage, "--folder", str(out)]
                command += [part for text in given.sets for part in ("--set", text)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                seen = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {stage} | {pixels / 1e6:.0f} | {seen['wall']:.2f} | {pixels / 1e6 / seen['wall']:.0f} "
                    f"| {seen['cpu']:.2f} | {seen['peak'] / 1e6:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
