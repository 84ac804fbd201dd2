"""Functions that Dask calls on workers, called here."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import distributed
import psutil
import pytest

from tests.support.stubs import StubRecipe, StubScene, damaged, stub_job
from tests.support.tile_runs import GRID, PLAN, UNLUCKY, unlucky
from ussfc.pipeline.clusters.base import JOB_END
from ussfc.pipeline.errors import TileError
from ussfc.pipeline.execution.tile_job import TileJob
from ussfc.pipeline.execution.worker_tasks import (
    ENDING_SECONDS,
    VERSIONS,
    NotTried,
    check_worker,
    compute_tiles,
    describe_difference,
    versions,
)
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import TileResult


@pytest.fixture
def job(tmp_path: Path) -> TileJob:
    store = ProbabilityStore.create(tmp_path / "work", GRID, "uint8", 32)
    return stub_job(store, PLAN, f"tasks-{tmp_path}", after=unlucky(damaged))


@pytest.fixture(autouse=True)
def worker(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Make this process a worker."""
    worker = SimpleNamespace(address="tcp://here", lifetime=None)
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    monkeypatch.delenv(JOB_END, raising=False)
    return worker


def test_versions_are_those_of_this_process() -> None:
    assert list(versions()) == list(VERSIONS)
    assert all(version != "none" for version in versions().values())


def test_difference_names_both_versions() -> None:
    expected = {"ussfc": "1", "torch": "2", "zarr": "3"}
    assert describe_difference(expected, {"ussfc": "1", "torch": "4"}) == "torch 4, here 2, zarr none, here 3"


def test_report_has_an_outcome_for_each_tile(job: TileJob) -> None:
    report = compute_tiles(job, versions(), [(0, 0), UNLUCKY, (0, 2)])
    first, second, third = report.outcomes
    assert isinstance(first, TileResult)
    assert isinstance(second, TileError)
    assert isinstance(third, TileResult)
    assert str(second).startswith("tile 0,1 (rows 0..32, columns 32..64): stub.tif")
    assert (report.worker, report.unfit, report.ending) == ("tcp://here", None, False)
    assert report.seconds > 0


def test_worker_of_another_version_computes_nothing(job: TileJob) -> None:
    expected = versions() | {"zarr": "0.1"}
    report = compute_tiles(job, expected, [(0, 0), (0, 2)])
    assert report.outcomes == (NotTried(), NotTried())
    assert report.unfit == f"zarr {versions()['zarr']}, here 0.1"
    assert ProbabilityStore(job.store).done() == {}


@pytest.mark.parametrize("limit", ["job", "lifetime"])
@pytest.mark.parametrize(("left", "ends"), [(ENDING_SECONDS - 1, True), (3600, False)])
def test_ending_worker_gives_tiles_back(
    job: TileJob,
    worker: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    left: float,
    ends: bool,
) -> None:
    if limit == "job":
        monkeypatch.setenv(JOB_END, str(int(time.time() + left)))
    else:
        worker.lifetime = time.time() - psutil.Process().create_time() + left
    report = compute_tiles(job, versions(), [(0, 0), (0, 2)])
    assert report.ending == ends
    assert all(isinstance(outcome, NotTried) == ends for outcome in report.outcomes)


def test_worker_must_see_the_store(job: TileJob, tmp_path: Path) -> None:
    fault = check_worker(job, "probe-1", "token")
    assert fault is not None
    assert fault.startswith(f"{job.store}: a file that was just written there is not seen on ")
    job.store.write("probe-1", b"other")
    assert check_worker(job, "probe-1", "token") == fault
    job.store.write("probe-1", b"token")
    assert check_worker(job, "probe-1", "token") is None


class MissingModel(StubRecipe):
    """Weights that are on another machine."""

    def build(self) -> object:  # type: ignore[override]
        raise FileNotFoundError("weights.pt: no such file")


def test_worker_must_have_the_model(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path / "work", GRID, "uint8", 32)
    job = stub_job(
        store, PLAN, f"missing-{tmp_path}", detector=MissingModel(16), after=StubScene(PLAN.shape, 2)
    )
    job.store.write("probe-1", b"token")
    fault = check_worker(job, "probe-1", "token")
    assert fault is not None
    assert fault.startswith("FileNotFoundError: weights.pt: no such file (on ")
