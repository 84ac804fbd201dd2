"""The state that a process keeps from tile to tile."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.stubs import StubDetector, StubReader, StubRecipe, StubScene, stored, stub_job
from tests.support.tile_runs import GRID, PLAN
from ussfc.errors import ModelError
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.execution.errors import WorkerSetupError
from ussfc.pipeline.execution.tile import compute_tile
from ussfc.pipeline.execution.tile_job import TileJob
from ussfc.pipeline.execution.worker_cache import WorkerCache
from ussfc.pipeline.execution.worker_tasks import find_setup_fault
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import Box, Pixels


def test_detector_is_built_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, cache = [], WorkerCache()
    build = StubRecipe.build
    monkeypatch.setattr(StubRecipe, "build", lambda recipe: built.append(1) or build(recipe))
    job = stub_job(ProbabilityStore.create(tmp_path, GRID, "uint8", 32), PLAN, f"once-{tmp_path}")
    for index in PLAN.indices():
        compute_tile(job, index, cache=cache)
    assert built == [1]


def test_same_run_into_two_folders_fills_both(tmp_path: Path) -> None:
    cache = WorkerCache()
    for name in ("first", "second"):
        store = ProbabilityStore.create(tmp_path / name, GRID, "uint8", 32)
        compute_tile(stub_job(store, PLAN, f"folders-{tmp_path}"), (0, 1), cache=cache)
        assert set(store.done()) == {(0, 1)}


@dataclass(frozen=True)
class Meeting:
    """Events at which two tiles of one process meet, so that nothing hangs on the clock."""

    in_network: threading.Event = field(default_factory=threading.Event)
    """The first tile is inside the network."""
    has_read: threading.Event = field(default_factory=threading.Event)
    """The second tile has read its pixels."""
    at_the_door: threading.Event = field(default_factory=threading.Event)
    """Some tile wants the network while another one has it."""

    def wait(self, event: threading.Event) -> None:
        assert event.wait(30), "never happened"


@dataclass(frozen=True)
class MeetingScene(StubScene):
    """Keeps the second tile's read until the first one is inside the network."""

    meeting: Meeting = field(default_factory=Meeting)
    second: Box | None = None

    def open(self) -> MeetingReader:  # type: ignore[override]
        plain = super().open()
        return MeetingReader(plain.values, plain.valid, meeting=self.meeting, second=self.second)


@dataclass(frozen=True)
class MeetingReader(StubReader):
    meeting: Meeting = field(default_factory=Meeting)
    second: Box | None = None

    def read(self, box: Box) -> Pixels:
        if box == self.second:
            self.meeting.wait(self.meeting.in_network)
        pixels = super().read(box)
        if box == self.second:
            self.meeting.has_read.set()
        return pixels


