"""Runs seen from afar: pools, averages and levels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rasters import change_of, load, probabilities, probability_of
from tests.support.shown_runs import SHAPE
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.report import overviews
from ussfc.pipeline.report.overviews import averaged, largest, mapped, read_dates, read_level
from ussfc.pipeline.report.thumbnails import unchecked
from ussfc.pipeline.report.write import mappings_of
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.runs.recorded_pair import recorded_pair
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import Box, Pixels, RadiometricMapping

SIDES = st.integers(1, 40)


@given(SIDES, SIDES, st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_largest_is_that_of_each_block(rows: int, cols: int, factor: int, seed: int) -> None:
    values = np.random.default_rng(seed).choice(np.array([0, 1, 7, 254, 255], np.uint8), (rows, cols))
    found = largest(values, factor)
    assert found.shape == (-(-rows // factor), -(-cols // factor))
    for row, column in np.ndindex(found.shape):
        block = values[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        valid = block[block != 255]
        assert found[row, column] == (valid.max() if valid.size else 255)


class Scene:
    """A scene in memory."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def read(self, box: Box) -> Pixels:
        return Pixels(self.pixels.values[(slice(None), *box.slices)], self.pixels.valid[box.slices])

    def sample(self, most: int | None = None) -> Pixels:
        return self.pixels


@given(SIDES, SIDES, st.integers(1, 12), st.integers(0, 2**32 - 1), st.sampled_from([1, 8, 2048]))
def test_average_is_that_of_valid_pixels(rows: int, cols: int, factor: int, seed: int, strip: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random((2, rows, cols)).astype(np.float32)
    valid = rng.random((rows, cols)) < 0.6
    values[:, ~valid] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overviews, "STRIP", strip)
        found = averaged(Scene(Pixels(values, valid)), (rows, cols), factor)
    for row, column in np.ndindex(found.valid.shape):
        place = np.s_[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        assert found.valid[row, column] == valid[place].any()
        if valid[place].any():
            expected = values[(slice(None), *place)][:, valid[place]].mean(axis=1)
            np.testing.assert_allclose(found.values[:, row, column], expected, rtol=1e-5)


def test_small_rasters_are_read_whole(finished: Path) -> None:
    found = read_level(Folder.of(finished), SHAPE).overview(300)
    assert (found.level, found.shrink) == (1, 2)
    np.testing.assert_array_equal(found.classes, largest(load(finished / "change.tif"), 2))
    stored = load(finished / "probability.tif")
    np.testing.assert_array_equal(found.probability, largest(stored, 2))
    assert found.histogram.tolist() == np.bincount(stored.ravel(), minlength=256)[:255].tolist()


def make_rasters(folder: Path, values: np.ndarray) -> Folder:
    """Write both rasters."""
    probability_of(values, folder)
    change_of(values, folder)
    return Folder.of(folder)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_larger_ones_from_the_finest_level_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(overviews, "MOST_READ", 300 * 260)
    out = make_rasters(tmp_path, probabilities((600, 520), dtype))
    found = read_level(out, (600, 520)).overview(150)
    assert (found.level, found.shrink) == (2, 4)
    stored = load(tmp_path / "probability.tif", 0)
    if dtype == "float32":
        stored = np.where(np.isfinite(stored), np.rint(np.nan_to_num(stored) * 254), 255).astype(np.uint8)
    np.testing.assert_array_equal(found.probability, largest(stored, 2))


def test_without_data_nothing_is_counted(tmp_path: Path) -> None:
    out = make_rasters(tmp_path, np.full((40, 50), 255, np.uint8))
    found = read_level(out, (40, 50)).overview(10)
    assert (found.probability == 255).all()
    assert not found.histogram.any()


def test_large_rasters_without_overviews_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = make_rasters(tmp_path, probabilities((100, 100)))
    monkeypatch.setattr(overviews, "MOST_READ", 99 * 99)
    with pytest.raises(ReadError, match="is large and has no overviews; run `ussfc mosaic`"):
        read_level(out, (100, 100)).overview(10)


def test_another_grid_is_refused(finished: Path) -> None:
    with pytest.raises(ReadError, match=r"is of another grid than run\.json"):
        read_level(Folder.of(finished), (10, 10)).overview(5)


def test_dates_lie_below_the_change(finished: Path) -> None:
    record = RunRecord.read(Folder.of(finished), "run.json")
    pair = recorded_pair(record)
    whole = read_dates(unchecked(pair.recipes), mappings_of(record), SHAPE, 1)
    coarse = read_dates(unchecked(pair.recipes), mappings_of(record), (200, 280), 2)
    assert whole is not None
    assert coarse is not None
    with rasterio.open(json.loads((finished / "run.json").read_text())["inputs"]["after"]["uri"]) as source:
        np.testing.assert_array_equal(whole.valid[1], source.read(1) != 0)
    shrunk = whole.before.reshape(3, 200, 2, 280, 2).mean(axis=(2, 4))
    # The numbers are averaged before they are cut to the range, not after.
    dark = coarse.before < 0.5
    np.testing.assert_allclose(coarse.before[dark], shrunk[dark], atol=0.02)
    assert coarse.before.min() >= 0
    assert coarse.before.max() <= 1


def test_each_date_keeps_its_own_mask() -> None:
    values = np.ones((1, 2, 2), np.float32)
    some, other = np.array([[True, False], [True, True]]), np.array([[True, True], [False, True]])

    unit = RadiometricMapping((0.0,), (2.0,))
    found = mapped(Pixels(values, some), Pixels(values, other), (unit, unit))
    assert (found.before == 0.5).all()
    assert (found.valid[0] == some).all()
    assert (found.valid[1] == other).all()
