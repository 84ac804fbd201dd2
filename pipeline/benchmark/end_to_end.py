"""The whole way from a pair to the products, in turns with MONAI's sliding window, each in a process of its own."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ussfc
from ussfc.pipeline.benchmark.demo_scene import in_unit_range, write_pair
from ussfc.pipeline.benchmark.network import plain_recipe
from ussfc.pipeline.benchmark.samples import Samples
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError, InsufficientMemoryError, PipelineError, StoreError
from ussfc.pipeline.parallel.memory_meter import MemoryMeter
from ussfc.pipeline.runs.model_choice import named_model
from ussfc.pipeline.runs.run import run

PROGRAMS = ("ussfc", "monai")

STAGES = ("read", "network", "mosaic", "vectorise")

MONAI_AT_ONCE = 4
"""Windows that MONAI's sliding window runs together: what its tutorials choose."""

MONAI_MODE = "gaussian"
"""MONAI's blend: like our own taper it weighs a window's middle most."""

MISSING_MONAI = "monai is not installed: pip install 'ussfc[test]'"

PATIENCE_SECONDS = 5
"""Time that a process has to end by itself after Ctrl-C, which reaches it too."""

UNAVAILABLE = (ussfc.ModelError, InsufficientMemoryError)
"""Errors with which a run shows that this machine cannot do it, rather than that something failed."""

ERRORS = (*UNAVAILABLE, ConfigError, StoreError, PipelineError)
"""Errors that a run may end with, each before its base class."""

# A run imports modules on its way. That is not its speed, as with MONAI, whose imports take longer.
IMPORTED_BEFORE = (
    "ussfc.pipeline.rasters.cog",
    "ussfc.pipeline.execution.dask_executor",
    "ussfc.pipeline.execution.serial_executor",
    "ussfc.pipeline.polygons.vectorise",
    "ussfc.weights",
)

Outcome = dict[str, Any]


