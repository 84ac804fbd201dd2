"""Where Dask's workers come from: processes of this machine, SLURM, Kubernetes, or a scheduler that is there already.

The engine is Dask's own; here is only what makes the same command work everywhere.
"""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import dask

from ussfc.pipeline.clusters import slurm_commands as slurm
from ussfc.pipeline.config.schema import size_in_bytes
from ussfc.pipeline.errors import ClusterError, ConfigError
from ussfc.pipeline.parallel.ordered_map import cores

LOCAL_RESTART_SECONDS = 300
"""A process that dies may take so long to start again before Dask gives it up; its own 15 s are short for torch."""

LOGS = "~/.cache/ussfc/slurm"
"""Where SLURM jobs write what they say: a home is on all nodes, and its name is harmless in a batch script."""

END_SHARE, END_MOST = 0.1, 300
"""Workers of a SLURM job end before its time limit: by this share of it, and at most by so many seconds."""

REPLACE_SECONDS = 45
"""So long after the last SLURM job ended, others have been submitted: Dask misses a worker after 15 s, and looks every
few seconds."""

JOB_END = "USSFC_JOB_END"
"""Environment variable of a worker: when its job is ended by force, seconds since 1970."""

QUIET = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"}
"""Dask looks a hundred times a second at what its threads do, and fifty times whether its loops turn: that took two
workers on two cores a tenth of their time (``docs/scaling.md``)."""

READ_AHEAD, MOST_READERS = 2, 12
"""Tiles in hand of a process with a GPU, least and most: while one has the GPU, others are read."""


def tiles_per_worker(cores: int, gpu: bool) -> int:
    """Tiles that a worker has in hand: a core reads too slowly for a GPU, while a CPU's network wants all cores."""
    return min(MOST_READERS, max(READ_AHEAD, cores)) if gpu else 1


@dataclass(frozen=True)
class Started:
    """A scheduler that is up."""

    target: Any
    """Address or cluster object: what a client connects to."""
    threads: int = 0
    """Threads of all workers once all have come; 0: nobody knows."""
    security: Any = None
    """Certificates of the connection."""
    waiting: Callable[[], str | None] | None = None
    """What keeps workers away; raises ClusterError if none will come. None: workers must be there from the start."""


