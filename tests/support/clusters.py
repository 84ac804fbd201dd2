"""Dask programs as on machines of their own, and certificates for them."""

from __future__ import annotations

import datetime
import ipaddress
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distributed import Client, Security

from tests.support.ports import free_port
from ussfc.pipeline.clusters.base import quiet_environment


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
        """Return options of `dask scheduler` and `dask worker`."""
        return [
            *("--tls-ca-file", str(self.authority)),
            *("--tls-cert", str(self.certificate)),
            *("--tls-key", str(self.key)),
        ]

    def security(self) -> Security:
        """Return the security of a client; nothing goes over a connection without TLS."""
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
        """Start the scheduler, always at the same address; programs that need it wait for it."""
        self.schedulers.append(
            self._start("scheduler", "--host", self._host, "--port", self._port, "--no-show")
        )

    def start_worker(
        self, *options: str, host: str = "127.0.0.1", path: Path | None = None, through: Sequence[str] = ()
    ) -> None:
        """Start a worker with one thread, which waits for its scheduler.

        Args:
            options: further options of `dask worker`.
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
                env=os.environ | quiet_environment() | paths,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many workers are there."""
        with Client(self.address, timeout=60, set_as_default=False, security=self._security) as client:
            client.wait_for_workers(count, timeout=60)

    def wait_for_worker_at(self, host: str) -> None:
        """Wait until a worker of this address is there."""
        with Client(self.address, timeout=60, set_as_default=False, security=self._security) as client:
            wait_until(lambda: any(f"//{host}:" in address for address in client.nthreads()))

    def wait_until_all_is_computed(self) -> None:
        """Wait until the results of all tasks wait to be fetched."""
        with Client(self.address, timeout=60, set_as_default=False) as client:
            wait_until(lambda: set(client.run_on_scheduler(task_states)) == {"memory"})

    def end_scheduler(self) -> None:
        """End the scheduler as an administrator does."""
        for scheduler in self.schedulers:
            scheduler.terminate()
            scheduler.wait()
        self.schedulers.clear()

    def kill(self, programs: list[subprocess.Popen[bytes]]) -> None:
        """Send SIGKILL to all of these."""
        for program in programs:
            program.kill()
            program.wait()
        programs.clear()

    def settle(self) -> None:
        """Bring about a scheduler and one worker, whatever happened before."""
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
    """Wait until a condition holds; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def task_states(dask_scheduler: Any) -> list[str]:
    """Return the state of every task."""
    return [task.state for task in dask_scheduler.tasks.values()]
