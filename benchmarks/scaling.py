"""Cost of workers and the scheduler: two workers beside one, Dask beside a plain loop, and a run of 100,000 tiles.

    python benchmarks/scaling.py workers [TILES] [ROUNDS]
    python benchmarks/scaling.py tiles [COUNT] [FOLDER]
    python benchmarks/scaling.py plan

`workers`: the packaged network over the demo pair repeated to TILES tiles of 2048 px (an even number, 6 by default), in
this process with one thread, with one worker process, and with two, in turn.
`tiles`: a scheduler, many workers in one process, and the client, each a program of its own; tiles are small and the
detector is a stand-in, so that what remains is the handing out.
`plan`: the plan of 10^6 x 10^6 px.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import psutil
from affine import Affine
from odc.geo.geobox import GeoBox
from overheads import repeat
from stand_in import StandIn

from ussfc.pipeline.clusters.scheduler import SchedulerAt
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.execution.dask_executor import DaskExecutor
from ussfc.pipeline.execution.tile_job import TileJob
from ussfc.pipeline.execution.worker_pool import MOST_TILES, TASKS_AHEAD
from ussfc.pipeline.runs.infer import infer
from ussfc.pipeline.runs.plan import plan as plan_run
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, Pixels, RadiometricMapping, TileResult

HERE = Path(__file__).resolve().parent
TILE = 64
WORKERS = 32
UNIT = RadiometricMapping((0.0,), (1.0,))

MANY_WORKERS = """
import asyncio, sys
from distributed import Worker
async def main():
    options = {"nthreads": 1, "host": "127.0.0.1", "dashboard": False, "memory_limit": None}
    made = [Worker(sys.argv[1], **options) for _ in range(int(sys.argv[2]))]
    async with asyncio.timeout(60):
        await asyncio.gather(*made)
    await asyncio.gather(*(worker.finished() for worker in made))
