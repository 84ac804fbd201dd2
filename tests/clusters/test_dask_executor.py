"""One suite for every executor: the same bytes, the same errors, whatever fails on the way."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import dask
import pytest
from affine import Affine
from distributed import Client, LocalCluster
from odc.geo.geobox import GeoBox

from tests.support.clusters import Programs, task_states, wait_until
from tests.support.stubs import (
    Killing,
    StubArea,
    StubDetector,
    StubRecipe,
    StubScene,
    Transient,
    Witness,
    damaged,
    store_bytes,
    stub_job,
)
from ussfc.pipeline.clusters.base import Started
from ussfc.pipeline.clusters.local import LocalProcesses
from ussfc.pipeline.clusters.scheduler import SchedulerAt
from ussfc.pipeline.errors import ClusterError, ReadError, StoreError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.execution import dask_executor as executors
from ussfc.pipeline.execution import tile as inference
from ussfc.pipeline.execution.dask_executor import TASKS_AHEAD, DaskExecutor, Executor, SerialExecutor
from ussfc.pipeline.execution.tile import TileJob
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import BoolArray, Box, FloatArray, TileFailure, TileResult

GRID = GeoBox((70, 100), Affine(1, 0, 0, 0, -1, 70), "EPSG:32636")
PLAN = TilePlan.of((70, 100), 32, 16, 0.25)
UNLUCKY = (0, 1)
UNLUCKY_PIXEL = (5, 48)
"""That tile alone reads it."""
LUCKY = [index for index in PLAN.indices() if index != UNLUCKY]
SERIAL = ["serial", "serial-2", "serial-4"]
"""The number: tiles under way in this process."""
EXECUTORS = [*SERIAL, "local", "scheduler"]
WAITS = Backoff(attempts=3, first=0.1, factor=2, longest=1)
ONCE = Backoff(attempts=1)


@pytest.fixture(scope="module")
def address(importable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler with two worker processes, which are started again when they die."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=None,
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as cluster:
        yield cluster.scheduler_address


Make = Callable[[Backoff], Executor]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes the executor of that name."""
    if request.param in SERIAL:
        concurrent_tiles = int(request.param.partition("-")[2] or 1)
        return lambda waits: SerialExecutor(waits, concurrent_tiles)
    if request.param == "local":
        request.getfixturevalue("importable")
        return lambda waits: DaskExecutor(LocalProcesses(2), tmp_path / "scratch", waits)
    address = request.getfixturevalue("address")
    return lambda waits: DaskExecutor(SchedulerAt(address), tmp_path / "scratch", waits)


@pytest.fixture
def executor(make: Make) -> Executor:
    """The executor of that name."""
    return make(WAITS)


every_executor = pytest.mark.parametrize("make", EXECUTORS, indirect=True)
both_kinds = pytest.mark.parametrize("make", [*SERIAL, "scheduler"], indirect=True)


