"""The interface of a cluster, and the settings of Dask that all workers share. Dask itself is the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ussfc.pipeline.errors import ClusterError, ConfigError

JOB_END = "USSFC_JOB_END"
"""Environment variable of a worker: when its job is ended by force, seconds since 1970."""

QUIET = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "500ms"}
"""Settings that end two habits of Dask: it looks a hundred times a second at what its threads do, and fifty times
whether its loops turn. That took two workers on two cores a tenth of their time (``docs/scaling.md``), and the first of
them may freeze a worker of Python 3.11.0 to 3.11.8 (python/cpython#106883)."""

READ_AHEAD, MOST_READERS = 2, 12
"""Least and largest number of tiles in hand of a process with a GPU: while one has the GPU, others are read."""


def tiles_per_worker(cores: int, gpu: bool) -> int:
    """Return the number of tiles that a worker has in hand.

    A core reads too slowly for a GPU, while a CPU's network wants all cores.
    """
    return min(MOST_READERS, max(READ_AHEAD, cores)) if gpu else 1


@dataclass(frozen=True)
class Started:
    """A scheduler that is up."""

    target: Any
    """Address or cluster object that a client connects to."""
    threads: int = 0
    """Threads of all workers once all have come; 0: not known."""
    security: Any = None
    """Certificates of the connection."""
    describe_wait: Callable[[], str | None] | None = None
    """Returns the reason why workers are not there yet, and raises ClusterError if none will come. None: workers must
    be there from the start."""


class Cluster(Protocol):
    """A source of Dask workers."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def worker_count(self) -> int:
        """Number of workers that walk a band of the tiles each; 0 where it is not known."""

    @property
    def concurrent_tiles(self) -> int:
        """Number of tiles that each worker has in hand, as far as it is known."""

    @property
    def is_local(self) -> bool:
        """True if its workers are processes of this machine, which see what this process sees."""

    def start(self, scratch: Path) -> AbstractContextManager[Started]:
        """Start it, and stop it at the end of the context.

        Args:
            scratch: local folder for the files of processes that are started here.

        Raises:
            ClusterError, ConfigError: it cannot be started; each names the reason and the way out.
        """


def quiet_environment() -> dict[str, str]:
    """Return ``QUIET`` as environment variables, for workers that run elsewhere."""
    return {f"DASK_{key.replace('.', '__').upper()}": str(value) for key, value in QUIET.items()}


def create_cluster(
    cluster_type: Any,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    refusals: tuple[type[Exception], ...] = (TypeError, ValueError),
) -> Any:
    """Create a library's cluster with the user's options over the program's settings; lists are joined.

    Args:
        cluster_type: the library's class.
        settings: arguments that the program gives.
        options: the user's arguments, as ``cluster.options``.
        refusals: exceptions with which the class refuses an argument.

    Raises:
        ConfigError: the library does not take the options.
        ClusterError: it cannot start with them.
    """
    merged = dict(settings)
    for key, value in options.items():
        default = merged.get(key)
        merged[key] = [*default, *value] if isinstance(default, list) and isinstance(value, list) else value
    try:
        return cluster_type(**merged)
    except refusals as error:
        reason = " ".join(str(error).split())
        # jobqueue repeats every option, credentials in the environment included.
        reason = reason.partition(" Very likely this unexpected")[0]
        raise ConfigError(
            f"cluster.options: {cluster_type.__name__} does not take them ({reason}); see its documentation"
        ) from error
    except RuntimeError as error:
        # An interface that this machine does not have, a port that is taken.
        raise ClusterError(
            f"{cluster_type.__name__}: {' '.join(str(error).split())}; check cluster.options"
        ) from error


@contextmanager
def require_extra(extra: str, package: str) -> Iterator[None]:
    """Turn a failed import within the context into an error that names the extra to install.

    Raises:
        ClusterError: the package is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ClusterError(
            f"{package} is not installed here; install it with pip install 'ussfc[{extra}]'"
        ) from error
