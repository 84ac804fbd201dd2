"""One suite for every executor: the same bytes, the same errors."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from affine import Affine
from distributed import LocalCluster
from odc.geo.geobox import GeoBox
from stubs import KillingRecipe, StubScene, store_bytes, stub_job

from pipeline import executors
from pipeline.errors import ClusterError, TileError
from pipeline.executors import DaskExecutor, Executor, SerialExecutor
from pipeline.inference import TileJob
from pipeline.probability_store import ProbabilityStore
from pipeline.tiling import TilePlan
from pipeline.types import Box, TileResult

GRID = GeoBox((70, 100), Affine(1, 0, 0, 0, -1, 70), "EPSG:32636")
PLAN = TilePlan.of((70, 100), 32, 16, 0.25)
EXECUTORS = ["serial", "local", "scheduler"]


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    """Worker processes find the stubs."""
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).parent
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
        )
        yield


@pytest.fixture(scope="module")
def address(importable: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler with two worker processes."""
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


@pytest.fixture
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Executor:
    """The executor of that name."""
    if request.param == "serial":
        return SerialExecutor()
    if request.param == "local":
        request.getfixturevalue("importable")
        return DaskExecutor(None, 2, tmp_path / "scratch")
    return DaskExecutor(request.getfixturevalue("address"), 0, tmp_path / "scratch")


def job_in(root: Path, **changes: object) -> TileJob:
    store = ProbabilityStore.create(root, GRID, "float32", 32)
    return stub_job(store, PLAN, f"job-{root}", **changes)


def shuffled(seed: int) -> list[tuple[int, int]]:
    indices = list(PLAN.indices())
    random.Random(seed).shuffle(indices)
    return indices


def serially(root: Path) -> dict[str, bytes]:
    SerialExecutor().run(job_in(root), PLAN.indices(), lambda result: None)
    return store_bytes(root)


@pytest.mark.parametrize("executor", EXECUTORS, indirect=True)
def test_every_executor_and_order_gives_the_same_bytes(executor: Executor, tmp_path: Path) -> None:
    expected = serially(tmp_path / "expected")
    job = job_in(tmp_path / "work")
    results: list[TileResult] = []
    executor.run(job, iter(shuffled(1)), results.append)
    assert store_bytes(job.store) == expected
    assert sorted(result.index for result in results) == list(PLAN.indices())
    assert {result.index: result for result in results} == ProbabilityStore(job.store).done()


@pytest.mark.parametrize("executor", ["serial", "scheduler"], indirect=True)
def test_a_failing_tile_names_its_index_and_bounds_and_the_rest_can_be_resumed(
    executor: Executor, tmp_path: Path
) -> None:
    expected = serially(tmp_path / "expected")
    hole = Box(0, 0, PLAN.shape[0], PLAN.tile_size)
    job = job_in(tmp_path / "work", after=StubScene(PLAN.shape, 2, hole, fails_at=(69, 99)))
    with pytest.raises(TileError) as caught:
        executor.run(job, PLAN.indices(), lambda result: None)
    failing = [
        index for index in PLAN.indices() if PLAN.tile(index).halo.intersect(Box(69, 99, 70, 100)).pixels
    ]
    assert str(caught.value) in {
        f"tile {row},{col} (rows {core.y0}..{core.y1}, columns {core.x0}..{core.x1}): stub.tif: block is damaged"
        for (row, col), core in ((index, PLAN.core(index)) for index in failing)
    }
    done = ProbabilityStore(job.store).done()
    assert 0 < len(done) < PLAN.tile_count
    store = ProbabilityStore(job.store)
    healthy = stub_job(store, PLAN, f"healthy-{tmp_path}")
    executor.run(healthy, [index for index in PLAN.indices() if index not in done], lambda result: None)
    assert store_bytes(job.store) == expected


@pytest.mark.parametrize("executor", ["serial", "scheduler"], indirect=True)
def test_nothing_to_do_is_done_at_once(executor: Executor, tmp_path: Path) -> None:
    executor.run(job_in(tmp_path), [], lambda result: pytest.fail("there was nothing to do"))


@pytest.mark.parametrize("executor", ["serial", "scheduler"], indirect=True)
def test_tiles_are_taken_from_the_list_only_a_few_ahead(executor: Executor, tmp_path: Path) -> None:
    taken, finished, ahead = 0, 0, []

    def indices() -> Iterator[tuple[int, int]]:
        nonlocal taken
        for index in PLAN.indices():
            taken += 1
            ahead.append(taken - finished)
            yield index

    def on_result(result: TileResult) -> None:
        nonlocal finished
        finished += 1

    executor.run(job_in(tmp_path), indices(), on_result)
    assert finished == PLAN.tile_count
    assert max(ahead) <= executors.TASKS_AHEAD * 2 + 1


def test_a_worker_that_dies_is_replaced_and_the_bytes_are_the_same(address: str, tmp_path: Path) -> None:
    expected = serially(tmp_path / "expected")
    lives = tmp_path / "lives"
    lives.mkdir()
    (lives / "1").touch()
    job = job_in(tmp_path / "work", detector=KillingRecipe(16, lives=lives))
    results: list[TileResult] = []
    DaskExecutor(address, 0, tmp_path).run(job, shuffled(2), results.append)
    assert not list(lives.iterdir())
    assert store_bytes(job.store) == expected
    assert sorted(result.index for result in results) == list(PLAN.indices())


@pytest.mark.usefixtures("importable")
def test_a_tile_that_takes_every_worker_down_is_a_cluster_error(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    lives.mkdir()
    for life in range(100):
        (lives / str(life)).touch()
    job = job_in(tmp_path / "work", detector=KillingRecipe(16, lives=lives))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(ClusterError, match=r"lower compute\.workers or tiling\.tile_size") as caught,
    ):
        DaskExecutor(None, 1, tmp_path / "scratch").run(job, [(0, 1)], lambda result: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://there", "tcp://127.0.0.1"])
def test_a_scheduler_out_of_reach_is_a_cluster_error(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 1)
    with pytest.raises(ClusterError) as caught:
        DaskExecutor(address, 0, tmp_path).run(job_in(tmp_path), [(0, 0)], lambda result: None)
    message = str(caught.value)
    assert message.startswith(f"{address}: no Dask scheduler answers there")
    assert "compute.scheduler" in message
    assert "\n" not in message


def test_a_scheduler_without_workers_is_a_cluster_error(tmp_path: Path) -> None:
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(ClusterError, match="the scheduler has no workers; start some with `dask worker`"),
    ):
        DaskExecutor(cluster.scheduler_address, 0, tmp_path).run(
            job_in(tmp_path), [(0, 0)], lambda result: None
        )


@pytest.mark.usefixtures("importable")
def test_another_program_on_the_usual_port_is_no_cause_for_a_warning(tmp_path: Path) -> None:
    with socket.socket() as taken, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with contextlib.suppress(OSError):  # somebody else has it already
            taken.bind(("0.0.0.0", 8787))
            taken.listen()
        results: list[TileResult] = []
        DaskExecutor(None, 1, tmp_path / "scratch").run(job_in(tmp_path), [(0, 1)], results.append)
    assert [result.index for result in results] == [(0, 1)]
