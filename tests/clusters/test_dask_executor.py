"""One suite for every executor: the same bytes, the same errors, whatever fails on the way."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from tests.support.clusters import Programs, task_states, wait_until
from tests.support.stubs import (
    Gate,
    Killing,
    SlowRecipe,
    StubRecipe,
    Transient,
    damaged,
    store_bytes,
    stub_job,
)
from tests.support.tile_runs import (
    BACKOFF,
    GRID,
    LUCKY,
    ONCE,
    PLAN,
    UNLUCKY,
    UNLUCKY_PIXEL,
    at,
    indices_of,
    job_in,
    make_witness,
    serially,
    unlucky,
    unwanted,
    watched,
)
from ussfc.pipeline.clusters.base import QUIET, Started
from ussfc.pipeline.clusters.local import LocalProcesses
from ussfc.pipeline.clusters.scheduler import SchedulerAt
from ussfc.pipeline.errors import ClusterError, ReadError, StoreError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.execution import connection, dask_executor, worker_pool
from ussfc.pipeline.execution.dask_executor import DaskExecutor
from ussfc.pipeline.execution.executor import Executor
from ussfc.pipeline.execution.follow_ups import FollowUps
from ussfc.pipeline.execution.serial_executor import SerialExecutor
from ussfc.pipeline.execution.square_job import OpenSquares, RasterPart, SquareJob
from ussfc.pipeline.execution.worker_pool import TASKS_AHEAD
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.rasters.compression import CogOptions
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.storage.square_files import SquareFiles
from ussfc.pipeline.types import Box, TileFailure, TileResult

SERIAL = ["serial", "serial-2", "serial-4"]
"""Executors in this process; the number is that of the tiles under way."""
EXECUTORS = [*SERIAL, "local", "scheduler"]
RECONNECTS = Backoff(attempts=9, first=0.1, factor=2, longest=10)


@pytest.fixture(scope="module")
def address(importable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a scheduler with two worker processes, which are started again when they die."""
    with (
        dask.config.set(QUIET),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=None,
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as cluster,
    ):
        yield cluster.scheduler_address


