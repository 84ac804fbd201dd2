"""Tiles in this process: how many are under way, and how they end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.stubs import (
    SlowRecipe,
    StubArea,
    StubDetector,
    StubRecipe,
    StubScene,
    damaged,
    store_bytes,
)
from tests.support.tile_runs import (
    BACKOFF,
    LUCKY,
    ONCE,
    PLAN,
    UNLUCKY,
    indices_of,
    job_in,
    serially,
    unlucky,
    unwanted,
    watched,
)
from ussfc.pipeline.execution import serial_executor
from ussfc.pipeline.execution.serial_executor import SerialExecutor
from ussfc.pipeline.execution.tile_computer import ComputedTile, TileComputer
from ussfc.pipeline.execution.tile_job import OpenPair, TileJob
from ussfc.pipeline.execution.worker_cache import OpenRun, WorkerCache
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import BoolArray, Box, FloatArray, Tile, TileResult


@pytest.mark.parametrize("concurrent_tiles", [2, 4])
def test_so_many_tiles_are_under_way(concurrent_tiles: int, tmp_path: Path) -> None:
    # A tile is read only when as many are being read: fewer at a time would wait for ever.
    everyone = threading.Barrier(concurrent_tiles)
    results: list[TileResult] = []
    ahead: list[int] = []

    class Meeting(StubArea):
        def mask(self, box: Box) -> BoolArray:
            everyone.wait(60)
            return super().mask(box)

    assert PLAN.tile_count % concurrent_tiles == 0
    expected = serially(tmp_path / "expected")
    job = job_in(tmp_path / "work", area=Meeting(Box(0, 0, *PLAN.shape)))
    SerialExecutor(ONCE, concurrent_tiles).run(job, watched(results, ahead), results.append, unwanted)
    assert indices_of(results) == list(PLAN.indices())
    assert store_bytes(job.store) == expected
    # Nor more.
    assert max(ahead) == concurrent_tiles


class InTheMiddle(StubDetector):
    """Once some patches were computed, the next call does not return before its executor has set the stop event."""

    def __init__(self, undisturbed: int, act: Callable[[], None]) -> None:
        super().__init__(16, 1)
        self.stop: threading.Event | None = None
        self.undisturbed, self.act = undisturbed, act

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        found = super().predict(before, after)
        if len(self.calls) > self.undisturbed:
            self.act()
            assert self.stop is not None
            assert self.stop.wait(30)
        return found


@dataclass(frozen=True)
class StopRecorder:
    """A computer that gives the stop event of its executor to the detector."""

    computer: TileComputer
    detector: InTheMiddle

    def compute(
        self,
        tile: Tile,
        pair: OpenPair,
        stop: threading.Event | None = None,
        report: Callable[[float], None] | None = None,
    ) -> ComputedTile:
        self.detector.stop = stop
        return self.computer.compute(tile, pair, stop, report)


class RecordingCache(WorkerCache):
    """Opens runs with a :class:`StopRecorder`."""

    def open_run(self, job: TileJob) -> OpenRun:
        run, detector = super().open_run(job), self.detector(job.detector)
        return replace(run, computer=StopRecorder(run.computer, detector))


@dataclass(frozen=True)
class Ready(StubRecipe):
    """A detector that is there already."""

    detector: StubDetector = field(default_factory=StubDetector, compare=False)

    def build(self) -> StubDetector:
        return self.detector


def tile_threads() -> list[threading.Thread]:
    """Return those that are still there after a moment: none waits for one that an interrupt met at its start."""
    deadline = time.monotonic() + 10
    while True:
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("ussfc-tile")]
        if not threads or time.monotonic() > deadline:
            return threads
        time.sleep(0.01)


@pytest.mark.parametrize("concurrent_tiles", [2, 4])
def test_error_of_on_result_stops_other_tiles(concurrent_tiles: int, tmp_path: Path) -> None:
    # Two that share no patch and have as many of them, and those without data, which need no network.
    pair, others = [(0, 3), (2, 2)], [(0, 0), (1, 0), (2, 0)]
    computing = threading.Event()
    patches, same = (len(PLAN.tile(index).patches) for index in pair)
    assert patches == same
    detector = InTheMiddle(patches, computing.set)
    job = job_in(tmp_path, detector=Ready(detector=detector))

    def on_result(result: TileResult) -> None:
        assert computing.wait(30)  # the next tile is in the network
        raise OSError("no space for a result")

    with pytest.raises(OSError, match="no space for a result"):
        SerialExecutor(ONCE, concurrent_tiles, RecordingCache()).run(
            job, [*pair, *others], on_result, unwanted
        )
    # It ended with the batch that was in the network, and the tile that waited for that never began.
    assert len(detector.calls) == patches + 1
    assert tile_threads() == []
    assert len(set(ProbabilityStore(job.store).done()) - set(others)) == 1


@pytest.fixture
def pythons_interrupt() -> Iterator[None]:
    """Put back Python's own handler, which a library that another test imported may have replaced."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("pythons_interrupt")
