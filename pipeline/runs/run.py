"""The whole way, stage by stage. Reads like a table of contents; every number is made elsewhere.

A stage reads only what the one before it wrote under OUT/work, so that each can be run again alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import DamagedTiles, StoreError, TileError
from ussfc.pipeline.events import Advanced, Notice, Subscriber, ignore
from ussfc.pipeline.parallel.memory_meter import MemoryMeter
from ussfc.pipeline.parallel.schedule import Backoff, Index
from ussfc.pipeline.reading import shown_uri
from ussfc.pipeline.runs.plan import (
    RunPlan,
    ScenePair,
    check_memory,
    inspect_pair,
    plan_pair,
    resolve_detector,
    run_key,
    scene_mappings,
    space_notices,
    threshold_of_model,
    what_computes,
)
from ussfc.pipeline.runs.products import (
    PRODUCTS,
    raster_keys,
    report,
    scratch_folder,
    speed,
    stage_clock,
    vector_key,
    write_polygons,
    write_rasters,
)
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import DetectorSpec, RadiometricMapping, SceneInfo, TileFailure, TileResult

if TYPE_CHECKING:
    import threading

    from ussfc.pipeline.execution.dask_executor import Executor
    from ussfc.pipeline.execution.tile import TileJob
    from ussfc.pipeline.storage.probability_store import ProbabilityStore

Answer = TypeVar("Answer")

ExecutorOf = Callable[[RunPlan], "Executor"]

HOPELESS = 8
"""Failing tiles after which a run without one good tile ends: it is not the tiles."""

ROUNDS = 3
"""Times that tiles found damaged in the store are computed again before the disk is blamed."""


def infer(
    plan: RunPlan,
    config: RunConfig,
    out: Folder | Path | str,
    overwrite: bool = False,
    subscriber: Subscriber = ignore,
    detector: DetectorSpec | None = None,
    fail_fast: bool = False,
    executor_of: ExecutorOf | None = None,
) -> ProbabilityStore:
    """Run the network over every tile that is not done yet.

    A tile that keeps failing is left out and recorded; ``infer.json`` lists it.

    Args:
        plan: of :func:`plan`.
        config: the configuration that made it.
        out: output folder, path or URI.
        overwrite: replace another run's work and products.
        subscriber: hears the events.
        detector: another detector than the model's network, with the same patch size.
        fail_fast: stop at the first error of a tile, without trying again.
        executor_of: who computes a plan, where workers are kept between runs; by default they are the run's own.

    Raises:
        StoreError, InsufficientMemoryError, TileError, ClusterError: see their messages.
    """
    out = Folder.of(out)
    out.prepare()
    with out.lock():
        return _infer(plan, config, out, overwrite, subscriber, detector, fail_fast, executor_of)


class _LazyExecutor:
    """Who computes a run: there when first needed, gone with what keeps it."""

    def __init__(
        self,
        plan: RunPlan,
        config: RunConfig,
        out: Folder,
        tell: Subscriber,
        fail_fast: bool,
        executor_of: ExecutorOf | None,
        kept: ExitStack,
    ) -> None:
        self._plan = plan
        self._config = config
        self._out = out
        self._tell = tell
        self._fail_fast = fail_fast
        self._executor_of = executor_of
        self._kept = kept

    @cached_property
    def executor(self) -> Executor:
        """Of the plan."""
        from ussfc.pipeline.execution.dask_executor import DaskExecutor

        if self._executor_of is not None:
            return self._executor_of(self._plan)
        scratch = self._kept.enter_context(scratch_folder(self._out, self._config, "dask"))
        made = executor_for(self._plan, self._config, scratch, self._tell, self._fail_fast)
        return self._kept.enter_context(made) if isinstance(made, DaskExecutor) else made

    def ask(self, function: Callable[..., Answer], *args: object) -> list[Answer]:
        """What a function returns on each worker that is there."""
        from ussfc.pipeline.storage.probability_store import KEY, STARTING

        work = self._out / "work"
        if work.find_json(KEY) is None and not self._out.exists("run.json"):
            # Workers may be hours in a queue: the folder is known as ours meanwhile. A finished run, which may have no
            # key any more, is guarded by its manifest.
            work.write_json(KEY, STARTING)
        return self.executor.ask(function, *args)


def _infer(
    plan: RunPlan,
    config: RunConfig,
    out: Folder,
    overwrite: bool,
    subscriber: Subscriber,
    detector: DetectorSpec | None,
    fail_fast: bool,
    executor_of: ExecutorOf | None,
) -> ProbabilityStore:
    from ussfc.pipeline.execution.tile import TileJob
    from ussfc.pipeline.storage.probability_store import KEY, STARTING, grid_record, run_name, start_store

    for notice in (*plan.pair.notices, *space_notices(plan, config, out)):
        subscriber(Notice(notice))
    check_memory(plan, config)
    work = out / "work"
    _refuse_taken(out, overwrite)
    begun = None if overwrite else work.find_json(KEY)
    with ExitStack() as kept:
        hired = _LazyExecutor(plan, config, out, subscriber, fail_fast, executor_of, kept)
        recorded = begun.get("model") if begun else None
        # Where a run is there it goes on, or is refused at once: for neither workers are needed.
        config, recipe = resolve_detector(plan, config, detector, recorded, None if recorded else hired.ask)
        key = run_key(plan, config, recipe)
        if overwrite:
            # First, so that the folder stays known as ours whenever we are stopped.
            work.write_json(KEY, STARTING)
            for name in PRODUCTS:
                out.remove(name)
        store = start_store(
            work, key, plan.pair.grid, config.output.probability_dtype, config.tiling.tile_size, overwrite
        )
        store.sweep()
        with stage_clock("radiometry", 2, 0, subscriber):
            mappings = _recorded_mappings(plan.pair, work)
        done, counted = _Counted.of(store.done())
        assert config.tiling.taper is not None
        job = TileJob(
            key=run_name(key),
            before=plan.pair.recipes[0],
            after=plan.pair.recipes[1],
            mappings=mappings,
            area=plan.pair.area,
            plan=plan.tiles,
            taper=config.tiling.taper,
            detector=recipe,
            store=work,
        )
        pixels = plan.tiles.shape[0] * plan.tiles.shape[1]
        # Speed and time left are of this process's own work, not of what an earlier one did.
        fresh = pixels - sum(plan.tiles.core(index).pixels for index in done)
        if done:
            told = f"resuming: {len(done)} of {plan.tiles.tile_count} tiles are done"
            subscriber(Notice(told, warning=False))
        subscriber(Notice(f"computed by {what_computes(recipe)}", warning=False))
        with stage_clock("infer", plan.tiles.tile_count - len(done), fresh, subscriber) as clock:
            failures = _compute(hired, plan, job, done, counted, subscriber, fail_fast)
    facts = {
        "run": run_name(key),
        "complete": not failures,
        "failed_tiles": [_failure_record(failure) for failure in failures],
        "inputs": {name: _input_record(info, recipe_.bands) for name, info, recipe_ in zip(
            ("before", "after"), (plan.pair.before, plan.pair.after), plan.pair.recipes, strict=True)},
        "grid": grid_record(plan.pair.grid),
        "config": _shown_config(config),
        "model": {"name": plan.pair.model.name, "sha256": plan.pair.model.weights.sha256,
                  "licence": plan.pair.model.licence.weights if plan.pair.model.licence else None},
        "threshold": threshold_of_model(config, plan.pair.model),
        "detector": recipe.identity,
        "radiometry": {"before": dataclasses.asdict(mappings[0]), "after": dataclasses.asdict(mappings[1])},
        "executor": {"name": plan.executor, "processes": plan.processes, "threads": plan.threads},
        "projected_memory_bytes": plan.memory.total,
        "warnings": list(plan.pair.notices),
        "counts": {"tiles": plan.tiles.tile_count, "tiles_failed": len(failures),
                   "patches": counted.patches, "valid_pixels": counted.valid_pixels, "pixels": pixels},
        "tile_seconds": {name: round(counted.seconds[name], 3) for name in ("read", "network")},
        "stages": {"infer": speed(clock, fresh)},
    }  # fmt: skip
    work.write_json("infer.json", facts)
    return store


@dataclasses.dataclass
class _Counted:
    """Sums over finished tiles: a run may have a million, too many to keep each."""

    tiles: int = 0
    patches: int = 0
    valid_pixels: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: {"read": 0.0, "network": 0.0})

    @classmethod
    def of(cls, results: Mapping[Index, TileResult]) -> tuple[set[Index], _Counted]:
        """Which tiles there are, and their sums."""
        counted = cls()
        for result in results.values():
            counted.add(result)
        return set(results), counted

    def add(self, result: TileResult) -> None:
        """One more."""
        self.tiles += 1
        self.patches += result.patches
        self.valid_pixels += result.valid_pixels
        for name in self.seconds:
            self.seconds[name] += result.seconds.get(name, 0.0)


def _compute(
    hired: _LazyExecutor,
    plan: RunPlan,
    job: TileJob,
    done: set[Index],
    counted: _Counted,
    tell: Subscriber,
    fail_fast: bool,
) -> list[TileFailure]:
    """Compute what is missing, count it, and return the tiles that kept failing."""
    failures: list[TileFailure] = []

    def on_result(result: TileResult) -> None:
        counted.add(result)
        tell(Advanced("infer", 1, plan.tiles.core(result.index).pixels))

    def on_failure(failure: TileFailure) -> None:
        failures.append(failure)
        job.store.write_json(_failure_name(failure), _failure_record(failure))
        tell(Notice(f"{failure.error} (tried {failure.attempts} times); the run goes on without it"))
        tell(Advanced("infer", 1, 0))
        if fail_fast or (not counted.tiles and len(failures) >= HOPELESS):
            raise TileError(failure.error)

    # What failed before is tried again.
    job.store.remove("failed")
    if len(done) < plan.tiles.tile_count:
        # It tells of an inference that ended; this one has not.
        job.store.remove("infer.json")
        worker_count = plan.cluster.worker_count if plan.cluster is not None else 0
        remaining = (index for index in plan.tiles.indices(max(1, worker_count)) if index not in done)
        hired.executor.run(job, remaining, on_result, on_failure)
    if failures and not counted.tiles:
        raise TileError(failures[0].error)
    return sorted(failures, key=lambda failure: failure.index)


def executor_for(
    plan: RunPlan,
    config: RunConfig,
    scratch: Path,
    tell: Subscriber,
    fail_fast: bool,
    stop: threading.Event | None = None,
) -> Executor:
    """Who computes the tiles of a plan; ``stop`` ends workers' runs from another thread."""
    from ussfc.pipeline.execution.dask_executor import DaskExecutor, SerialExecutor

    waits = Backoff(attempts=1 if fail_fast else config.compute.retries + 1)
    if plan.cluster is None:
        return SerialExecutor(waits, plan.concurrent_tiles)
    return DaskExecutor(plan.cluster, scratch, waits, tell, stop)


