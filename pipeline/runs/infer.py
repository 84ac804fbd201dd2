"""The inference of a run: every tile through the network, into the store."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ussfc.addresses import shown_address
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import DamagedRecord, ReadError, StoreError, TileError
from ussfc.pipeline.events import Advanced, Notice, Subscriber, ignore
from ussfc.pipeline.reading.date_masks import describe_mask
from ussfc.pipeline.runs.cloud_masks import find_clouds, remove_other_clouds
from ussfc.pipeline.runs.detector import describe_detector, possible_detectors
from ussfc.pipeline.runs.headline import opening_notices
from ussfc.pipeline.runs.key_repair import repair_key
from ussfc.pipeline.runs.lazy_executor import LazyExecutor
from ussfc.pipeline.runs.manifest import (
    Counts,
    ExecutorRecord,
    FailureRecord,
    GridRecord,
    InferenceRecord,
    InputRecord,
    InputRecords,
    MaskRecord,
    MaskRecords,
    ModelRecord,
    RadiometryRecord,
    RegistrationRecord,
    StageRecord,
)
from ussfc.pipeline.runs.normalisation import describe as describe_normalisation
from ussfc.pipeline.runs.numbers import measure_radiometry, recorded_choice
from ussfc.pipeline.runs.pair import ScenePair
from ussfc.pipeline.runs.plan import RunPlan, check_files, check_memory, space_notices
from ussfc.pipeline.runs.product_keys import product_smoothing, product_threshold
from ussfc.pipeline.runs.registration import describe as describe_registration
from ussfc.pipeline.runs.registration import recorded_plan, register_plan
from ussfc.pipeline.runs.run_key import run_key
from ussfc.pipeline.runs.run_log import recorded
from ussfc.pipeline.runs.stages import left_absent, stage_clock
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.run_name import STARTING, run_name
from ussfc.pipeline.tiling.grid import grid_record
from ussfc.pipeline.types import DetectorSpec, Index, RadiometricMapping, SceneInfo, TileFailure, TileResult

if TYPE_CHECKING:
    from ussfc.pipeline.execution.executor import Executor
    from ussfc.pipeline.execution.follow_ups import FollowUps
    from ussfc.pipeline.execution.tile_job import TileJob
    from ussfc.pipeline.storage.probability_store import ProbabilityStore
    from ussfc.pipeline.storage.tile_records import TileRecord

Answer = TypeVar("Answer")

ExecutorOf = Callable[[RunPlan], "Executor"]

HOPELESS = 8
"""Failing tiles after which a run without one good tile ends: the fault is not in the tiles."""


@dataclasses.dataclass(frozen=True)
class Computation:
    """Choices about the computation of a run's tiles that no configuration file makes."""

    detector: DetectorSpec | None = None
    """Another detector than the model's network, with the same patch size."""
    fail_fast: bool = False
    """Stop at the first error of a tile, without trying again."""
    executor_of: ExecutorOf | None = None
    """Source of a plan's executor, where workers are kept between runs; None: the run starts its own."""
    makes_polygons: bool = True
    """Keep both dates below the change for the values of polygons."""


def infer(
    plan: RunPlan,
    out: Folder | Path | str,
    overwrite: bool = False,
    subscriber: Subscriber = ignore,
    computation: Computation = Computation(),
) -> ProbabilityStore:
    """Run the network over every tile that is not done yet.

    A tile that keeps failing is left out and recorded; ``infer.json`` lists it.

    Args:
        plan: from :func:`ussfc.plan`.
        out: output folder, path or URI.
        overwrite: replace another run's work and products.
        subscriber: receives the events.
        computation: how the tiles are computed.

    Raises:
        StoreError, InsufficientMemoryError, TileError, ClusterError: see their messages.
    """
    out = Folder.of(out)
    if computation.detector is not None:
        plan = _without_alteration(plan)
    with left_absent(out):
        out.prepare()
        with out.lock(), recorded(out, subscriber) as recording:
            for line in opening_notices(plan, computation.detector is None):
                recording(Notice(line, warning=False))
            with ExitStack() as stack:
                workers = LazyExecutor(plan, out, recording, computation, stack)
                return infer_locked(plan, out, overwrite, workers)