@pytest.mark.parametrize("concurrent_tiles", [1, 2, 4])
def test_interrupt_stops_the_tiles_under_way(concurrent_tiles: int, tmp_path: Path) -> None:
    main = threading.main_thread().ident
    assert main == threading.get_ident()
    detector = InTheMiddle(0, lambda: signal.pthread_kill(main, signal.SIGINT))
    job = job_in(tmp_path, detector=Ready(detector=detector))
    columns = [index for index in PLAN.indices() if index[1]]  # the first one has no data
    with pytest.raises(KeyboardInterrupt):
        SerialExecutor(ONCE, concurrent_tiles, RecordingCache()).run(
            job, columns, lambda result: None, unwanted
        )
    assert len(detector.calls) == 1
    assert tile_threads() == []
    assert ProbabilityStore(job.store).done() == {}


@pytest.mark.parametrize("concurrent_tiles", [1, 2, 4])
def test_only_the_failed_tile_waits(concurrent_tiles: int, tmp_path: Path) -> None:
    attempts: list[float] = []
    results: list[TileResult] = []
    done_before: list[int] = []

    def fail_twice() -> None:
        attempts.append(time.monotonic())
        done_before.append(len(results))
        if len(attempts) < 3:
            damaged()

    backoff = Backoff(attempts=3, first=0.5, factor=2, longest=10)
    job = job_in(tmp_path, after=unlucky(fail_twice))
    SerialExecutor(backoff, concurrent_tiles).run(job, [UNLUCKY, *LUCKY], results.append, unwanted)
    assert indices_of(results) == list(PLAN.indices())
    first, second = (later - earlier for earlier, later in pairwise(attempts))
    assert first >= 0.5
    assert second >= 1
    assert done_before[0] == 0 < done_before[1]


def test_due_tile_does_not_wait_for_a_slow_one(tmp_path: Path) -> None:
    long, again = (2, 3), threading.Event()
    attempts: list[bool] = []

    def fail_once() -> None:
        attempts.append(True)
        if len(attempts) == 1:
            damaged()
        again.set()

    in_time: list[bool] = []

    def take_long() -> None:
        in_time.append(again.wait(30))

    job = job_in(
        tmp_path,
        before=StubScene(PLAN.shape, 1, None, (69, 99), take_long),
        after=unlucky(fail_once),
    )
    results: list[TileResult] = []
    SerialExecutor(BACKOFF, 2).run(job, [UNLUCKY, long], results.append, unwanted)
    assert in_time == [True]
    assert indices_of(results) == [UNLUCKY, long]


def test_parts_of_a_tile_are_reported_and_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serial_executor, "REPORT_SECONDS", 0.005)
    results: list[TileResult] = []
    parts: list[int] = []
    threads: set[threading.Thread] = set()

    def on_pixels(pixels: int) -> None:
        threads.add(threading.current_thread())
        parts.append(pixels)

    job = job_in(tmp_path, detector=SlowRecipe(batch_size=1))
    SerialExecutor(ONCE).run(job, [(1, 1)], results.append, unwanted, on_pixels)
    whole = PLAN.core((1, 1)).pixels
    assert len(parts) > 2
    assert 0 < parts[0] < whole
    assert sum(parts[:-1]) == -parts[-1] <= whole
    assert sum(parts) == 0
    # Subscribers are not called from the threads of tiles.
    assert threads == {threading.current_thread()}