@dataclass
class MeetingDetector(StubDetector):
    """Stays in its first call until the second tile has read and stands at the door."""

    meeting: Meeting = field(default_factory=Meeting)
    callers: list[int] = field(default_factory=list)

    def predict(
        self, before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        self.callers.append(threading.get_ident())
        if len(self.callers) == 1:
            self.meeting.in_network.set()
            self.meeting.wait(self.meeting.has_read)
            self.meeting.wait(self.meeting.at_the_door)
        return super().predict(before, after)


@dataclass(frozen=True)
class MeetingRecipe(StubRecipe):
    """One of several, all of which build the same detector."""

    number: int = 0
    made: MeetingDetector | None = field(default=None, compare=False)

    def build(self) -> StubDetector:
        assert self.made is not None
        return self.made


class Door:
    """A lock that reports when a thread has to wait for it."""

    def __init__(self, meeting: Meeting) -> None:
        self._lock = threading.Lock()
        self._meeting = meeting

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._meeting.at_the_door.set()
            self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("networks", [1, 2])
def test_one_tile_computes_while_another_reads(tmp_path: Path, networks: int) -> None:
    meeting = Meeting()
    detector = MeetingDetector(16, 3, meeting=meeting)
    compute = partial(compute_tile, cache=WorkerCache(turn=Door(meeting)))
    store = ProbabilityStore.create(tmp_path / "two", GRID, "uint8", 32)
    first, second = (0, 1), (2, 2)
    after = MeetingScene(PLAN.shape, 2, meeting=meeting, second=PLAN.tile(second).halo)
    jobs = []
    for number in (0, networks - 1):
        recipe = MeetingRecipe(16, 3, number=number, made=detector)
        jobs.append(stub_job(store, PLAN, f"meeting-{number}-{tmp_path}", after=after, detector=recipe))
    with ThreadPoolExecutor(2) as threads:
        for tile in list(map(threads.submit, [compute] * 2, jobs, (first, second))):
            tile.result(timeout=60)
    # All calls of the one, then all calls of the other.
    assert len(set(detector.callers)) == 2
    assert sum(a != b for a, b in pairwise(detector.callers)) == 1
    alone = ProbabilityStore.create(tmp_path / "alone", GRID, "uint8", 32)
    job, cache = stub_job(alone, PLAN, f"alone-{tmp_path}", after=StubScene(PLAN.shape, 2)), WorkerCache()
    for index in (first, second):
        compute_tile(job, index, cache=cache)
    np.testing.assert_array_equal(
        stored(tmp_path / "two", PLAN.shape), stored(tmp_path / "alone", PLAN.shape)
    )


def test_waiting_for_the_turn_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        """A queue of an hour before the network."""

        def __enter__(self) -> None:
            now = time.perf_counter
            monkeypatch.setattr(time, "perf_counter", lambda: now() + 3600)

        def __exit__(self, *error: object) -> None: ...

    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(store, PLAN, f"slow-{tmp_path}")
    result = compute_tile(job, (1, 1), cache=WorkerCache(turn=Slow()))
    assert sum(result.seconds.values()) < 1000


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """Everything that this process opens and builds from now on."""
    events: list[tuple[str, object]] = []
    open_, build = StubScene.open, StubRecipe.build
    monkeypatch.setattr(StubScene, "open", lambda scene: events.append(("scene", scene.seed)) or open_(scene))
    monkeypatch.setattr(
        StubRecipe, "build", lambda recipe: events.append(("detector", recipe.batch_size)) or build(recipe)
    )
    return events


def runs_of(tmp_path: Path, count: int) -> list[TileJob]:
    """Return jobs over scenes of their own; the before scene of the n-th has the seed 10 n."""
    return [
        stub_job(
            ProbabilityStore.create(tmp_path / str(number), GRID, "uint8", 32),
            PLAN,
            f"{number}-{tmp_path}",
            before=StubScene(PLAN.shape, 10 * number),
            after=StubScene(PLAN.shape, 10 * number + 1),
        )
        for number in range(count)
    ]


def test_oldest_run_is_closed_for_another(tmp_path: Path, opened: list[tuple[str, object]]) -> None:
    compute = partial(compute_tile, cache=WorkerCache(most_runs=4))
    jobs = runs_of(tmp_path, 5)
    for index in PLAN.indices():
        for job in jobs[:4]:
            compute(job, index)
    # One detector for all, which take turns.
    assert opened.count(("detector", 3)) == 1
    assert sorted(seed for kind, seed in opened if kind == "scene") == [0, 1, 10, 11, 20, 21, 30, 31]
    opened.clear()
    compute(jobs[4], (0, 1))
    assert opened == [("scene", 40), ("scene", 41)]
    opened.clear()
    for job in jobs[1:]:
        compute(job, (0, 2))
    assert opened == []
    compute(jobs[0], (0, 2))
    assert opened == [("scene", 0), ("scene", 1)]
    # Each has its own pixels.
    rasters = {stored(tmp_path / str(number), PLAN.shape).tobytes() for number in range(4)}
    assert len(rasters) == 4


def test_another_detector_replaces_the_first(tmp_path: Path, opened: list[tuple[str, object]]) -> None:
    compute = partial(compute_tile, cache=(cache := WorkerCache()))
    one, two = runs_of(tmp_path, 2)
    two = replace(two, detector=StubRecipe(16, 5))
    for job in (one, two, one, two):
        compute(job, (0, 1))
    sizes = [size for kind, size in opened if kind == "detector"]
    assert sizes == [3, 5]
    # The second is at hand, the first would be built once more.
    opened.clear()
    cache.detector(two.detector)
    assert opened == []
    cache.detector(one.detector)
    assert opened == [("detector", 3)]


@dataclass(frozen=True)
class Missing:
    """A scene that cannot be opened."""

    error: Exception

    def open(self) -> StubReader:
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ReadError("after.tif: no such file"), "after.tif: no such file"),
        (ImportError("no\n  torch"), "ImportError: no torch"),
    ],
)
def test_setup_fault_names_host_and_cause(tmp_path: Path, error: Exception, reason: str) -> None:
    cache = WorkerCache()
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(store, PLAN, f"missing-{tmp_path}", after=Missing(error))
    here = f"{reason} (on {socket.gethostname()})"
    with pytest.raises(WorkerSetupError) as caught:
        compute_tile(job, (2, 3), cache=cache)
    assert str(caught.value) == f"tile 2,3 (rows 64..70, columns 96..100): {here}"
    assert find_setup_fault(job, cache) == here
    # What could not be opened is tried again.
    job = stub_job(store, PLAN, f"missing-{tmp_path}")
    assert find_setup_fault(job, cache) is None
    compute_tile(job, (2, 3), cache=cache)