class Cluster(Protocol):
    """Where workers come from."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def worker_count(self) -> int:
        """Workers that walk a stretch of the tiles each; 0 where their number is not known."""

    @property
    def concurrent_tiles(self) -> int:
        """Tiles that each worker has in hand, as far as this is known."""

    @property
    def is_local(self) -> bool:
        """Whether its workers are processes of this machine, which need not show what they have and see."""

    def start(self, scratch: Path) -> AbstractContextManager[Started]:
        """Start it, and stop it at the end.

        Args:
            scratch: local folder for the files of processes that are started here.

        Raises:
            ClusterError, ConfigError: it cannot be started; each says why and what to do.
        """


@dataclass(frozen=True)
class SchedulerAt:
    """A Dask scheduler that somebody else started, with its workers."""

    address: str
    tls: tuple[str, str, str] | None = None
    """PEM files: authority, certificate, key."""
    worker_count: int = 0
    concurrent_tiles: int = 1
    is_local: bool = False

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"scheduler {self.address}"

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """See :meth:`Cluster.start`."""
        yield Started(self.address, security=self._security())

    def _security(self) -> Any:
        if self.tls is None:
            return None
        from distributed.security import Security

        for key, file in zip(("tls_ca", "tls_certificate", "tls_key"), self.tls, strict=True):
            try:
                Path(file).read_bytes()
            except OSError as error:
                raise ConfigError(f"cluster.{key} {file}: cannot be read ({error.strerror})") from error
        ca, certificate, key = self.tls
        return Security(
            tls_ca_file=ca, tls_client_cert=certificate, tls_client_key=key, require_encryption=True
        )


@dataclass(frozen=True)
class LocalProcesses:
    """Processes of this machine; each computes one tile at a time."""

    workers: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """For LocalCluster."""
    concurrent_tiles: int = 1
    is_local: bool = True
    name: str = "scheduler of this process"

    @property
    def worker_count(self) -> int:
        """Each has a stretch."""
        return self.workers

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """See :meth:`Cluster.start`."""
        from distributed import LocalCluster

        settings = _local_settings(scratch) | {"n_workers": self.workers, "threads_per_worker": 1}
        with _local(), _made(LocalCluster, {**settings, "processes": True}, self.options) as cluster:
            yield Started(cluster, self.workers)


@dataclass(frozen=True)
class LocalGpus:
    """One process for each GPU of this machine."""

    devices: tuple[str, ...]
    """Entries of CUDA_VISIBLE_DEVICES: numbers or identifiers."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For LocalCUDACluster where dask-cuda is installed, else for LocalCluster."""
    is_local: bool = True
    name: str = "scheduler of this process"

    @property
    def worker_count(self) -> int:
        """Each has a stretch."""
        return len(self.devices)

    @property
    def concurrent_tiles(self) -> int:
        """The machine's cores are shared among its GPUs."""
        return tiles_per_worker(cores() // len(self.devices), True)

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """See :meth:`Cluster.start`."""
        count = len(self.devices)
        settings = _local_settings(scratch) | {
            "n_workers": count,
            "threads_per_worker": self.concurrent_tiles,
        }
        try:
            from dask_cuda import LocalCUDACluster

            kind: Any = LocalCUDACluster
            settings |= {"CUDA_VISIBLE_DEVICES": ",".join(self.devices), "device_memory_limit": None}
        except ImportError:
            from distributed import LocalCluster

            devices = self.devices

            class PinnedCluster(LocalCluster):
                """Each of its processes sees one device alone."""

                async def _start(self) -> None:
                    # The first ones are not asked of new_worker_spec.
                    self.worker_spec = self._pinned(self.worker_spec)
                    await super()._start()  # type: ignore[no-untyped-call]

                def new_worker_spec(self) -> dict[Any, Any]:
                    return self._pinned(super().new_worker_spec())  # type: ignore[no-untyped-call]

                @staticmethod
                def _pinned(specs: dict[Any, Any]) -> dict[Any, Any]:
                    pinned = {}
                    for name, spec in specs.items():
                        device = devices[int(name) % count]
                        options = {**spec["options"], "env": {"CUDA_VISIBLE_DEVICES": device}}
                        pinned[name] = {**spec, "options": options}
                    return pinned

            kind = PinnedCluster
            settings |= {"processes": True}
        with _local(), _made(kind, settings, self.options) as cluster:
            yield Started(cluster, self.concurrent_tiles * count)


def visible_gpus(count: int) -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Args:
        count: how many the process sees.
    """
    named = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    named = [entry for entry in named if entry]
    return tuple(named[:count]) if len(named) >= count else tuple(str(number) for number in range(count))


def _local_settings(scratch: Path) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        # None would open Dask's usual port, on every interface.
        "dashboard_address": "127.0.0.1:0",
        # The run's own projection bounds the memory; Dask's limit would pause or kill at a guess.
        "memory_limit": None,
        "local_directory": str(scratch),
    }


def _local() -> AbstractContextManager[Any]:
    """Dask's settings around a cluster of this machine, whose processes take them over."""
    limit = {"distributed.deploy.lost-worker-timeout": f"{LOCAL_RESTART_SECONDS} s"}
    return dask.config.set({**limit, **QUIET})


def quiet_environment() -> dict[str, str]:
    """``QUIET`` as the environment of workers elsewhere says it."""
    return {f"DASK_{key.replace('.', '__').upper()}": str(value) for key, value in QUIET.items()}


def _made(
    kind: Any,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    refusals: tuple[type[Exception], ...] = (TypeError, ValueError),
) -> Any:
    """An object of a library's class, with the user's options over our settings; lists are joined.

    Raises:
        ConfigError: the library does not take the options.
        ClusterError: it cannot start with them.
    """
    merged = dict(settings)
    for key, value in options.items():
        default = merged.get(key)
        merged[key] = [*default, *value] if isinstance(default, list) and isinstance(value, list) else value
    try:
        return kind(**merged)
    except refusals as error:
        said = " ".join(str(error).split())
        # jobqueue repeats every option, credentials in the environment included.
        said = said.partition(" Very likely this unexpected")[0]
        raise ConfigError(
            f"cluster.options: {kind.__name__} does not take them ({said}); see its documentation"
        ) from error
    except RuntimeError as error:
        # An interface that this machine does not have, a port that is taken.
        raise ClusterError(
            f"{kind.__name__}: {' '.join(str(error).split())}; check cluster.options"
        ) from error


@dataclass(frozen=True)
class SlurmJobs:
    """SLURM jobs of workers, submitted from here; the scheduler lives in this process."""

    jobs: tuple[int, int]
    """Least and largest number."""
    workers: int
    """Processes of a job."""
    threads: int
    """Cores of a process."""
    memory: str
    """Of a job."""
    walltime: str
    gpu: bool = False
    queue: str | None = None
    account: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """For SLURMCluster."""
    is_local: bool = False
    name: str = "scheduler of this process, with workers in SLURM jobs"

    @property
    def worker_count(self) -> int:
        """Workers, if their number does not change."""
        return self.jobs[0] * self.workers if self.jobs[0] == self.jobs[1] else 0

    @property
    def concurrent_tiles(self) -> int:
        """As its cores read for a GPU."""
        return tiles_per_worker(self.threads, self.gpu)

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """See :meth:`Cluster.start`."""
        from distributed import SchedulerPlugin

        slurm.require("sbatch")
        SLURMCluster = _slurm_cluster()  # noqa: N806 - it is a class
        logs = Path(str(self.options.get("log_directory", LOGS))).expanduser()
        for what, path in (("sys.executable", sys.executable), ("log_directory", str(logs))):
            refuse_shell(what, path)
        make_logs(logs)
        early = int(min(END_MOST, END_SHARE * slurm.seconds(self.walltime)))
        settings: dict[str, Any] = {
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
                f"export {JOB_END}=$(($(date +%s) + {slurm.seconds(self.walltime)}))",
                *(f"export {name}={value}" for name, value in quiet_environment().items()),
            ],
            "job_extra_directives": ["--gres=gpu:1"] if self.gpu else [],
            "worker_extra_args": [
                "--no-dashboard",
                # The last one counts. SLURM bounds the job's memory; Dask's limit would pause or kill at a guess.
                *("--memory-limit", "0"),
                # Not all at once, or nobody would be left to go on.
                *("--lifetime", f"{slurm.seconds(self.walltime) - early}s"),
                *("--lifetime-stagger", f"{early // 2}s"),
            ],
            "scheduler_options": {"dashboard_address": "127.0.0.1:0"},
        }
        options = {key: value for key, value in self.options.items() if key != "log_directory"}
        scheduler = {**settings["scheduler_options"], **options.pop("scheduler_options", {})}
        least, most = self.jobs
        submitted = _Submitted(logs)

        class Job(SLURMCluster.job_cls):  # type: ignore[misc, name-defined]
            """Keeps what sbatch says: the cluster itself only logs it."""

            async def _submit_job(self, script_filename: str) -> Any:
                try:
                    return await super()._submit_job(script_filename)
                except RuntimeError as error:
                    submitted.refusals.append(str(error))
                    raise

        class Arrivals(SchedulerPlugin):
            """Tells of every worker."""

            def add_worker(self, scheduler: Any, worker: str) -> None:
                submitted.arrived()

        settings |= {"job_cls": Job, "scheduler_options": scheduler}
        with dask.config.set(QUIET), _made(SLURMCluster, settings, options) as cluster:
            submitted.cluster = cluster
            cluster.scheduler.add_plugin(Arrivals())
            with tempfile.TemporaryDirectory(prefix="ussfc-") as folder:
                script = Path(folder) / "job.sh"
                script.write_text(cluster.job_script(), "utf-8")
                slurm.try_out(script)
            cluster.scale(jobs=max(1, least))
            submitted.settle(max(1, least))
            # To scale once does not replace a job that ends; adapting between equal bounds does.
            cluster.adapt(minimum_jobs=least, maximum_jobs=most, interval="5s")
            yield Started(cluster, most * self.workers * self.concurrent_tiles, waiting=submitted.waiting)