Make = Callable[[Backoff], Executor]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Return a function that makes the executor of that name."""
    if request.param in SERIAL:
        concurrent_tiles = int(request.param.partition("-")[2] or 1)
        return lambda backoff: SerialExecutor(backoff, concurrent_tiles)
    if request.param == "local":
        request.getfixturevalue("importable")
        return lambda backoff: DaskExecutor(LocalProcesses(2), tmp_path / "scratch", backoff)
    address = request.getfixturevalue("address")
    return lambda backoff: DaskExecutor(SchedulerAt(address), tmp_path / "scratch", backoff)


@pytest.fixture
def executor(make: Make) -> Executor:
    """Return the executor of that name."""
    return make(BACKOFF)


every_executor = pytest.mark.parametrize("make", EXECUTORS, indirect=True)
both_kinds = pytest.mark.parametrize("make", [*SERIAL, "scheduler"], indirect=True)


@pytest.fixture(scope="module")
def started(importable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Return the programs of all tests, which end after the last one."""
    started = Programs(tmp_path_factory.mktemp("programs"))
    yield started
    started.kill(started.workers)
    started.kill(started.schedulers)


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every task one tile, however quick tiles are."""
    monkeypatch.setattr(worker_pool, "MOST_TILES", 1)


@pytest.fixture
def programs(started: Programs, one_by_one: None) -> Programs:
    """Return a scheduler and one worker."""
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


def shuffled(seed: int) -> list[tuple[int, int]]:
    indices = list(PLAN.indices())
    random.Random(seed).shuffle(indices)
    return indices


@every_executor
def test_executor_and_order_change_no_byte(executor: Executor, tmp_path: Path) -> None:
    expected = serially(tmp_path / "expected")
    job = job_in(tmp_path / "work")
    results: list[TileResult] = []
    executor.run(job, iter(shuffled(1)), results.append, unwanted)
    assert store_bytes(job.store) == expected
    assert indices_of(results) == list(PLAN.indices())
    assert {result.index: result for result in results} == ProbabilityStore(job.store).done()


@pytest.mark.parametrize("make", ["scheduler"], indirect=True)
def test_workers_make_squares_in_passing_and_afterwards(executor: Executor, tmp_path: Path) -> None:
    job = job_in(tmp_path / "work")
    part = RasterPart(GRID, CogOptions(block_size=16), 0.5, probability=True)
    squares, later = (
        SquareJob.of(job.store, PLAN.shape, 32, smoothing, ["test"], rasters=part)
        for smoothing in ("median3", "none")
    )
    made: list[TileResult] = []
    executor.run(
        job, iter(shuffled(2)), lambda result: None, unwanted,
        follow_ups=FollowUps([squares], PLAN, {}, made.append),
    )  # fmt: skip
    assert indices_of(made) == list(PLAN.indices())
    made.clear()
    executor.run(later, PLAN.indices(), made.append, unwanted)
    assert indices_of(made) == list(PLAN.indices())
    store = ProbabilityStore(job.store)
    for each in (squares, later):
        opened = OpenSquares(replace(each, key="here"))
        for index in PLAN.indices():
            opened.make(index)
            origin = each.origin(store, PLAN.core(index))
            found = each.files.read(index, origin)
            expected = SquareFiles(job.store, "here").read(index, origin)
            assert found is not None
            assert expected is not None
            for name in found.keys() | expected.keys():
                np.testing.assert_array_equal(found[name], expected[name])


def test_one_tile_reads_the_unlucky_pixel() -> None:
    y, x = UNLUCKY_PIXEL
    pixel = Box(y, x, y + 1, x + 1)
    assert [i for i in PLAN.indices() if PLAN.tile(i).halo.intersect(pixel).pixels] == [UNLUCKY]


@both_kinds
@pytest.mark.parametrize("error", [ReadError, StoreError, RuntimeError])
def test_tile_that_fails_is_tried_again(executor: Executor, error: type[Exception], tmp_path: Path) -> None:
    expected = serially(tmp_path / "expected")
    fault = Transient(tmp_path / "lives", error).give(BACKOFF.attempts - 1)
    job = job_in(tmp_path / "work", after=unlucky(fault))
    results: list[TileResult] = []
    executor.run(job, [UNLUCKY, *LUCKY], results.append, unwanted)
    assert fault.left() == 0
    assert indices_of(results) == list(PLAN.indices())
    assert store_bytes(job.store) == expected


@both_kinds
def test_tile_that_keeps_failing_is_listed(executor: Executor, tmp_path: Path) -> None:
    expected = serially(tmp_path / "expected")
    fault = Transient(tmp_path / "lives").give(100)
    job = job_in(tmp_path / "work", after=unlucky(fault))
    results: list[TileResult] = []
    failures: list[TileFailure] = []
    executor.run(job, [UNLUCKY, *LUCKY], results.append, failures.append)
    error = "tile 0,1 (rows 0..32, columns 32..64): stub.tif: block is damaged"
    assert failures == [TileFailure(UNLUCKY, Box(0, 32, 32, 64), error, BACKOFF.attempts)]
    assert fault.left() == 100 - BACKOFF.attempts
    store = ProbabilityStore(job.store)
    assert sorted(store.done()) == indices_of(results) == LUCKY
    executor.run(stub_job(store, PLAN, f"healthy-{tmp_path}"), [UNLUCKY], results.append, unwanted)
    assert store_bytes(job.store) == expected


def test_parts_of_a_tile_come_from_workers(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first patch on; they are taken back when their tile ends, and no thread but the run's own has them."""
    monkeypatch.setattr(worker_pool, "REFRESH_SECONDS", 0.02)
    monkeypatch.setattr(dask_executor, "PROGRESS_SECONDS", 0.02)
    parts: list[int] = []
    threads: set[threading.Thread] = set()

    def on_pixels(pixels: int) -> None:
        threads.add(threading.current_thread())
        parts.append(pixels)

    job = job_in(tmp_path / "work", detector=SlowRecipe(batch_size=1, seconds=0.05))
    results: list[TileResult] = []
    executor = DaskExecutor(SchedulerAt(address), tmp_path / "scratch", ONCE)
    executor.run(job, [(1, 1)], results.append, unwanted, on_pixels)
    whole = PLAN.core((1, 1)).pixels
    assert indices_of(results) == [(1, 1)]
    assert len(parts) > 2
    assert 0 < parts[0] < whole
    assert sum(parts[:-1]) == -parts[-1] <= whole
    assert threads == {threading.current_thread()}


