"""The whole way from file to file beside a simulated device, which takes so many nanoseconds a pixel.

    python benchmarks/device_simulation.py [FOLDER] [--side 4096] [--rounds 3] [--ns 5] [--shift 0] [--set K=VALUE ...]

A pair of SIDE x SIDE px (3 bands of uint16, DEFLATE with predictor, blocks of 512 px; the demo image repeated with
noise, the later date with the buildings of finishing.py, 2 % of the pixels) goes through ``ussfc run`` as beside a
GPU: as many tiles in hand, read as they are and given to the device whole. The device has one queue; what this process
pays for its answers, differences of a band, is taken off. CPU seconds are those of the process and its children, from
the first line of the run on; *Mpx a core second* is the scene over them: the rate of one core that nothing holds up.
The median round is printed by stage. With --shift the later date lies beside the grid by so many pixels and is warped;
registration would bring it back, so set it to off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import rasterio
from affine import Affine
from finishing import city
from rasterio.windows import Window
from reading import BLOCK, DATES, write_scene

from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.events import Event, StageFinished, StageStarted
from ussfc.pipeline.parallel.memory_meter import MemoryMeter
from ussfc.pipeline.runs import run as run_module
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.pair import ScenePair
from ussfc.pipeline.runs.plan import RunPlan, plan_pair
from ussfc.pipeline.tiling.memory import BASE_CUDA
from ussfc.pipeline.types import BoolArray, FloatArray, RadiometricMapping, SourceArray

BRIGHTER = 1500
"""Number by which a building of the later date differs."""


@dataclass(frozen=True)
class SimulatedDevice:
    """A device that answers with the difference of a band after so many nanoseconds a pixel."""

    patch_size: int
    nanoseconds: float
    bands: int = 3

    @property
    def identity(self) -> str:
        return f"simulated device, patch {self.patch_size}"

    def build(self) -> DeviceQueue:
        return DeviceQueue(self)


@dataclass
class DeviceQueue:
    """The device of one process: one tile after the other."""

    spec: SimulatedDevice
    batch_size: int = 16
    streams: int = 1
    free: float = 0.0
    busy: float = 0.0
    cpu: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bands(self) -> int:
        return self.spec.bands

    @property
    def patch_size(self) -> int:
        return self.spec.patch_size

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        raise NotImplementedError("takes whole tiles")

    def upload(
        self,
        before: SourceArray,
        after: SourceArray,
        mappings: tuple[RadiometricMapping, RadiometricMapping] | None = None,
        seen: BoolArray | None = None,
    ) -> object:
        return before, after, mappings

    def blend(
        self,
        uploaded: object,
        corners: Sequence[tuple[int, int]],
        core: tuple[int, int, int, int],
        weights: FloatArray,
    ) -> Answer:
        start = time.thread_time()
        before, after, mappings = uploaded  # type: ignore[misc]
        y0, x0, y1, x1 = core
        probability = np.subtract(after[0, y0:y1, x0:x1], before[0, y0:y1, x0:x1], dtype=np.float32)
        probability /= 1 if mappings is None else 2 * BRIGHTER
        np.abs(probability, out=probability)
        np.minimum(probability, 1, out=probability)
        seconds = self.spec.nanoseconds * 1e-9 * (y1 - y0) * (x1 - x0)
        with self.lock:
            self.free = max(self.free, time.perf_counter()) + seconds
            self.busy += seconds
            self.cpu += time.thread_time() - start
            return Answer(probability, self.free, seconds)


@dataclass(frozen=True)
class Answer:
    """A tile in the device's queue."""

    probability: npt.NDArray[np.float32]
    ready: float
    seconds: float

    def result(self) -> FloatArray:
        time.sleep(max(0.0, self.ready - time.perf_counter()))
        return self.probability


def write_pair(files: list[Path], side: int, shift: float) -> None:
    """Write both dates: the later one has buildings more, and lies so many pixels beside the earlier one."""
    write_scene(files[0], DATES[0], side, "uint16", "deflate", nodata=False)
    if files[1].exists():
        return
    buildings, noise = city() > 127, np.random.default_rng(2)
    rows, cols = buildings.shape
    with rasterio.open(files[0]) as before:
        profile = {**before.profile, "transform": before.transform * Affine.translation(shift, shift)}
    with rasterio.open(files[0]) as before, rasterio.open(files[1], "w", **profile) as after:
        for y in range(0, side, BLOCK):
            window = Window(0, y, side, min(BLOCK, side - y))
            strip = before.read(window=window).astype(np.float32)
            there = buildings[np.ix_(np.arange(y, y + strip.shape[1]) % rows, np.arange(side) % cols)]
            strip += noise.normal(0, 4, strip.shape) + BRIGHTER * there
            after.write(strip.clip(1, 65535).astype(np.uint16), window=window)