def measure_end_to_end(
    config: RunConfig, model: ussfc.ModelSpec, size: int, rounds: int, notify: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Measure the whole way, and its stages.

    Args:
        config: resolved configuration of the runs.
        model: the model.
        size: side of the pair, pixels.
        rounds: runs of each program.
        notify: receives a line before each step.

    Returns:
        ``end_to_end`` and ``stages`` of the result of ``ussfc bench``.

    Raises:
        PipelineError: a run failed.
    """
    missing: dict[str, str] = {}
    if importlib.util.find_spec("monai") is None:
        missing["monai"] = MISSING_MONAI
    chosen: dict[str, str] = {}
    try:
        chosen = _choose(config, model)
    except ussfc.ModelError as error:
        missing["ussfc"] = str(error)
    inference = config.inference.model_copy(update=chosen)
    runs = _measure_in_turns(
        config.model_copy(update={"inference": inference}), model, size, rounds, missing, notify
    )
    result: dict[str, Any] = {
        "pixels": size**2,
        "patch": config.tiling.patch_size,
        "overlap": config.tiling.overlap,
    }
    for program in PROGRAMS:
        result[program] = (
            {"not_here": missing[program]} if program in missing else _records(runs[program], size**2)
        )
    result |= _ratios(runs, missing)
    if "ussfc" in missing:
        return result, None
    first, *_ = done = runs["ussfc"]
    result["ussfc"] |= chosen | {fact: first[fact] for fact in ("detector", "executor")}
    return result, {stage: _field(done, stage).record() for stage in (*STAGES, "share_outside_network")}


def _choose(config: RunConfig, model: ussfc.ModelSpec) -> dict[str, str]:
    """Return engine and precision: where the configuration leaves them to the machine, measured here and not later."""
    inference = config.inference
    recipe = ussfc.detector_spec(
        model,
        ussfc.DetectorOptions(
            patch_size=config.tiling.patch_size,
            ssfc=inference.ssfc,
            engine=inference.engine,
            precision=inference.precision,
            device=inference.device,
        ),
    )
    return {"engine": recipe.engine, "precision": recipe.precision}


def _measure_in_turns(
    config: RunConfig,
    model: ussfc.ModelSpec,
    size: int,
    rounds: int,
    missing: dict[str, str],
    notify: Callable[[str], None],
) -> dict[str, list[Outcome]]:
    """Return the outcomes of each program; a program that turns out not to run here joins ``missing``."""
    runs: dict[str, list[Outcome]] = {program: [] for program in PROGRAMS}
    with tempfile.TemporaryDirectory(prefix="ussfc-bench-") as name:
        folder = Path(name)
        notify(f"end to end: writing a pair of {size} x {size} px")
        before, after = write_pair(model, folder, size)
        for number in range(rounds):
            for program, done in runs.items():
                if program in missing:
                    continue
                notify(f"end to end: {program}, round {number + 1} of {rounds}")
                outcome = run_in_own_process({
                    "program": program,
                    "before": str(before),
                    "after": str(after),
                    "out": str(folder / "out"),
                    "result": str(folder / "result.json"),
                    "config": config.model_dump(mode="json"),
                })  # fmt: skip
                if "not_here" in outcome:
                    missing[program] = outcome["not_here"]
                else:
                    done.append(outcome)
    return runs


def _ratios(runs: Mapping[str, Sequence[Outcome]], missing: Mapping[str, str]) -> dict[str, Any]:
    ratios: dict[str, Any] = {"speed_ratio": None, "memory_ratio": None}
    if not missing:
        for ratio, field in (("speed_ratio", "seconds"), ("memory_ratio", "peak_memory_bytes")):
            theirs, own = (_field(runs[program], field) for program in ("monai", "ussfc"))
            ratios[ratio] = theirs.over(own).record()
    return ratios


def _field(done: Sequence[Outcome], name: str) -> Samples:
    return Samples(tuple(float(outcome[name]) for outcome in done))


def _records(done: Sequence[Outcome], pixels: int) -> dict[str, Any]:
    fields = ("seconds", "peak_memory_bytes", "process_seconds")
    speed = Samples(tuple(pixels / 1e6 / outcome["seconds"] for outcome in done))
    return {"mpx_per_s": speed.record(), **{field: _field(done, field).record() for field in fields}}


_PROGRAM = f"""
import json, sys
job = json.load(sys.stdin)
sys.path[:] = job["path"]
from {__name__} import serve
serve(job)
"""


def run_in_own_process(job: Mapping[str, Any]) -> Outcome:
    """Run a job in a fresh Python, so that peak memory is of that alone.

    Args:
        job: ``program``, ``before``, ``after``, ``out``, ``result`` (a file to write) and ``config``.

    Returns:
        The measurements of :func:`serve` and ``process_seconds``; or ``not_here``, the reason.

    Raises:
        PipelineError: the run failed.
    """
    result = Path(job["result"])
    result.unlink(missing_ok=True)
    start = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - a list, no shell
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        try:
            printed = process.communicate(json.dumps({**job, "path": sys.path}))[1]
        except BaseException:
            # Also when interrupted: it may have workers, which would go on.
            _end(process)
            raise
    seconds = time.perf_counter() - start
    shutil.rmtree(job["out"], ignore_errors=True)
    if not result.exists():
        reason = _reason(process.returncode, printed)
        if job["program"] == "monai":
            return {"not_here": f"its process ended with {reason}"}
        raise PipelineError(f"the run of the whole way ended with {reason}")
    outcome: Outcome = json.loads(result.read_text("utf-8"))
    if "error" in outcome:
        kind = next(kind for kind in ERRORS if kind.__name__ == outcome["kind"])
        if kind in UNAVAILABLE:
            return {"not_here": outcome["error"]}
        raise kind(outcome["error"])
    return outcome | {"process_seconds": seconds}


def _reason(status: int, printed: str) -> str:
    if status == -signal.SIGKILL:
        return "killed by the system, most often for want of memory"
    lines = printed.strip().splitlines()
    return f"status {status}" + (f": {lines[-1]}" if lines else "")


def _end(process: subprocess.Popen[str]) -> None:
    """End a process, in good order if it can: it may have workers of its own."""
    for stop in (None, signal.SIGINT, signal.SIGKILL):
        if stop is not None:
            process.send_signal(stop)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


def serve(job: Mapping[str, Any]) -> None:
    """Measure a job in the process of :func:`run_in_own_process`, and leave the result in the job's file."""
    config = RunConfig.model_validate(job["config"])
    try:
        outcome = {"ussfc": _run_ussfc, "monai": _run_monai}[job["program"]](job, config)
    except ERRORS as error:
        kind = next(kind for kind in ERRORS if isinstance(error, kind))
        outcome = {"error": str(error), "kind": kind.__name__}
    Path(job["result"]).write_text(json.dumps(outcome), "utf-8")


def _run_ussfc(job: Mapping[str, Any], config: RunConfig) -> Outcome:
    for module in IMPORTED_BEFORE:
        importlib.import_module(module)
    start = time.perf_counter()
    record = run(job["before"], job["after"], job["out"], config)
    seconds = time.perf_counter() - start
    processes = max(1, record.executor.processes)
    spent = {stage: record.tile_seconds[stage] / processes for stage in ("read", "network")}
    spent |= {stage: record.stages[stage].seconds for stage in ("mosaic", "vectorise")}
    return {
        "seconds": seconds,
        "peak_memory_bytes": record.peak_memory_bytes,
        "detector": record.detector,
        "executor": record.executor.dump(),
        "share_outside_network": 1 - spent["network"] / seconds,
        **spent,
    }


def _run_monai(job: Mapping[str, Any], config: RunConfig) -> Outcome:
    """Run the plain network under MONAI's sliding window: the scene in memory, a plain GeoTIFF out."""
    import rasterio

    from ussfc.bench import PlainNetwork

    model = named_model(config.model)
    patch, overlap = config.tiling.patch_size, config.tiling.overlap
    assert patch is not None
    assert overlap is not None
    recipe = plain_recipe(config, model, patch)
    importlib.import_module("monai.inferers")
    with MemoryMeter() as meter:
        start = time.perf_counter()
        network = PlainNetwork(recipe)
        images = []
        for date in ("before", "after"):
            with rasterio.open(job[date]) as source:
                images.append(in_unit_range(source.read(), model))
                profile = {"crs": source.crs, "transform": source.transform}
        answer = network.slide(images[0], images[1], patch, overlap, MONAI_MODE, MONAI_AT_ONCE)
        rows, cols = answer.shape
        out = Path(job["out"])
        out.mkdir()
        with rasterio.open(
            out / "probability.tif", "w", driver="GTiff", width=cols, height=rows, count=1, dtype="float32", **profile
        ) as target:  # fmt: skip
            target.write(answer, 1)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_memory_bytes": meter.peak}