@both_kinds
def test_error_of_on_failure_ends_the_run(make: Make, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    class Stop(OSError):
        """An error of a kind that a lost connection has as well."""

    failed = tmp_path / "failed"

    def stop(failure: TileFailure) -> None:
        failed.touch()
        raise Stop(failure.error)

    job = job_in(tmp_path / "work", after=unlucky(damaged), area=Gate(failed, UNLUCKY_PIXEL))
    taken = iter([UNLUCKY, *LUCKY])
    results: list[TileResult] = []
    with pytest.raises(Stop, match="tile 0,1 ") as caught:
        make(ONCE).run(job, taken, results.append, stop)
    # The unlucky one fails before any of the others ends.
    assert not results
    assert len(list(taken)) >= len(LUCKY) - TASKS_AHEAD * 2
    if isinstance(make(ONCE), DaskExecutor):
        with Client(request.getfixturevalue("address"), set_as_default=False) as client:
            wait_until(lambda: not client.run_on_scheduler(task_states))
    # Until here the error's traceback held whatever the run forgot to let go of.
    del caught


@both_kinds
def test_unusable_store_ends_the_run(executor: Executor, tmp_path: Path) -> None:
    fault = Transient(tmp_path / "lives", StoreError).give(100)
    job = job_in(tmp_path / "work", after=unlucky(fault))
    with pytest.raises(StoreError, match=r"^stub\.tif: block is damaged$"):
        executor.run(job, [UNLUCKY, *LUCKY], lambda result: None, unwanted)
    assert fault.left() == 100 - BACKOFF.attempts


@both_kinds
def test_no_tiles_are_done_at_once(executor: Executor, tmp_path: Path) -> None:
    executor.run(job_in(tmp_path), [], lambda result: pytest.fail("there was nothing to do"), unwanted)


@both_kinds
@pytest.mark.usefixtures("one_by_one")
def test_tiles_are_taken_a_few_ahead(executor: Executor, tmp_path: Path) -> None:
    results: list[TileResult] = []
    ahead: list[int] = []
    executor.run(job_in(tmp_path), watched(results, ahead), results.append, unwanted)
    assert len(results) == PLAN.tile_count
    assert max(ahead) <= TASKS_AHEAD * 2


def test_tile_of_a_dead_worker_is_computed(address: str, tmp_path: Path) -> None:
    expected = serially(tmp_path / "expected")
    fault = Killing(tmp_path / "lives").give(1)
    job = job_in(tmp_path / "work", after=unlucky(fault))
    results: list[TileResult] = []
    DaskExecutor(SchedulerAt(address), tmp_path, ONCE).run(job, shuffled(2), results.append, unwanted)
    assert fault.left() == 0
    assert store_bytes(job.store) == expected
    assert indices_of(results) == list(PLAN.indices())


@pytest.mark.usefixtures("importable")
def test_tile_that_kills_every_worker_is_listed(
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
        executor = DaskExecutor(LocalProcesses(1), tmp_path / "scratch", BACKOFF)
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


def test_unpicklable_job_is_a_cluster_error(programs: Programs, tmp_path: Path) -> None:
    job = job_in(tmp_path / "work", detector=OnlyHere(16))
    with pytest.raises(ClusterError) as caught:
        DaskExecutor(SchedulerAt(programs.address), tmp_path, BACKOFF).run(
            job, PLAN.indices(), lambda result: pytest.fail("it cannot"), unwanted
        )
    message = str(caught.value)
    assert message.startswith("Dask cannot run a tile (")
    assert message.endswith("; have the same versions on the scheduler and its workers as here")
    assert "\n" not in message


def test_lost_results_are_computed_again(programs: Programs, tmp_path: Path) -> None:
    expected = serially(tmp_path / "expected")
    seen = make_witness(tmp_path / "seen", 0)
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


def test_late_worker_gets_its_share(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "REFRESH_SECONDS", 0)
    seen = make_witness(tmp_path / "seen", 0.1)
    results: list[TileResult] = []
    ahead: list[int] = []
    act = at(1, results, programs.start_worker, lambda: programs.wait_for_workers(2))
    DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE).run(
        job_in(tmp_path / "work", area=seen), watched(results, ahead), act, unwanted
    )
    assert max(ahead) == TASKS_AHEAD * 2
    assert len(set(seen.processes())) == 2
    assert len(seen.processes()) == PLAN.tile_count


def test_loss_of_all_workers_is_a_cluster_error(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "NO_WORKERS_SECONDS", 2)
    job = job_in(tmp_path / "work")
    results: list[TileResult] = []
    failures: list[TileFailure] = []
    act = at(
        3,
        results,
        programs.wait_until_all_is_computed,
        lambda: programs.kill(programs.workers),
        lambda: monkeypatch.setattr(connection, "ANSWER_SECONDS", 5),
    )
    with pytest.raises(ClusterError) as caught:
        DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE).run(
            job, PLAN.indices(), act, failures.append
        )
    assert str(caught.value) == (
        f"scheduler {programs.address} has been without workers for 2 s (their logs show why); no finished tile is "
        "lost: start workers again, and the same command goes on"
    )
    # The one result that was computed but not fetched.
    assert [failure.error.partition(": ")[2] for failure in failures] == [
        "computed, but its worker was lost before it could hand over the result"
    ]


