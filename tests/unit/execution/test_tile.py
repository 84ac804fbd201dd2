"""From a tile to its chunk: the answer does not depend on how the scene is cut."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from tests.support.assembly import assemble
from tests.support.stubs import (
    UNIT,
    StubArea,
    StubDetector,
    StubPending,
    StubReader,
    StubRecipe,
    StubScene,
    StubTileDetector,
    StubTileRecipe,
    local_and_mean,
    stored,
    stub_job,
    window,
)
from ussfc.pipeline.errors import ReadError, StoreError, TileError
from ussfc.pipeline.execution import tile as inference
from ussfc.pipeline.execution.tile import (
    PatchCache,
    TileCancelled,
    TileJob,
    WorkerSetupError,
    blend_tile,
    compute_tile,
    read_pair,
)
from ussfc.pipeline.pixels.radiometry import MIDDLE
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, PixelPair, Pixels, RadiometricMapping, TileDetector, TileResult

GRID = GeoBox((70, 100), Affine(1, 0, 0, 0, -1, 70), "EPSG:32636")
PLAN = TilePlan.of((70, 100), 32, 16, 0.25)


def test_a_failure_in_a_stream_is_raised() -> None:
    class Failing(StubDetector):
        def predict(
            self, before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]
        ) -> npt.NDArray[np.float32]:
            raise RuntimeError("no memory")

    images = PixelPair(*np.zeros((2, 1, 70, 100), np.float32), np.ones((70, 100), np.bool_))
    tile = PLAN.tile((0, 0))
    with pytest.raises(RuntimeError, match="no memory"):
        blend_tile(tile, window(images, tile), Failing(16, 1, 2), taper_weights(16, "hann"))


def test_a_tile_without_a_valid_pixel_costs_no_call() -> None:
    images = PixelPair(*np.full((2, 1, 70, 100), MIDDLE, np.float32), np.zeros((70, 100), np.bool_))
    images.valid[:, 32:] = True  # in the halo, not in the core
    detector = StubDetector()
    tile = PLAN.tile((0, 0))
    assert tile.halo.x1 > tile.core.x1 == 32
    probability, patches = blend_tile(tile, window(images, tile), detector, taper_weights(16, "hann"))
    assert detector.calls == []
    assert patches == 0
    assert probability.shape == (32, 32)


def test_one_valid_pixel_costs_only_the_patches_above_it() -> None:
    images = PixelPair(*np.full((2, 1, 70, 100), MIDDLE, np.float32), np.zeros((70, 100), np.bool_))
    images.valid[14, 14] = True
    detector = StubDetector(16, 1)
    tile = PLAN.tile((0, 0))
    _, patches = blend_tile(tile, window(images, tile), detector, taper_weights(16, "hann"))
    assert patches == len(detector.calls) == 4


def test_the_last_batch_is_filled_up_and_the_filling_thrown_away() -> None:
    images = PixelPair(*np.zeros((2, 1, 16, 16), np.float32), np.ones((16, 16), np.bool_))
    images.after[:] = 1
    plan = TilePlan.of((16, 16), 64, 16, 0.25)
    detector = StubDetector(16, 8)
    probability, patches = blend_tile(plan.tile((0, 0)), images, detector, taper_weights(16, "hann"))
    assert (patches, len(detector.calls)) == (1, 1)
    np.testing.assert_allclose(probability, 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 3), (5, 7), (15, 16)])
def test_a_scene_smaller_than_a_patch_is_mirrored_to_the_south_and_east(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    images = PixelPair(*rng.random((2, 2, *shape), dtype=np.float32), np.ones(shape, np.bool_))
    found = assemble(images, 100, 0, "box", StubDetector(16, 2, bands=2))
    assert np.isfinite(found).all()
    if max(shape) <= 16:
        padding = ((0, 0), (0, 16 - shape[0]), (0, 16 - shape[1]))
        mirrored = [np.pad(image, padding, "reflect") for image in (images.before, images.after)]
        expected = local_and_mean(mirrored[0], mirrored[1])[: shape[0], : shape[1]]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_outside_the_area_of_interest_pixels_are_seen_but_not_valid() -> None:
    shape = (20, 30)
    readers = StubScene(shape, 1).open(), StubScene(shape, 2, Box(0, 0, 4, 4)).open()
    area = StubArea(Box(0, 0, 10, 30))
    images = read_pair(Box(2, 0, 20, 30), readers[0], readers[1], (UNIT, UNIT), area)
    assert not images.valid[8:].any()
    assert not images.valid[:2, :4].any()
    assert images.valid[2:8].all()
    assert images.valid[:8, 4:].all()
    np.testing.assert_array_equal(images.before[:, 8:], readers[0].values[:, 10:])
    assert (images.after[:, :2, :4] == MIDDLE).all()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_tile_is_written_and_recorded(tmp_path: Path, dtype: str) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, dtype, 32)
    job = stub_job(store, PLAN, f"written-{tmp_path}")
    assert compute_tile(job, (1, 0)) == store.done()[1, 0]
    result = compute_tile(job, (2, 3))
    core = PLAN.core((2, 3))
    assert result == TileResult((2, 3), len(PLAN.tile((2, 3)).patches), core.pixels, result.seconds)
    assert set(result.seconds) == {"read", "network"}
    assert set(store.done()) == {(1, 0), (2, 3)}
    # The first column of tiles has no data on one date: nodata, never "no change".
    assert store.done()[1, 0].valid_pixels == store.done()[1, 0].patches == 0
    raster = stored(tmp_path, PLAN.shape)
    nodata = np.isnan(raster) if dtype == "float32" else raster == 255
    assert nodata[PLAN.core((1, 0)).slices].all()
    assert not nodata[core.slices].any()


def test_nodata_of_either_date_is_nodata(tmp_path: Path) -> None:
    holes = Box(3, 3, 20, 40), Box(30, 50, 60, 99)
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    before, after = StubScene(PLAN.shape, 1, holes[0]), StubScene(PLAN.shape, 2, holes[1])
    job = stub_job(store, PLAN, f"nodata-{tmp_path}", before=before, after=after)
    for index in PLAN.indices():
        compute_tile(job, index)
    expected = np.zeros(PLAN.shape, np.bool_)
    for hole in holes:
        expected[hole.slices] = True
    np.testing.assert_array_equal(stored(tmp_path, PLAN.shape) == 255, expected)
    assert sum(result.valid_pixels for result in store.done().values()) == (~expected).sum()


def test_a_tile_computed_twice_is_the_same(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, "float32", 32)
    job = stub_job(store, PLAN, f"twice-{tmp_path}")
    first = compute_tile(job, (0, 1))
    bits = stored(tmp_path, PLAN.shape).tobytes()
    second = compute_tile(job, (0, 1))
    assert stored(tmp_path, PLAN.shape).tobytes() == bits
    assert replace(first, seconds={}) == replace(second, seconds={})


def test_a_tile_that_cannot_be_read_names_itself_and_its_bounds(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(store, PLAN, f"failing-{tmp_path}", after=StubScene(PLAN.shape, 2, fails_at=(69, 99)))
    compute_tile(job, (0, 0))
    with pytest.raises(TileError) as caught:
        compute_tile(job, (2, 3))
    assert str(caught.value) == "tile 2,3 (rows 64..70, columns 96..100): stub.tif: block is damaged"
    assert set(store.done()) == {(0, 0)}


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("GDAL:\n  no  memory"), "RuntimeError: GDAL: no memory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_any_error_over_a_tile_names_the_tile_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, said: str
) -> None:
    job = stub_job(ProbabilityStore.create(tmp_path, GRID, "uint8", 32), PLAN, f"any-{tmp_path}")

    def fail(*args: object) -> None:
        raise raised

    monkeypatch.setattr(StubDetector, "predict", fail)
    with pytest.raises(TileError) as caught:
        compute_tile(job, (2, 3))
    assert str(caught.value) == f"tile 2,3 (rows 64..70, columns 96..100): {said}"
    assert caught.value.__cause__ is raised


def test_the_stores_errors_and_an_interrupt_are_not_the_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stub_job(ProbabilityStore.create(tmp_path, GRID, "uint8", 32), PLAN, f"not-{tmp_path}")
    for raised in (StoreError("no space"), KeyboardInterrupt(), SystemExit()):

        def fail(*args: object, raised: BaseException = raised) -> None:
            raise raised

        monkeypatch.setattr(ProbabilityStore, "write", fail)
        with pytest.raises(type(raised)) as caught:
            compute_tile(job, (0, 1))
        assert caught.value is raised


def test_scenes_and_weights_are_opened_once_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(inference, "_detectors", {})
    build = StubRecipe.build
    monkeypatch.setattr(StubRecipe, "build", lambda recipe: built.append(1) or build(recipe))
    job = stub_job(ProbabilityStore.create(tmp_path, GRID, "uint8", 32), PLAN, f"once-{tmp_path}")
    for index in PLAN.indices():
        compute_tile(job, index)
    assert built == [1]


def test_the_same_run_into_two_folders_fills_both(tmp_path: Path) -> None:
    for name in ("first", "second"):
        store = ProbabilityStore.create(tmp_path / name, GRID, "uint8", 32)
        compute_tile(stub_job(store, PLAN, f"folders-{tmp_path}"), (0, 1))
        assert set(store.done()) == {(0, 1)}


@dataclass(frozen=True)
class Meeting:
    """Where two tiles of one process meet: events that each waits for, so that nothing hangs on the clock."""

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
    """Tells of reads, and keeps the second tile's until the first one is inside the network."""

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
    """A lock that tells when somebody has to wait for it."""

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
def test_one_tile_has_the_network_while_another_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: int
) -> None:
    meeting = Meeting()
    detector = MeetingDetector(16, 3, meeting=meeting)
    monkeypatch.setattr(inference, "_detectors", {})
    monkeypatch.setattr(inference, "_turn", Door(meeting))
    monkeypatch.setattr(inference, "_opened_runs", {})
    store = ProbabilityStore.create(tmp_path / "two", GRID, "uint8", 32)
    first, second = (0, 1), (2, 2)
    after = MeetingScene(PLAN.shape, 2, meeting=meeting, second=PLAN.tile(second).halo)
    jobs = []
    for number in (0, networks - 1):
        recipe = MeetingRecipe(16, 3, number=number, made=detector)
        jobs.append(stub_job(store, PLAN, f"meeting-{number}-{tmp_path}", after=after, detector=recipe))
    with ThreadPoolExecutor(2) as threads:
        for tile in list(map(threads.submit, [compute_tile] * 2, jobs, (first, second))):
            tile.result(timeout=60)
    # All calls of the one, then all calls of the other.
    assert len(set(detector.callers)) == 2
    assert sum(a != b for a, b in pairwise(detector.callers)) == 1
    alone = ProbabilityStore.create(tmp_path / "alone", GRID, "uint8", 32)
    monkeypatch.setattr(inference, "_detectors", {})
    for index in (first, second):
        compute_tile(stub_job(alone, PLAN, f"alone-{tmp_path}", after=StubScene(PLAN.shape, 2)), index)
    np.testing.assert_array_equal(
        stored(tmp_path / "two", PLAN.shape), stored(tmp_path / "alone", PLAN.shape)
    )


