"""The fate of a tile that failed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.support.stubs import stub_job
from tests.support.tile_runs import GRID, PLAN
from ussfc.pipeline.errors import ClusterError, PipelineError, StoreError, TileError
from ussfc.pipeline.execution.errors import WorkersLostError
from ussfc.pipeline.execution.executor import handle_failure
from ussfc.pipeline.execution.tile_job import TileJob
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.parallel.schedule import Schedule
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import TileFailure

INDEX = (0, 1)


@pytest.fixture
def job(tmp_path: Path) -> TileJob:
    return stub_job(ProbabilityStore.create(tmp_path, GRID, "uint8", 32), PLAN)


def taken(attempts: int) -> Schedule:
    """Return a schedule whose one tile is handed out."""
    schedule = Schedule([INDEX], Backoff(attempts=attempts, first=0))
    assert schedule.take() == INDEX
    return schedule


def test_tile_is_reported_after_its_last_attempt(job: TileJob) -> None:
    failures: list[TileFailure] = []
    schedule = taken(2)
    handle_failure(schedule, job, INDEX, TileError("damaged"), failures.append)
    assert failures == []
    assert schedule.take() == INDEX
    handle_failure(schedule, job, INDEX, TileError("damaged"), failures.append)
    assert failures == [TileFailure(INDEX, job.plan.core(INDEX), "damaged", 2)]


def test_crash_is_no_attempt(job: TileJob) -> None:
    failures: list[TileFailure] = []
    schedule = taken(2)
    handle_failure(schedule, job, INDEX, WorkersLostError("lost"), failures.append)
    assert schedule.take() == INDEX
    handle_failure(schedule, job, INDEX, WorkersLostError("lost"), failures.append)
    assert [failure.attempts for failure in failures] == [1]


def test_store_error_ends_the_run(job: TileJob) -> None:
    error = StoreError("no space")
    with pytest.raises(StoreError) as caught:
        handle_failure(taken(1), job, INDEX, error, lambda failure: pytest.fail("not the tile's"))
    assert caught.value is error


@pytest.mark.parametrize("kind", [StoreError, TileError])
def test_what_no_pause_mends_ends_the_run_at_once(job: TileJob, kind: type[PipelineError]) -> None:
    error = pickle.loads(pickle.dumps(kind("no weights")))
    error.permanent = True
    # As it comes back from a worker.
    error = pickle.loads(pickle.dumps(error))
    with pytest.raises(kind) as caught:
        handle_failure(taken(4), job, INDEX, error, lambda failure: pytest.fail("not the tile's"))
    assert caught.value is error


def test_unknown_error_is_a_cluster_error(job: TileJob) -> None:
    error = ModuleNotFoundError("No module named\n'only_here'")
    with pytest.raises(ClusterError) as caught:
        handle_failure(taken(1), job, INDEX, error, lambda failure: pytest.fail("not the tile's"))
    assert str(caught.value) == (
        "Dask cannot run a tile (ModuleNotFoundError: No module named 'only_here'); have the same versions on the "
        "scheduler and its workers as here"
    )
    assert caught.value.__cause__ is error