def test_scheduler_that_comes_back_loses_nothing(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = serially(tmp_path / "expected")
    monkeypatch.setattr(dask_executor, "RECONNECT_BACKOFF", RECONNECTS)
    job = job_in(tmp_path / "work", area=make_witness(tmp_path / "seen", 0.1))
    results: list[TileResult] = []
    notices: list[Event] = []
    act = at(
        3,
        results,
        lambda: programs.kill(programs.schedulers),
        programs.start_scheduler,
        programs.start_worker,
    )
    DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE, notices.append).run(
        job, PLAN.indices(), act, unwanted
    )
    assert indices_of(results) == list(PLAN.indices())
    assert store_bytes(job.store) == expected
    assert notices[0] == Notice(f"scheduler {programs.address} lost; trying again in 0.1 s (1 of 9)")


def test_silent_scheduler_counts_as_lost(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = serially(tmp_path / "expected")
    monkeypatch.setattr(dask_executor, "RECONNECT_BACKOFF", RECONNECTS)
    job = job_in(tmp_path / "work")
    results: list[TileResult] = []
    notices: list[Event] = []
    (scheduler,) = programs.schedulers

    def freeze() -> None:
        scheduler.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(connection, "ANSWER_SECONDS", 2)

    def receive(event: Event) -> None:
        notices.append(event)
        if len(notices) == 2:  # it has not answered the new client either
            monkeypatch.setattr(connection, "ANSWER_SECONDS", 60)
            scheduler.send_signal(signal.SIGCONT)

    DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE, receive).run(
        job, PLAN.indices(), at(3, results, programs.wait_until_all_is_computed, freeze), unwanted
    )
    assert indices_of(results) == list(PLAN.indices())
    assert store_bytes(job.store) == expected
    assert len(notices) >= 2


