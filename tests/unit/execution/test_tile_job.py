"""The job of a run, and the pair of scenes that it opens."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.support.stubs import UNIT, StubArea, StubDetector, StubMask, StubScene, StubTileDetector, stub_job
from tests.support.tile_runs import GRID, PLAN
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.execution.computers import open_computer
from ussfc.pipeline.execution.tile_job import OpenPair
from ussfc.pipeline.pixels.radiometry import MIDDLE
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.types import Box, Tile


def test_pixels_outside_the_area_are_not_valid() -> None:
    shape = (20, 30)
    readers = StubScene(shape, 1).open(), StubScene(shape, 2, Box(0, 0, 4, 4)).open()
    area = StubArea(Box(0, 0, 10, 30))
    halo = Box(2, 0, 20, 30)
    pair = OpenPair(readers[0], readers[1], (UNIT, UNIT), area)
    cover = pair.cover(Tile((0, 0), halo, halo, (halo,)))
    images = pair.mapped(*pair.read(halo, cover), cover)
    assert not images.valid[8:].any()
    assert not images.valid[:2, :4].any()
    assert images.valid[2:8].all()
    assert images.valid[:8, 4:].all()
    np.testing.assert_array_equal(images.before[:, 8:], readers[0].values[:, 10:])
    assert (images.after[:, :2, :4] == MIDDLE).all()


def test_name_of_a_tile_holds_its_bounds(tmp_path: Path) -> None:
    job = stub_job(ProbabilityStore.create(tmp_path, GRID, "uint8", 32), PLAN)
    assert job.tile_name((2, 3)) == "tile 2,3 (rows 64..70, columns 96..100)"


def test_job_is_a_small_pickle(tmp_path: Path) -> None:
    job = stub_job(ProbabilityStore.create(tmp_path, GRID, "uint8", 32), PLAN)
    text = pickle.dumps(job)
    assert len(text) < 4000
    assert pickle.loads(text) == job


TILE = Tile((0, 0), Box(5, 5, 15, 25), Box(0, 0, 20, 30), (Box(0, 0, 20, 30),))


def test_what_one_mask_hides_is_missing_on_both_dates() -> None:
    shape = (20, 30)
    masks = StubMask(shape, 1), StubMask(shape, 2)
    readers = StubScene(shape, 1).open(), StubScene(shape, 2).open()
    area = StubArea(Box(0, 0, 10, 30))
    pair = OpenPair(readers[0], readers[1], (UNIT, UNIT), area, masks)
    cover = pair.cover(TILE)
    hidden = [mask.masked(TILE.halo) for mask in masks]
    # Each date's own, inside core and area.
    assert cover.masked == tuple(int(each[5:10, 5:25].sum()) for each in hidden)
    assert 0 < cover.masked[0] != cover.masked[1] > 0
    before, after = pair.read(TILE.halo, cover)
    either = hidden[0] | hidden[1]
    np.testing.assert_array_equal(before.valid, ~either)
    np.testing.assert_array_equal(after.valid, ~either)
    images = pair.mapped(*pair.read(TILE.halo, cover), cover)
    assert (images.before[:, either] == MIDDLE).all()
    assert (images.after[:, either] == MIDDLE).all()
    np.testing.assert_array_equal(images.valid[:10], ~either[:10])
    assert not images.valid[10:].any()


@pytest.mark.parametrize("detector", [StubDetector(16, 1), StubTileDetector(16, 1)], ids=["host", "device"])
@pytest.mark.parametrize("what", ["area", "mask"])
def test_tile_without_a_valid_pixel_is_not_read(what: str, detector: StubDetector) -> None:
    tile = PLAN.tile((1, 1))
    readers = StubScene(PLAN.shape, 1).open(), StubScene(PLAN.shape, 2, fails_at=(40, 40)).open()
    area = StubArea(Box(0, 0, 32, 100)) if what == "area" else None
    masks = None, StubMask(PLAN.shape, 1, share=1) if what == "mask" else None
    computer = open_computer(detector, taper_weights(16, "hann"))
    found = computer.compute(tile, OpenPair(*readers, (UNIT, UNIT), area, masks))
    assert (found.patches, found.valid.any(), found.probability.shape) == (0, False, tile.core.shape)
    assert found.masked == (0, tile.core.pixels if what == "mask" else 0)
    # One row of the core is enough to need the images.
    with pytest.raises(ReadError):
        computer.compute(tile, OpenPair(*readers, (UNIT, UNIT), StubArea(Box(0, 0, 33, 100))))
