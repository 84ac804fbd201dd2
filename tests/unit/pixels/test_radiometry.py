"""Mapping of source numbers to the model's input range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.pixels.radiometry import MIDDLE, apply_mapping, pair, percentile_mapping, range_mapping
from ussfc.pipeline.types import Pixels, RadiometricMapping

law = settings(deadline=None, max_examples=60)

SHAPE = (3, 5, 7)
numbers = st.floats(-(2.0**15), 2.0**15, width=32)
windows = st.builds(
    Pixels,
    values=hnp.arrays(np.float32, SHAPE, elements=numbers),
    valid=hnp.arrays(np.bool_, SHAPE[1:]),
)
mappings = st.builds(
    lambda lows, widths: RadiometricMapping(
        tuple(lows), tuple(a + b for a, b in zip(lows, widths, strict=True))
    ),
    st.lists(st.integers(-10_000, 10_000).map(float), min_size=3, max_size=3),
    st.lists(st.integers(1, 20_000).map(float), min_size=3, max_size=3),
)


@law
@given(windows, mappings)
def test_each_band_is_mapped_to_the_unit_interval(window: Pixels, mapping: RadiometricMapping) -> None:
    untouched = window.values.copy()
    scaled = apply_mapping(window, mapping)
    assert scaled.shape == SHAPE
    assert scaled.dtype == np.float32
    for band in range(3):
        low, high = mapping.low[band], mapping.high[band]
        expected = np.clip((window.values[band].astype(np.float64) - low) / (high - low), 0, 1)
        np.testing.assert_allclose(scaled[band], expected, rtol=0, atol=1e-3 / (high - low) + 1e-6)
    np.testing.assert_array_equal(window.values, untouched)


@law
@given(windows, windows, mappings, mappings)
def test_a_gap_on_one_date_is_the_middle_on_both(
    before: Pixels, after: Pixels, first: RadiometricMapping, second: RadiometricMapping
) -> None:
    images = pair(before, after, (first, second))
    np.testing.assert_array_equal(images.valid, before.valid & after.valid)
    assert (images.before[:, ~images.valid] == MIDDLE).all()
    assert (images.after[:, ~images.valid] == MIDDLE).all()
    np.testing.assert_array_equal(
        images.before[:, images.valid], apply_mapping(before, first)[:, images.valid]
    )
    np.testing.assert_array_equal(
        images.after[:, images.valid], apply_mapping(after, second)[:, images.valid]
    )


def plain_formula(values: np.ndarray, mapping: RadiometricMapping) -> np.ndarray:
    """Apply the documented formula: float32, one step after the other."""
    low, high = (np.array(ends, np.float32)[:, None, None] for ends in (mapping.low, mapping.high))
    return np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)


@law
@given(
    st.sampled_from(["uint8", "int8", "uint16", "int16"]),
    st.floats(-70_000, 70_000),
    st.floats(0.1, 140_000),
)
def test_integers_map_to_the_bits_of_the_formula(dtype: str, low: float, width: float) -> None:
    kind = np.iinfo(dtype)
    numbers = np.arange(kind.min, kind.max + 1).astype(dtype).reshape(1, 16, -1)
    mapping = RadiometricMapping((low,), (low + width,))
    window = Pixels(numbers, np.ones(numbers.shape[1:], np.bool_))
    assert apply_mapping(window, mapping).tobytes() == plain_formula(numbers, mapping).tobytes()


@pytest.mark.parametrize("shape", [(2, 3, 70_000), (2, 200, 700), (2, 65_537, 2), (2, 0, 5), (2, 5, 0)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_large_pair_maps_to_the_same_bits(shape: tuple[int, int, int], dtype: str, share: float) -> None:
    """Sizes below and above the part that goes through the cache together."""
    rng = np.random.default_rng(0)
    both = [
        Pixels(rng.integers(-128, 256, shape).astype(dtype), rng.random(shape[1:]) < share) for _ in range(2)
    ]
    ranges = RadiometricMapping((3.1, 0.0), (90.7, 255.0)), RadiometricMapping((-100.0, 5.5), (200.0, 7.0))
    images = pair(both[0], both[1], ranges)
    valid = both[0].valid & both[1].valid
    np.testing.assert_array_equal(images.valid, valid)
    for image, date, mapping in zip((images.before, images.after), both, ranges, strict=True):
        assert image.tobytes() == np.where(valid, plain_formula(date.values, mapping), MIDDLE).tobytes()


@law
@given(windows, windows, mappings, st.integers(0, 4), st.integers(0, 6))
def test_a_window_maps_as_part_of_its_scene(
    before: Pixels, after: Pixels, mapping: RadiometricMapping, row: int, col: int
) -> None:
    whole = pair(before, after, (mapping, mapping))
    cut = (slice(None), slice(row, None), slice(col, None))
    parts = [Pixels(scene.values[cut], scene.valid[cut[1:]]) for scene in (before, after)]
    part = pair(parts[0], parts[1], (mapping, mapping))
    assert part.before.tobytes() == whole.before[cut].tobytes()
    assert part.after.tobytes() == whole.after[cut].tobytes()


def test_a_number_is_for_all_bands() -> None:
    assert range_mapping(0.0, 1.0, 2) == RadiometricMapping((0.0, 0.0), (1.0, 1.0))
    assert range_mapping((1.0, 2.0), 5.0, 2) == RadiometricMapping((1.0, 2.0), (5.0, 5.0))


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        ((0.0, 1.0), 2.0, "for 3 bands"),
        (0.0, (1.0, 2.0), "for 3 bands"),
        (1.0, 1.0, "must lie below"),
        ((0.0, 0.0, 9.0), 5.0, "must lie below"),
    ],
)
def test_an_impossible_range_is_refused(
    low: float | tuple[float, ...], high: float | tuple[float, ...], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        range_mapping(low, high, 3)


@law
@given(windows.filter(lambda window: bool(window.valid.any())))
def test_percentiles_are_of_the_valid_pixels(window: Pixels) -> None:
    mapping = percentile_mapping(window, 2, 98, "before.tif")
    for band in range(3):
        lows, highs = np.percentile(window.values[band][window.valid].astype(np.float64), (2, 98))
        assert mapping.low[band] == pytest.approx(lows, abs=1e-6)
        if np.float32(highs) > np.float32(lows):
            assert mapping.high[band] == pytest.approx(highs, abs=1e-6)
        assert mapping.high[band] > mapping.low[band]


def test_nodata_does_not_move_the_percentiles() -> None:
    values = np.arange(105, dtype=np.float32).reshape(SHAPE)
    valid = np.ones(SHAPE[1:], np.bool_)
    valid[0] = False
    spoilt = values.copy()
    spoilt[:, 0] = -9999
    clean = percentile_mapping(Pixels(values, valid), 2, 98, "s")
    assert percentile_mapping(Pixels(spoilt, valid), 2, 98, "s") == clean


@pytest.mark.parametrize("level", [0.0, 7.0, -1e4, 3e7, 1e12, -3.4e38])
def test_a_constant_band_stays_finite(level: float) -> None:
    window = Pixels(np.full(SHAPE, level, np.float32), np.ones(SHAPE[1:], np.bool_))
    scaled = apply_mapping(window, percentile_mapping(window, 2, 98, "s"))
    assert np.isfinite(scaled).all()


def test_a_sample_without_valid_pixels_is_refused() -> None:
    window = Pixels(np.zeros(SHAPE, np.float32), np.zeros(SHAPE[1:], np.bool_))
    with pytest.raises(ReadError, match=r"^before\.tif: no valid pixel") as caught:
        percentile_mapping(window, 2, 98, "before.tif")
    assert "\n" not in str(caught.value)