def infer_locked(plan: RunPlan, out: Folder, overwrite: bool, workers: LazyExecutor) -> ProbabilityStore:
    """Do as :func:`infer` does, in a folder that is locked already.

    Args:
        plan: from :func:`ussfc.plan`.
        out: output folder.
        overwrite: replace another run's work and products.
        workers: the executor; it names who receives the events, and how tiles are computed.
    """
    subscriber, computation = workers.subscriber, workers.computation
    _warn(plan, plan.pair.notices, subscriber)
    for date, mask in zip(("before", "after"), plan.pair.masks, strict=True):
        if mask is not None:
            without = f"; masks.{date}=none does without" if mask.own else ""
            subscriber(Notice(f"mask of {date}: {describe_mask(mask)}{without}", warning=False))
    for notice in space_notices(plan, out):
        subscriber(Notice(notice))
    check_memory(plan)
    check_files(plan, out)
    refuse_foreign_files(out, overwrite)
    if overwrite or not out.exists(layout.in_work(layout.RUN_KEY)):
        # An engine that is not to be had is found before a pixel is read.
        possible_detectors(plan, computation.detector)
        workers.build_ahead()
    plan = find_clouds(plan, out, overwrite, subscriber)
    plan = _registered(plan if overwrite else recorded_plan(plan, out), subscriber)
    plan, measured = _with_choice(plan if overwrite else recorded_choice(plan, out), subscriber)
    if not overwrite:
        repair_key(plan, out / layout.WORK, computation.detector, subscriber)
    begun = None if overwrite else (out / layout.WORK).find_json(layout.RUN_KEY)
    # A run that is there goes on with its own, or is refused at once, without workers.
    detector = workers.resolve_detector(begun.get("model") if begun else None)
    key = run_key(plan, detector)
    store = _open_store(plan, out, key, overwrite)
    remove_other_clouds(plan, out)
    if plan.registration is not None:
        plan.registration.write(out / layout.WORK, layout.REGISTRATION)
    # Not a stage twice: what the choice of `radiometry: auto` has measured is at hand.
    with nullcontext() if measured is not None else stage_clock("radiometry", 2, 0, subscriber):
        radiometry = _recorded_radiometry(plan, out / layout.WORK, measured, subscriber)
    _warn(plan, radiometry.warnings, subscriber)
    lines = radiometry.normalisation
    # Where auto has matched, there is a warning about it.
    if lines and radiometry.chosen is None and (line := describe_normalisation(lines)):
        subscriber(Notice(line, warning=False))
    records = store.records()
    done, tally = _TileTally.of({index: record.result for index, record in records.items()})
    record_of = functools.partial(_inference_record, plan, run_name(key), detector, radiometry)
    job = _tile_job(plan, run_name(key), detector, radiometry, out / layout.WORK)
    if computation.makes_polygons:
        job = _with_keeping(job, plan, record_of(_TileTally(), []))
    # Speed and time left are of this process's own work, not of an earlier one's.
    pixels = plan.pixels - sum(plan.tiles.core(index).pixels for index in done)
    if done:
        notice = f"resuming: {len(done)} of {plan.tiles.tile_count} tiles are done"
        subscriber(Notice(notice, warning=False))
    beside = "" if job.odds is None else " and IR-MAD"
    subscriber(Notice(f"computed by {describe_detector(detector)}{beside}", warning=False))
    with stage_clock("infer", plan.tiles.tile_count - len(done), pixels, subscriber) as clock:
        follow_ups = _follow_ups(plan, store, records, record_of, subscriber)
        failures = _compute(workers, plan, job, done, tally, follow_ups)
        for source in (*plan.pair.recipes, *plan.pair.masks):
            # Readers keep their handles: a file that was rewritten meanwhile is noticed here.
            if source is not None:
                source.check_unchanged()
    record = record_of(tally, failures)
    record = record.model_copy(update={"stages": {"infer": StageRecord.of(clock[0], pixels)}})
    record = _with_cloud_check(record, plan, store, radiometry, subscriber)
    record.write(out / layout.WORK, layout.INFERENCE)
    return store