@pytest.fixture(scope="module")
def started(importable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Programs of all tests, ended after the last one."""
    started = Programs(tmp_path_factory.mktemp("programs"))
    yield started
    started.kill(started.workers)
    started.kill(started.schedulers)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """However quick tiles are, a task is one tile."""
    monkeypatch.setattr(executors, "MOST_TILES", 1)


@pytest.fixture
def programs(started: Programs, one_by_one: None) -> Programs:
    """A scheduler and one worker."""
    started.settle()
    return started


@dataclass(frozen=True)
class OnlyHere(StubRecipe):
    """A recipe that no other process can read."""

    def __reduce__(self) -> tuple[Callable[[int], StubRecipe], tuple[int]]:
        return only_in, (os.getpid(),)


def only_in(process: int) -> StubRecipe:
    if os.getpid() != process:
        raise ModuleNotFoundError("No module named\n'only_here'")
    return OnlyHere()


def job_in(root: Path, **changes: object) -> TileJob:
    store = ProbabilityStore.create(root, GRID, "float32", 32)
    return stub_job(store, PLAN, f"job-{root}", **changes)


def unlucky(misfortune: Callable[[], None]) -> StubScene:
    """The second date of :func:`stub_job`, with something that happens when the unlucky tile is read."""
    return StubScene(PLAN.shape, 2, Box(0, 0, PLAN.shape[0], PLAN.tile_size), UNLUCKY_PIXEL, misfortune)


def witness(folder: Path, seconds: float) -> Witness:
    folder.mkdir()
    return Witness(folder, seconds)


def shuffled(seed: int) -> list[tuple[int, int]]:
    indices = list(PLAN.indices())
    random.Random(seed).shuffle(indices)
    return indices


def serially(root: Path) -> dict[str, bytes]:
    SerialExecutor().run(job_in(root), PLAN.indices(), lambda result: None, unwanted)
    return store_bytes(root)


def unwanted(failure: TileFailure) -> None:
    pytest.fail(str(failure))


def indices_of(results: list[TileResult]) -> list[tuple[int, int]]:
    return sorted(result.index for result in results)


def at(count: int, results: list[TileResult], *acts: Callable[[], None]) -> Callable[[TileResult], None]:
    """What happens in the middle of a run: when the result of that number comes."""

    def on_result(result: TileResult) -> None:
        results.append(result)
        if len(results) == count:
            for act in acts:
                act()

    return on_result


def watched(results: list[TileResult], ahead: list[int]) -> Iterator[tuple[int, int]]:
    """All indices; notes how many were taken without a result at every take."""
    for taken, index in enumerate(PLAN.indices(), 1):
        ahead.append(taken - len(results))
        yield index


@every_executor
def test_every_executor_and_order_gives_the_same_bytes(executor: Executor, tmp_path: Path) -> None:
    expected = serially(tmp_path / "expected")
    job = job_in(tmp_path / "work")
    results: list[TileResult] = []
    executor.run(job, iter(shuffled(1)), results.append, unwanted)
    assert store_bytes(job.store) == expected
    assert indices_of(results) == list(PLAN.indices())
    assert {result.index: result for result in results} == ProbabilityStore(job.store).done()


def test_one_tile_reads_the_unlucky_pixel() -> None:
    y, x = UNLUCKY_PIXEL
    pixel = Box(y, x, y + 1, x + 1)
    assert [i for i in PLAN.indices() if PLAN.tile(i).halo.intersect(pixel).pixels] == [UNLUCKY]


@both_kinds
@pytest.mark.parametrize("error", [ReadError, StoreError, RuntimeError])
def test_a_tile_that_fails_now_and_then_is_tried_again(
    executor: Executor, error: type[Exception], tmp_path: Path
) -> None:
    expected = serially(tmp_path / "expected")
    fault = Transient(tmp_path / "lives", error).give(WAITS.attempts - 1)
    job = job_in(tmp_path / "work", after=unlucky(fault))
    results: list[TileResult] = []
    executor.run(job, [UNLUCKY, *LUCKY], results.append, unwanted)
    assert fault.left() == 0
    assert indices_of(results) == list(PLAN.indices())
    assert store_bytes(job.store) == expected


@both_kinds
def test_a_tile_that_keeps_failing_is_listed_and_the_rest_computed(
    executor: Executor, tmp_path: Path
) -> None:
    expected = serially(tmp_path / "expected")
    fault = Transient(tmp_path / "lives").give(100)
    job = job_in(tmp_path / "work", after=unlucky(fault))
    results: list[TileResult] = []
    failures: list[TileFailure] = []
    executor.run(job, [UNLUCKY, *LUCKY], results.append, failures.append)
    error = "tile 0,1 (rows 0..32, columns 32..64): stub.tif: block is damaged"
    assert failures == [TileFailure(UNLUCKY, Box(0, 32, 32, 64), error, WAITS.attempts)]
    assert fault.left() == 100 - WAITS.attempts
    store = ProbabilityStore(job.store)
    assert sorted(store.done()) == indices_of(results) == LUCKY
    executor.run(stub_job(store, PLAN, f"healthy-{tmp_path}"), [UNLUCKY], results.append, unwanted)
    assert store_bytes(job.store) == expected


@both_kinds
def test_what_on_failure_raises_ends_the_run_at_once(
    make: Make, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    class Stop(OSError):
        """Of a kind that a lost connection has as well."""

    def stop(failure: TileFailure) -> None:
        raise Stop(failure.error)

    job = job_in(tmp_path / "work", after=unlucky(damaged), area=witness(tmp_path / "seen", 0.2))
    taken = iter([UNLUCKY, *LUCKY])
    results: list[TileResult] = []
    with pytest.raises(Stop, match="tile 0,1 ") as caught:
        make(ONCE).run(job, taken, results.append, stop)
    # The unlucky one fails before the others, which take their time.
    assert len(list(taken)) >= len(LUCKY) - TASKS_AHEAD * 2
    if isinstance(make(ONCE), DaskExecutor):
        with Client(request.getfixturevalue("address"), set_as_default=False) as client:
            wait_until(lambda: not client.run_on_scheduler(task_states))
    # Until here the error's traceback held whatever the run forgot to let go of.
    del caught


@both_kinds
def test_a_store_that_cannot_be_used_ends_the_run_after_its_attempts(
    executor: Executor, tmp_path: Path
) -> None:
    fault = Transient(tmp_path / "lives", StoreError).give(100)
    job = job_in(tmp_path / "work", after=unlucky(fault))
    with pytest.raises(StoreError, match=r"^stub\.tif: block is damaged$"):
        executor.run(job, [UNLUCKY, *LUCKY], lambda result: None, unwanted)
    assert fault.left() == 100 - WAITS.attempts


@both_kinds
def test_nothing_to_do_is_done_at_once(executor: Executor, tmp_path: Path) -> None:
    executor.run(job_in(tmp_path), [], lambda result: pytest.fail("there was nothing to do"), unwanted)


@both_kinds
@pytest.mark.usefixtures("one_by_one")
def test_tiles_are_taken_from_the_list_only_a_few_ahead(executor: Executor, tmp_path: Path) -> None:
    results: list[TileResult] = []
    ahead: list[int] = []
    executor.run(job_in(tmp_path), watched(results, ahead), results.append, unwanted)
    assert len(results) == PLAN.tile_count
    assert max(ahead) <= TASKS_AHEAD * 2


def test_a_tile_whose_worker_dies_is_computed_by_another(address: str, tmp_path: Path) -> None:
    expected = serially(tmp_path / "expected")
    fault = Killing(tmp_path / "lives").give(1)
    job = job_in(tmp_path / "work", after=unlucky(fault))
    results: list[TileResult] = []
    DaskExecutor(SchedulerAt(address), tmp_path, ONCE).run(job, shuffled(2), results.append, unwanted)
    assert fault.left() == 0
    assert store_bytes(job.store) == expected
    assert indices_of(results) == list(PLAN.indices())


@pytest.mark.usefixtures("importable")
def test_a_tile_that_takes_every_worker_down_is_listed_and_those_beside_it_are_computed(
    tmp_path: Path,
) -> None:
    expected = serially(tmp_path / "expected")
    fault = Killing(tmp_path / "lives").give(100)
    job = job_in(tmp_path / "work", after=unlucky(fault))
    results: list[TileResult] = []
    failures: list[TileFailure] = []
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        # Shorter than a process takes to start again; not the user's but the run's own patience counts.
        "distributed.deploy.lost-worker-timeout": "100 ms",
    }
    with dask.config.set(settings):
        # One worker: the next tile waits there when the unlucky one takes it down, and is suspected as well.
        executor = DaskExecutor(LocalProcesses(1), tmp_path / "scratch", WAITS)
        executor.run(job, [UNLUCKY, *LUCKY], results.append, failures.append)
    error = (
        "tile 0,1 (rows 0..32, columns 32..64): lost its worker again and again, most likely for lack of memory; "
        "lower cluster.workers or tiling.tile_size"
    )
    assert failures == [TileFailure(UNLUCKY, PLAN.core(UNLUCKY), error, 1)]
    assert fault.left() == 98
    assert indices_of(results) == LUCKY
    healthy = stub_job(ProbabilityStore(job.store), PLAN, f"healthy-{tmp_path}")
    SerialExecutor().run(healthy, [UNLUCKY], results.append, unwanted)
    assert store_bytes(job.store) == expected


def test_a_scheduler_without_the_program_is_a_cluster_error(programs: Programs, tmp_path: Path) -> None:
    job = job_in(tmp_path / "work", detector=OnlyHere(16))
    with pytest.raises(ClusterError) as caught:
        DaskExecutor(SchedulerAt(programs.address), tmp_path, WAITS).run(
            job, PLAN.indices(), lambda result: pytest.fail("it cannot"), unwanted
        )
    message = str(caught.value)
    assert message.startswith("Dask cannot run a tile (")
    assert message.endswith("; have the same versions on the scheduler and its workers as here")
    assert "\n" not in message


def test_results_that_die_with_their_worker_are_computed_again(programs: Programs, tmp_path: Path) -> None:
    expected = serially(tmp_path / "expected")
    seen = witness(tmp_path / "seen", 0)
    job = job_in(tmp_path / "work", area=seen)
    results: list[TileResult] = []
    act = at(
        3,
        results,
        programs.wait_until_all_is_computed,
        lambda: programs.kill(programs.workers),
        programs.start_worker,
    )
    DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE).run(job, PLAN.indices(), act, unwanted)
    assert indices_of(results) == list(PLAN.indices())
    assert store_bytes(job.store) == expected
    assert len(set(seen.processes())) == 2
    assert len(seen.processes()) > PLAN.tile_count


def test_workers_that_join_late_get_their_share(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "LOOK_SECONDS", 0)
    seen = witness(tmp_path / "seen", 0.1)
    results: list[TileResult] = []
    ahead: list[int] = []
    act = at(1, results, programs.start_worker, lambda: programs.wait_for_workers(2))
    DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE).run(
        job_in(tmp_path / "work", area=seen), watched(results, ahead), act, unwanted
    )
    assert max(ahead) == TASKS_AHEAD * 2
    assert len(set(seen.processes())) == 2
    assert len(seen.processes()) == PLAN.tile_count


def test_a_scheduler_that_stays_without_workers_is_a_cluster_error(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "NO_WORKERS_SECONDS", 2)
    job = job_in(tmp_path / "work")
    results: list[TileResult] = []
    failures: list[TileFailure] = []
    act = at(
        3,
        results,
        programs.wait_until_all_is_computed,
        lambda: programs.kill(programs.workers),
        lambda: monkeypatch.setattr(executors, "ANSWER_SECONDS", 5),
    )
    with pytest.raises(ClusterError) as caught:
        DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE).run(
            job, PLAN.indices(), act, failures.append
        )
    assert str(caught.value) == (
        f"scheduler {programs.address} has been without workers for 2 s (their logs say why); no finished tile is "
        "lost: start workers again, and the same command goes on"
    )
    # The one result that was computed but not fetched.
    assert [failure.error.partition(": ")[2] for failure in failures] == [
        "computed, but its worker was lost before it could hand over the result"
    ]


def test_a_scheduler_that_comes_back_loses_nothing(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = serially(tmp_path / "expected")
    monkeypatch.setattr(executors, "RECONNECTS", Backoff(attempts=9, first=0.1, factor=2, longest=10))
    job = job_in(tmp_path / "work", area=witness(tmp_path / "seen", 0.1))
    results: list[TileResult] = []
    told: list[Event] = []
    act = at(
        3,
        results,
        lambda: programs.kill(programs.schedulers),
        programs.start_scheduler,
        programs.start_worker,
    )
    DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE, told.append).run(
        job, PLAN.indices(), act, unwanted
    )
    assert indices_of(results) == list(PLAN.indices())
    assert store_bytes(job.store) == expected
    assert told[0] == Notice(f"scheduler {programs.address} lost; trying again in 0.1 s (1 of 9)")


def test_a_scheduler_that_does_not_answer_is_lost_as_well(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = serially(tmp_path / "expected")
    monkeypatch.setattr(executors, "RECONNECTS", Backoff(attempts=9, first=0.1, factor=2, longest=10))
    job = job_in(tmp_path / "work")
    results: list[TileResult] = []
    told: list[Event] = []
    (scheduler,) = programs.schedulers

    def freeze() -> None:
        scheduler.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(executors, "ANSWER_SECONDS", 2)

    def tell(event: Event) -> None:
        told.append(event)
        if len(told) == 2:  # it has not answered the new client either
            monkeypatch.setattr(executors, "ANSWER_SECONDS", 60)
            scheduler.send_signal(signal.SIGCONT)

    DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE, tell).run(
        job, PLAN.indices(), at(3, results, programs.wait_until_all_is_computed, freeze), unwanted
    )
    assert indices_of(results) == list(PLAN.indices())
    assert store_bytes(job.store) == expected
    assert len(told) >= 2


def test_a_scheduler_that_does_not_come_back_ends_the_run_and_the_next_one_goes_on(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = serially(tmp_path / "expected")
    job = job_in(tmp_path / "work")
    results: list[TileResult] = []
    told: list[Event] = []
    with monkeypatch.context() as patch:
        patch.setattr(executors, "CONNECT_SECONDS", 1)
        patch.setattr(executors, "RECONNECTS", Backoff(attempts=2, first=0.1, factor=2, longest=1))
        act = at(3, results, programs.end_scheduler)
        with pytest.raises(ClusterError) as caught:
            DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE, told.append).run(
                job, PLAN.indices(), act, unwanted
            )
    assert str(caught.value) == (
        f"scheduler {programs.address} lost and not back after 2 attempts; no finished tile is lost: start it and its "
        "workers again, and the same command goes on"
    )
    assert told == [
        Notice(f"scheduler {programs.address} lost; trying again in {wait} s ({attempt} of 2)")
        for wait, attempt in (("0.1", 1), ("0.2", 2))
    ]
    done = ProbabilityStore(job.store).done()
    assert set(indices_of(results)) <= set(done)
    programs.start_scheduler()
    programs.start_worker()
    programs.wait_for_workers(1)
    remaining = [index for index in PLAN.indices() if index not in done]
    DaskExecutor(SchedulerAt(programs.address), tmp_path).run(job, remaining, lambda result: None, unwanted)
    assert store_bytes(job.store) == expected


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://there", "tcp://127.0.0.1"])
def test_a_scheduler_out_of_reach_is_a_cluster_error(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 1)
    with pytest.raises(ClusterError) as caught:
        DaskExecutor(SchedulerAt(address), tmp_path).run(
            job_in(tmp_path), [(0, 0)], lambda result: None, unwanted
        )
    message = str(caught.value)
    assert message.startswith(f"{address}: no Dask scheduler answers there")
    assert "cluster.address" in message
    assert "\n" not in message


class Nobody:
    """A scheduler whose workers never come."""

    name, worker_count, is_local = "none", 0, False

    @contextlib.contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
            yield Started(cluster, 1, describe_wait=lambda: "they take their time")


def test_who_waits_for_workers_can_be_stopped_and_shows_a_need_of_them(tmp_path: Path) -> None:
    stop = threading.Event()
    targets: list[int] = []

    class Watched(Nobody):
        @contextlib.contextmanager
        def start(self, scratch: Path) -> Iterator[Started]:
            with super().start(scratch) as started:

                def watch() -> None:
                    scheduler = started.target.scheduler
                    wait_until(lambda: scheduler.adaptive_target() > 0, 10)
                    targets.append(scheduler.adaptive_target())
                    stop.set()

                thread = threading.Thread(target=watch)
                thread.start()
                yield started
                thread.join()

    executor = DaskExecutor(Watched(), tmp_path, stop=stop)
    with pytest.raises(ClusterError, match=r"^stopped; "):
        executor.run(job_in(tmp_path / "work"), [(0, 0)], lambda result: None, unwanted)
    assert targets == [1]


def test_a_scheduler_without_workers_is_a_cluster_error(tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(ClusterError, match="the scheduler has no workers; start some with `dask worker`"),
    ):
        DaskExecutor(SchedulerAt(cluster.scheduler_address), tmp_path).run(
            job_in(tmp_path), [(0, 0)], lambda result: None, unwanted
        )


@pytest.mark.usefixtures("importable")
def test_another_program_on_the_usual_port_is_no_cause_for_a_warning(tmp_path: Path) -> None:
    with socket.socket() as taken, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with contextlib.suppress(OSError):  # somebody else has it already
            taken.bind(("0.0.0.0", 8787))
            taken.listen()
        results: list[TileResult] = []
        DaskExecutor(LocalProcesses(1), tmp_path / "scratch").run(
            job_in(tmp_path), [(0, 1)], results.append, unwanted
        )
    assert [result.index for result in results] == [(0, 1)]


several = pytest.mark.parametrize("concurrent_tiles", [2, 4])


@several
def test_so_many_tiles_are_under_way_in_this_process(concurrent_tiles: int, tmp_path: Path) -> None:
    # A tile is read only when as many are being read: fewer at a time would wait for ever.
    everyone = threading.Barrier(concurrent_tiles)
    results: list[TileResult] = []
    ahead: list[int] = []

    class Meeting(StubArea):
        def mask(self, box: Box) -> BoolArray:
            everyone.wait(60)
            return super().mask(box)

    assert PLAN.tile_count % concurrent_tiles == 0
    expected = serially(tmp_path / "expected")
    job = job_in(tmp_path / "work", area=Meeting(Box(0, 0, *PLAN.shape)))
    SerialExecutor(ONCE, concurrent_tiles).run(job, watched(results, ahead), results.append, unwanted)
    assert indices_of(results) == list(PLAN.indices())
    assert store_bytes(job.store) == expected
    # Nor more.
    assert max(ahead) == concurrent_tiles


class Signalled(threading.Event):
    """An event that tells all its kind were set."""

    told = threading.Event()

    def set(self) -> None:
        super().set()
        self.told.set()


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once the executor has told its threads to stop."""
    monkeypatch.setattr(Signalled, "told", told := threading.Event())
    monkeypatch.setattr(executors, "threading", SimpleNamespace(Event=Signalled))
    monkeypatch.setattr(inference, "_detectors", {})
    monkeypatch.setattr(inference, "_opened_runs", {})
    return told


class InTheMiddle(StubDetector):
    """Once a tile was computed, the next call does not return before its executor is told to stop."""

    def __init__(self, stopped: threading.Event, undisturbed: int, act: Callable[[], None]) -> None:
        super().__init__(16, 1)
        self.stopped, self.undisturbed, self.act = stopped, undisturbed, act

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        found = super().predict(before, after)
        if len(self.calls) > self.undisturbed:
            self.act()
            assert self.stopped.wait(30)
        return found


@dataclass(frozen=True)
class Ready(StubRecipe):
    """A detector that is there already."""

    detector: StubDetector = field(default_factory=StubDetector, compare=False)

    def build(self) -> StubDetector:
        return self.detector


def tile_threads() -> list[threading.Thread]:
    """Those that are still there after a moment: nobody waits for one that an interrupt met while it began."""
    deadline = time.monotonic() + 10
    while True:
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("ussfc-tile")]
        if not threads or time.monotonic() > deadline:
            return threads
        time.sleep(0.01)


