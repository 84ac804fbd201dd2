"""Runs on a real SLURM: jobs that are cancelled, allocations that end, queues that refuse."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rasterio
from click.testing import CliRunner, Result
from rasterio.windows import Window

from tests.support.city import PAIR, PRODUCTS, SETS, City, assert_same, kill_group
from tests.support.clusters import wait_until
from tests.support.paths import ROOT
from tests.support.slurm import Slurm
from ussfc import cli
from ussfc.pipeline.clusters.base import quiet_environment

pytest.importorskip("dask_jobqueue", reason="needs pip install 'ussfc[slurm]'")

PATIENCE = 120


@pytest.fixture
def job_sets(
    slurm: Slurm, slurm_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, ...]:
    """Return the settings of a run on this SLURM; its jobs find the tests' modules through the environment."""
    # Dask gives up a worker after fifteen seconds, and only then has another job submitted.
    monkeypatch.setenv("DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT", "3s")
    return (
        "cluster.kind=slurm",
        "cluster.memory=1GiB",
        "cluster.walltime=0:10:00",
        "cluster.options.interface=lo",
        f"cluster.options.log_directory={tmp_path}/logs",
        "cluster.options.scheduler_options={host: 127.0.0.1}",
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the bytes that one process computes."""
    folder = tmp_path_factory.mktemp("expected")
    city = City(str(folder / "out"), folder / "log")
    assert city.run()["complete"]
    return city.content()


def workers(slurm: Slurm) -> list[str]:
    """Return the ids of the jobs that run."""
    return [job.id for job in slurm.jobs() if job.state == "RUNNING"]


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


def settings(sets: tuple[str, ...]) -> Iterator[str]:
    for setting in sets:
        yield from ("--set", setting)


def test_cancelled_job_is_replaced(
    slurm: Slurm, job_sets: tuple[str, ...], expected: dict[str, bytes], tmp_path: Path
) -> None:
    city = City(str(tmp_path / "out"), tmp_path / "log", (*job_sets, "cluster.jobs=2"))
    with city.start(seconds=0.1) as process:
        try:
            wait_until(lambda: city.calls >= 40)
            first = workers(slurm)
            assert len(first) == 2
            script = slurm.run("scontrol", "write", "batch_script", first[0], "-")
            assert all(f"export {name}={value}\n" in script for name, value in quiet_environment().items())
            slurm.cancel(first[0])
            # The other one goes on; once it is cancelled as well, only jobs submitted later can end the run.
            wait_until(lambda: set(workers(slurm)) - set(first))
            slurm.cancel(first[1])
            _, error = process.communicate(timeout=PATIENCE)
        finally:
            kill_group(process)
    assert process.returncode == 0, error
    assert_same(city.content(), expected)
    assert slurm.jobs() == []


@pytest.mark.soak
def test_only_job_is_replaced_when_it_ends(
    slurm: Slurm, job_sets: tuple[str, ...], expected: dict[str, bytes], tmp_path: Path
) -> None:
    city = City(str(tmp_path / "out"), tmp_path / "log", (*job_sets, "cluster.jobs=1"))
    with city.start(seconds=0.05) as process:
        try:
            wait_until(lambda: city.calls >= 20)
            slurm.cancel(workers(slurm)[0])
            _, error = process.communicate(timeout=PATIENCE)
        finally:
            kill_group(process)
    assert process.returncode == 0, error
    assert_same(city.content(), expected)


@pytest.mark.soak
def test_waiting_job_is_not_taken_back(
    slurm: Slurm, job_sets: tuple[str, ...], expected: dict[str, bytes], tmp_path: Path
) -> None:
    other = slurm.run("sbatch", "--parsable", "--exclusive", "--output=/dev/null", "--wrap=sleep 300").strip()
    slurm.wait_for(other, "RUNNING")
    between = ("cluster.minimum_jobs=0", "cluster.maximum_jobs=1")
    city = City(str(tmp_path / "out"), tmp_path / "log", (*job_sets, *between))
    with city.start() as process:
        try:
            wait_until(lambda: any(job.name == "ussfc" for job in slurm.jobs()))
            # Longer than an adaptive cluster keeps what it has no use for.
            time.sleep(22)
            assert [job.state for job in slurm.jobs() if job.name == "ussfc"] == ["PENDING"]
            slurm.cancel(other)
            _, error = process.communicate(timeout=PATIENCE)
        finally:
            kill_group(process)
    assert process.returncode == 0, error
    assert_same(city.content(), expected)


@pytest.mark.soak
def test_jobs_are_as_many_as_the_work_needs(
    slurm: Slurm, job_sets: tuple[str, ...], expected: dict[str, bytes], tmp_path: Path
) -> None:
    between = ("cluster.minimum_jobs=0", "cluster.maximum_jobs=3")
    city = City(str(tmp_path / "out"), tmp_path / "log", (*job_sets, *between))
    with city.start(seconds=0.3) as process:
        try:
            wait_until(lambda: len(workers(slurm)) == 3)
            _, error = process.communicate(timeout=PATIENCE)
        finally:
            kill_group(process)
    assert process.returncode == 0, error
    assert_same(city.content(), expected)


@pytest.mark.soak
def test_killed_command_leaves_no_job(
    slurm: Slurm, job_sets: tuple[str, ...], expected: dict[str, bytes], tmp_path: Path
) -> None:
    city = City(str(tmp_path / "out"), tmp_path / "log", (*job_sets, "cluster.jobs=2"))
    with city.start(seconds=0.1) as process:
        wait_until(lambda: city.calls >= 20)
        kill_group(process)
    wait_until(lambda: not slurm.jobs())
    done = len(list((tmp_path / "out" / "work" / "done").rglob("*.v*")))
    assert done
    before = city.calls
    assert city.run()["complete"]
    assert city.calls - before < 36 * 9 - done
    assert_same(city.content(), expected)


def test_unknown_queue_is_a_cluster_error(job_sets: tuple[str, ...], tmp_path: Path) -> None:
    sets = settings((*job_sets, "cluster.jobs=2", "cluster.queue=nosuch"))
    result = ussfc("run", *PAIR, "--out", tmp_path / "out", *sets)
    assert result.exit_code == 7
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert "SLURM rejects the job (sbatch: error: invalid partition specified: nosuch" in line
    assert "cluster.queue" in line


def test_job_larger_than_a_node_is_rejected(job_sets: tuple[str, ...], tmp_path: Path) -> None:
    sets = settings((*job_sets, "cluster.jobs=1", "cluster.memory=9000GiB"))
    result = ussfc("run", *PAIR, "--out", tmp_path / "out", *sets)
    assert result.exit_code == 7
    assert "SLURM rejects the job (allocation failure: Requested node configuration is not" in result.stderr


def test_unknown_options_are_refused(job_sets: tuple[str, ...], tmp_path: Path) -> None:
    sets = settings((*job_sets, "cluster.jobs=1", "cluster.options.colour=red"))
    result = ussfc("run", *PAIR, "--out", tmp_path / "out", *sets)
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert "cluster.options: SLURMCluster does not take them" in line
    assert "colour" in line


@pytest.mark.parametrize(
    ("option", "status", "message"),
    [
        (
            "interface=nosuch0",
            7,
            "SLURMCluster: Cluster failed to start: 'nosuch0' is not a valid network interface",
        ),
        ("log_directory=/proc/logs", 2, "/proc/logs: the jobs' logs go there, and it cannot be made ("),
    ],
)
def test_unusable_options_are_named(
    job_sets: tuple[str, ...], tmp_path: Path, option: str, status: int, message: str
) -> None:
    sets = (*(text for text in job_sets if "scheduler_options" not in text), f"cluster.options.{option}")
    result = ussfc("run", *PAIR, "--out", tmp_path / "out", *settings((*sets, "cluster.jobs=1")))
    assert result.exit_code == status
    assert message in result.stderr


def test_failed_jobs_end_the_run_with_their_log(job_sets: tuple[str, ...], tmp_path: Path) -> None:
    sets = settings((*job_sets, "cluster.jobs=1", "cluster.options.worker_extra_args=[--colour=red]"))
    result = ussfc("run", *PAIR, "--out", tmp_path / "out", *sets)
    assert result.exit_code == 7
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert "ended before its worker reached the scheduler (" in line
    assert "--colour" in line
    assert f"{tmp_path}/logs" in line


def test_missing_sbatch_names_the_way_out(
    job_sets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent))
        result = ussfc("run", *PAIR, "--out", tmp_path / "out", *settings((*job_sets, "cluster.jobs=1")))
    assert result.exit_code == 7
    assert "error: sbatch: not found on this machine; log in to a node" in result.stderr


def test_cancelled_submission_is_resumed(
    slurm: Slurm, job_sets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packaged network over a real pair, in an allocation of two tasks."""
    small = ("tiling.tile_size=64", "tiling.patch_size=64")
    for name, path in zip(("before.tif", "after.tif"), PAIR, strict=True):
        with rasterio.open(path) as source:
            profile = source.profile | {"width": 384, "height": 384}
            with rasterio.open(tmp_path / name, "w", **profile) as target:
                target.write(source.read(window=Window(0, 0, 384, 384)))
    alone, out = tmp_path / "alone", tmp_path / "out"
    serial = settings((*small, "cluster.kind=serial"))
    pair = tmp_path / "before.tif", tmp_path / "after.tif"
    assert ussfc("run", *pair, "--out", alone, *serial, "-q").exit_code == 0
    monkeypatch.chdir(tmp_path)

    def submit() -> str:
        sets = settings((*job_sets, *small, "cluster.jobs=2"))
        result = ussfc("submit", "before.tif", "after.tif", "--out", "out", *sets)
        assert result.exit_code == 0, result.output
        return result.stdout.split()[1].rstrip(",")

    def records() -> list[Path]:
        return list((out / "work" / "done").rglob("*.v*"))

    first = submit()
    wait_until(lambda: len(records()) >= 4)
    slurm.cancel(first)
    slurm.wait_for(first, "CANCELLED")
    assert len(records()) < 36
    assert ussfc("status", out).exit_code == 8
    second = submit()
    followed = subprocess.run(
        [sys.executable, "-m", "ussfc.cli", "status", "--follow", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    log = (tmp_path / "logs" / f"ussfc-{second}.out").read_text("utf-8")
    assert followed.returncode == 0, followed.stderr + log
    slurm.wait_for(second, "COMPLETED")
    assert "resuming:" in log
    for name in PRODUCTS:
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name


def test_missing_allocation_names_the_way_out(
    slurm_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_J")]:
        monkeypatch.delenv(name)
    result = ussfc("run", *PAIR, "--out", tmp_path / "out", *settings(SETS), "--cluster", "allocation")
    assert result.exit_code == 7
    assert "error: this process is in no SLURM allocation" in result.stderr