def _follow_ups(
    plan: RunPlan,
    store: ProbabilityStore,
    records: Mapping[Index, TileRecord],
    record_of: Callable[[_TileTally, list[TileFailure]], InferenceRecord],
    subscriber: Subscriber,
) -> FollowUps | None:
    """Return the squares that workers make in passing; None where this process's cores are the network's."""
    from ussfc.pipeline.execution.follow_ups import FollowUps
    from ussfc.pipeline.runs.products import square_jobs

    if not plan.makes_squares:
        return None

    def on_made(result: TileResult) -> None:
        subscriber(Advanced("infer", 0, 0, result.timeline))

    checksums = {index: record.checksum for index, record in records.items()}
    facts = record_of(_TileTally(), [])
    jobs = square_jobs(store.root, facts, plan.config, store.chunk, plan.pair)
    return FollowUps(jobs, plan.tiles, checksums, on_made)


def _with_cloud_check(
    record: InferenceRecord,
    plan: RunPlan,
    store: ProbabilityStore,
    radiometry: RadiometryRecord,
    subscriber: Subscriber,
) -> InferenceRecord:
    """Return a record with the share of the change that looks like clouds, and a warning where it is large."""
    # Here, for the sake of a quick start: SciPy's images take a quarter of a second.
    from ussfc.pipeline.runs.cloud_check import check_clouds, cloud_warnings

    found = check_clouds(plan, store, radiometry)
    if found is None:
        return record
    warnings = cloud_warnings(found, searched=plan.config.masks.clouds == "auto")
    for warning in warnings:
        subscriber(Notice(warning))
    return record.model_copy(update={"cloud_like": found, "warnings": (*record.warnings, *warnings)})


def _warn(plan: RunPlan, warnings: Iterable[str], subscriber: Subscriber) -> None:
    """Report warnings about the inputs.

    Raises:
        ReadError: there is one, and the configuration is strict.
    """
    for warning in warnings:
        if plan.config.strict:
            raise ReadError(f"{warning} (strict: a warning ends the run)")
        subscriber(Notice(warning))


def _without_alteration(plan: RunPlan) -> RunPlan:
    """Return the plan of another detector: the terms of IR-MAD are of the model's own network."""
    inference = plan.config.inference.model_copy(update={"alteration": "off"})
    return dataclasses.replace(plan, config=plan.config.model_copy(update={"inference": inference}))


def _registered(plan: RunPlan, subscriber: Subscriber) -> RunPlan:
    """Return the plan with the shift between both dates measured, and taken out where it is to be."""
    if plan.registration is None:
        with stage_clock("registration", 1, 0, subscriber):
            plan = register_plan(plan)
    record = plan.registration
    assert record is not None
    _warn(plan, [record.warning] if record.warning else [], subscriber)
    if (line := describe_registration(record)) is not None:
        subscriber(Notice(line, warning=False))
    return plan


def _with_choice(plan: RunPlan, subscriber: Subscriber) -> tuple[RunPlan, RadiometryRecord | None]:
    """Return the plan with the choice of ``radiometry: auto``, which its key names, and the constants found for it.

    Raises:
        ReadError: the numbers of a scene are none that the model takes, and the run is not forced.
    """
    if plan.config.radiometry != "auto" or plan.chosen is not None:
        return plan, None
    with stage_clock("radiometry", 2, 0, subscriber):
        measured = measure_radiometry(plan)
    return dataclasses.replace(plan, chosen=measured.chosen), measured


def _open_store(plan: RunPlan, out: Folder, key: Mapping[str, Any], overwrite: bool) -> ProbabilityStore:
    from ussfc.pipeline.storage.probability_store import start_store

    work = out / layout.WORK
    if overwrite:
        # First, so that the folder stays known as ours whenever we are stopped.
        work.write_record(layout.RUN_KEY, STARTING)
        for name in (*layout.PRODUCTS, layout.MANIFEST, layout.LOG):
            out.remove(name)
    store = start_store(
        work, key, plan.pair.grid, plan.config.output.probability_dtype, plan.layout.tile_size, overwrite
    )
    store.sweep()
    return store


def _recorded_radiometry(
    plan: RunPlan, work: Folder, measured: RadiometryRecord | None, subscriber: Subscriber
) -> RadiometryRecord:
    """Return the radiometric constants, taken from the scenes once a run: they follow from its key.

    Args:
        plan: of the run, registered.
        work: the run's ``work`` folder.
        measured: constants that this call has measured already, for the choice of ``radiometry: auto``.
        subscriber: receives the notice about a damaged record.

    Raises:
        ReadError: the numbers of a scene are none that the model takes, and the run is not forced.
    """
    try:
        recorded = RadiometryRecord.find(work, layout.RADIOMETRY, sealed=True)
    except DamagedRecord:
        subscriber(Notice(f"{work / layout.RADIOMETRY}: is not what was written, and is made again"))
        recorded = None
    if recorded is None or measured is not None:
        recorded = measured or measure_radiometry(plan)
        recorded.write(work, layout.RADIOMETRY)
    return recorded