@pytest.mark.parametrize("concurrent_tiles", [2, 4])
def test_what_on_result_raises_stops_the_tiles_under_way(
    concurrent_tiles: int, tmp_path: Path, stopped: threading.Event
) -> None:
    # Two that share no patch and have as many of them, and those without data, which need no network.
    pair, others = [(0, 3), (2, 2)], [(0, 0), (1, 0), (2, 0)]
    computing = threading.Event()
    patches, same = (len(PLAN.tile(index).patches) for index in pair)
    assert patches == same
    detector = InTheMiddle(stopped, patches, computing.set)
    job = job_in(tmp_path, detector=Ready(detector=detector))

    def on_result(result: TileResult) -> None:
        assert computing.wait(30)  # the next tile is in the network
        raise OSError("no space for a result")

    with pytest.raises(OSError, match="no space for a result"):
        SerialExecutor(ONCE, concurrent_tiles).run(job, [*pair, *others], on_result, unwanted)
    # It ended with the batch that was in the network, and whoever waited for that never began.
    assert len(detector.calls) == patches + 1
    assert tile_threads() == []
    assert len(set(ProbabilityStore(job.store).done()) - set(others)) == 1


@pytest.fixture
def pythons_interrupt() -> Iterator[None]:
    """Python's own handler, whatever a library that another test imported put in its place."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("pythons_interrupt")
@pytest.mark.parametrize("concurrent_tiles", [1, 2, 4])
def test_an_interrupt_stops_the_tiles_under_way(
    concurrent_tiles: int, tmp_path: Path, stopped: threading.Event
) -> None:
    main = threading.main_thread().ident
    assert main == threading.get_ident()
    detector = InTheMiddle(stopped, 0, lambda: signal.pthread_kill(main, signal.SIGINT))
    job = job_in(tmp_path, detector=Ready(detector=detector))
    columns = [index for index in PLAN.indices() if index[1]]  # the first one has no data
    with pytest.raises(KeyboardInterrupt):
        SerialExecutor(ONCE, concurrent_tiles).run(job, columns, lambda result: None, unwanted)
    assert len(detector.calls) == 1
    assert tile_threads() == []
    assert ProbabilityStore(job.store).done() == {}


@pytest.mark.parametrize("concurrent_tiles", [1, 2, 4])
def test_a_tile_waits_before_it_is_tried_again_and_the_others_do_not(
    concurrent_tiles: int, tmp_path: Path
) -> None:
    attempts: list[float] = []
    results: list[TileResult] = []
    done_before: list[int] = []

    def fail_twice() -> None:
        attempts.append(time.monotonic())
        done_before.append(len(results))
        if len(attempts) < 3:
            damaged()

    waits = Backoff(attempts=3, first=0.5, factor=2, longest=10)
    job = job_in(tmp_path, after=unlucky(fail_twice))
    SerialExecutor(waits, concurrent_tiles).run(job, [UNLUCKY, *LUCKY], results.append, unwanted)
    assert indices_of(results) == list(PLAN.indices())
    first, second = (later - earlier for earlier, later in pairwise(attempts))
    assert first >= 0.5
    assert second >= 1
    assert done_before[0] == 0 < done_before[1]


def test_a_tile_whose_wait_is_over_does_not_wait_for_another_that_takes_long(tmp_path: Path) -> None:
    long, again = (2, 3), threading.Event()
    attempts: list[bool] = []

    def fail_once() -> None:
        attempts.append(True)
        if len(attempts) == 1:
            damaged()
        again.set()

    in_time: list[bool] = []

    def take_long() -> None:
        in_time.append(again.wait(30))

    job = job_in(
        tmp_path,
        before=StubScene(PLAN.shape, 1, None, (69, 99), take_long),
        after=unlucky(fail_once),
    )
    results: list[TileResult] = []
    SerialExecutor(WAITS, 2).run(job, [UNLUCKY, long], results.append, unwanted)
    assert in_time == [True]
    assert indices_of(results) == [UNLUCKY, long]