def test_waiting_for_the_network_is_no_time_of_a_tile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        """A queue of an hour before the network."""

        def __enter__(self) -> None:
            now = time.perf_counter
            monkeypatch.setattr(time, "perf_counter", lambda: now() + 3600)

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(inference, "_turn", Slow())
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    result = compute_tile(stub_job(store, PLAN, f"slow-{tmp_path}"), (1, 1))
    assert sum(result.seconds.values()) < 1000


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """What this process opens and builds from now on, beginning with nothing open."""
    told: list[tuple[str, object]] = []
    open_, build = StubScene.open, StubRecipe.build
    monkeypatch.setattr(inference, "_detectors", {})
    monkeypatch.setattr(inference, "_opened_runs", {})
    monkeypatch.setattr(StubScene, "open", lambda scene: told.append(("scene", scene.seed)) or open_(scene))
    monkeypatch.setattr(
        StubRecipe, "build", lambda recipe: told.append(("detector", recipe.batch_size)) or build(recipe)
    )
    return told


def runs_of(tmp_path: Path, count: int) -> list[TileJob]:
    """Jobs over scenes of their own; the before scene of the n-th has the seed 10 n."""
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


def test_four_runs_take_turns_with_one_detector_and_a_fifth_closes_the_oldest(
    tmp_path: Path, opened: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "MOST_OPEN", 4)
    jobs = runs_of(tmp_path, 5)
    for index in PLAN.indices():
        for job in jobs[:4]:
            compute_tile(job, index)
    assert opened.count(("detector", 3)) == 1
    assert sorted(seed for what, seed in opened if what == "scene") == [0, 1, 10, 11, 20, 21, 30, 31]
    opened.clear()
    compute_tile(jobs[4], (0, 1))
    assert opened == [("scene", 40), ("scene", 41)]
    opened.clear()
    for job in jobs[1:]:
        compute_tile(job, (0, 2))
    assert opened == []
    compute_tile(jobs[0], (0, 2))
    assert opened == [("scene", 0), ("scene", 1)]
    # Each has its own pixels.
    rasters = {stored(tmp_path / str(number), PLAN.shape).tobytes() for number in range(4)}
    assert len(rasters) == 4


