"""A Dask scheduler that runs already, with its workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ussfc.pipeline.clusters.base import Started
from ussfc.pipeline.errors import ConfigError


@dataclass(frozen=True)
class SchedulerAt:
    """A Dask scheduler that was started by others, at a known address."""

    address: str
    tls: tuple[str, str, str] | None = None
    """PEM files: authority, certificate, key."""
    worker_count: int = 0
    concurrent_tiles: int = 1
    is_local: bool = False

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"scheduler {self.address}"

    @contextmanager
    def start(self, scratch: Path) -> Iterator[Started]:
        """Start nothing; see :meth:`Cluster.start`."""
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
