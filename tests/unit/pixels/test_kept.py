"""Pixels that are kept of a tile: those that were asked for, or none."""

from __future__ import annotations

import numpy as np
import pytest

from ussfc.pipeline.pixels.kept import LARGEST_SHARE, KeptPixels, most_kept_bytes
from ussfc.pipeline.types import Pixels

SHAPE = 12, 20


def dates(dtype: type[np.generic] = np.uint16) -> tuple[Pixels, Pixels]:
    rng = np.random.default_rng(5)
    before, after = (
        Pixels(rng.integers(0, 9999, (3, *SHAPE)).astype(dtype), rng.random(SHAPE) > 0.2) for _ in range(2)
    )
    return before, after


def wanted(count: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask.flat[np.random.default_rng(6).choice(mask.size, count, replace=False)] = True
    return mask


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_wanted_pixels_are_kept_as_they_are_stored(dtype: type[np.generic]) -> None:
    before, after = dates(dtype)
    mask = wanted(20)
    kept = KeptPixels.of(before, after, mask)
    assert kept is not None
    np.testing.assert_array_equal(kept.places, np.flatnonzero(mask))
    np.testing.assert_array_equal(kept.before, before.values[:, mask])
    np.testing.assert_array_equal(kept.after, after.values[:, mask])
    np.testing.assert_array_equal(kept.valid, (before.valid & after.valid)[mask])
    assert kept.before.dtype == dtype


def test_none_and_too_many_are_not_kept() -> None:
    most = SHAPE[0] * SHAPE[1] // LARGEST_SHARE
    assert KeptPixels.of(*dates(), wanted(0)) is None
    assert KeptPixels.of(*dates(), wanted(most)) is not None
    assert KeptPixels.of(*dates(), wanted(most + 1)) is None


def test_no_more_than_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ussfc.pipeline.pixels.kept.MOST_PIXELS", 20)
    assert KeptPixels.of(*dates(), wanted(20)) is not None
    assert KeptPixels.of(*dates(), wanted(21)) is None


def test_some_of_the_kept_pixels_are_found() -> None:
    kept = KeptPixels.of(*dates(), wanted(20))
    assert kept is not None
    some = np.array([0, 3, 4, 19])
    found = kept.find(kept.places[some].astype(np.int64))
    assert found is not None
    np.testing.assert_array_equal(found.places, kept.places[some])
    np.testing.assert_array_equal(found.before, kept.before[:, some])
    np.testing.assert_array_equal(found.after, kept.after[:, some])
    np.testing.assert_array_equal(found.valid, kept.valid[some])


@pytest.mark.parametrize("odd", ["before the first", "between", "after the last"])
def test_one_pixel_that_was_not_kept_is_no_answer(odd: str) -> None:
    mask = wanted(20)
    mask.flat[[0, -1]] = False
    kept = KeptPixels.of(*dates(), mask)
    assert kept is not None
    places = kept.places.astype(np.int64)
    free = np.setdiff1d(np.arange(places[0], places[-1]), places)[0]
    one = {"before the first": 0, "between": free, "after the last": mask.size - 1}[odd]
    assert kept.find(np.sort([*places[:5], one])) is None


def test_most_bytes_are_those_of_the_fullest_tile() -> None:
    most = SHAPE[0] * SHAPE[1] // LARGEST_SHARE
    kept = KeptPixels.of(*dates(np.float32), wanted(most))
    assert kept is not None
    assert kept.nbytes == most_kept_bytes(3) * SHAPE[0] * SHAPE[1]
