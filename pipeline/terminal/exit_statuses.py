"""Exit statuses of the commands, and the status of every error."""

from __future__ import annotations

from enum import IntEnum

from ussfc.errors import DataError, ModelError, TrainingError
from ussfc.pipeline.errors import (
    ClusterError,
    ConfigError,
    InsufficientMemoryError,
    PipelineError,
    StoreError,
)


class ExitStatus(IntEnum):
    """The status with which a command ends."""

    DONE = 0, "done"
    DEFECT = 1, "a defect of this program; after `ussfc doctor`, a problem of this machine"
    USAGE = 2, "wrong usage or configuration"
    INPUT = 3, "an input or model that cannot be used"
    OUTPUT = 4, "an output that cannot be used"
    MEMORY = 5, "too little memory"
    INVALID = 6, "products that fail validation"
    CLUSTER = 7, "cluster trouble"
    INCOMPLETE = (
        8,
        "done but for tiles that kept failing: they are nodata in the products and listed in `run.json`; the same "
        "command tries them again",
    )
    INTERRUPTED = 130, "interrupted (Ctrl-C)"
    TERMINATED = (
        143,
        "terminated (SIGTERM: scancel, kubectl delete, a service manager); the same command continues",
    )

    meaning: str
    """Outcome of the command, one phrase."""

    def __new__(cls, value: int, meaning: str) -> ExitStatus:
        """Return a status with its meaning."""
        status = int.__new__(cls, value)
        status._value_ = value
        status.meaning = meaning
        return status


STATUSES: tuple[tuple[type[Exception], ExitStatus], ...] = (
    (ConfigError, ExitStatus.USAGE),
    (StoreError, ExitStatus.OUTPUT),
    (InsufficientMemoryError, ExitStatus.MEMORY),
    (ClusterError, ExitStatus.CLUSTER),
    (PipelineError, ExitStatus.INPUT),
    (ModelError, ExitStatus.INPUT),
    (DataError, ExitStatus.INPUT),
    (TrainingError, ExitStatus.USAGE),
)
"""Errors that a user can meet, each before its base class, with their statuses."""


def status_of(error: Exception) -> ExitStatus:
    """Return the exit status of an error; an error that is not in :data:`STATUSES` is a defect."""
    found = (status for kind, status in STATUSES if isinstance(error, kind))
    return next(found, ExitStatus.DEFECT)