def test_run_goes_on_after_a_lost_scheduler(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = serially(tmp_path / "expected")
    job = job_in(tmp_path / "work")
    results: list[TileResult] = []
    notices: list[Event] = []
    with monkeypatch.context() as patch:
        patch.setattr(connection, "CONNECT_SECONDS", 1)
        patch.setattr(dask_executor, "RECONNECT_BACKOFF", Backoff(attempts=2, first=0.1, factor=2, longest=1))
        act = at(3, results, programs.end_scheduler)
        with pytest.raises(ClusterError) as caught:
            DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE, notices.append).run(
                job, PLAN.indices(), act, unwanted
            )
    assert str(caught.value) == (
        f"scheduler {programs.address} lost and not back after 2 attempts; no finished tile is lost: start it and its "
        "workers again, and the same command goes on"
    )
    assert notices == [
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
def test_unreachable_scheduler_is_a_cluster_error(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1)
    with pytest.raises(ClusterError) as caught:
        DaskExecutor(SchedulerAt(address), tmp_path).run(
            job_in(tmp_path), [(0, 0)], lambda result: None, unwanted
        )
    message = str(caught.value)
    assert message.startswith(f"{address}: no Dask scheduler answers there")
    assert "cluster.address" in message
    assert "\n" not in message


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://there", "tcp://127.0.0.1", "silent"])
def test_clients_that_find_no_scheduler_leave_nothing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 1)

    def loops() -> set[int | None]:
        return {thread.ident for thread in threading.enumerate() if thread.name == "IO loop"}

    def to_be_closed() -> set[int]:
        # Collected, one of these asks the scheduler once more and waits, whatever thread that is on.
        found = [each for each in gc.get_objects() if type(each).__name__ == "BoundedClient"]
        return {id(each) for each in found if each.status != "closed"}

    before = loops(), to_be_closed()
    with socket.create_server(("127.0.0.1", 0)) as server:
        if address == "silent":
            address = "tcp://{}:{}".format(*server.getsockname())
        for _ in range(2):
            with pytest.raises(ClusterError), connection.connect(Started(address, 0)):
                pass
    assert loops() <= before[0]
    assert to_be_closed() <= before[1]


class NoWorkers:
    """A scheduler whose workers never come."""

    name, worker_count, is_local = "none", 0, False

    @contextlib.contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        with (
            dask.config.set(QUIET),
            LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        ):
            yield Started(cluster, 1, describe_wait=lambda: "they take their time")


def test_wait_for_workers_can_be_stopped(tmp_path: Path) -> None:
    stop = threading.Event()
    targets: list[int] = []

    class Watched(NoWorkers):
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


def test_scheduler_needs_workers_at_the_start(tmp_path: Path) -> None:
    with (
        dask.config.set(QUIET),
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(ClusterError, match="the scheduler has no workers; start some with `dask worker`"),
    ):
        DaskExecutor(SchedulerAt(cluster.scheduler_address), tmp_path).run(
            job_in(tmp_path), [(0, 0)], lambda result: None, unwanted
        )


@pytest.mark.skipif(not (3, 11) <= sys.version_info < (3, 11, 9), reason="of Python 3.11.0 to 3.11.8")
@pytest.mark.parametrize("profiled", [True, False])
@pytest.mark.usefixtures("importable")
def test_profiled_workers_are_warned_of(profiled: bool, tmp_path: Path) -> None:
    config = {"distributed.worker.profile.enabled": profiled}
    events: list[Event] = []
    results: list[TileResult] = []
    with dask.config.set(QUIET), LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0",
        memory_limit=None, local_directory=str(tmp_path / "dask"), config=config,
    ) as cluster:  # fmt: skip
        executor = DaskExecutor(SchedulerAt(cluster.scheduler_address), tmp_path, ONCE, events.append)
        executor.run(job_in(tmp_path / "work"), [(0, 1)], results.append, unwanted)
    assert indices_of(results) == [(0, 1)]
    told = [event.message for event in events if isinstance(event, Notice) and event.warning]
    assert [message.partition(":")[0] for message in told] == [
        "1 of 1 workers may freeze for minutes"
    ] * profiled


@pytest.mark.usefixtures("importable")
def test_taken_dashboard_port_is_no_warning(tmp_path: Path) -> None:
    with socket.socket() as taken, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with contextlib.suppress(OSError):  # another program has it already
            taken.bind(("0.0.0.0", 8787))
            taken.listen()
        results: list[TileResult] = []
        DaskExecutor(LocalProcesses(1), tmp_path / "scratch").run(
            job_in(tmp_path), [(0, 1)], results.append, unwanted
        )
    assert [result.index for result in results] == [(0, 1)]
