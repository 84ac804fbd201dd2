"""Clusters that other tests build on: SLURM, machines with a cable, certificates."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client

from tests.support.clusters import Certificates, wait_until
from tests.support.namespaces import Namespaces
from tests.support.paths import ROOT
from tests.support.ports import free_port
from tests.support.slurm import Slurm

SLEEPER = "import time; time.sleep(1234.5)"


def batch(folder: Path, *lines: str, options: str = "--ntasks=1 --mem=100M --time=5") -> str:
    """Submit a batch script in Python from its folder.

    Returns:
        The job's id.
    """
    head = [f"#!{sys.executable}", *(f"#SBATCH {option}" for option in options.split())]
    script = folder / "job.py"
    script.write_text("\n".join([*head, f"#SBATCH --output={folder}/job.out", *lines]), "utf-8")
    done = subprocess.run(
        ["sbatch", "--parsable", script], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def lines(path: Path, count: int) -> list[str]:
    """Return the first lines of a file that is being written."""
    wait_until(lambda: path.exists() and path.read_text("utf-8").count("\n") >= count)
    return path.read_text("utf-8").splitlines()


def running(text: str) -> list[psutil.Process]:
    """Return the processes with this text in their command, zombies left out."""
    return [
        p for p in psutil.process_iter(["cmdline"]) if any(text in part for part in p.info["cmdline"] or ())
    ]


def test_job_in_python_runs_and_ends(slurm: Slurm, slurm_environment: dict[str, str], tmp_path: Path) -> None:
    job = batch(tmp_path, "import os", "print(os.environ['SLURM_JOB_ID'], os.getcwd())")
    assert slurm.wait_for(job, "COMPLETED", "FAILED") == (job, "COMPLETED", "job.py")
    assert (tmp_path / "job.out").read_text("utf-8") == f"{job} {tmp_path}\n"
    assert slurm.jobs() == []


def test_unknown_partition_is_refused(slurm_environment: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\n#SBATCH --partition=nosuch\n", "utf-8")
    done = subprocess.run(["sbatch", "--test-only", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "invalid partition specified: nosuch" in done.stderr


def test_killed_task_leaves_the_other(
    slurm: Slurm, slurm_environment: dict[str, str], tmp_path: Path
) -> None:
    task = "import os, time; print(os.getpid(), flush=True); time.sleep(1234.5)"
    srun = ["srun", "--overlap", "--ntasks=2", "--kill-on-bad-exit=0", sys.executable, "-c", task]
    job = batch(
        tmp_path,
        "import subprocess",
        f"subprocess.run({srun!r})",
        options="--ntasks=2 --mem-per-cpu=100M --time=5",
    )
    killed, kept = (psutil.Process(int(line)) for line in lines(tmp_path / "job.out", 2))
    killed.kill()
    lines(tmp_path / "job.out", 3)  # srun reports it
    assert not killed.is_running()
    time.sleep(1)
    assert kept.is_running()
    assert [(each.id, each.state) for each in slurm.jobs()] == [(job, "RUNNING")]
    slurm.cancel(job)
    slurm.wait_until_idle()
    assert not kept.is_running()
    assert slurm.job(job).state == "CANCELLED"


def test_stopped_slurm_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "slurm"
    with Slurm(folder) as slurm:
        script = tmp_path / "job.sh"
        # It leaves its session and its parent, as daemons do.
        script.write_text(f"#!/bin/sh\nsetsid {sys.executable} -c '{SLEEPER} # {folder}' &\nsleep 1234.5\n")
        job = slurm.run("sbatch", "--parsable", "--mem=100M", f"--chdir={tmp_path}", str(script)).strip()
        slurm.wait_for(job, "RUNNING")
        wait_until(lambda: running(f"# {folder}"))
        assert len(running(str(folder))) > 3  # munged, slurmctld, slurmd and the job
    assert running(str(folder)) == []


def test_killed_tests_leave_no_process(tmp_path: Path) -> None:
    Slurm(tmp_path)  # skips
    folder = tmp_path / "slurm"
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path\n"
        "from tests.support import slurm\n"
        f"slurm.Slurm(Path({str(folder)!r})).start(); print('started', flush=True); time.sleep(1234.5)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        assert tests.stdout.readline() == b"started\n"
        assert running(f"{folder}/slurm.conf")
        tests.kill()
    wait_until(lambda: not running(str(folder)))


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespaces]:
    with Namespaces(2, tmp_path_factory.mktemp("machines")) as machines:
        yield machines


def reaches(machines: Namespaces, source: int, address: str, port: int) -> bool:
    code = f"import socket; socket.create_connection(({address!r}, {port}), timeout=1)"
    return machines.start([sys.executable, "-c", code], source).wait() == 0


def test_machine_without_cable_is_unreachable(machines: Namespaces) -> None:
    code = (
        "import socket, sys, time; s = socket.create_server((sys.argv[1], 9999)); print('on', flush=True)\n"
    )
    server = machines.start([sys.executable, "-c", f"{code}\ntime.sleep(1234.5)", machines.addresses[1]], 1)
    wait_until(lambda: any("on" in log.read_text("utf-8") for log in machines.folder.glob("1-*.log")))
    assert reaches(machines, 0, machines.addresses[1], 9999)
    machines.cut(1)
    assert not reaches(machines, 0, machines.addresses[1], 9999)
    machines.restore(1)
    assert reaches(machines, 0, machines.addresses[1], 9999)
    server.kill()
    server.wait()


def test_closed_network_leaves_nothing(tmp_path: Path) -> None:
    def names(prefix: str) -> tuple[int, int]:
        """Return the numbers of interfaces and namespaces."""
        folders = (Path("/sys/class/net"), Path("/run/netns"))
        interfaces, namespaces = (len(list(folder.glob(f"{prefix}*"))) for folder in folders)
        return interfaces, namespaces

    mark = f"# {tmp_path}"
    with Namespaces(1, tmp_path / "machines") as machines:
        # Its child leaves it, as a daemon does.
        command = ["sh", "-c", f"setsid {sys.executable} -c '{SLEEPER} {mark}' & sleep 1234.5 {mark}"]
        program = machines.start(command, 0)
        wait_until(lambda: len(running(mark)) == 2)
        assert names(machines.prefix) == (1, 2)
    assert program.returncode == -9
    assert running(mark) == []
    assert names(machines.prefix) == (0, 0)


def test_worker_that_is_cut_off_ends(
    machines: Namespaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The shortest: ten heartbeats of half a second each.
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "5s")
    port = free_port()
    address = f"tcp://{machines.here}:{port}"
    dask = [sys.executable, "-m", "dask"]
    with (tmp_path / "scheduler.log").open("wb") as log:
        scheduler = subprocess.Popen(
            [*dask, "scheduler", "--no-show", "--no-dashboard", "--host", machines.here, "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "30"]
        workers = [
            machines.start([*dask, "worker", address, *options, "--host", machines.addresses[where]], where)
            for where in (0, 1)
        ]
        with Client(address, timeout=30, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
            machines.cut(1)
            wait_until(lambda: len(client.nthreads()) == 1)
            assert machines.addresses[0] in next(iter(client.nthreads()))
            assert client.submit(sum, [1, 2]).result(timeout=30) == 3
            assert workers[1].poll() is None
            machines.restore(1)
            assert workers[1].wait(30) == 0
            assert workers[0].poll() is None
    finally:
        scheduler.kill()
        scheduler.wait()


@pytest.mark.soak
def test_dask_programs_refuse_another_authority(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "ours")
    port = free_port()
    dask = [sys.executable, "-m", "dask"]
    common = ["--host", "tls://127.0.0.1", "--no-dashboard", *certificates.options()]
    address = f"tls://127.0.0.1:{port}"
    commands = [
        [*dask, "scheduler", "--no-show", "--port", str(port), *common],
        [*dask, "worker", address, "--nthreads", "1", "--no-nanny", "--death-timeout", "30", *common],
    ]
    programs = []
    try:
        for command in commands:
            with (tmp_path / f"{command[3]}.log").open("wb") as log:
                programs.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        with Client(address, security=certificates.security(), timeout=30, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=30)
            assert client.submit(sum, [1, 2]).result(timeout=30) == 3
        stranger = Certificates(tmp_path / "theirs").security()
        with pytest.raises(OSError, match="TLS certificate does not match"):
            Client(address, security=stranger, timeout=2, set_as_default=False)
    finally:
        for program in programs:
            program.kill()
            program.wait()
