"""Checks of a sample against a model's range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.pixels.sample_checks import DateSample, check_map, check_samples, thin
from ussfc.pipeline.types import Pixels, RadiometricMapping

RANGE = RadiometricMapping((0.0,) * 3, (3500.0,) * 3)


def date(values: np.ndarray, name: str = "b", valid: np.ndarray | None = None) -> DateSample:
    return DateSample(
        name,
        Pixels(values, np.ones(values.shape[1:], bool) if valid is None else valid),
        RANGE,
        "after" if name == "a" else "before",
    )


def ground(seed: int = 0) -> np.ndarray:
    """Return reflectances of land times 10000, (3, 40, 50) uint16."""
    rng = np.random.default_rng(seed)
    return rng.integers(300, 1800, (3, 40, 50)).astype(np.uint16)


def findings(before: np.ndarray, after: np.ndarray) -> list[str]:
    return [found.text for found in check_samples(date(before, "b"), date(after, "a"))]


def test_ordinary_pairs_have_no_findings() -> None:
    assert findings(ground(0), ground(1)) == []
    darker = (ground(1) * 0.8).astype(np.uint16)
    assert findings(ground(0), darker) == []


@given(st.integers(700, 3000))
def test_offsets_of_one_date_are_found(offset: int) -> None:
    moved = ground(1) + np.uint16(offset)
    (line,) = findings(ground(0), moved)[:1]
    assert line.startswith("a: ")
    assert findings(moved, ground(0))[0].startswith("b: ")
    # An offset of both dates alike is no difference between them.
    assert not any("brighter" in found for found in findings(moved, ground(2) + np.uint16(offset)))


def test_bands_that_move_apart_are_no_offset() -> None:
    after = ground(1)
    after[0] += np.uint16(1500)
    assert findings(ground(0), after) == []


def test_reflectances_as_fractions_are_found() -> None:
    (line, other) = findings(*(ground(seed).astype(np.float32) / 10000 for seed in (0, 1)))
    assert line.startswith("b: holds numbers up to 0.18, which look like reflectances")
    assert "before.scale=10000" in line
    assert other.startswith("a: ")


def test_worthless_numbers_are_fatal() -> None:
    fractions = ground(0).astype(np.float32) / 10000
    far = ground(1) + np.uint16(20000)
    assert [found.fatal for found in check_samples(date(fractions), date(far, "a"))] == [True, True]
    zeros = ground(1)
    zeros[:, :9] = 0
    assert [found.fatal for found in check_samples(date(ground(0)), date(zeros, "a"))] == [False]


@pytest.mark.parametrize("factor", [255 / 3500, 0.01])
def test_numbers_in_the_lowest_part_of_the_range_are_found(factor: float) -> None:
    """Bytes in files of 16 bits, and per cent."""
    low = (ground(1) * factor).astype(np.uint16)
    line, shift = findings(ground(0), low)
    assert line.startswith("a: 99 of 100 of its numbers lie in the lowest ")
    assert "after.scale" in line
    assert "all bands are brighter" in shift
    assert not any(found.fatal for found in check_samples(date(ground(0)), date(low, "a")))


def test_dark_bytes_are_no_bytes_in_other_numbers() -> None:
    mapping = RadiometricMapping((0.0,) * 3, (255.0,) * 3)
    dark = Pixels((ground(1) / 100).astype(np.uint8), np.ones((40, 50), bool))
    (found, _) = check_samples(*(DateSample(name, dark, mapping, "before") for name in "ba"))[:2]
    assert found.dark
    assert "per cent" not in found.text


def test_a_band_of_other_numbers_is_fatal() -> None:
    mixed = ground(1).astype(np.float32)
    mixed[2] /= 10000
    (found,) = check_samples(date(ground(0)), date(mixed, "a"))
    assert found.fatal
    assert found.text.startswith("a: band 3 of those taken holds numbers up to 0.18, others up to 1.8e+03")


def test_clipped_numbers_are_found() -> None:
    bright = ground(1)
    bright[:, :12] = 4000
    (line,) = findings(ground(0), bright)
    assert line.startswith("a: 30% of its numbers lie above the model's range (0 to 3500)")


def test_one_image_twice_is_found() -> None:
    assert findings(ground(0), ground(0)) == [
        "b and a: hold the same numbers; there is no change in one image"
    ]


def test_numbers_outside_of_the_range_are_found() -> None:
    (line,) = findings(ground(0), ground(1) + np.uint16(20000))[:1]
    assert line.startswith("a: 100% of its numbers lie outside of the model's range (0 to 3500)")


@pytest.mark.parametrize(("rows", "found"), [(1, False), (3, True)])
def test_blocks_of_zeros_are_found(rows: int, found: bool) -> None:
    after = ground(1)
    after[:, :rows] = 0
    assert bool(findings(ground(0), after)) is found
    # As declared nodata they are no finding.
    valid = np.ones(after.shape[1:], bool)
    valid[:rows] = False
    assert check_samples(date(ground(0)), date(after, "a", valid)) == []


def test_dates_without_valid_pixels_are_found() -> None:
    (found,) = check_samples(date(ground(0)), date(ground(1), "a", np.zeros((40, 50), bool)))
    assert found.text.startswith("a: no valid pixel")
    assert found.fatal


def test_maps_that_say_nothing_are_reported() -> None:
    assert check_map(0.0, 0, False) == [
        "no pixel is valid on both dates: the products hold nothing but nodata"
    ]
    (line,) = check_map(0.2, 9, False)
    assert line.startswith("20% of the map is change")
    assert check_map(0.0, 9, False) == check_map(0.1, 9, True) == []
    assert "no pixel counts as changed" in check_map(0.0, 9, True)[0]
    assert "every pixel counts as changed" in check_map(1.0, 9, True)[0]


@given(st.integers(1, 3000))
def test_thinned_samples_keep_values_and_validity(most: int) -> None:
    values = ground()
    valid = values[0] % 3 > 0
    thinned = thin(Pixels(values, valid), most)
    step = max(1, valid.size // most)
    np.testing.assert_array_equal(thinned.values[:, 0], values.reshape(3, -1)[:, ::step])
    np.testing.assert_array_equal(thinned.valid[0], valid.ravel()[::step])