def _failure_name(failure: TileFailure) -> str:
    return f"failed/{failure.index[0]}.{failure.index[1]}.json"


def _failure_record(failure: TileFailure) -> dict[str, Any]:
    bounds = failure.bounds
    return {
        "index": list(failure.index),
        "rows": [bounds.y0, bounds.y1],
        "columns": [bounds.x0, bounds.x1],
        "error": failure.error,
        "attempts": failure.attempts,
    }


def _recorded_mappings(pair: ScenePair, work: Folder) -> tuple[RadiometricMapping, RadiometricMapping]:
    """The radiometric constants, taken from the scenes once a run: they follow from what its key names."""
    recorded = work.find_json("radiometry.json")
    if recorded is None:
        before, after = scene_mappings(pair)
        recorded = {"before": dataclasses.asdict(before), "after": dataclasses.asdict(after)}
        work.write_json("radiometry.json", recorded)
    before, after = (
        RadiometricMapping(tuple(recorded[date]["low"]), tuple(recorded[date]["high"]))
        for date in ("before", "after")
    )
    return before, after


def _shown_config(config: RunConfig) -> dict[str, Any]:
    """The configuration as a manifest may hold it: addresses without credentials, and not what a cluster was given."""
    shown = config.model_dump(mode="json", exclude={"cluster"})
    shown["model"] = shown_uri(shown["model"])
    if shown["grid"]["aoi"]:
        shown["grid"]["aoi"] = shown_uri(shown["grid"]["aoi"])
    return shown


