"""Many pairs with one pool of workers: each in a folder of its own, an index and a table over all."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ussfc import ModelError
from ussfc.pipeline.batches.collection import COLLECTION_FILE, ITEM_FILE, collection, pair_item
from ussfc.pipeline.batches.pair_lists import PairEntry
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ClusterError, ConfigError, PipelineError
from ussfc.pipeline.events import Advanced, Event, Notice, StageFinished, StageStarted, Subscriber, ignore
from ussfc.pipeline.execution.dask_executor import DaskExecutor, Executor
from ussfc.pipeline.runs.plan import RunPlan
from ussfc.pipeline.runs.products import stage_clock
from ussfc.pipeline.runs.run import executor_for, run
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.remote import shown_uri
from ussfc.pipeline.types import DetectorSpec

TABLE = "results.csv"

COLUMNS = (
    "name", "state", "before", "after", "pixels", "changed_pixels", "changed_share", "polygons", "tiles",
    "tiles_failed", "seconds", "error",
)  # fmt: skip
"""Of the table: ``state`` is complete, incomplete (tiles kept failing), failed, or waiting; ``pixels`` are the valid
ones; ``seconds`` are those of the stages of the run that computed last."""

COMMON = ("cluster.", "compute.", "output.scratch")
"""Keys that are for all pairs: the pool is one, and a list from elsewhere has no say in this machine."""

AT_ONCE = 2
"""Pairs under way at a time where workers compute: the rasters of one are written while the next one's tiles are
computed."""


@dataclass(frozen=True, slots=True)
class PairResult:
    """What became of a pair."""

    name: str
    manifest: dict[str, Any] | None
    """Content of its ``run.json``; None: it failed."""
    error: str | None
    """Why it failed, one line."""


def run_batch(
    pairs: Sequence[PairEntry],
    out: Folder | Path | str,
    config: RunConfig,
    configure: Callable[[Mapping[str, Any]], RunConfig],
    overwrite: bool = False,
    subscriber: Subscriber = ignore,
    fail_fast: bool = False,
    at_once: int | None = None,
    detector: DetectorSpec | None = None,
) -> list[PairResult]:
    """Run a list of pairs; each ends in ``OUT/NAME`` as ``ussfc run`` would have left it.

    A pair that fails does not stop the others. Given again after any stop, it continues: pairs that are complete are
    not computed again. ``OUT/results.csv`` has a row for each pair, ``OUT/collection.json`` is a STAC collection of
    those that have products; both are renewed whenever a pair ends.

    Args:
        pairs: the list.
        out: folder, path or URI.
        config: what is common to all.
        configure: the configuration of a pair, from its own settings.
        overwrite: replace other runs in the pairs' folders.
        subscriber: hears notices with the pair's name before them, and how many pairs have ended.
        fail_fast: stop at the first error of a tile, without trying again; the pair has then failed.
        at_once: pairs under way at a time; by default 2 where workers compute, else 1.
        detector: another detector than the models' networks, with the same patch size.

    Returns:
        One result for each pair, in the order of the list.

    Raises:
        ConfigError: a pair sets what is for all pairs.
        StoreError: OUT cannot be written.
        ClusterError: the workers cannot be used, which ends all pairs.
    """
    _refuse_common(pairs)
    out = Folder.of(out)
    out.prepare()
    configs = [configure(pair.settings) for pair in pairs]
    if at_once is None:
        at_once = 1 if config.cluster.kind in ("auto", "serial") else AT_ONCE
    index = _Index(out, pairs)
    index.write()
    stop = threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix="ussfc-batch-", dir=config.output.scratch) as scratch,
        _Pool(config, Path(scratch), subscriber, fail_fast, stop) as pool,
        stage_clock("batch", len(pairs), 0, subscriber),
    ):

        def one(pair: PairEntry, own: RunConfig) -> PairResult:
            tell = _Named(pair.name, subscriber, stop)
            folder = out / pair.name
            try:
                manifest = run(
                    pair.before, pair.after, folder, own, overwrite, tell, detector, fail_fast, pool.executor
                )
            except ClusterError:
                raise
            except (PipelineError, ModelError) as error:
                tell(Notice(f"failed: {error}"))
                return PairResult(pair.name, None, " ".join(str(error).split()))
            return PairResult(pair.name, manifest, None)

        def ended(result: PairResult) -> None:
            index.add(result)
            index.write()
            subscriber(
                Advanced("batch", 1, (result.manifest or {"counts": {"pixels": 0}})["counts"]["pixels"])
            )

        todo = list(zip(pairs, configs, strict=True))
        if at_once == 1:
            for pair, own in todo:
                ended(one(pair, own))
        else:
            _side_by_side(one, todo, at_once, ended, stop)
    return index.results()


def _side_by_side(
    one: Callable[[PairEntry, RunConfig], PairResult],
    todo: Sequence[tuple[PairEntry, RunConfig]],
    at_once: int,
    ended: Callable[[PairResult], None],
    stop: threading.Event,
) -> None:
    with ThreadPoolExecutor(at_once, "ussfc-pair") as threads:
        futures: list[Future[PairResult]] = [threads.submit(one, pair, own) for pair, own in todo]
        try:
            for future in as_completed(futures):
                ended(future.result())
        except BaseException:
            # Also when interrupted: those under way stop at what they tell next, or where they wait for workers.
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _refuse_common(pairs: Sequence[PairEntry]) -> None:
    for pair in pairs:
        for key in pair.settings:
            if key.startswith(COMMON):
                raise ConfigError(
                    f"pair {pair.name}: sets {key}, which is for all pairs; set it with --set or in the --config file"
                )


class _StoppedError(Exception):
    """Another pair, or the user, ended everything."""


class _Named:
    """Hears a pair's events and tells its notices under its name."""

    def __init__(self, name: str, tell: Subscriber, stop: threading.Event) -> None:
        self._name = name
        self._tell = tell
        self._stop = stop

    def __call__(self, event: Event) -> None:
        if self._stop.is_set():
            raise _StoppedError
        if isinstance(event, Notice):
            self._tell(Notice(f"{self._name}: {event.message}", event.warning))
        elif isinstance(event, StageStarted | StageFinished | Advanced):
            pass  # the batch's own progress is by pairs


