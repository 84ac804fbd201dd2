"""Many pairs with one pool of workers: each in a folder of its own, an index and a table over all."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from ussfc import ModelError
from ussfc.pipeline.batches.index import BatchIndex, PairResult
from ussfc.pipeline.batches.pair_lists import PairEntry
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ClusterError, ConfigError, PipelineError
from ussfc.pipeline.events import Advanced, Event, Notice, StageFinished, StageStarted, Subscriber, ignore
from ussfc.pipeline.execution.dask_executor import DaskExecutor
from ussfc.pipeline.execution.executor import Executor
from ussfc.pipeline.report.write import conclude
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.lazy_executor import executor_for
from ussfc.pipeline.runs.plan import RunPlan
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.runs.stages import stage_clock
from ussfc.pipeline.storage.folder import Folder

COMMON = ("cluster.", "compute.", "inputs.", "output.scratch")
"""Keys that are for all pairs: the pool is one, and a list from elsewhere has no say in this machine."""

AT_ONCE = 2
"""Pairs under way at a time where workers compute: the rasters of one are written while the next one's tiles are
computed."""


def run_batch(
    pairs: Sequence[PairEntry],
    out: Folder | Path | str,
    configure: Callable[[Mapping[str, Any]], RunConfig],
    overwrite: bool = False,
    subscriber: Subscriber = ignore,
    computation: Computation = Computation(),  # noqa: B008 - frozen
    at_once: int | None = None,
) -> list[PairResult]:
    """Run a list of pairs; each ends in ``OUT/NAME`` as ``ussfc run`` would have left it.

    A pair that fails does not stop the others. Given again after any stop, it continues: pairs that are complete are
    not computed again. ``OUT/results.csv`` has a row for each pair, ``OUT/collection.json`` is a STAC collection of
    those that have products; both are renewed whenever a pair ends.

    Args:
        pairs: the list.
        out: folder, path or URI.
        configure: returns the configuration of a pair, given its own settings; of none, what is common to all.
        overwrite: replace other runs in the pairs' folders.
        subscriber: receives notices with the pair's name before them, and how many pairs have ended.
        computation: how tiles are computed; with ``fail_fast`` a pair fails at the first error of a tile. The batch
            brings its own executors.
        at_once: pairs under way at a time; by default 2 where workers compute, else 1.

    Returns:
        One result for each pair, in the order of the list.

    Raises:
        ConfigError: a pair sets a key that is for all pairs.
        StoreError: OUT cannot be written.
        ClusterError: the workers cannot be used, which ends all pairs.
    """
    _check_settings(pairs)
    out = Folder.of(out)
    out.prepare()
    config = configure({})
    configs = [configure(pair.settings) for pair in pairs]
    if at_once is None:
        at_once = 1 if config.cluster.kind in ("auto", "serial") else AT_ONCE
    index = BatchIndex(out, pairs)
    index.write()
    stop = threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="ussfc-batch-", dir=config.output.scratch) as scratch,
        _Pool(Path(scratch), subscriber, computation.fail_fast, stop) as pool,
        stage_clock("batch", len(pairs), 0, subscriber),
    ):
        pooled = replace(computation, executor_of=pool.executor)

        def run_pair(pair: PairEntry, own: RunConfig) -> PairResult:
            named = _NamedSubscriber(pair.name, subscriber, stop)
            try:
                record = run(
                    pair.before, pair.after, out / pair.name, own, overwrite, named, pooled, conclude
                )
            except ClusterError:
                raise
            except (PipelineError, ModelError) as error:
                named(Notice(f"failed: {error}"))
                return PairResult(pair.name, None, " ".join(str(error).split()))
            return PairResult(pair.name, record, None)

        def finish(result: PairResult) -> None:
            index.add(result)
            index.write()
            subscriber(Advanced("batch", 1, result.manifest.counts.pixels if result.manifest else 0))

        todo = list(zip(pairs, configs, strict=True))
        if at_once == 1:
            for pair, own in todo:
                finish(run_pair(pair, own))
        else:
            _run_side_by_side(run_pair, todo, at_once, finish, stop)
    return index.results()


def _run_side_by_side(
    run_pair: Callable[[PairEntry, RunConfig], PairResult],
    todo: Sequence[tuple[PairEntry, RunConfig]],
    at_once: int,
    finish: Callable[[PairResult], None],
    stop: threading.Event,
) -> None:
    with ThreadPoolExecutor(at_once, "ussfc-pair") as threads:
        futures: list[Future[PairResult]] = [threads.submit(run_pair, pair, own) for pair, own in todo]
        try:
            for future in as_completed(futures):
                finish(future.result())
        except BaseException:
            # Also when interrupted: those under way stop at their next event, or where they wait for workers.
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _check_settings(pairs: Sequence[PairEntry]) -> None:
    for pair in pairs:
        for key in pair.settings:
            if key.startswith(COMMON):
                raise ConfigError(
                    f"pair {pair.name}: sets {key}, which is for all pairs; set it in the configuration of the batch"
                )


class _StoppedError(Exception):
    """Another pair, or the user, ended everything."""


class _NamedSubscriber:
    """Passes a pair's notices on under its name."""

    def __init__(self, name: str, subscriber: Subscriber, stop: threading.Event) -> None:
        self._name = name
        self._subscriber = subscriber
        self._stop = stop

    def __call__(self, event: Event) -> None:
        if self._stop.is_set():
            raise _StoppedError
        if isinstance(event, Notice):
            self._subscriber(Notice(f"{self._name}: {event.message}", event.warning))
        elif isinstance(event, StageStarted | StageFinished | Advanced):
            pass  # the batch's own progress is by pairs


class _Pool:
    """Workers, started by the first pair that needs them and kept to the end."""

    def __init__(self, scratch: Path, subscriber: Subscriber, fail_fast: bool, stop: threading.Event) -> None:
        self._scratch = scratch
        self._subscriber = subscriber
        self._fail_fast = fail_fast
        self._stop = stop
        self._stack = ExitStack()
        self._starting = threading.Lock()
        self._workers: Executor | None = None

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def executor(self, plan: RunPlan) -> Executor:
        """Return the executor of a plan: the workers, or the process itself where the plan is too small for them."""
        made = executor_for(plan, self._scratch, self._subscriber, self._fail_fast, self._stop)
        if not isinstance(made, DaskExecutor):
            return made
        with self._starting:
            if self._workers is None:
                self._workers = self._stack.enter_context(made)
            return self._workers