def _input_record(info: SceneInfo, bands: tuple[int, ...]) -> dict[str, Any]:
    return {
        "uri": info.uri,
        "identity": info.identity,
        "dtype": info.dtype,
        "bands": list(bands),
        "acquired": info.acquired,
    }


def run(
    before: str,
    after: str,
    out: Folder | Path | str,
    config: RunConfig,
    overwrite: bool = False,
    subscriber: Subscriber = ignore,
    detector: DetectorSpec | None = None,
    fail_fast: bool = False,
    executor_of: ExecutorOf | None = None,
) -> dict[str, Any]:
    """The whole way: plan, infer, mosaic, vectorise, report.

    Given again after any stop it continues; where everything is done already it does nothing.

    Args:
        before: earlier image, path or URI.
        after: later image, path or URI.
        out: folder of the products, path or URI.
        config: of :func:`ussfc.pipeline.config.load.load_config`.
        overwrite: replace another run in ``out``.
        subscriber: hears the events.
        detector: another detector than the model's network, with the same patch size.
        fail_fast: stop at the first error of a tile, without trying again.
        executor_of: who computes a plan, where workers are kept between runs; by default they are the run's own.

    Returns:
        The content of ``run.json``; ``complete`` is False where tiles kept failing.
    """
    out = Folder.of(out)
    with MemoryMeter() as meter:
        # A place that cannot be written is said before anything is read.
        out.prepare()
        planned = plan_pair(inspect_pair(before, after, config), config, network=detector is None)
        with out.lock():
            manifest = None if overwrite else _already(planned, config, out, detector)
            if manifest is None:
                _infer(planned, config, out, overwrite, subscriber, detector, fail_fast, executor_of)
                for attempt in range(ROUNDS):
                    try:
                        write_rasters(out, config, subscriber, again=False)
                        write_polygons(out, config, subscriber, again=False)
                        break
                    except DamagedTiles as error:
                        if attempt == ROUNDS - 1:
                            raise
                        _forget_damaged(out, error, subscriber)
                        _infer(planned, config, out, False, subscriber, detector, fail_fast, executor_of)
            else:
                subscriber(Notice("everything is done already", warning=False))
    if manifest is None:
        manifest = report(out, meter.peak)
    if not config.output.keep_work and manifest["complete"]:
        out.remove("work")
    return manifest