class _Submitted:
    """The jobs of a SLURMCluster."""

    def __init__(self, logs: Path) -> None:
        self.cluster: Any = None
        self.refusals: list[str] = []
        """What sbatch said to jobs that it did not take."""
        self._logs = logs
        self._jobs: set[str] = set()
        self._came = False
        self._gone: float | None = None

    def arrived(self) -> None:
        """A worker has reached the scheduler."""
        self._came, self._gone = True, None

    def settle(self, count: int) -> None:
        """Wait until so many jobs are submitted.

        Raises:
            ClusterError: the queue rejects one.
        """
        end = time.monotonic() + slurm.ANSWER_SECONDS
        while len(self._look()) < count:
            self._refuse()
            if time.monotonic() > end:
                raise ClusterError(
                    f"sbatch: no answer within {slurm.ANSWER_SECONDS} s; `scontrol ping` says why"
                )
            time.sleep(0.05)

    def _look(self) -> set[str]:
        # A copy: the cluster's own thread changes it.
        self._jobs |= {str(job.job_id) for job in list(self.cluster.workers.values()) if job.job_id}
        return self._jobs

    def _refuse(self) -> None:
        if self.refusals:
            said = re.search(r"stderr:\n(.*)", self.refusals[0], re.DOTALL)
            raise slurm.rejected(said[1] if said else self.refusals[0])

    def waiting(self) -> str | None:
        """Where the jobs are, while no worker is there.

        Raises:
            ClusterError: all that were ever submitted ended and none follows, or the queue takes no more.
        """
        try:
            found = slurm.states(sorted(self._look()))
        except ClusterError as error:
            # Jobs may wait for days, and a controller be restarted meanwhile.
            return str(error)
        if found:
            self._gone = None
            queued = ", ".join(f"job {job} {state}" for job, state in sorted(found.items())[:4])
            return f"{len(found)} SLURM job(s) in the queue ({queued})"
        self._refuse()
        now = time.monotonic()
        self._gone = now if self._gone is None else self._gone
        if self._came and now < self._gone + REPLACE_SECONDS:
            return "all SLURM jobs have ended; others are about to be submitted"
        last = max(self._jobs, key=lambda job: int(job.partition("_")[0]))
        raise ClusterError(
            f"SLURM job {last} ended before its worker reached the scheduler{self._last_words(last)}; see "
            f"{self._logs}; often the nodes need another cluster.options.interface, or python"
        )

    def _last_words(self, job: str) -> str:
        try:
            lines = (self._logs / f"ussfc-{job}.err").read_text("utf-8", "replace").split("\n")
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip()]
        return f" ({said[-1][:200]})" if said else ""


