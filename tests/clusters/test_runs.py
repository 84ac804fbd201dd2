"""Workers on machines of their own: cut off, late, slow, with another version, without the store's folder."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from tests.support.clusters import Certificates, Programs, wait_until
from tests.support.namespaces import Namespaces
from tests.support.scenes import write_scene, write_toy_model
from tests.support.stubs import StubRecipe, store_bytes, stub_job
from tests.support.tile_runs import ONCE, make_witness, unwanted
from ussfc.pipeline.clusters.scheduler import SchedulerAt
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ClusterError, ConfigError
from ussfc.pipeline.events import Event, Notice, StageStarted
from ussfc.pipeline.execution import dask_executor, worker_pool
from ussfc.pipeline.execution.dask_executor import DaskExecutor
from ussfc.pipeline.execution.serial_executor import SerialExecutor
from ussfc.pipeline.execution.tile_job import TileJob
from ussfc.pipeline.execution.worker_pool import MOST_TILES, TASKS_AHEAD
from ussfc.pipeline.execution.worker_tasks import versions
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.runs.products import recorded_config, write_products
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import TileResult

PLAN = TilePlan.of((200, 260), 32, 16, 0.25)
GRID = GeoBox(PLAN.shape, Affine(1, 0, 0, 0, -1, PLAN.shape[0]), "EPSG:32636")

pytestmark = pytest.mark.usefixtures("importable")


def job_in(root: Path, **changes: object) -> TileJob:
    store = ProbabilityStore.create(root, GRID, "float32", 32)
    return stub_job(store, PLAN, f"job-{root}", **changes)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the bytes that one process computes."""
    root = tmp_path_factory.mktemp("expected") / "work"
    SerialExecutor().run(job_in(root), PLAN.indices(), lambda result: None, unwanted)
    return store_bytes(root)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Start a scheduler; workers are the test's."""
    programs = Programs(tmp_path)
    programs.start_scheduler()
    yield programs
    programs.kill(programs.workers)
    programs.kill(programs.schedulers)


def assert_all(job: TileJob, results: list[TileResult], expected: dict[str, bytes]) -> None:
    """Every tile ended once, its chunk is right, and no worker ever recorded another content."""
    assert sorted(result.index for result in results) == list(PLAN.indices())
    assert store_bytes(job.store) == expected
    records = [path.name for path in (Path(job.store.address) / "done").rglob("*.v*")]
    assert len({".".join(name.split(".")[:2]) for name in records}) == len(results)
    contents = {(*name.split(".")[:2], name.split(".")[5]) for name in records}
    assert len(contents) == len(results)


def distribution(folder: Path, name: str, version: str) -> Path:
    """Return a folder in which that distribution has that version."""
    facts = folder / f"{name}-{version}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    return folder


def test_cut_off_and_slow_workers_change_no_byte(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Dask calls these lost after five minutes and thirty seconds.
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "5s")
    with Namespaces(3, tmp_path / "network") as network:
        programs = Programs(tmp_path, host=network.here)
        programs.start_scheduler()
        for where in (0, 1):
            programs.start_worker(host=network.addresses[where], through=network.door(where))
        programs.wait_for_workers(2)
        seen = make_witness(tmp_path / "seen", 0.15)
        job = job_in(tmp_path / "work", area=seen)
        results: list[TileResult] = []
        over = threading.Event()

        def slow_down() -> None:
            """It has a tenth of the time of the others."""
            while not over.wait(0.05):
                programs.workers[1].send_signal(signal.SIGSTOP)
                over.wait(0.45)
                programs.workers[1].send_signal(signal.SIGCONT)

        def on_result(result: TileResult) -> None:
            results.append(result)
            if len(results) == 6:
                network.cut(0)
                slow.start()
                programs.start_worker(host=network.addresses[2], through=network.door(2))
                # It comes late, but in time: however slow this machine is.
                programs.wait_for_worker_at(network.addresses[2])
            if len(results) == 30:
                # It finds that the scheduler has forgotten it, and ends; its keeper starts it again.
                network.restore(0)
                programs.start_worker(host=network.addresses[0], through=network.door(0))

        slow = threading.Thread(target=slow_down)
        try:
            DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE).run(
                job, PLAN.indices(), on_result, unwanted
            )
        finally:
            over.set()
            if slow.is_alive():
                slow.join()
            programs.kill(programs.workers)
            programs.kill(programs.schedulers)
    assert_all(job, results, expected)
    assert len(set(seen.processes())) >= 3


