"""A real SLURM on one node, with daemons, key and ports of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import psutil
import pytest

from tests.support.paths import ROOT, system_path
from tests.support.ports import free_port
from tests.support.servers import PATIENCE

PR_SET_CHILD_SUBREAPER = 36
"""An option of Linux's prctl(2)."""
SLURM_VARIABLES = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SCANCEL_", "SINFO_")
"""Beginnings of the environment variables that SLURM's clients read."""


def keep(commands: list[list[str]]) -> None:
    """Start daemons, each when the one before it has gone into the background; when standard input ends, end all.

    Every descendant is killed, those included that have left their parent and their process group, as SLURM's jobs
    do: orphans fall to this process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    me = psutil.Process()
    try:
        for command in commands:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        signal.signal(signal.SIGCHLD, lambda *_: _reap())
        sys.stdin.read()
    finally:
        while descendants := me.children(recursive=True):
            for process in descendants:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.01)
            _reap()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class Job(NamedTuple):
    """A job as `squeue` lists it."""

    id: str
    state: str
    """`PENDING`, `RUNNING`, `COMPLETED`, `TIMEOUT`, ..."""
    name: str


class Slurm:
    """A SLURM of one node with daemons, key, sockets and ports of its own; its one partition is `debug`.

    The node claims 16 processors and 64,000 MB, whatever the machine has. A job is killed `kill_wait` seconds after
    its SIGTERM.
    """

    partition = "debug"
    kill_wait = 5

    def __init__(self, folder: Path) -> None:
        missing = [
            name
            for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
            if shutil.which(name, path=system_path()) is None
        ]
        if missing:
            pytest.skip(f"needs {', '.join(missing)}: apt-get install -y slurm-wlm munge")
        if os.geteuid() != 0:
            pytest.skip(
                "needs root: SLURM's daemons (apt-get install -y slurm-wlm munge) start jobs for users"
            )
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.configuration)}
        self._host = socket.gethostname().partition(".")[0]
        self._keeper: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until the node takes jobs."""
        assert self._keeper is None
        for name in ("state", "spool", "run", "log"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        self.configuration.write_text(self._settings(), "utf-8")
        code = (
            f"import json, sys; sys.path.insert(0, {str(ROOT)!r}); import {__name__}; "
            f"{__name__}.keep(json.loads({json.dumps(self._commands())!r}))"
        )
        log = self.folder / "log" / "keeper.log"
        with log.open("wb") as stream:
            self._keeper = subprocess.Popen(
                [sys.executable, "-c", code],
                cwd=self.folder,
                env=_without_slurm() | self.environment,
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests
            )
        try:
            self._wait(self._idle, "is not ready")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the daemons and every process of every job."""
        if self._keeper is not None:
            self._keeper.communicate(timeout=PATIENCE)
            self._keeper = None

    def run(self, *command: str) -> str:
        """Return the output of a command of SLURM, as `run("scontrol", "show", "job", "1")`.

        Raises:
            RuntimeError: It failed.
        """
        done = subprocess.run(
            command,
            env=_without_slurm() | self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> list[Job]:
        """Return the jobs that wait, run or are being ended."""
        return self._jobs()

    def job(self, job: str) -> Job:
        """Return one of them, or one that has ended."""
        return self._jobs("--states=all", f"--jobs={job}")[0]

    def _jobs(self, *options: str) -> list[Job]:
        lines = self.run("squeue", "--noheader", "--format=%i|%T|%j", *options).splitlines()
        return [Job(*line.split("|", 2)) for line in lines]

    def cancel(self, job: str) -> None:
        """Ask it to end: SIGTERM, and SIGKILL later."""
        self.run("scancel", job)

    def cancel_all(self) -> None:
        """Cancel every job, and wait until none is left."""
        self.run("scancel", f"--user={os.geteuid()}")
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until no job waits or runs, and no process of one is left."""
        self._wait(lambda: not self.jobs() and self._idle(), "has jobs that do not end")

    def wait_for(self, job: str, *states: str) -> Job:
        """Return a job, as soon as it is in one of these states."""
        self._wait(lambda: self.job(job).state in states, f"has job {job} not in {' or '.join(states)}")
        return self.job(job)

    def _idle(self) -> bool:
        with contextlib.suppress(RuntimeError):  # it does not answer yet
            return self.run("sinfo", "--noheader", "--format=%T").split() == ["idle"]
        return False

    def _wait(self, condition: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            ended = self._keeper is None or self._keeper.poll() is not None
            if ended or time.monotonic() > deadline:
                raise RuntimeError(
                    f"SLURM {complaint}: {'it has ended' if ended else 'waited'}\n{self._logs()}"
                )
            time.sleep(0.05)

    def _logs(self) -> str:
        """Return the end of each log."""
        return "\n".join(
            f"{log.name}:\n{log.read_text('utf-8', errors='replace')[-1500:]}"
            for log in sorted((self.folder / "log").iterdir())
        )

    def _commands(self) -> list[list[str]]:
        def program(name: str) -> str:
            return str(shutil.which(name, path=system_path()))

        munge = [
            program("munged"),
            "--force",  # a socket that only root reaches is intended
            f"--key-file={self.folder}/munge.key",
            f"--socket={self.folder}/run/munge.socket",
            f"--pid-file={self.folder}/run/munged.pid",
            f"--seed-file={self.folder}/run/munge.seed",
            f"--log-file={self.folder}/log/munged.log",
        ]
        configuration = str(self.configuration)
        return [
            munge,
            [program("slurmctld"), "-f", configuration],
            [program("slurmd"), "-f", configuration, "-N", self._host],
        ]

    def _settings(self) -> str:
        return f"""
ClusterName=test
SlurmctldHost={self._host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={self.folder}/run/munge.socket
CredType=cred/munge
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool
SlurmctldPidFile={self.folder}/run/slurmctld.pid
SlurmdPidFile={self.folder}/run/slurmd.pid
SlurmctldLogFile={self.folder}/log/slurmctld.log
SlurmdLogFile={self.folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
ReturnToService=2
KillWait={self.kill_wait}
SlurmdParameters=config_overrides
NodeName={self._host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=64000 State=UNKNOWN
PartitionName={self.partition} Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def _without_slurm() -> dict[str, str]:
    """Return the environment without the variables that lead to another SLURM."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SLURM_VARIABLES)}