def test_weights_that_are_none_are_no_matter_of_a_tile(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(
        store, PLAN, f"weights-{tmp_path}", after=Missing(ModelError("weights w.pth: not a checkpoint"))
    )
    with pytest.raises(WorkerSetupError, match=r"^ModelError: weights w\.pth: not a checkpoint") as caught:
        compute_tile(job, (2, 3), cache=WorkerCache())
    assert caught.value.permanent
    remote = ModelError("weights s3://b/w.pth: cannot be read")
    remote.permanent = False
    job = stub_job(store, PLAN, f"weights-{tmp_path}", after=Missing(remote))
    with pytest.raises(WorkerSetupError, match=r"^tile 2,3") as caught:
        compute_tile(job, (2, 3), cache=WorkerCache())
    assert not caught.value.permanent


def test_neighbouring_tiles_share_patches(tmp_path: Path) -> None:
    cache = WorkerCache()
    job = replace(runs_of(tmp_path, 2)[1], detector=StubRecipe(16, 1))
    results = [compute_tile(job, index, cache=cache) for index in PLAN.indices()]
    detector = cache.detector(job.detector)
    assert isinstance(detector, StubDetector)
    assert len(detector.calls) == PLAN.patch_count < PLAN.computed_patches
    # The record of a tile counts all its patches, whichever tile computed them.
    assert sum(result.patches for result in results) == PLAN.computed_patches


def test_longest_tile_counts_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, now = WorkerCache(), 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for seconds, fails in ((2.0, False), (1.0, False), (9.0, True)):
        try:
            with cache.tile_in_hand():
                now += seconds
                if fails:
                    raise ReadError("damaged")
        except ReadError:
            pass
    assert cache.longest_tile == 2


def test_idle_is_when_no_tile_is_in_hand() -> None:
    cache = WorkerCache()
    begun, ended = threading.Event(), threading.Event()
    order: list[str] = []

    def compute() -> None:
        with cache.tile_in_hand():
            begun.set()
            assert ended.wait(30)
            order.append("tile")

    with ThreadPoolExecutor(1) as threads:
        tile = threads.submit(compute)
        assert begun.wait(30)
        threading.Timer(0.05, ended.set).start()
        cache.wait_until_idle()
        order.append("idle")
        tile.result(timeout=30)
    assert order == ["tile", "idle"]
