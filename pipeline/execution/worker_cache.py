"""The state that a process keeps from tile to tile: open runs, the detector, and the tiles in hand."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from ussfc.pipeline.errors import PipelineError, StoreError
from ussfc.pipeline.execution.computers import open_computer
from ussfc.pipeline.execution.device_computer import DeviceComputer
from ussfc.pipeline.execution.errors import WorkerSetupError, describe_error
from ussfc.pipeline.execution.host_computer import PatchCache
from ussfc.pipeline.execution.square_job import OpenSquares, SquareJob
from ussfc.pipeline.execution.tile_computer import TileComputer
from ussfc.pipeline.execution.tile_job import OpenPair, TileJob
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.types import Detector, DetectorSpec

MOST_OPEN_RUNS = 8
"""Runs whose scenes a process keeps open: a list of pairs has a few under way at a time."""


@dataclass(frozen=True)
class OpenRun:
    """Everything that the tiles of a run share in one process."""

    pair: OpenPair
    computer: TileComputer
    store: ProbabilityStore


class WorkerCache:
    """Runs and detectors that stay open from tile to tile, and the tiles that a process has in hand.

    A process has one, :data:`PROCESS_CACHE`, since its cores, its device and its memory are the same for all runs.
    """

    def __init__(
        self, most_runs: int = MOST_OPEN_RUNS, turn: AbstractContextManager[object] | None = None
    ) -> None:
        """Begin with nothing open.

        Args:
            most_runs: number of runs that stay open; the one used longest ago is the first to go.
            turn: held by the tile that has the cores, whatever its network: others of this process read meanwhile.
        """
        self._most_runs = most_runs
        self._turn = threading.Lock() if turn is None else turn
        self._opening = threading.RLock()
        self._runs: dict[tuple[str, Folder], OpenRun] = {}
        self._squares: dict[tuple[str, Folder, bool], OpenSquares] = {}
        self._detectors: dict[DetectorSpec, Detector] = {}
        self._changed = threading.Condition()
        self._in_hand = 0
        self._longest_tile = 0.0

    @property
    def longest_tile(self) -> float:
        """Seconds of the tile that took this process longest; 0 before the first."""
        return self._longest_tile

    def open_run(self, job: TileJob) -> OpenRun:
        """Return what the tiles of a run share, opening it for the first of them.

        Raises:
            WorkerSetupError: a scene, the model or its library cannot be had on this machine.
            StoreError: the store cannot be used, which another attempt may mend.
        """
        try:
            return self._open_run(job)
        except StoreError:
            raise
        except (
            Exception
        ) as error:  # any library may fail in a way of its own; no tile can be computed here then
            reason = (
                " ".join(str(error).split()) if isinstance(error, PipelineError) else describe_error(error)
            )
            fault = WorkerSetupError(f"{reason} (on {socket.gethostname()})")
            # Weights that are none do not become any.
            fault.permanent = getattr(error, "permanent", False)
            raise fault from error

    def _open_run(self, job: TileJob) -> OpenRun:
        # The folder is no part of the key: the same run may be written to two places.
        name = job.key, job.store
        with self._opening:
            if name not in self._runs:
                store = ProbabilityStore(job.store)
                while len(self._runs) >= self._most_runs:
                    del self._runs[next(iter(self._runs))]
                detector = self.detector(job.detector)
                weights = taper_weights(job.plan.patch_size, job.taper)
                computer = open_computer(detector, weights, PatchCache(), self._turn)
                pair = job.open_pair(shared=isinstance(computer, DeviceComputer))
                self._runs[name] = OpenRun(pair, computer, store)
            # The one used longest ago is the first to go.
            self._runs[name] = run = self._runs.pop(name)
            return run

    def open_squares(self, job: SquareJob, following: bool = False) -> OpenSquares:
        """Return what the squares of a job share, opening it for the first of them.

        Args:
            job: the squares.
            following: True while tiles are still computed: the store then goes by what it learns.

        Raises:
            StoreError, ReadError: the store, or a scene, cannot be opened.
        """
        name = job.key, job.store, following
        with self._opening:
            if name not in self._squares:
                while len(self._squares) >= self._most_runs:
                    del self._squares[next(iter(self._squares))]
                self._squares[name] = OpenSquares(job, following)
            return self._squares[name]

    def close_squares(self, job: SquareJob) -> None:
        """Forget what the squares of a job share: the next one sees the store as it is then."""
        with self._opening:
            for name in [name for name in self._squares if name[:2] == (job.key, job.store)]:
                del self._squares[name]

    def detector(self, spec: DetectorSpec) -> Detector:
        """Return the detector of a spec, building it unless it is the last one that was built."""
        with self._opening:
            if spec not in self._detectors:
                # One network at a time: two would be twice the memory.
                self._detectors.clear()
                self._detectors[spec] = spec.build()
            return self._detectors[spec]

    def forget(self) -> None:
        """Close all runs and detectors; the next tile opens its own again."""
        with self._opening:
            self._runs.clear()
            self._squares.clear()
            self._detectors.clear()

    @contextmanager
    def tile_in_hand(self) -> Iterator[None]:
        """Count a tile while it is computed, and its seconds unless it fails."""
        with self._changed:
            self._in_hand += 1
        start = time.monotonic()
        try:
            yield
            with self._changed:
                self._longest_tile = max(self._longest_tile, time.monotonic() - start)
        finally:
            with self._changed:
                self._in_hand -= 1
                self._changed.notify_all()

    def wait_until_idle(self) -> None:
        """Wait until no other thread of this process has a tile in hand."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_hand == 0)


PROCESS_CACHE = WorkerCache()
"""The cache of this process."""