def test_another_network_takes_the_place_of_the_first(
    tmp_path: Path, opened: list[tuple[str, object]]
) -> None:
    one, two = runs_of(tmp_path, 2)
    two = replace(two, detector=StubRecipe(16, 5))
    for job in (one, two, one, two):
        compute_tile(job, (0, 1))
    assert [size for what, size in opened if what == "detector"] == [3, 5]
    assert list(inference._detectors) == [StubRecipe(16, 5)]


def test_what_every_tile_needs_and_cannot_be_had_is_no_fault_of_a_tile(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Nowhere:
        error: Exception

        def open(self) -> StubReader:
            raise self.error

    for number, (error, said) in enumerate(
        (
            (ReadError("after.tif: no such file"), "after.tif: no such file"),
            (ImportError("no\n  torch"), "ImportError: no torch"),
        )
    ):
        store = ProbabilityStore.create(tmp_path / str(number), GRID, "uint8", 32)
        job = stub_job(store, PLAN, f"nowhere-{number}-{tmp_path}", after=Nowhere(error))
        here = f"{said} (on {socket.gethostname()})"
        with pytest.raises(WorkerSetupError) as caught:
            compute_tile(job, (2, 3))
        assert str(caught.value) == f"tile 2,3 (rows 64..70, columns 96..100): {here}"
        assert inference.prepare(job) == here
    # What could not be opened is tried again.
    job = stub_job(store, PLAN, f"nowhere-{number}-{tmp_path}")
    assert inference.prepare(job) is None
    compute_tile(job, (2, 3))


def patch_at(number: int, side: int = 4) -> Box:
    return Box(number, 0, number + side, side)


def test_a_memory_of_patches_forgets_what_was_not_asked_for_longest() -> None:
    # Room for three patches of 4 x 4 float32.
    memory = PatchCache(room=3 * 64)
    answers = [np.full((4, 4), number, np.float32) for number in range(5)]
    for number in range(3):
        memory.keep(patch_at(number), answers[number])
    # The whole batch is not held by one of its patches, and may be written over.
    answers[0][:] = 9
    answers[0] = np.zeros((4, 4), np.float32)
    assert np.array_equal(memory.find(patch_at(0)), answers[0])
    memory.keep(patch_at(3), answers[3])
    assert memory.find(patch_at(1)) is None
    for number in (2, 0, 3):
        assert np.array_equal(memory.find(patch_at(number)), answers[number])
    memory.keep(patch_at(4), answers[4])
    assert [number for number in range(5) if memory.find(patch_at(number)) is not None] == [0, 3, 4]


@pytest.mark.parametrize(("room", "kept"), [(0, []), (63, []), (64, [2]), (127, [2]), (128, [1, 2])])
def test_a_memory_of_patches_keeps_to_its_room(room: int, kept: list[int]) -> None:
    memory = PatchCache(room)
    for number in range(3):
        memory.keep(patch_at(number), np.zeros((4, 4), np.float32))
    assert [number for number in range(3) if memory.find(patch_at(number)) is not None] == kept
    # What is larger than the room does not stay.
    memory.keep(patch_at(9), np.zeros((99, 99), np.float32))
    assert memory.find(patch_at(9)) is None


def test_a_patch_that_is_kept_again_counts_once() -> None:
    memory = PatchCache(room=2 * 64)
    for number in (0, 1, 1, 1):
        memory.keep(patch_at(number), np.full((4, 4), number, np.float32))
    for number in (0, 1):
        found = memory.find(patch_at(number))
        assert found is not None
        assert found[0, 0] == number


def test_neighbouring_tiles_of_a_run_share_patches(tmp_path: Path, opened: list[tuple[str, object]]) -> None:
    job = runs_of(tmp_path, 2)[1]
    job = replace(job, detector=StubRecipe(16, 1))
    results = [compute_tile(job, index) for index in PLAN.indices()]
    detector = inference._detectors[job.detector]
    assert len(detector.calls) == PLAN.patch_count < PLAN.computed_patches
    # The record of a tile says what it is made of, whoever computed it.
    assert sum(result.patches for result in results) == PLAN.computed_patches


@pytest.mark.parametrize("streams", [1, 2])
def test_a_tile_is_given_up_between_two_batches(streams: int) -> None:
    stop = threading.Event()

    class Stopping(StubDetector):
        def predict(
            self, before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]
        ) -> npt.NDArray[np.float32]:
            found = super().predict(before, after)
            if len(self.calls) >= 3:
                stop.set()
            return found

    images = PixelPair(*np.zeros((2, 1, 70, 100), np.float32), np.ones((70, 100), np.bool_))
    tile = PLAN.tile((1, 1))
    detector = Stopping(16, 1, streams)
    with pytest.raises(TileCancelled):
        blend_tile(tile, window(images, tile), detector, taper_weights(16, "hann"), None, stop)
    # Another stream may be in the middle of a batch.
    assert 3 <= len(detector.calls) <= 2 + streams < len(tile.patches)
    # What was computed of it is not taken for a neighbour's.
    detector.calls.clear()
    with pytest.raises(TileCancelled):
        blend_tile(tile, window(images, tile), detector, taper_weights(16, "hann"), None, stop)
    assert detector.calls == []