def _tile_job(
    plan: RunPlan, run: str, detector: DetectorSpec, radiometry: RadiometryRecord, work: Folder
) -> TileJob:
    from ussfc.pipeline.execution.tile_job import TileJob

    mappings: tuple[RadiometricMapping, RadiometricMapping]
    mappings = radiometry.before.mapping, radiometry.after.mapping
    return TileJob(
        key=run,
        before=plan.pair.recipes[0],
        after=plan.pair.recipes[1],
        mappings=mappings,
        area=plan.pair.area,
        plan=plan.tiles,
        taper=plan.layout.taper,
        detector=detector,
        store=work,
        masks=plan.pair.masks,
        odds=None if radiometry.alteration is None else radiometry.alteration.odds,
    )


def _with_keeping(job: TileJob, plan: RunPlan, facts: InferenceRecord) -> TileJob:
    """Return a job that keeps both dates below the change, in all bands that polygons have values of."""
    from ussfc.pipeline.execution.tile_job import Keeping
    from ussfc.pipeline.runs.band_values import tile_recipes

    recipes = tile_recipes(facts, plan.pair)
    if recipes is None:
        return job
    keeping = Keeping(product_threshold(plan.config, facts), product_smoothing(plan.config, facts))
    return dataclasses.replace(job, before=recipes[0], after=recipes[1], keeping=keeping)


@dataclasses.dataclass
class _TileTally:
    """Sums over finished tiles: a run may have a million, too many to keep each."""

    tiles: int = 0
    patches: int = 0
    valid_pixels: int = 0
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: {"read": 0.0, "network": 0.0})
    masked: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, results: Mapping[Index, TileResult]) -> tuple[set[Index], _TileTally]:
        """Return the indices of finished tiles, and their sums."""
        tally = cls()
        for result in results.values():
            tally.add(result)
        return set(results), tally

    def add(self, result: TileResult) -> None:
        """Add one tile."""
        self.tiles += 1
        self.patches += result.patches
        self.valid_pixels += result.valid_pixels
        self.masked = self.masked[0] + result.masked[0], self.masked[1] + result.masked[1]
        for name in self.seconds:
            self.seconds[name] += result.seconds.get(name, 0.0)


def _compute(
    lazy: LazyExecutor,
    plan: RunPlan,
    job: TileJob,
    done: set[Index],
    tally: _TileTally,
    follow_ups: FollowUps | None,
) -> list[TileFailure]:
    """Compute the missing tiles, add them to the tally, and return those that kept failing."""
    failures: list[TileFailure] = []
    subscriber = lazy.subscriber

    def on_result(result: TileResult) -> None:
        tally.add(result)
        subscriber(Advanced("infer", 1, plan.tiles.core(result.index).pixels, result.timeline))

    def on_pixels(pixels: int) -> None:
        subscriber(Advanced("infer", 0, pixels))

    def on_failure(failure: TileFailure) -> None:
        failures.append(failure)
        FailureRecord.of(failure).write(job.store, layout.failure_record(failure.index))
        notice = f"{failure.error} (tried {failure.attempts} times); the run goes on without it"
        subscriber(Notice(notice))
        subscriber(Advanced("infer", 1, 0))
        if lazy.computation.fail_fast or (not tally.tiles and len(failures) >= HOPELESS):
            raise TileError(failure.error)

    # Tiles that failed before are tried again.
    job.store.remove(layout.FAILED)
    if len(done) < plan.tiles.tile_count:
        # The record is of an inference that ended; this one has not.
        job.store.remove(layout.INFERENCE)
        executor = lazy.executor
        remaining = (index for index in plan.tiles.indices(executor.worker_count) if index not in done)
        executor.run(job, remaining, on_result, on_failure, on_pixels, follow_ups)
    if failures and not tally.tiles:
        raise TileError(failures[0].error)
    return sorted(failures, key=lambda failure: failure.index)