asyncio.run(main())
"""


@dataclass(frozen=True)
class Flat:
    """A scene of one number."""

    value: float

    def open(self) -> Flat:
        return self

    def read(self, box: Box) -> Pixels:
        return Pixels(np.full((1, *box.shape), self.value, np.float32), np.ones(box.shape, np.bool_))

    def sample(self) -> Pixels:
        return self.read(Box(0, 0, TILE, TILE))


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def workers(folder: Path, count: int, rounds: int) -> None:
    """Time network-bound runs, each way in turn."""
    demo = Path(str(resources.files("ussfc.configs").joinpath("demo")))
    pair = []
    for date in ("before", "after"):
        pair.append(folder / f"{date}.vrt")
        repeat(demo / f"beirut_{date}.tif", pair[-1], 2048 * count // 2, 4096)
    ways = {"plain loop": ("serial", 1), "one worker": ("local", 1), "two workers": ("local", 2)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (kind, processes) in ways.items():
            sets = [f"cluster.kind={kind}", "cluster.threads=1", "tiling.tile_size=2048"]
            sets += [f"cluster.workers={processes}"] if kind == "local" else []
            config = load_config(sets=sets)
            planned = plan_run(str(pair[0]), str(pair[1]), config)
            out = folder / "out"
            start = time.perf_counter()
            infer(planned, out, overwrite=True)
            whole = time.perf_counter() - start
            facts = json.loads((out / "work" / "infer.json").read_text("utf-8"))
            seconds[name].append(whole)
            network = facts["tile_seconds"]["network"]
            print(f"{name}: {whole:.1f} s, network {network:.1f} s summed over tiles", flush=True)
    best = {name: min(times) for name, times in seconds.items()}
    print(f"one worker over plain loop: {best['one worker'] / best['plain loop']:.3f}")
    print(f"one worker over two: {best['one worker'] / best['two workers']:.3f}")
    print(f"plain loop over two: {best['plain loop'] / best['two workers']:.3f}")


def tiles(count: int, folder: Path) -> None:
    """Run over ``count`` tiles and print the time that each program spends on it."""
    side = round(count**0.5)
    plan = TilePlan((side * TILE, side * TILE), TILE, TILE, TILE)
    grid = GeoBox(plan.shape, Affine(1, 0, 0, 0, -1, plan.shape[0]), "EPSG:32636")
    store = ProbabilityStore.create(folder / "work", grid, "uint8", TILE)
    job = TileJob(
        "scaling", Flat(0.2), Flat(0.6), (UNIT, UNIT), None, plan, "box", StandIn(TILE, 1), store.root
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    env = {**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"}
    scheduler_command = ["-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-show"]
    with (
        (folder / "scheduler.log").open("wb") as log,
        subprocess.Popen([sys.executable, *scheduler_command], env=env, stderr=log) as scheduler,
        subprocess.Popen(
            [sys.executable, "-c", MANY_WORKERS, address, str(WORKERS)], env=env, stderr=log
        ) as crew,
    ):
        try:
            _hand_out(job, plan, address, psutil.Process(scheduler.pid))
        finally:
            crew.kill()
            scheduler.kill()


def _hand_out(job: TileJob, plan: TilePlan, address: str, scheduler: psutil.Process) -> None:
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(WORKERS, timeout=120)
    me = psutil.Process()
    every = max(1, plan.tile_count // 10)
    done = most = 0
    taken = 0
    last = (time.perf_counter(), cpu_seconds(me), cpu_seconds(scheduler))
    print(f"{'tiles':>8}{'tiles/s':>9}{'client ms':>11}{'scheduler ms':>14}{'client MB':>11}{'scheduler MB':>14}"
          f"{'most out':>10}")  # fmt: skip

    def indices():  # type: ignore[no-untyped-def]
        nonlocal taken, most
        for index in plan.indices():
            taken += 1
            most = max(most, taken - done)
            yield index

    def on_result(result: TileResult) -> None:
        nonlocal done, last, most
        done += 1
        if done % every:
            return
        now = (time.perf_counter(), cpu_seconds(me), cpu_seconds(scheduler))
        wall, client, there = (after - before for after, before in zip(now, last, strict=True))
        last = now
        print(
            f"{done:>8}{every / wall:>9.0f}{1e3 * client / every:>11.3f}{1e3 * there / every:>14.3f}"
            f"{me.memory_info().rss / 1e6:>11.0f}{scheduler.memory_info().rss / 1e6:>14.0f}{most:>10}",
            flush=True,
        )
        most = 0

    DaskExecutor(SchedulerAt(address), Path(tempfile.gettempdir())).run(
        job, indices(), on_result, lambda failure: print(failure.error)
    )
    assert done == plan.tile_count
    print(f"tasks out at most {TASKS_AHEAD * WORKERS}, of at most {MOST_TILES} tiles each")


def plan_of_all() -> None:
    """10^6 x 10^6 px."""
    for side in (10_000, 100_000, 1_000_000):
        tracemalloc.start()
        start = time.perf_counter()
        plan = TilePlan.of((side, side), 2048, 256, 0.125)
        patches, share = plan.computed_patches, plan.redundant_share
        seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        start = time.perf_counter()
        count = sum(1 for _ in plan.indices(8))
        listed = time.perf_counter() - start
        print(
            f"{side:>9} px: {plan.tile_count} tiles, {patches} patches ({share:.1%} redundant), planned in "
            f"{seconds:.3f} s, peak {peak / 1e3:.0f} kB; all {count} indices drawn in {listed:.2f} s"
        )


def main() -> None:
    what = sys.argv[1] if len(sys.argv) > 1 else "plan"
    if what == "plan":
        plan_of_all()
    elif what == "workers":
        numbers = [int(text) for text in sys.argv[2:4]]
        with tempfile.TemporaryDirectory() as folder:
            workers(Path(folder), *(numbers + [6, 3][len(numbers) :]))
    else:
        count = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
        with tempfile.TemporaryDirectory(dir=sys.argv[3] if len(sys.argv) > 3 else None) as folder:
            tiles(count, Path(folder))


if __name__ == "__main__":
    main()
