"""The job of a run, and the pair of scenes that it opens."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from tests.support.stubs import UNIT, StubArea, StubScene, stub_job
from tests.support.tile_runs import GRID, PLAN
from ussfc.pipeline.execution.tile_job import OpenPair
from ussfc.pipeline.pixels.radiometry import MIDDLE
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import Box


def test_pixels_outside_the_area_are_not_valid() -> None:
    shape = (20, 30)
    readers = StubScene(shape, 1).open(), StubScene(shape, 2, Box(0, 0, 4, 4)).open()
    area = StubArea(Box(0, 0, 10, 30))
    images = OpenPair(readers[0], readers[1], (UNIT, UNIT), area).read_mapped(Box(2, 0, 20, 30))
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