def test_a_tile_that_was_given_up_is_no_failure_and_leaves_no_record(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(store, PLAN, f"abandoned-{tmp_path}")
    stop = threading.Event()
    stop.set()
    with pytest.raises(TileCancelled):
        compute_tile(job, (1, 1), stop)
    assert store.done() == {}
    stop.clear()
    assert compute_tile(job, (1, 1), stop) == store.done()[1, 1]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("case", ["whole", "holes", "area", "small", "small with a hole", "narrow"])
def test_a_device_that_cuts_and_blends_gives_the_same_bytes(
    tmp_path: Path, case: str, dtype: str, opened: list[tuple[str, object]]
) -> None:
    shape = {"small": (9, 13), "small with a hole": (9, 13), "narrow": (70, 11)}.get(case, (70, 100))
    plan = TilePlan.of(shape, 32, 16, 0.25)
    grid = GeoBox(shape, Affine(1, 0, 0, 0, -1, shape[0]), "EPSG:32636")
    hole = {"holes": Box(20, 3, 66, 64), "small with a hole": Box(2, 3, 6, 8)}.get(case)
    rasters, records = [], []
    for name, recipe in (("plain", StubRecipe(16, 3)), ("device", StubTileRecipe(16, 3))):
        store = ProbabilityStore.create(tmp_path / name, grid, dtype, 32)
        job = stub_job(
            store,
            plan,
            f"{name}-{case}-{tmp_path}",
            after=StubScene(plan.shape, 2, hole),
            area=StubArea(Box(5, 40, 60, 75)) if case == "area" else None,
            mappings=(RadiometricMapping((0.1,), (0.9,)), RadiometricMapping((0.3,), (0.8,))),
            detector=recipe,
        )
        records.append([replace(compute_tile(job, index), seconds={}) for index in plan.indices()])
        rasters.append(stored(tmp_path / name, plan.shape).tobytes())
        detector = inference._detectors[recipe]
        if name == "device":
            assert isinstance(detector, TileDetector)
            assert detector.calls == []
            # A tile goes there once, and not at all where it has no valid pixel.
            assert len(detector.uploads) == sum(record.patches > 0 for record in records[-1])
        else:
            assert not isinstance(detector, TileDetector)
    assert rasters[0] == rasters[1]
    assert records[0] == records[1]
    assert any(record.patches == 0 for record in records[0]) == (case in ("holes", "area"))


def test_a_devices_seconds_are_the_tiles(tmp_path: Path, opened: list[tuple[str, object]]) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(store, PLAN, f"device-{tmp_path}", detector=StubTileRecipe(16, 3))
    assert compute_tile(job, (1, 1)).seconds["network"] == 0.25
    assert compute_tile(job, (1, 0)).seconds["network"] == 0  # without a valid pixel


def test_a_device_computes_one_tile_while_the_next_joins_its_queue(
    tmp_path: Path, opened: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lock is held over the wait for a result."""
    both = threading.Barrier(2)

    class Waiting(StubPending):
        def result(self) -> npt.NDArray[np.float32]:
            both.wait(60)
            return super().result()

    blend = StubTileDetector.blend
    monkeypatch.setattr(StubTileDetector, "blend", lambda *args: Waiting(blend(*args).probability))
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(store, PLAN, f"queue-{tmp_path}", detector=StubTileRecipe(16, 3))
    with ThreadPoolExecutor(2) as threads:
        for tile in list(map(threads.submit, [compute_tile] * 2, [job] * 2, [(0, 1), (2, 2)])):
            tile.result(timeout=60)
    assert set(store.done()) == {(0, 1), (2, 2)}
