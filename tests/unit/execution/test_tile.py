"""From a tile to its chunk: its bytes, its record, its errors."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.stubs import StubDetector, StubRecipe, StubScene, StubTileRecipe, stored, stub_job
from tests.support.tile_runs import GRID, PLAN
from ussfc.pipeline.errors import StoreError, TileError
from ussfc.pipeline.execution.errors import TileCancelled
from ussfc.pipeline.execution.tile import compute_tile
from ussfc.pipeline.execution.tile_job import Keeping
from ussfc.pipeline.pixels.encoding import is_change
from ussfc.pipeline.pixels.kept import LARGEST_SHARE
from ussfc.pipeline.storage.pixel_files import PixelFiles
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import Box, TileResult


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_tile_is_written_and_recorded(tmp_path: Path, dtype: str) -> None:
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


def test_tile_computed_twice_is_the_same(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, "float32", 32)
    job = stub_job(store, PLAN, f"twice-{tmp_path}")
    first = compute_tile(job, (0, 1))
    bits = stored(tmp_path, PLAN.shape).tobytes()
    second = compute_tile(job, (0, 1))
    assert stored(tmp_path, PLAN.shape).tobytes() == bits
    assert replace(first, seconds={}) == replace(second, seconds={})


@pytest.mark.parametrize("recipe", [StubRecipe(), StubTileRecipe()], ids=["host", "device"])
def test_pixels_that_may_be_change_are_kept(tmp_path: Path, recipe: StubRecipe) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    # Two bands, of which the detector takes one.
    scenes = StubScene(PLAN.shape, 1, bands=2), StubScene(PLAN.shape, 2, Box(0, 0, 70, 20), bands=2)
    job = stub_job(
        store, PLAN, f"kept-{tmp_path}", before=scenes[0], after=scenes[1], detector=recipe
    )  # fmt: skip
    plain = stub_job(store, PLAN, f"plain-{tmp_path}", before=scenes[0], after=scenes[1], detector=recipe)
    for index in PLAN.indices():
        compute_tile(plain, index)
    assert not (tmp_path / "pixels").exists()
    bits = stored(tmp_path, PLAN.shape)
    # A twelfth of the pixels, and more in some of the tiles.
    threshold = float(np.quantile(bits[bits != 255], 11 / 12)) / 254
    for index in PLAN.indices():
        compute_tile(replace(job, keeping=Keeping(threshold, "none")), index)
    np.testing.assert_array_equal(stored(tmp_path, PLAN.shape), bits)
    images = [scene.open().read(Box(0, 0, *PLAN.shape)) for scene in scenes]
    again, found = ProbabilityStore(tmp_path), 0
    for row, col in PLAN.indices():
        core = PLAN.core((row, col))
        wanted = is_change(bits[core.slices], threshold)
        (origin,) = again.origin(core).tolist()
        kept = PixelFiles(again.root, again.run).read((row, col), origin[2])
        assert (kept is not None) == (0 < wanted.sum() <= wanted.size // LARGEST_SHARE)
        if kept is not None:
            found += 1
            np.testing.assert_array_equal(kept.places, np.flatnonzero(wanted))
            for numbers, image in zip((kept.before, kept.after), images, strict=True):
                np.testing.assert_array_equal(numbers, image.values[(slice(None), *core.slices)][:, wanted])
            assert kept.valid.all()
    assert found > 2


def test_read_error_names_tile_and_bounds(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(store, PLAN, f"failing-{tmp_path}", after=StubScene(PLAN.shape, 2, fails_at=(69, 99)))
    compute_tile(job, (0, 0))
    with pytest.raises(TileError) as caught:
        compute_tile(job, (2, 3))
    assert str(caught.value) == "tile 2,3 (rows 64..70, columns 96..100): stub.tif: block is damaged"
    assert set(store.done()) == {(0, 0)}


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (RuntimeError("GDAL:\n  no  memory"), "RuntimeError: GDAL: no memory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_any_error_names_the_tile_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, reason: str
) -> None:
    job = stub_job(ProbabilityStore.create(tmp_path, GRID, "uint8", 32), PLAN, f"any-{tmp_path}")

    def fail(*args: object) -> None:
        raise raised

    monkeypatch.setattr(StubDetector, "predict", fail)
    with pytest.raises(TileError) as caught:
        compute_tile(job, (2, 3))
    assert str(caught.value) == f"tile 2,3 (rows 64..70, columns 96..100): {reason}"
    assert caught.value.__cause__ is raised


def test_store_errors_and_interrupts_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = stub_job(ProbabilityStore.create(tmp_path, GRID, "uint8", 32), PLAN, f"not-{tmp_path}")
    for raised in (StoreError("no space"), KeyboardInterrupt(), SystemExit()):

        def fail(*args: object, raised: BaseException = raised) -> None:
            raise raised

        monkeypatch.setattr(ProbabilityStore, "write", fail)
        with pytest.raises(type(raised)) as caught:
            compute_tile(job, (0, 1))
        assert caught.value is raised


def test_cancelled_tile_leaves_no_record(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(store, PLAN, f"cancelled-{tmp_path}")
    stop = threading.Event()
    stop.set()
    with pytest.raises(TileCancelled):
        compute_tile(job, (1, 1), stop)
    assert store.done() == {}
    stop.clear()
    assert compute_tile(job, (1, 1), stop) == store.done()[1, 1]
