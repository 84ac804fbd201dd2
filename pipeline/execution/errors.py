"""Errors between executors, workers and tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ussfc.pipeline.errors import ClusterError, PipelineError, StoreError, TileError


class WorkerSetupError(TileError):
    """Something that every tile of a run needs cannot be had where it is to be computed: scene, model or store."""


class WorkersLostError(TileError):
    """A tile lost worker after worker, until Dask gave it up."""


class TileCancelled(Exception):
    """A tile was given up between two batches."""


class SchedulerLostError(Exception):
    """The client has no scheduler any more; what it was waiting for will not come."""


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Turn every error of the body into one of a tile or a square, which may fail without ending the run.

    Args:
        name: of the tile or square, in messages.

    Raises:
        TileError: the body failed, for whatever reason; names the tile and the cause.
        StoreError, TileCancelled: as they are: they are no matter of this tile.
    """
    try:
        yield
    except (StoreError, TileCancelled):
        raise
    except WorkerSetupError as error:
        if error.permanent:
            raise
        raise WorkerSetupError(f"{name}: {error}") from error
    except PipelineError as error:
        raise TileError(f"{name}: {error}") from error
    except Exception as error:
        # Whatever a library raises over one tile, a run of hours must not end by it.
        raise TileError(f"{name}: {describe_error(error)}") from error


def describe_error(error: Exception) -> str:
    """Return kind and message of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def unrunnable_error(error: Exception) -> ClusterError:
    """Return the error of a task that Dask could not run at all."""
    return ClusterError(
        f"Dask cannot run a tile ({describe_error(error)}); have the same versions on the scheduler and its workers as "
        "here"
    )
