"""Errors that users see. Every message is one line: what, where, found, expected, what to do."""

from __future__ import annotations

from ussfc.addresses import without_addresses


class PipelineError(Exception):
    """Base of all errors that this package raises on purpose; addresses in its message are shown without secrets."""

    permanent = False
    """True where the same work would end in the same error again after any pause."""

    def __init__(self, *facts: object) -> None:
        super().__init__(*(without_addresses(fact) if isinstance(fact, str) else fact for fact in facts))


class PipelineWarning(UserWarning):
    """A remark on inputs or results that a Python caller should see: what the command line prints as a warning."""


class ConfigError(PipelineError):
    """A configuration key or value that cannot be used."""


class ReadError(PipelineError):
    """An input that cannot be opened or read."""


class GridError(PipelineError):
    """Two scenes that cannot be brought onto one grid."""


class StoreError(PipelineError):
    """An output folder or store that cannot be used: another run's, not writable, or incomplete."""


class DamagedTiles(StoreError):
    """Finished tiles whose stored pixels are not those that were written."""

    def __init__(self, message: str, indices: tuple[tuple[int, int], ...]) -> None:
        super().__init__(message, indices)
        self.indices = indices
        """Row and column of each damaged tile."""

    def __str__(self) -> str:
        return str(self.args[0])


class DamagedRecord(StoreError):
    """A record of a run that does not hold what was written."""


class InsufficientMemoryError(PipelineError):
    """The projected peak does not fit into the memory that the run may use."""


class SampleError(PipelineError):
    """A labelled sample that does not belong to the map, or from which nothing can be estimated."""


class ClusterError(PipelineError):
    """The Dask scheduler or its workers cannot be used."""


class TileError(PipelineError):
    """A tile that could not be computed; names its index and bounds."""