def make_logs(logs: Path) -> None:
    """The folder of what jobs say.

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


def refuse_shell(what: str, text: str) -> None:
    """Refuse what goes into a batch script as it is and would be more than a name there.

    Raises:
        ConfigError: it holds spaces or special characters.
    """
    if not re.fullmatch(r"[A-Za-z0-9_./@%+=:,-]+", text):
        raise ConfigError(
            f"{what} {text!r}: goes into a batch script, and a shell would read it as more than a name; give one "
            "without spaces and special characters"
        )


def _slurm_cluster() -> Any:
    """dask-jobqueue's class.

    The package takes SIGINT over as it is imported: an interrupted run would end with exit status 0.
    """
    handler = signal.getsignal(signal.SIGINT)
    with _extra("slurm", "dask-jobqueue"):
        from dask_jobqueue import SLURMCluster
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
    return SLURMCluster


@contextmanager
def _extra(extra: str, package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ClusterError(
            f"{package} is not installed here; install it with pip install 'ussfc[{extra}]'"
        ) from error


@dataclass(frozen=True)
class SlurmAllocation:
    """The SLURM allocation that this process runs in: a worker for each of its tasks, started by srun."""

    gpu: bool = False
    is_local: bool = False
    """The Python is that of here, but other nodes may see other folders."""
    name: str = "scheduler of this allocation"

    @property
    def tasks(self) -> int:
        """Tasks of the allocation.

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
        """Each task has a stretch."""
        return self.tasks

    @property
    def cores(self) -> int:
        """Of a task."""
        return int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))

    @property
    def concurrent_tiles(self) -> int:
        """As a task's cores read for a GPU."""
        return tiles_per_worker(self.cores, self.gpu)

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """See :meth:`Cluster.start`."""
        from distributed import Scheduler, SpecCluster

        slurm.require("srun")
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
        ):
            command = [
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
                *(sys.executable, "-m", "dask", "worker", cluster.scheduler_address),
                *("--nthreads", str(self.concurrent_tiles), "--no-dashboard", "--memory-limit", "0"),
            ]
            with _program(command, quiet_environment()) as srun:

                def waiting() -> str:
                    if srun.poll() is not None:
                        raise ClusterError(
                            f"srun ended with status {srun.returncode} and no worker is left; what it said stands "
                            "above; the same command continues where it stopped"
                        )
                    return "srun is starting workers"

                yield Started(cluster, tasks * self.concurrent_tiles, waiting=waiting)