@pytest.mark.parametrize("limit", [pytest.param("lifetime", marks=pytest.mark.soak), "job"])
def test_ending_worker_begins_no_other_tile(
    limit: str,
    programs: Programs,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tiles take longer than the first worker has; the next one comes when it has gone."""
    with monkeypatch.context() as patch:
        if limit == "job":
            patch.setenv("USSFC_JOB_END", str(int(time.time()) + 10))
        programs.start_worker(*(("--lifetime", "10s") if limit == "lifetime" else ()))
    programs.wait_for_workers(1)
    (first,) = programs.workers

    def relieve() -> None:
        first.wait()
        programs.start_worker()

    relief = threading.Thread(target=relieve)
    relief.start()
    seen = make_witness(tmp_path / "seen", 0.2)
    job = job_in(tmp_path / "work", area=seen)
    results: list[TileResult] = []
    DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE).run(
        job, PLAN.indices(), results.append, unwanted
    )
    relief.join()
    assert_all(job, results, expected)
    # No tile was begun twice.
    assert len(seen.processes()) == PLAN.tile_count


@pytest.mark.parametrize(
    "name", ["ussfc", *(pytest.param(n, marks=pytest.mark.soak) for n in ("torch", "zarr"))]
)
def test_worker_with_another_version_is_named(programs: Programs, tmp_path: Path, name: str) -> None:
    programs.start_worker(path=distribution(tmp_path / "other", name, "0.0.1"))
    programs.wait_for_workers(1)
    here = versions()[name]
    with pytest.raises(ClusterError) as caught:
        DaskExecutor(SchedulerAt(programs.address), tmp_path).run(
            job_in(tmp_path / "work"), PLAN.indices(), lambda result: pytest.fail("it must not"), unwanted
        )
    message = str(caught.value)
    assert message.startswith("worker tcp://127.0.0.1:")
    assert f"has {name} 0.0.1, here {here}; install the same versions there as here" in message


def test_scheduler_with_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = Programs(tmp_path)
    with monkeypatch.context() as patch:
        path = distribution(tmp_path / "other", "zarr", "2.18.0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(path), os.environ["PYTHONPATH"]]))
        programs.start_scheduler()
    programs.start_worker()
    try:
        programs.wait_for_workers(1)
        with pytest.raises(ClusterError, match=r"^scheduler tcp://\S+ has zarr 2\.18\.0, here 3"):
            DaskExecutor(SchedulerAt(programs.address), tmp_path).run(
                job_in(tmp_path / "work"), [(0, 0)], lambda result: None, unwanted
            )
    finally:
        programs.kill(programs.workers)
        programs.kill(programs.schedulers)


@pytest.mark.soak
def test_late_worker_of_another_version_is_out(
    programs: Programs, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "REFRESH_SECONDS", 0.1)
    programs.start_worker()
    programs.wait_for_workers(1)
    other = distribution(tmp_path / "other", "ussfc", "0.0.1")
    job = job_in(tmp_path / "work", area=make_witness(tmp_path / "seen", 0.08))
    results: list[TileResult] = []
    notices: list[Event] = []

    def on_result(result: TileResult) -> None:
        results.append(result)
        if len(results) == 3:
            programs.start_worker(path=other)
            programs.wait_for_workers(2)

    DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE, notices.append).run(
        job, PLAN.indices(), on_result, unwanted
    )
    assert_all(job, results, expected)
    (notice,) = [event for event in notices if isinstance(event, Notice)]
    assert "is left out: ussfc 0.0.1, here" in notice.message
    programs.workers[1].wait(20)


def test_tile_longer_than_any_worker_ends_run(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "MOST_GENERATIONS", 1)
    over = threading.Event()

    def replace() -> None:
        while not over.wait(0.1):
            if not programs.workers or programs.workers[-1].poll() is not None:
                programs.start_worker("--lifetime", "4s")

    keeper = threading.Thread(target=replace)
    keeper.start()
    try:
        programs.wait_for_workers(1)
        job = job_in(tmp_path / "work", area=make_witness(tmp_path / "seen", 7))
        with pytest.raises(
            ClusterError, match="1 times in a row all workers ended before one had finished a tile"
        ):
            DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE).run(
                job, [(0, 0)], lambda result: pytest.fail("there was no time for it"), unwanted
            )
    finally:
        over.set()
        keeper.join()


def test_worker_that_misses_the_store_is_named(programs: Programs, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: a worker with a file system of its own")
    job = job_in(tmp_path / "shared" / "work")
    # An empty file system over the folder, for this one process.
    hidden = f'mount -t tmpfs none {tmp_path / "shared"} && exec "$@"'
    programs.start_worker(through=["unshare", "--mount", "sh", "-c", hidden, "sh"])
    programs.wait_for_workers(1)
    with pytest.raises(ClusterError) as caught:
        DaskExecutor(SchedulerAt(programs.address), tmp_path).run(
            job, PLAN.indices(), lambda result: pytest.fail("it must not"), unwanted
        )
    message = str(caught.value)
    assert f"{job.store}: a file that was just written there is not seen on" in message
    assert "choose an output folder on a file system that all nodes share" in message
    assert not list(Path(job.store.address).glob("probe-*"))


class Elsewhere(StubRecipe):
    """Its weights are on one machine only."""

    def build(self) -> object:  # type: ignore[override]
        raise FileNotFoundError("weights.pt: no such file")


@pytest.mark.soak
def test_worker_that_lacks_the_model_is_named(programs: Programs, tmp_path: Path) -> None:
    programs.start_worker()
    programs.wait_for_workers(1)
    job = job_in(tmp_path / "work", detector=Elsewhere(16))
    with pytest.raises(
        ClusterError, match=r"^worker tcp://\S+ \(1 of 1 workers\): \S+ weights\.pt: no such file"
    ):
        DaskExecutor(SchedulerAt(programs.address), tmp_path).run(
            job, PLAN.indices(), lambda result: pytest.fail("it must not"), unwanted
        )


def test_workers_choose_their_engine(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This machine remembers that OpenVINO is the fastest, theirs that PyTorch is."""
    memory = Path(os.environ["XDG_CACHE_HOME"]) / "ussfc" / "engines.json"
    theirs = {name: ["torch", "float32"] for name in json.loads(memory.read_text("utf-8"))}
    (tmp_path / "cache" / "ussfc").mkdir(parents=True)
    (tmp_path / "cache" / "ussfc" / "engines.json").write_text(json.dumps(theirs), "utf-8")
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        programs.start_worker()
        programs.start_worker()
    programs.wait_for_workers(2)
    write_scene(tmp_path, "east", (100, 300), side=128)
    pair = str(tmp_path / "east_before.tif"), str(tmp_path / "east_after.tif")
    model = write_toy_model(tmp_path)
    away = [f"model={model}", "inference.device=cpu", "tiling.tile_size=64"]
    config = load_config(sets=[*away, "cluster.kind=scheduler", f"cluster.address={programs.address}"])
    manifest = run(*pair, tmp_path / "out", config)
    assert "engine=torch precision=float32 device=cpu" in manifest.detector
    # The same bytes as of a run of this machine that names the engine.
    here = load_config(sets=[*away, "cluster.kind=serial", "inference.engine=torch"])
    assert run(*pair, tmp_path / "here", here).run == manifest.run
    assert store_bytes(tmp_path / "out" / "work") == store_bytes(tmp_path / "here" / "work")
    # So are the products, and those of another threshold, which workers make as well.
    for sets in ([], ["threshold=0.3", "vector.connectivity=8"]):
        events: list[Event] = []
        for name, cluster in (("out", "scheduler"), ("here", "serial")):
            place = [f"cluster.kind={cluster}", *([f"cluster.address={programs.address}"] * (name == "out"))]
            base = recorded_config(tmp_path / name)
            write_products(
                tmp_path / name,
                load_config(sets=[*place, *sets], base=base),
                events.append,
            )
        stages = [event.stage for event in events if isinstance(event, StageStarted)]
        assert stages == (
            ["mosaic", "squares", "vectorise", "squares", "mosaic", "vectorise"] if sets else []
        )
        for product in ("change.tif", "probability.tif", "changes.parquet"):
            assert (tmp_path / "out" / product).read_bytes() == (tmp_path / "here" / product).read_bytes()
        assert not (tmp_path / "out" / "work" / "squares").exists()


@pytest.mark.soak
def test_workers_are_asked_after_a_version_check(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.start_worker()
    programs.start_worker()
    programs.wait_for_workers(2)
    with DaskExecutor(SchedulerAt(programs.address), tmp_path) as executor:
        processes = executor.ask(os.getpid)
        assert sorted(processes) == sorted(worker.pid for worker in programs.workers)
        assert executor.ask(max, 3, 5) == [5, 5]
        # It stays usable for a run.
        results: list[TileResult] = []
        executor.run(job_in(tmp_path / "work"), PLAN.indices(), results.append, unwanted)
        assert len(results) == len(list(PLAN.indices()))
        programs.start_worker(path=distribution(tmp_path / "other", "zarr", "1.0"))
        programs.wait_for_workers(3)
        with pytest.raises(ClusterError, match=r"worker tcp://\S+ has zarr 1\.0, here "):
            executor.ask(os.getpid)
        programs.end_scheduler()
        with pytest.raises(ClusterError, match=r"no Dask scheduler answers there"):
            executor.ask(os.getpid)


@pytest.mark.soak
def test_question_survives_a_lost_scheduler(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        dask_executor, "RECONNECT_BACKOFF", Backoff(attempts=30, first=0.5, factor=1, longest=0.5)
    )
    programs.start_worker()
    programs.wait_for_workers(1)
    notices: list[Event] = []
    asked = tmp_path / "asked"
    with DaskExecutor(SchedulerAt(programs.address), tmp_path, subscriber=notices.append) as executor:
        answers: list[list[int]] = []
        question = threading.Thread(target=lambda: answers.append(executor.ask(slow_answer, str(asked))))
        question.start()
        wait_until(asked.exists)
        programs.kill(programs.schedulers)
        programs.kill(programs.workers)
        programs.start_scheduler()
        programs.start_worker()
        question.join(120)
    assert answers == [[42]]
    assert any(isinstance(event, Notice) and " lost; trying again in " in event.message for event in notices)


def slow_answer(asked: str) -> int:
    """The first time it takes longer than its scheduler lives."""
    if not Path(asked).exists():
        Path(asked).touch()
        time.sleep(60)
    return 42


def test_tls_is_checked_both_ways(tmp_path: Path, expected: dict[str, bytes]) -> None:
    ours, others = Certificates(tmp_path / "ours"), Certificates(tmp_path / "others")
    programs = Programs(tmp_path, ours)
    programs.start_scheduler()
    programs.start_worker()
    try:
        programs.wait_for_workers(1)
        job = job_in(tmp_path / "work")
        results: list[TileResult] = []

        def files(certificates: Certificates) -> tuple[str, str, str]:
            return str(certificates.authority), str(certificates.certificate), str(certificates.key)

        DaskExecutor(SchedulerAt(programs.address, files(ours)), tmp_path, ONCE).run(
            job, PLAN.indices(), results.append, unwanted
        )
        assert_all(job, results, expected)
        with pytest.raises(ClusterError, match="no Dask scheduler answers there"):
            DaskExecutor(SchedulerAt(programs.address, files(others)), tmp_path, ONCE).run(
                job, [(0, 0)], results.append, unwanted
            )
        missing = (str(ours.authority), str(tmp_path / "missing.pem"), str(ours.key))
        with pytest.raises(ConfigError, match=r"cluster\.tls_certificate .*missing\.pem: cannot be read"):
            DaskExecutor(SchedulerAt(programs.address, missing), tmp_path, ONCE).run(
                job, [(0, 0)], results.append, unwanted
            )
    finally:
        programs.kill(programs.workers)
        programs.kill(programs.schedulers)


def test_quick_tiles_go_several_to_a_task(programs: Programs, tmp_path: Path) -> None:
    programs.start_worker()
    programs.wait_for_workers(1)
    taken: list[int] = []
    results: list[TileResult] = []

    def indices() -> Iterator[tuple[int, int]]:
        for index in PLAN.indices():
            taken.append(len(results))
            yield index

    DaskExecutor(SchedulerAt(programs.address), tmp_path, ONCE).run(
        job_in(tmp_path / "work"), indices(), results.append, unwanted
    )
    assert sorted(result.index for result in results) == list(PLAN.indices())
    # Taken without a result in between, far more than tasks may be out; and never more than these may hold.
    ahead = [position + 1 - done for position, done in enumerate(taken)]
    assert TASKS_AHEAD * 2 < max(ahead) <= TASKS_AHEAD * MOST_TILES
