"""The two kinds of raster: their pixels, overviews and counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.probabilities import ArraySource
from tests.support.rasters import change_of, grid, load, probabilities, probability_of, write_change
from ussfc.pipeline.pixels.encoding import classify, decode
from ussfc.pipeline.pixels.pyramid import level_shapes
from ussfc.pipeline.rasters.cog import ClassCounts, CogOptions
from ussfc.pipeline.rasters.kinds import ChangeRaster, ProbabilityRaster


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_classes_are_counted(tmp_path: Path, dtype: str) -> None:
    values = probabilities((300, 400), dtype)
    counts = write_change(ArraySource(values), tmp_path / "c.tif", CogOptions())
    classes = classify(values, 0.5)
    assert counts == ClassCounts(*(int((classes == value).sum()) for value in (0, 1, 255)))
    assert min(counts.unchanged, counts.changed, counts.nodata) > 0


@pytest.mark.parametrize("position", [(0, 0), (1300, 2749), (700, 255)])
def test_one_changed_pixel_shows_at_every_zoom(tmp_path: Path, position: tuple[int, int]) -> None:
    values = np.zeros((1301, 2750), np.uint8)
    values[position] = 254
    path = change_of(values, tmp_path)
    for level in range(len(level_shapes((1301, 2750), 256))):
        overview = load(path, level)
        assert np.argwhere(overview == 1).tolist() == [[side >> (level + 1) for side in position]]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_averages_leave_nodata_out(tmp_path: Path, dtype: str) -> None:
    stored = np.full((600, 600), 100, np.uint8)
    stored[::2, ::2] = 255
    stored[:, 300:] = 255
    values = stored if dtype == "uint8" else decode(stored)
    overview = decode(load(probability_of(values, tmp_path, CogOptions()), 0))
    np.testing.assert_allclose(overview[:, :150], 100 / 254, rtol=1e-6)
    assert np.isnan(overview[:, 150:]).all()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_dtypes_follow_the_kind(dtype: str) -> None:
    stored = np.dtype(dtype)
    change = ChangeRaster(Path("c.tif"), {}, 0.5).product(grid((9, 9)), stored)
    probability = ProbabilityRaster(Path("p.tif"), {}).product(grid((9, 9)), stored)
    assert (change.dtype, change.counted, change.style.scale) == (np.uint8, (0, 1, 255), None)
    assert (probability.dtype, probability.counted) == (stored, ())
    assert probability.style.scale == (1 / 254 if dtype == "uint8" else None)
