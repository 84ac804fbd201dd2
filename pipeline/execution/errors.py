"""Errors between executors, workers and tiles."""

from __future__ import annotations

from ussfc.pipeline.errors import ClusterError, TileError


class WorkerSetupError(TileError):
    """Something that every tile of a run needs cannot be had where it is to be computed: scene, model or store."""


class WorkersLostError(TileError):
    """A tile lost worker after worker, until Dask gave it up."""


class TileCancelled(Exception):
    """A tile was given up between two batches."""


class SchedulerLostError(Exception):
    """The client has no scheduler any more; what it was waiting for will not come."""


def describe_error(error: Exception) -> str:
    """Return kind and message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def unrunnable_error(error: Exception) -> ClusterError:
    """Return the error of a task that Dask could not run at all."""
    return ClusterError(
        f"Dask cannot run a tile ({describe_error(error)}); have the same versions on the scheduler and its workers as "
        "here"
    )
