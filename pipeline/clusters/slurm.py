"""Workers in SLURM jobs: submitted from here, or in the allocation that this process runs in."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask

from ussfc.pipeline.clusters import slurm_commands as slurm
from ussfc.pipeline.clusters.base import (
    JOB_END,
    QUIET,
    Started,
    create_cluster,
    quiet_environment,
    require_extra,
    tiles_per_worker,
)
from ussfc.pipeline.errors import ClusterError, ConfigError

LOG_FOLDER = "~/.cache/ussfc/slurm"
"""Default folder of the logs of SLURM jobs: a home is on all nodes, and its name is harmless in a batch script."""

END_SHARE, END_MOST = 0.1, 300
"""Share of a SLURM job's time limit, and largest number of seconds, by which its workers end before the limit."""

REPLACE_SECONDS = 45
"""Seconds after the end of the last SLURM job by which others have been submitted: Dask misses a worker after 15 s, and
looks every few seconds."""


@dataclass(frozen=True)
class SlurmJobs:
    """SLURM jobs of workers, submitted from here; the scheduler lives in this process."""

    jobs: tuple[int, int]
    """Least and largest number of jobs."""
    workers: int
    """Processes of a job."""
    threads: int
    """Cores of a process."""
    memory: str
    """Memory of a job, with a unit."""
    walltime: str
    """Time limit of a job, ``[days-]hours:minutes:seconds``."""
    gpu: bool = False
    queue: str | None = None
    account: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for SLURMCluster."""
    is_local: bool = False
    name: str = "scheduler of this process, with workers in SLURM jobs"

    @property
    def worker_count(self) -> int:
        """Number of workers if it does not change, else 0."""
        return self.jobs[0] * self.workers if self.jobs[0] == self.jobs[1] else 0

    @property
    def concurrent_tiles(self) -> int:
        """Number of tiles in hand of a worker: its cores read for its GPU."""
        return tiles_per_worker(self.threads, self.gpu)

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """Submit the jobs, and cancel them at the end; see :meth:`Cluster.start`."""
        slurm.require_command("sbatch")
        cluster_type = load_slurm_cluster()
        logs = Path(str(self.options.get("log_directory", LOG_FOLDER))).expanduser()
        for name, path in (("sys.executable", sys.executable), ("log_directory", str(logs))):
            check_shell_word(name, path)
        make_log_folder(logs)
        settings = self._settings(logs)
        options = {key: value for key, value in self.options.items() if key != "log_directory"}
        settings["scheduler_options"] |= options.pop("scheduler_options", {})
        submitted = _SubmittedJobs(logs)
        settings["job_cls"] = _recording_job_type(cluster_type.job_cls, submitted)
        least, most = self.jobs
        with dask.config.set(QUIET), create_cluster(cluster_type, settings, options) as cluster:
            submitted.cluster = cluster
            cluster.scheduler.add_plugin(_arrival_plugin(submitted))
            with tempfile.TemporaryDirectory(prefix="ussfc-") as folder:
                script = Path(folder) / "job.sh"
                script.write_text(cluster.job_script(), "utf-8")
                slurm.check_script(script)
            cluster.scale(jobs=max(1, least))
            submitted.wait_until_submitted(max(1, least))
            # To scale once does not replace a job that ends; adapting between equal bounds does.
            cluster.adapt(minimum_jobs=least, maximum_jobs=most, interval="5s")
            threads = most * self.workers * self.concurrent_tiles
            yield Started(cluster, threads, describe_wait=submitted.describe_wait)

    def _settings(self, logs: Path) -> dict[str, Any]:
        """Return arguments for SLURMCluster."""
        limit = slurm.walltime_seconds(self.walltime)
        early = int(min(END_MOST, END_SHARE * limit))
        return {
            # Dask's threads are tiles in hand; the network's threads are the engine's own.
            "cores": self.workers * self.concurrent_tiles,
            "processes": self.workers,
            "job_cpu": self.workers * self.threads,
            "memory": self.memory,
            "walltime": self.walltime,
            "queue": self.queue,
            "account": self.account,
            "job_name": "ussfc",
            "python": sys.executable,
            "log_directory": str(logs),
            # Seconds since 1970; also for processes that a nanny starts later.
            "job_script_prologue": [
                f"export {JOB_END}=$(($(date +%s) + {limit}))",
                *(f"export {name}={value}" for name, value in quiet_environment().items()),
            ],
            "job_extra_directives": ["--gres=gpu:1"] if self.gpu else [],
            "worker_extra_args": [
                "--no-dashboard",
                # The last one counts. SLURM bounds the job's memory; Dask's limit would pause or kill at a guess.
                *("--memory-limit", "0"),
                # Not all at once, or none would be left to go on.
                *("--lifetime", f"{limit - early}s"),
                *("--lifetime-stagger", f"{early // 2}s"),
            ],
            "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
        }


class _SubmittedJobs:
    """The jobs of a SLURMCluster."""

    def __init__(self, logs: Path) -> None:
        self.cluster: Any = None
        self.refusals: list[str] = []
        """Messages of sbatch for jobs that it did not take."""
        self._logs = logs
        self._ids: set[str] = set()
        self._worker_came = False
        self._all_ended_at: float | None = None

    def worker_arrived(self) -> None:
        """Note that a worker has reached the scheduler."""
        self._worker_came, self._all_ended_at = True, None

    def wait_until_submitted(self, count: int) -> None:
        """Wait until so many jobs are submitted.

        Raises:
            ClusterError: the queue rejects one.
        """
        end = time.monotonic() + slurm.ANSWER_SECONDS
        while len(self._job_ids()) < count:
            self._raise_refusal()
            if time.monotonic() > end:
                raise ClusterError(
                    f"sbatch: no answer within {slurm.ANSWER_SECONDS} s; `scontrol ping` shows why"
                )
            time.sleep(0.05)

    def _job_ids(self) -> set[str]:
        """Return the ids of all jobs that were ever submitted."""
        # A copy: the cluster's own thread changes it.
        self._ids |= {str(job.job_id) for job in list(self.cluster.workers.values()) if job.job_id}
        return self._ids

    def _raise_refusal(self) -> None:
        if self.refusals:
            found = re.search(r"stderr:\n(.*)", self.refusals[0], re.DOTALL)
            raise slurm.rejection_error(found[1] if found else self.refusals[0])

    def describe_wait(self) -> str | None:
        """Return where the jobs are, while no worker is there.

        Raises:
            ClusterError: all that were ever submitted ended and none follows, or the queue takes no more.
        """
        try:
            found = slurm.job_states(sorted(self._job_ids()))
        except ClusterError as error:
            # Jobs may wait for days, and a controller be restarted meanwhile.
            return str(error)
        if found:
            self._all_ended_at = None
            queued = ", ".join(f"job {job} {state}" for job, state in sorted(found.items())[:4])
            return f"{len(found)} SLURM job(s) in the queue ({queued})"
        self._raise_refusal()
        now = time.monotonic()
        self._all_ended_at = now if self._all_ended_at is None else self._all_ended_at
        if self._worker_came and now < self._all_ended_at + REPLACE_SECONDS:
            return "all SLURM jobs have ended; others are about to be submitted"
        last = max(self._ids, key=lambda job: int(job.partition("_")[0]))
        raise ClusterError(
            f"SLURM job {last} ended before its worker reached the scheduler{self._last_log_line(last)}; see "
            f"{self._logs}; often the nodes need another cluster.options.interface, or python"
        )

    def _last_log_line(self, job: str) -> str:
        """Return the last line that a job wrote, in parentheses; empty where it wrote none."""
        try:
            text = (self._logs / f"ussfc-{job}.err").read_text("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        return f" ({lines[-1][:200]})" if lines else ""


def _recording_job_type(job_type: Any, submitted: _SubmittedJobs) -> Any:
    """Return the library's class of jobs, which keeps the messages of sbatch: the cluster itself only logs them."""

    class Job(job_type):  # type: ignore[misc]
        async def _submit_job(self, script_filename: str) -> Any:
            try:
                return await super()._submit_job(script_filename)
            except RuntimeError as error:
                submitted.refusals.append(str(error))
                raise

    return Job