def _already(
    plan: RunPlan, config: RunConfig, out: Folder, detector: DetectorSpec | None
) -> dict[str, Any] | None:
    """The manifest of OUT if it is of this very run, complete, and of the same products."""
    from ussfc.pipeline.polygons import vectorise as vector
    from ussfc.pipeline.storage.probability_store import run_name

    manifest = out.find_json("run.json")
    if not manifest or not manifest.get("complete") or "products" not in manifest:
        return None
    settled_config, recipe = resolve_detector(plan, config, detector, manifest["detector"])
    if manifest["run"] != run_name(run_key(plan, settled_config, recipe)):
        return None
    products = manifest["products"]
    content = next(iter(products.values()))["key"]["content"]
    layer = f"changes{vector.SUFFIX[config.vector.format]}"
    wanted = {
        **raster_keys(manifest, content, config),
        layer: vector_key(manifest, content, config),
    }
    same = all(
        name in products
        and products[name]["key"] == json.loads(json.dumps(key))
        and out.size(name) == products[name]["bytes"]
        for name, key in wanted.items()
    )
    return manifest if same else None


def _forget_damaged(out: Folder, error: DamagedTiles, tell: Subscriber) -> None:
    """All damaged tiles at once: one round of inference mends them."""
    from ussfc.pipeline.storage.probability_store import ProbabilityStore

    store = ProbabilityStore(out / "work")
    damaged = store.damaged()
    tell(Notice(f"{error} ({len(damaged)} such tile(s))"))
    store.forget(damaged)


def _refuse_taken(out: Folder, overwrite: bool) -> None:
    """Files of our names that no run made are somebody else's, whatever the flags; a finished run wants the flag."""
    manifest, key, store = (
        out.exists(name) for name in ("run.json", "work/run_key.json", "work/probability.zarr")
    )
    if not (manifest or key or store):
        taken = [name for name in (*PRODUCTS, "work") if out.exists(name)]
        # A run that was stopped within its first milliseconds.
        if taken == ["work"] and set(out.sizes("work")) <= {"run_key.json.part"}:
            return
        if taken:
            raise StoreError(
                f"{out / taken[0]}: exists, but no run of ussfc is in this folder; choose another --out"
            )
    if manifest and not key and not overwrite:
        raise StoreError(
            f"{out}: holds a finished run whose work was removed; choose another --out, or replace it with --overwrite"
        )