def _address_of(host: str, nodes: int) -> str:
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
def _program(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """It runs with more in its environment until the end of the context."""
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


@dataclass(frozen=True)
class KubernetesPods:
    """Worker pods of the Dask operator; the scheduler is a pod as well."""

    jobs: tuple[int, int]
    """Least and largest number of worker pods. A pod is one process: the operator knows workers by their pods."""
    threads: int
    """Cores of a pod."""
    memory: str
    """Of a pod."""
    image: str
    namespace: str | None = None
    gpu: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """For KubeCluster."""
    is_local: bool = False
    name: str = "scheduler of the Kubernetes cluster"

    @property
    def worker_count(self) -> int:
        """Workers, if their number does not change."""
        return self.jobs[0] if self.jobs[0] == self.jobs[1] else 0

    @property
    def concurrent_tiles(self) -> int:
        """As a pod's cores read for a GPU."""
        return tiles_per_worker(self.threads, self.gpu)

    def spec(self, name: str) -> dict[str, Any]:
        """The DaskCluster resource.

        Raises:
            ClusterError: dask-kubernetes is not installed.
        """
        with _extra("kubernetes", "dask-kubernetes"):
            from dask_kubernetes.operator import make_cluster_spec
        wanted = {"cpu": str(self.threads), "memory": str(size_in_bytes(self.memory))}
        if self.gpu:
            wanted["nvidia.com/gpu"] = "1"
        made: dict[str, Any] = make_cluster_spec(
            name=name,
            image=self.image,
            n_workers=max(1, self.jobs[0]),
            resources={"requests": wanted, "limits": wanted},
            # The last one of a name counts.
            env=[*_variables(quiet_environment()), *_variables(self.options.get("env", {}))],
            worker_command=[
                "dask",
                "worker",
                "--nthreads",
                str(self.concurrent_tiles),
                "--memory-limit",
                "0",
            ],
            # KubeCluster itself makes nothing of it where it is given a whole specification.
            idle_timeout=self.options.get("idle_timeout", 0),
        )
        for part in ("scheduler", "worker"):
            (container,) = made["spec"][part]["spec"]["containers"]
            # Else the image's own entry point would be given these words.
            container["command"], container["args"] = container["args"][:1], container["args"][1:]
            # What the strictest namespaces ask of a pod.
            container["securityContext"] = {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            made["spec"][part]["spec"]["securityContext"] = {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            }
        # The scheduler computes nothing, and sees no GPU.
        (container,) = made["spec"]["scheduler"]["spec"]["containers"]
        container["resources"] = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}}
        return made

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """See :meth:`Cluster.start`."""
        with _extra("kubernetes", "dask-kubernetes"):
            from dask_kubernetes.operator import KubeCluster
        # Kubernetes makes environment variables of the name; one that begins with ours would be taken for a setting.
        name = f"change-{secrets.token_hex(4)}"
        settings = {"custom_cluster_spec": self.spec(name), "namespace": self.namespace, "quiet": True}
        options = {key: value for key, value in self.options.items() if key not in ("env", "idle_timeout")}
        least, most = self.jobs
        since = time.monotonic()
        with _kubernetes_errors():
            # kr8s says with a ValueError that there is no context or no credential.
            made = _made(KubeCluster, settings, options, (TypeError,))
        with made as cluster:
            if least != most:
                with _kubernetes_errors():
                    cluster.adapt(minimum=least, maximum=most)

            def waiting() -> str:
                return f"no worker pod after {time.monotonic() - since:.0f} s (`kubectl get pods` says why)"

            yield Started(cluster, most * self.concurrent_tiles, waiting=waiting)


def _variables(env: Mapping[str, str] | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As a pod lists them; the library takes both."""
    return (
        [{"name": name, "value": value} for name, value in env.items()]
        if isinstance(env, Mapping)
        else [*env]
    )


@contextmanager
def _kubernetes_errors() -> Iterator[None]:
    """Around the start: no configuration, no operator, no permission, no answer."""
    import httpx
    import kr8s
    from dask_kubernetes.exceptions import CrashLoopBackOffError, SchedulerStartupError

    refusals = (
        CrashLoopBackOffError,
        OSError,
        SchedulerStartupError,
        httpx.HTTPError,
        kr8s.APITimeoutError,
        kr8s.ConnectionClosedError,
        kr8s.NotFoundError,
        kr8s.ServerError,
        ValueError,
    )
    try:
        yield
    except refusals as error:
        _reap()
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ClusterError(
            f"Kubernetes refuses ({said}); check the context (`kubectl config current-context`), the Dask operator "
            "(`kubectl get crd daskclusters.kubernetes.dask.org`) and the role of deploy/kubernetes"
        ) from error


def _reap() -> None:
    """Take down what a start that failed has left: Dask does it at the process's end, and shows the traceback."""
    from dask_kubernetes.operator import KubeCluster
    from distributed import Status

    for cluster in list(KubeCluster._instances):
        if cluster.status != Status.running:
            # The server that refused may refuse this as well.
            with suppress(Exception):
                cluster.close(timeout=10)
            KubeCluster._instances.discard(cluster)