def _arrival_plugin(submitted: _SubmittedJobs) -> Any:
    """Return a plugin of the scheduler that reports every worker."""
    from distributed import SchedulerPlugin

    class Arrivals(SchedulerPlugin):
        def add_worker(self, scheduler: Any, worker: str) -> None:
            submitted.worker_arrived()

    return Arrivals()


def make_log_folder(logs: Path) -> None:
    """Make the folder of the jobs' logs.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{logs}: the jobs' logs go there, and it cannot be made ({error.strerror}); set "
            "cluster.options.log_directory to a folder that all nodes see"
        ) from error


def is_shell_word(text: str) -> bool:
    """Return whether a text that goes into a batch script as it is would be no more than a name there."""
    return re.fullmatch(r"[A-Za-z0-9_./@%+=:,-]+", text) is not None


def check_shell_word(name: str, text: str) -> None:
    """Check that a text which goes into a batch script as it is would be no more than a name there.

    Args:
        name: of the setting, for the error.
        text: its value.

    Raises:
        ConfigError: it holds spaces or special characters.
    """
    if not is_shell_word(text):
        raise ConfigError(
            f"{name} {text!r}: goes into a batch script, and a shell would read it as more than a name; give one "
            "without spaces and special characters"
        )


def load_slurm_cluster() -> Any:
    """Return dask-jobqueue's class of clusters.

    The package takes SIGINT over as it is imported: an interrupted run would end with exit status 0. So the handler is
    put back.

    Raises:
        ClusterError: dask-jobqueue is not installed.
    """
    handler = signal.getsignal(signal.SIGINT)
    with require_extra("slurm", "dask-jobqueue"):
        from dask_jobqueue import SLURMCluster
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
    return SLURMCluster


@dataclass(frozen=True)
class SlurmAllocation:
    """The SLURM allocation that this process runs in: a worker for each of its tasks, started by srun."""

    gpu: bool = False
    is_local: bool = False
    """False: workers have the Python of this process, but other nodes may see other folders."""
    name: str = "scheduler of this allocation"

    @property
    def tasks(self) -> int:
        """Number of tasks of the allocation.

        Raises:
            ClusterError: this process is in no allocation.
        """
        text = os.environ.get("SLURM_NTASKS") or os.environ.get("SLURM_NNODES")
        if "SLURM_JOB_ID" not in os.environ or not text:
            raise ClusterError(
                "this process is in no SLURM allocation (SLURM_JOB_ID is not set); start it with `ussfc submit`, or "
                "with sbatch or salloc"
            )
        return int(text)

    @property
    def worker_count(self) -> int:
        """Number of tasks; the worker of each walks a band of the tiles."""
        return self.tasks

    @property
    def cores(self) -> int:
        """Number of cores of a task."""
        return int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))

    @property
    def concurrent_tiles(self) -> int:
        """Number of tiles in hand of a worker: the cores of its task read for its GPU."""
        return tiles_per_worker(self.cores, self.gpu)

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """Start srun, and end it at the end; see :meth:`Cluster.start`."""
        from distributed import Scheduler, SpecCluster

        slurm.require_command("srun")
        tasks = self.tasks
        host = os.environ.get("SLURMD_NODENAME", socket.gethostname())
        options = {
            "host": _address_of(host, int(os.environ.get("SLURM_NNODES", "1"))),
            "port": 0,
            "dashboard_address": "127.0.0.1:0",
        }
        scheduler = {"cls": Scheduler, "options": options}
        with (
            dask.config.set(QUIET),
            SpecCluster(workers={}, scheduler=scheduler, name=f"ussfc-{secrets.token_hex(4)}") as cluster,
            _running(self._command(tasks, cluster.scheduler_address), quiet_environment()) as srun,
        ):

            def describe_wait() -> str:
                if srun.poll() is not None:
                    raise ClusterError(
                        f"srun ended with status {srun.returncode} and no worker is left; its messages stand above; "
                        "the same command continues where it stopped"
                    )
                return "srun is starting workers"

            yield Started(cluster, tasks * self.concurrent_tiles, describe_wait=describe_wait)

    def _command(self, tasks: int, scheduler_address: str) -> list[str]:
        return [
            "srun",
            # Beside this process, which has the allocation's first node.
            "--overlap",
            f"--ntasks={tasks}",
            f"--cpus-per-task={self.cores}",
            # A node or a worker that is lost is no reason to end the others.
            "--no-kill",
            "--kill-on-bad-exit=0",
            "--wait=0",
            *(("--gpus-per-task=1",) if self.gpu else ()),
            *(sys.executable, "-m", "dask", "worker", scheduler_address),
            *("--nthreads", str(self.concurrent_tiles), "--no-dashboard", "--memory-limit", "0"),
        ]


def _address_of(host: str, nodes: int) -> str:
    """Return the address of this node at which the other nodes reach it."""
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        raise ClusterError(
            f"{host}: this node's name has no address; the other nodes could not reach its scheduler"
        ) from error
    if nodes > 1 and address.startswith("127."):
        # Debian gives a machine's own name such an address.
        from distributed.utils import get_ip

        address = get_ip()
    return address


@contextmanager
def _running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with more in its environment, until the end of the context."""
    with subprocess.Popen(  # noqa: S603 - a list, no shell
        command, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
    ) as program:
        try:
            yield program
        finally:
            program.terminate()
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
