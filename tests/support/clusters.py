"""Clusters for the tests: a real SLURM on one node, machines whose network can be cut, certificates."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import ipaddress
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psutil
import pytest
from distributed import Client

from tests.support.paths import ROOT
from tests.support.servers import PATIENCE, free_port

if TYPE_CHECKING:  # SLURM's keeper starts faster without
    from distributed import Security

PR_SET_CHILD_SUBREAPER = 36
"""Of Linux's prctl(2)."""
SLURM_VARIABLES = ("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_", "SCANCEL_", "SINFO_")
"""What SLURM's clients read from the environment begins so."""


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
    """A job as `squeue` tells it."""

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
            if shutil.which(name, path=_system_path()) is None
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
        """The output of a command of SLURM, as `run("scontrol", "show", "job", "1")`.

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
        """Those that wait, run or are being ended."""
        return self._jobs()

    def job(self, job: str) -> Job:
        """One of them, or one that has ended."""
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
        """Until no job waits or runs, and no process of one is left."""
        self._wait(lambda: not self.jobs() and self._idle(), "has jobs that do not end")

    def wait_for(self, job: str, *states: str) -> Job:
        """The job, as soon as it is in one of these states."""
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
        """The end of each log."""
        return "\n".join(
            f"{log.name}:\n{log.read_text('utf-8', errors='replace')[-1500:]}"
            for log in sorted((self.folder / "log").iterdir())
        )

    def _commands(self) -> list[list[str]]:
        def program(name: str) -> str:
            return str(shutil.which(name, path=_system_path()))

        munge = [
            program("munged"),
            "--force",  # a socket that only root reaches is what is wanted
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


def _system_path() -> str:
    """PATH, with the folders of daemons."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def _without_slurm() -> dict[str, str]:
    """The environment without what leads to another SLURM."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SLURM_VARIABLES)}


class Namespaces:
    """Machines of a network of their own, each a network namespace; a machine's cable can be pulled.

    All hang on one switch, which lies in a namespace too, so that no firewall rule of the host applies. The tests'
    own process takes part with the address `here`.
    """

    def __init__(self, count: int, folder: Path) -> None:
        for program, package in (("ip", "iproute2"), ("nsenter", "util-linux")):
            if shutil.which(program, path=_system_path()) is None:
                pytest.skip(f"needs {program}: apt-get install -y {package}")
        self.folder = folder
        # Of names of interfaces and namespaces; the former have 15 characters at most.
        self.prefix = f"ussfc{secrets.token_hex(2)}"
        subnet = _free_subnet()
        self.here, *self.addresses = [f"{subnet}.{last}" for last in range(1, count + 2)]
        self._switch = f"{self.prefix}-switch"
        self._names = [f"{self.prefix}-{where}" for where in range(count)]
        self._watch: subprocess.Popen[bytes] | None = None
        self._programs: list[subprocess.Popen[bytes]] = []

    def start_network(self) -> None:
        """Make the network; the test is skipped with the kernel's words where it may not be made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Reads until this process is gone, however it went, and cleans up behind it.
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", f"cat > /dev/null\n{self._last_acts()}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PATH": _system_path()},
            start_new_session=True,
        )
        try:
            _ip("netns", "add", self._switch)
            _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "switch", "up")
            self._plug("here", self.here, None)
            for where, (name, address) in enumerate(zip(self._names, self.addresses, strict=True)):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
                self._plug(f"port{where}", address, name)
        except RuntimeError as error:
            self.close()
            pytest.skip(f"needs network namespaces (root with CAP_NET_ADMIN and CAP_SYS_ADMIN): {error}")

    def _plug(self, port: str, address: str, name: str | None) -> None:
        """A cable from the switch's `port` to a machine, or to the host."""
        end = f"{self.prefix}{port}"
        _ip("link", "add", end, "type", "veth", "peer", "name", port, "netns", self._switch)
        _ip("-n", self._switch, "link", "set", port, "master", "switch", "up")
        inside = [] if name is None else ["-n", name]
        if name is not None:
            _ip("link", "set", end, "netns", name)
        _ip(*inside, "address", "add", f"{address}/24", "dev", end)
        _ip(*inside, "link", "set", end, "up")

    def door(self, where: int) -> list[str]:
        """The command that starts the command behind it on a machine."""
        return ["nsenter", f"--net=/run/netns/{self._names[where]}", "--"]

    def start(self, command: Sequence[str], where: int) -> subprocess.Popen[bytes]:
        """Start a program on a machine; what it prints goes to `WHERE-N.log` in the folder."""
        with (self.folder / f"{where}-{len(self._programs)}.log").open("wb") as log:
            program = subprocess.Popen(
                [*self.door(where), *command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._programs.append(program)
        return program

    def cut(self, where: int) -> None:
        """Pull a machine's cable: packets vanish without an answer, connections stay open."""
        _ip("-n", self._switch, "link", "set", f"port{where}", "down")

    def restore(self, where: int) -> None:
        """Plug it in again."""
        _ip("-n", self._switch, "link", "set", f"port{where}", "up")

    def _last_acts(self) -> str:
        """Kills what runs on the machines, children included, and takes the network away."""
        acts = [f"ip netns pids {name} | xargs -r kill -s KILL" for name in self._names]
        # The kernel removes a namespace, and cables with it, at its leisure: the host's end goes at once.
        acts.append(f"ip link delete {self.prefix}here")
        acts += [f"ip netns delete {name}" for name in (*self._names, self._switch)]
        return "\n".join(acts)

    def close(self) -> None:
        """End all programs and remove the network."""
        if self._watch is not None:
            self._watch.communicate(timeout=PATIENCE)
            self._watch = None
        for program in self._programs:
            program.wait(PATIENCE)
        self._programs.clear()

    def __enter__(self) -> Self:
        self.start_network()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _ip(*arguments: str) -> str:
    """The output of `ip`.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, env=os.environ | {"PATH": _system_path()}
    )
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _free_subnet() -> str:
    """Three numbers of a private /24 to which this host has no address yet."""
    taken = {
        ipaddress.ip_network(f"{address['local']}/{address['prefixlen']}", strict=False)
        for interface in json.loads(_ip("-4", "-json", "address"))
        for address in interface["addr_info"]
    }
    for third in random.SystemRandom().sample(range(256), 256):
        if not any(network.overlaps(ipaddress.ip_network(f"10.213.{third}.0/24")) for network in taken):
            return f"10.213.{third}"
    pytest.skip("needs a free subnet within 10.213.0.0/16: the host has addresses in all")


class Certificates:
    """An authority, and one certificate of it with which scheduler, workers and clients know each other."""

    def __init__(self, folder: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        folder.mkdir(parents=True, exist_ok=True)
        self.authority = folder / "ca.pem"
        self.certificate = folder / "certificate.pem"
        self.key = folder / "key.pem"

        authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests' authority")])
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)

        def unsigned(
            subject: x509.Name, public_key: ec.EllipticCurvePublicKey, usage: x509.KeyUsage, authority: bool
        ) -> x509.CertificateBuilder:
            # All that a strict verification (Python 3.13's default) asks for.
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
            return (
                x509.CertificateBuilder(authority_name, subject, public_key, x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=1))
                .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
                .add_extension(usage, critical=True)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
                .add_extension(issuer, critical=False)
            )

        def usage(*names: str) -> x509.KeyUsage:
            every = (
                *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
                *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
            )
            return x509.KeyUsage(**{name: name in names for name in every})

        authority = unsigned(
            authority_name, authority_key.public_key(), usage("key_cert_sign", "crl_sign"), authority=True
        )
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            unsigned(name, key.public_key(), usage("digital_signature"), authority=False)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        )
        for path, builder in ((self.authority, authority), (self.certificate, certificate)):
            signed = builder.sign(authority_key, hashes.SHA256())
            path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        self.key.touch(mode=0o600)
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def options(self) -> list[str]:
        """Of `dask scheduler` and `dask worker`."""
        return [
            *("--tls-ca-file", str(self.authority)),
            *("--tls-cert", str(self.certificate)),
            *("--tls-key", str(self.key)),
        ]

    def security(self) -> Security:
        """Of a client; nothing goes over a connection without TLS."""
        from distributed import Security

        return Security(
            require_encryption=True,
            tls_ca_file=str(self.authority),
            tls_client_cert=str(self.certificate),
            tls_client_key=str(self.key),
        )


class Programs:
    """A scheduler and workers, each started by its command, as on machines of their own."""

    def __init__(
        self, folder: Path, certificates: Certificates | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._host = host
        self._port = str(free_port())
        self._options = [] if certificates is None else certificates.options()
        self._security = None if certificates is None else certificates.security()
        self.address = f"{'tcp' if certificates is None else 'tls'}://{host}:{self._port}"
        self._folder = folder
        self._logs = 0
        self.schedulers: list[subprocess.Popen[bytes]] = []
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_scheduler(self) -> None:
        """Start it, always at the same address; who needs it waits for it."""
        self.schedulers.append(
            self._start("scheduler", "--host", self._host, "--port", self._port, "--no-show")
        )

    def start_worker(
        self, *options: str, host: str = "127.0.0.1", path: Path | None = None, through: Sequence[str] = ()
    ) -> None:
        """Start one with one thread, which waits for its scheduler.

        Args:
            options: more of `dask worker`.
            host: the address that it listens at.
            path: Python finds modules and distributions there before all others.
            through: a command that starts the command that follows, as nsenter does.
        """
        common = ("--nthreads", "1", "--no-nanny", "--death-timeout", "60", "--host", host)
        self.workers.append(
            self._start("worker", self.address, *common, *options, path=path, through=through)
        )

    def _start(
        self, *command: str, path: Path | None = None, through: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        self._logs += 1
        first = [str(path)] if path else []
        paths = {"PYTHONPATH": os.pathsep.join([*first, os.environ.get("PYTHONPATH", "")])}
        with (self._folder / f"{self._logs}-{command[0]}.log").open("wb") as log:
            return subprocess.Popen(
                [*through, sys.executable, "-m", "dask", *command, "--no-dashboard", *self._options],
                cwd=self._folder,
                env=os.environ | paths,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_for_workers(self, count: int) -> None:
        """Until so many are there."""
        with Client(self.address, timeout=60, set_as_default=False, security=self._security) as client:
            client.wait_for_workers(count, timeout=60)

    def wait_for_worker_at(self, host: str) -> None:
        """Until one of this address is there."""
        with Client(self.address, timeout=60, set_as_default=False, security=self._security) as client:
            wait_until(lambda: any(f"//{host}:" in address for address in client.nthreads()))

    def wait_until_all_is_computed(self) -> None:
        """Until the results of all tasks wait to be fetched."""
        with Client(self.address, timeout=60, set_as_default=False) as client:
            wait_until(lambda: set(client.run_on_scheduler(task_states)) == {"memory"})

    def end_scheduler(self) -> None:
        """As an administrator ends it."""
        for scheduler in self.schedulers:
            scheduler.terminate()
            scheduler.wait()
        self.schedulers.clear()

    def kill(self, programs: list[subprocess.Popen[bytes]]) -> None:
        """SIGKILL for all of these."""
        for program in programs:
            program.kill()
            program.wait()
        programs.clear()

    def settle(self) -> None:
        """A scheduler and one worker, whatever happened before."""
        if not self.schedulers:
            self.start_scheduler()
        # Those that lost a scheduler end by themselves; the last one started has the scheduler of now.
        surplus, self.workers = self.workers[:-1], self.workers[-1:]
        self.kill(surplus)
        if not self.workers:
            self.start_worker()
        with Client(self.address, timeout=60, set_as_default=False) as client:
            wait_until(lambda: len(client.nthreads()) == 1)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Fails after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def task_states(dask_scheduler: Any) -> list[str]:
    return [task.state for task in dask_scheduler.tasks.values()]
