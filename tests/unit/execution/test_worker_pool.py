"""The pool of workers against a client that answers as Dask's does, and the tiles of a task."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ussfc.pipeline.clusters.base import Started
from ussfc.pipeline.clusters.scheduler import SchedulerAt
from ussfc.pipeline.errors import ClusterError, TileError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.execution import worker_pool
from ussfc.pipeline.execution.errors import SchedulerLostError, WorkerSetupError
from ussfc.pipeline.execution.worker_pool import (
    MOST_GENERATIONS,
    MOST_TILES,
    STOPPED,
    TASK_SECONDS,
    TASKS_AHEAD,
    UNFIT_FAILURES,
    TaskSizer,
    TileBatcher,
    WorkerPool,
)
from ussfc.pipeline.execution.worker_tasks import NotTried, TaskReport
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.parallel.schedule import Schedule
from ussfc.pipeline.types import TileResult

RESULT = TileResult((0, 0), 1, 1)
FAULT = WorkerSetupError("weights.pt: no such file")


class Client:
    """The part of Dask's client that a pool uses."""

    def __init__(self) -> None:
        self.status = "running"
        self.threads: dict[str, int] = {}
        self.holding: set[str] = set()
        """Workers that hold a result."""
        self.retired: list[str] = []
        self.submitted = 0

    def nthreads(self, callback_timeout: float) -> dict[str, int]:
        return dict(self.threads)

    def retire_workers(self, addresses: list[str], close_workers: bool) -> None:
        assert close_workers
        self.retired += addresses
        for address in addresses:
            del self.threads[address]

    def run_on_scheduler(self, function: Callable[[Any], Any]) -> Any:
        workers = {name: SimpleNamespace(has_what=name in self.holding) for name in self.threads}
        return function(SimpleNamespace(workers=workers, tasks={}))

    def submit(self, function: Callable[..., Any], pure: bool) -> None:
        self.submitted += 1


class Pool:
    """A pool whose workers are counted at every look, and what it reports."""

    def __init__(self, started: Started | None = None, **threads: int) -> None:
        self.client = Client()
        self.client.threads |= threads
        self.events: list[Event] = []
        self.stop = threading.Event()
        self.pool = WorkerPool(
            self.client, SchedulerAt("tcp://there"), started or Started(None), self.events.append, self.stop
        )


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "REFRESH_SECONDS", 0)


def test_threads_are_those_present_or_expected() -> None:
    made = Pool(a=2, b=3)
    assert made.pool.task_limit == 0
    assert made.pool.refresh()
    assert (made.pool.threads, made.pool.task_limit) == (5, 5 * TASKS_AHEAD)
    expected = Pool(Started(None, threads=9), a=2)
    expected.pool.refresh()
    assert expected.pool.threads == 9


def test_workers_are_not_counted_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "REFRESH_SECONDS", 3600)
    made = Pool(a=1)
    assert made.pool.refresh()
    made.client.threads["b"] = 1
    assert not made.pool.refresh()
    assert not made.pool.has("b")


def test_set_stop_ends_the_run() -> None:
    made = Pool(a=1)
    made.stop.set()
    with pytest.raises(ClusterError) as caught:
        made.pool.refresh()
    assert str(caught.value) == STOPPED


def test_lost_scheduler_is_noticed() -> None:
    made = Pool(a=1)
    made.client.status = "connecting"
    with pytest.raises(SchedulerLostError):
        made.pool.refresh()


def test_bands_go_round_the_workers() -> None:
    made = Pool(b=1, a=1)
    assert made.pool.preferred_worker(0) is None
    made.pool.refresh()
    assert [made.pool.preferred_worker(band) for band in range(4)] == ["a", "b", "a", "b"]


def test_ending_worker_is_retired_at_once() -> None:
    made = Pool(a=1, b=1)
    made.pool.refresh()
    made.pool.handle_report(TaskReport("a", (NotTried(),), ending=True))
    assert made.client.retired == ["a"]
    assert not made.pool.has("a")
    assert made.events == []


def test_last_ending_worker_first_gives_its_results() -> None:
    made = Pool(a=1)
    made.client.holding.add("a")
    made.pool.refresh()
    made.pool.handle_report(TaskReport("a", (NotTried(),), ending=True))
    assert (made.client.retired, made.pool.task_limit) == ([], 0)
    assert made.pool.patience < 1
    made.pool.retire()
    assert made.client.retired == []
    made.client.holding.clear()
    made.pool.retire()
    assert made.client.retired == ["a"]
    made.pool.retire()
    assert made.client.retired == ["a"]


def test_worker_of_another_version_is_left_out() -> None:
    made = Pool(a=1, b=1)
    made.pool.refresh()
    made.pool.handle_report(TaskReport("a", (NotTried(),), unfit="zarr 1, here 3"))
    assert made.client.retired == ["a"]
    assert made.events == [Notice("worker a is left out: zarr 1, here 3")]
    with pytest.raises(ClusterError, match=r"^worker b has zarr 1, here 3; install the same versions there"):
        made.pool.handle_report(TaskReport("b", (NotTried(),), unfit="zarr 1, here 3"))


