"""The whole way of a run, stage by stage; every number is made elsewhere.

A stage reads only the files that the one before it wrote under OUT/work, so that each can be run again alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import DamagedRecord, DamagedTiles
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.execution.worker_cache import PROCESS_CACHE
from ussfc.pipeline.parallel.memory_meter import MemoryMeter
from ussfc.pipeline.runs.detector import resolve_detector
from ussfc.pipeline.runs.headline import opening_notices
from ussfc.pipeline.runs.infer import Computation, infer_locked
from ussfc.pipeline.runs.integrity import Finding, compare_work, damaged_metadata_of, is_intact
from ussfc.pipeline.runs.kept_options import with_kept_options
from ussfc.pipeline.runs.lazy_executor import LazyExecutor
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.runs.numbers import recorded_choice
from ussfc.pipeline.runs.pair import ScenePair, inspect_pair
from ussfc.pipeline.runs.plan import RunPlan, plan_pair
from ussfc.pipeline.runs.product_keys import is_made_as, layer_keys, raster_keys
from ussfc.pipeline.runs.products import layers_in, write_manifest, write_polygons, write_rasters
from ussfc.pipeline.runs.registration import recorded_plan
from ussfc.pipeline.runs.run_key import run_key
from ussfc.pipeline.runs.run_log import recorded
from ussfc.pipeline.runs.stages import left_absent
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.run_name import run_name
from ussfc.pipeline.types import DetectorSpec

Conclusion = Callable[[Folder, Subscriber, ScenePair], None]
"""Last step of a run, given its folder, who receives notices, and its scenes as they were read."""

ROUNDS = 3
"""Times that tiles found damaged in the store are computed again before the disk is blamed."""


def run(
    before: str,
    after: str,
    out: Folder | Path | str,
    config: RunConfig,
    overwrite: bool = False,
    subscriber: Subscriber = ignore,
    computation: Computation = Computation(),  # noqa: B008 - frozen
    conclude: Conclusion | None = None,
) -> RunRecord:
    """Go the whole way: plan, infer, mosaic, vectorise, record.

    Given again after any stop it continues; where everything is done already it does nothing.

    Args:
        before: earlier image, path or URI.
        after: later image, path or URI.
        out: folder of the products, path or URI.
        config: from :func:`ussfc.load_config`.
        overwrite: replace another run in ``out``.
        subscriber: receives the events.
        computation: how the tiles are computed.
        conclude: makes what needs the finished run, such as
            :func:`ussfc.pipeline.report.write.conclude`.

    Returns:
        The content of ``run.json``; ``complete`` is False where tiles kept failing.

    Raises:
        PipelineError, ussfc.ModelError: each names the file or setting, and the way out.
    """
    out = Folder.of(out)
    with left_absent(out), recorded(out, subscriber) as recording:
        with MemoryMeter() as meter:
            # A place that cannot be written is found before anything is read.
            out.prepare()
            plan = plan_pair(
                inspect_pair(before, after, config), config, network=computation.detector is None
            )
            for line in opening_notices(plan, computation.detector is None):
                recording(Notice(line, warning=False))
            with out.lock():
                plan = plan if overwrite else recorded_choice(recorded_plan(plan, out), out)
                made, kept = (
                    (plan.config, ())
                    if overwrite
                    else with_kept_options(config, plan.config, plan.threshold, out)
                )
                record = None if overwrite else _finished_run(plan, made, out, recording, computation)
                if record is None:
                    with ExitStack() as stack:
                        workers = LazyExecutor(plan, out, recording, computation, stack)
                        infer_locked(plan, out, overwrite, workers)
                        for line in kept:
                            recording(Notice(line, warning=False))
                        _make_products(plan, made, out, recording, workers)
                    # What a killed process had left as well.
                    for name in (layout.SQUARES, layout.DASK_SCRATCH):
                        out.remove(layout.in_work(name))
                    # With what inference measured: the later date where it lies.
                    plan = recorded_plan(plan, out)
                else:
                    for line in (*kept, "everything is done already"):
                        recording(Notice(line, warning=False))
        if record is None:
            record = write_manifest(out, meter.peak, recording)
        if conclude is not None:
            if computation.executor_of is None:
                # The page needs the room that the network has.
                PROCESS_CACHE.forget()
            conclude(out, recording, plan.pair)
    if not plan.config.output.keep_work and record.complete:
        out.remove(layout.WORK)
    return record


def _make_products(
    plan: RunPlan, config: RunConfig, out: Folder, subscriber: Subscriber, workers: LazyExecutor
) -> None:
    """Write rasters and polygons of a configuration; tiles found damaged in the store are computed again first."""
    for attempt in range(ROUNDS):
        try:
            write_rasters(out, config, subscriber, again=False, workers=workers.started)
            pair = recorded_plan(plan, out).pair
            write_polygons(out, config, subscriber, again=False, pair=pair, workers=workers.started)
            return
        except DamagedTiles as error:
            if attempt == ROUNDS - 1:
                raise
            _forget_damaged(out, error, subscriber)
            infer_locked(plan, out, False, workers)


def _finished_run(
    plan: RunPlan, config: RunConfig, out: Folder, subscriber: Subscriber, computation: Computation
) -> RunRecord | None:
    """Return the record of OUT if it is of this very run, complete, and all of its files are what was written.

    ``config`` names the options of its products.
    """
    try:
        record = RunRecord.find(out, layout.MANIFEST, sealed=True)
    except DamagedRecord:
        subscriber(Notice(f"{out / layout.MANIFEST}: is not what was written, and is made again"))
        return None
    if record is None or not record.complete or not record.products:
        return None
    detector = resolve_detector(plan, computation.detector, record.detector)
    if record.run != run_name(run_key(plan, detector)):
        return None
    dates = [scene.acquired for scene in (record.inputs.before, record.inputs.after)]
    if dates != [scene.acquired for scene in (plan.pair.before, plan.pair.after)]:
        # No part of the key, but of records and tags.
        return None
    if config.threshold is None:
        # Not that of the record, which is its products'.
        config = config.model_copy(update={"threshold": plan.threshold})
    digest = next(iter(record.products.values())).key.content
    keys = {
        **raster_keys(record, digest, config),
        **layer_keys(record, digest, config, {*config.vector.format, *layers_in(out)}),
    }
    same = all(
        name in record.products and is_made_as(record.products[name].key, key) for name, key in keys.items()
    )
    return record if same and _is_untouched(plan, out, record, detector, subscriber) else None


def _is_untouched(
    plan: RunPlan, out: Folder, record: RunRecord, detector: DetectorSpec, subscriber: Subscriber
) -> bool:
    """Compare products, records and chunks with their hashes, in a store marks of chunks; report what differs."""
    size = sum(product.bytes for product in record.products.values())
    subscriber(Notice(f"comparing {size / 1e6:.1f} MB of products with their hashes", warning=False))
    faults = [
        f"{name} is not what was written"
        for name, product in record.products.items()
        if not is_intact(out, name, product)
    ]
    for finding in compare_work(out, record, trust_marks=True):
        if finding.fault is not None:
            faults.append(
                finding.fault if finding.fault.startswith(str(out)) else f"{finding.name} {finding.fault}"
            )
            _prepare_repair(plan, out, record, detector, finding)
    for fault in faults:
        subscriber(Notice(f"{out}: {fault}; it is made again"))
    return not faults


def _prepare_repair(
    plan: RunPlan, out: Folder, record: RunRecord, detector: DetectorSpec, finding: Finding
) -> None:
    """Write again what follows from the manifest, and drop the records of damaged tiles; the run makes the rest."""
    from ussfc.pipeline.storage.probability_store import ProbabilityStore

    work = out / layout.WORK
    if finding.name == layout.in_work(layout.RUN_KEY):
        work.write_record(layout.RUN_KEY, run_key(plan, detector))
    elif finding.name == layout.in_work(layout.PROBABILITIES):
        # Before its chunks are compared, which it describes.
        damaged_metadata_of(work, record, repair=True)
    elif finding.tiles:
        ProbabilityStore(work).forget(finding.tiles)


def _forget_damaged(out: Folder, error: DamagedTiles, subscriber: Subscriber) -> None:
    """Drop the records of all damaged tiles at once: one round of inference mends them."""
    from ussfc.pipeline.storage.probability_store import ProbabilityStore

    store = ProbabilityStore(out / layout.WORK)
    damaged = store.damaged()
    subscriber(Notice(f"{error} ({len(damaged)} such tile(s))"))
    store.forget(damaged)