class _Pool:
    """Workers, started by the first pair that wants them and kept to the end."""

    def __init__(
        self, config: RunConfig, scratch: Path, tell: Subscriber, fail_fast: bool, stop: threading.Event
    ) -> None:
        self._config = config
        self._scratch = scratch
        self._tell = tell
        self._fail_fast = fail_fast
        self._stop = stop
        self._kept = ExitStack()
        self._starting = threading.Lock()
        self._workers: Executor | None = None

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self._kept.close()

    def executor(self, plan: RunPlan) -> Executor:
        """Who computes a plan: the workers, or the process itself where the plan is too small for them."""
        made = executor_for(plan, self._config, self._scratch, self._tell, self._fail_fast, self._stop)
        if not isinstance(made, DaskExecutor):
            return made
        with self._starting:
            if self._workers is None:
                self._workers = self._kept.enter_context(made)
            return self._workers


class _Index:
    """The table and the collection over what has ended so far, in this call or an earlier one."""

    def __init__(self, out: Folder, pairs: Sequence[PairEntry]) -> None:
        self._out = out
        self._pairs = pairs
        self._results: dict[str, PairResult] = {}
        self._items: dict[str, dict[str, Any]] = {}
        for pair in pairs:
            manifest = (out / pair.name).find_json("run.json")
            item = (out / pair.name).find_json(ITEM_FILE) if manifest and "products" in manifest else None
            if item is not None:
                self._results[pair.name] = PairResult(pair.name, manifest, None)
                self._items[pair.name] = item

    def add(self, result: PairResult) -> None:
        """A pair has ended."""
        self._results[result.name] = result
        self._items.pop(result.name, None)
        if result.manifest is None:
            return
        folder = self._out / result.name
        made = pair_item(result.name, result.manifest, datetime.now(UTC).replace(microsecond=0))
        # As it comes back from its file: coordinates are tuples, which JSON does not know.
        item = json.loads(json.dumps(made))
        earlier = folder.find_json(ITEM_FILE)
        if earlier is not None and _timeless(earlier) == _timeless(item):
            item = earlier
        else:
            folder.write_json(ITEM_FILE, item)
        self._items[result.name] = item

    def results(self) -> list[PairResult]:
        """In the order of the list."""
        return [self._results[pair.name] for pair in self._pairs]

    def write(self) -> None:
        """Renew both files."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(_row(pair, self._results.get(pair.name)) for pair in self._pairs)
        self._out.write(TABLE, text.getvalue().encode())
        items = [self._items[pair.name] for pair in self._pairs if pair.name in self._items]
        self._out.write_json(COLLECTION_FILE, collection("Change between pairs of scenes", items))


def _timeless(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item without the moment of its writing."""
    properties = {key: value for key, value in item["properties"].items() if key != "datetime"}
    return {**item, "properties": properties}


def _row(pair: PairEntry, result: PairResult | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": pair.name, "state": "waiting"}
    row |= {"before": shown_uri(pair.before), "after": shown_uri(pair.after)}
    if result is None:
        return row
    if result.manifest is None:
        return row | {"state": "failed", "error": result.error}
    counts = result.manifest["counts"]
    valid = counts["changed_pixels"] + counts["unchanged_pixels"]
    return row | {
        "state": "complete" if result.manifest["complete"] else "incomplete",
        "pixels": valid,
        "changed_pixels": counts["changed_pixels"],
        "changed_share": round(counts["changed_pixels"] / valid, 6) if valid else 0,
        "polygons": counts["polygons"],
        "tiles": counts["tiles"],
        "tiles_failed": counts["tiles_failed"],
        "seconds": round(sum(stage["seconds"] for stage in result.manifest["stages"].values()), 1),
    }