@pytest.mark.parametrize("others", [True, False])
def test_worker_that_begins_no_tile_is_left_out(others: bool) -> None:
    made = Pool(a=1, **({"b": 1} if others else {}))
    made.pool.refresh()
    for _ in range(UNFIT_FAILURES - 1):
        made.pool.handle_report(TaskReport("a", (FAULT,)))
    # One that succeeds in between begins from the start.
    made.pool.handle_report(TaskReport("a", (FAULT, RESULT)))
    for _ in range(UNFIT_FAILURES - 1):
        made.pool.handle_report(TaskReport("a", (FAULT,)))
        made.pool.handle_report(TaskReport("a", ()))
    assert made.client.retired == []
    made.pool.handle_report(TaskReport("a", (FAULT,)))
    assert made.client.retired == (["a"] if others else [])
    assert len(made.events) == others


def test_failure_of_a_tile_is_no_fault_of_its_worker() -> None:
    made = Pool(a=1, b=1)
    made.pool.refresh()
    for _ in range(2 * UNFIT_FAILURES):
        made.pool.handle_report(TaskReport("a", (TileError("damaged"),)))
    assert made.client.retired == []


@pytest.mark.parametrize("progress", [True, False])
def test_generations_without_a_tile_end_the_run(progress: bool) -> None:
    made = Pool()

    def replace_all() -> None:
        for generation in range(MOST_GENERATIONS + 1):
            made.client.threads = {f"{generation}": 1}
            made.pool.refresh()
            made.pool.refresh()
            if progress:
                made.pool.record_progress()

    if progress:
        replace_all()
        return
    with pytest.raises(ClusterError, match=f"{MOST_GENERATIONS} times in a row all workers ended before one"):
        replace_all()


def test_wait_for_workers_is_described_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = iter(["in the queue", None, "starting"])
    made = Pool(Started(None, threads=1, describe_wait=lambda: next(reasons)))
    made.pool.refresh()
    assert made.events == []
    monkeypatch.setattr(worker_pool, "SILENT_SECONDS", 0)
    monkeypatch.setattr(worker_pool, "NOTICE_SECONDS", 0)
    for _ in range(3):
        made.pool.refresh()
    assert made.events == [
        Notice("waiting for workers: in the queue", warning=False),
        Notice("waiting for workers: starting", warning=False),
    ]


def test_long_absence_of_workers_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Pool()
    made.pool.refresh()
    monkeypatch.setattr(worker_pool, "NO_WORKERS_SECONDS", -1)
    with pytest.raises(ClusterError, match=r"^scheduler tcp://there has been without workers for -1 s"):
        made.pool.refresh()


def test_need_of_workers_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Pool(Started(None, threads=3, describe_wait=lambda: None))
    looks = []

    def join_at_the_third(callback_timeout: float) -> dict[str, int]:
        looks.append(1)
        return {"a": 1} if len(looks) > 2 else {}

    monkeypatch.setattr(made.client, "nthreads", join_at_the_third)
    made.pool.wait_for_workers()
    assert len(looks) == 3
    assert made.client.submitted == 3 * TASKS_AHEAD


def test_others_are_waited_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Pool(a=1)
    monkeypatch.setattr(worker_pool, "OTHERS_SECONDS", -1)
    made.pool.wait_for_workers(5)
    made = Pool(a=1, b=1)
    monkeypatch.setattr(worker_pool, "OTHERS_SECONDS", 3600)
    made.pool.wait_for_workers(2)


@pytest.mark.parametrize(
    ("seconds", "tiles"),
    [(100.0, 1), (TASK_SECONDS, 1), (TASK_SECONDS / 2, 2), (TASK_SECONDS / 7.5, 7), (1e-9, MOST_TILES)],
)
def test_tiles_of_a_task_follow_their_seconds(seconds: float, tiles: int) -> None:
    sizer = TaskSizer()
    assert sizer.tiles == 1
    sizer.record(seconds)
    assert sizer.tiles == tiles
    # One that takes much longer moves the average a little.
    sizer.record(0.0)
    assert sizer.tiles >= tiles


def test_tiles_of_a_task_are_of_one_band() -> None:
    indices = [(row, col) for row in range(3) for col in range(4)]
    batcher = TileBatcher(Schedule(indices, Backoff()), lambda index: index[1] % 2)
    batches = []
    while batch := batcher.next(4):
        batches.append(batch)
    assert all(len({col % 2 for _, col in batch}) == 1 for batch in batches)
    assert [len(batch) for batch in batches] == [4, 4, 2, 2]
    assert sorted(index for batch in batches for index in batch) == indices
    assert batcher.next(4) == ()