def cpu_seconds() -> float:
    """Return user and system seconds of this process, its children, and those that have ended."""
    own = psutil.Process()
    total = sum(own.cpu_times()[:4])
    for child in own.children(recursive=True):
        total += sum(child.cpu_times()[:4])
    return total


class StageCpu:
    """CPU seconds by stage, from the events of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._begun[event.stage] = cpu_seconds()
        elif isinstance(event, StageFinished):
            spent = cpu_seconds() - self._begun[event.stage]
            self.seconds[event.stage] = self.seconds.get(event.stage, 0.0) + spent


def one_run(before: str, after: str, out: Path, nanoseconds: float, sets: list[str]) -> None:
    """Make one run and print its numbers."""
    config = load_config(sets=["inference.device=cuda", *sets])
    spec = SimulatedDevice(256, nanoseconds)
    queue = spec.build()
    # The same queue wherever the spec is built in this process: its sums are read afterwards.
    SimulatedDevice.build = lambda _: queue  # type: ignore[method-assign]
    # A run leaves IR-MAD out where another detector answers: this one's answers count as the network's.
    run_module.plan_pair = with_irmad
    stages = StageCpu()
    wall, cpu = time.perf_counter(), cpu_seconds()
    with MemoryMeter() as meter:
        record = run_module.run(before, after, out, config, True, stages, Computation(spec))
        wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    stages.seconds["infer"] -= queue.cpu
    stages.seconds["start and end"] = cpu - queue.cpu - sum(stages.seconds.values())
    # No library of a device is loaded.
    numbers = {
        "wall": wall, "cpu": cpu - queue.cpu, "stages": stages.seconds, "busy": queue.busy,
        "infer": record.stages["infer"].seconds, "peak": meter.peak,
        "projected": record.projected_memory_bytes - BASE_CUDA,
        "changed": record.counts.changed_share,
    }  # fmt: skip
    print(json.dumps(numbers))


def with_irmad(pair: ScenePair, config: RunConfig, network: bool = True) -> RunPlan:
    """Plan a run as of the model's own network."""
    return plan_pair(pair, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ns", type=float, default=5.0, help="of the device for a pixel of the scene")
    parser.add_argument("--shift", type=float, default=0.0, help="of the later date, pixels")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="of the configuration")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    moved = f"_{given.shift:g}" if given.shift else ""
    files = [
        folder / f"simulation_{given.side}_{DATES[0]}.tif",
        folder / f"simulation_{given.side}_{DATES[1]}{moved}.tif",
    ]
    if given.child:
        one_run(str(files[0]), str(files[1]), folder / "out", given.ns, given.sets)
        return
    write_pair(files, given.side, given.shift)
    command = [
        sys.executable,
        __file__,
        str(folder),
        "--side",
        str(given.side),
        "--ns",
        str(given.ns),
        "--shift",
        str(given.shift),
        "--child",
    ]
    command += [part for text in given.sets for part in ("--set", text)]
    rounds = []
    for _ in range(given.rounds):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
    pixels = given.side**2 / 1e6
    median = sorted(rounds, key=lambda numbers: numbers["cpu"])[len(rounds) // 2]
    print("| stage | CPU s | Mpx a core second |\n|---|---|---|")
    for stage, seconds in [*median["stages"].items(), ("the whole", median["cpu"])]:
        print(f"| {stage} | {seconds:.2f} | {pixels / max(seconds, 1e-3):.1f} |")
    print(
        f"{pixels:.1f} Mpx, {median['changed']:.1%} changed: {median['wall']:.1f} s, device at work "
        f"{median['busy']:.2f} s of the {median['infer']:.2f} s of infer; peak {median['peak'] / 1e6:.0f} MB, "
        f"projected {median['projected'] / 1e6:.0f} MB; "
        f"CPU seconds of the rounds {[round(r['cpu'], 2) for r in rounds]}"
    )


if __name__ == "__main__":
    main()