def _inference_record(
    plan: RunPlan,
    run: str,
    detector: DetectorSpec,
    radiometry: RadiometryRecord,
    tally: _TileTally,
    failures: list[TileFailure],
) -> InferenceRecord:
    pair, model, registration = plan.pair, plan.model, plan.registration
    assert registration is not None
    registration_warnings = [registration.warning] if registration.warning else []
    # The windows stay in work/registration.json.
    registration = RegistrationRecord(**registration.model_dump(exclude={"vectors"}, exclude_unset=True))
    return InferenceRecord(
        run=run,
        complete=not failures,
        failed_tiles=tuple(FailureRecord.of(failure) for failure in failures),
        inputs=InputRecords(
            before=_input_record(pair.before, pair.recipes[0].bands),
            after=_input_record(pair.after, pair.recipes[1].bands),
        ),
        grid=GridRecord(**grid_record(pair.grid)),
        config=_shown_config(plan.config),
        model=ModelRecord(
            name=model.name,
            sha256=model.weights.sha256,
            licence=model.licence.weights if model.licence else None,
        ),
        threshold=plan.threshold,
        detector=detector.identity,
        registration=registration,
        radiometry=RadiometryRecord(**radiometry.model_dump(exclude={"warnings"}, exclude_unset=True)),
        executor=ExecutorRecord(name=plan.executor, processes=plan.processes, threads=plan.threads),
        projected_memory_bytes=plan.memory.total,
        warnings=(*pair.notices, *registration_warnings, *radiometry.warnings),
        counts=Counts(
            tiles=plan.tiles.tile_count,
            tiles_failed=len(failures),
            patches=tally.patches,
            valid_pixels=tally.valid_pixels,
            pixels=plan.pixels,
        ),
        tile_seconds={name: round(seconds, 3) for name, seconds in tally.seconds.items()},
        stages={},
        **({} if pair.masks == (None, None) else {"masks": _mask_records(pair, tally)}),
    )


def _mask_records(pair: ScenePair, tally: _TileTally) -> MaskRecords:
    records = {}
    for date, mask, count in zip(("before", "after"), pair.masks, tally.masked, strict=True):
        if mask is not None:
            rule = {} if mask.rule is None else {"classes": mask.rule.classes, "bits": mask.rule.bits}
            records[date] = MaskRecord(
                uri=shown_address(mask.uri),
                identity=mask.identity,
                kind=mask.kind,
                **{name: numbers for name, numbers in rule.items() if numbers is not None},
                dilation_m=mask.distance,
                masked_pixels=count,
            )
    return MaskRecords(**records)


def _input_record(info: SceneInfo, bands: tuple[int, ...]) -> InputRecord:
    return InputRecord(
        uri=info.uri, identity=info.identity, dtype=info.dtype, bands=bands, acquired=info.acquired
    )


def _shown_config(config: RunConfig) -> dict[str, Any]:
    """Return the configuration for a record: addresses without credentials, and nothing that a cluster was given."""
    shown = config.model_dump(mode="json", exclude={"cluster"})
    shown["model"] = shown_address(shown["model"])
    for section, name in (("grid", "aoi"), ("masks", "before"), ("masks", "after")):
        if shown[section][name]:
            shown[section][name] = shown_address(shown[section][name])
    return shown


def refuse_foreign_files(out: Folder, overwrite: bool) -> None:
    """Refuse a folder with files of our names that no run made, and a finished run without ``overwrite``.

    Raises:
        StoreError: names the first such file.
    """
    manifest, key, store = (
        out.exists(name)
        for name in (
            layout.MANIFEST,
            layout.in_work(layout.RUN_KEY),
            layout.in_work(layout.PROBABILITIES),
        )
    )
    if not (manifest or key or store):
        names = (*layout.PRODUCTS, layout.MANIFEST, layout.WORK)
        taken = [name for name in names if out.exists(name)]
        # A run that was stopped within its first milliseconds.
        if taken == [layout.WORK] and set(out.sizes(layout.WORK)) <= {layout.RUN_KEY + layout.PART_SUFFIX}:
            return
        if taken:
            raise StoreError(
                f"{out / taken[0]}: exists, but no run of ussfc is in this folder; choose another output folder"
            )
    if manifest and not key and not overwrite:
        raise StoreError(
            f"{out}: holds a finished run whose work was removed; choose another output folder, or overwrite it"
        )
