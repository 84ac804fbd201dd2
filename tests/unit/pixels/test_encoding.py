"""Encoding of probabilities as stored numbers, and change classes from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ussfc.pipeline.pixels.encoding import classify, decode, encode, is_change
from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS, BoolArray, FloatArray

law = settings(deadline=None, max_examples=60)

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12))
DTYPES = ["uint8", "float32"]


@st.composite
def rasters(draw: st.DrawFn) -> tuple[FloatArray, BoolArray]:
    shape = draw(shapes)
    probability = draw(hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    return probability, draw(hnp.arrays(np.bool_, shape))


@law
@given(rasters(), st.sampled_from(DTYPES))
def test_nodata_and_only_nodata_is_nodata(raster: tuple[FloatArray, BoolArray], dtype: str) -> None:
    probability, valid = raster
    stored = encode(probability, valid, np.dtype(dtype))
    assert stored.dtype == dtype
    nodata = np.isnan(stored) if dtype == "float32" else stored == NODATA_BYTE
    assert (nodata == ~valid).all()
    assert (np.isnan(decode(stored)) == ~valid).all()
    assert ((classify(stored, 0.5) == NODATA_BYTE) == ~valid).all()


@law
@given(rasters())
def test_a_byte_holds_the_nearest_of_255_levels(raster: tuple[FloatArray, BoolArray]) -> None:
    probability, valid = raster
    decoded = decode(encode(probability, valid, np.dtype("uint8")))
    assert decoded.dtype == np.float32
    assert (np.abs(decoded - probability)[valid] <= 0.5 / PROBABILITY_STEPS + 1e-6).all()


@law
@given(rasters(), st.booleans(), st.sampled_from(DTYPES))
def test_the_bytes_are_those_of_the_plain_formula(
    raster: tuple[FloatArray, BoolArray], whole: bool, dtype: str
) -> None:
    """Also where a pixel without data is NaN, and for every shape and order in memory."""
    probability, valid = raster
    valid = np.ones_like(valid) if whole else valid
    spoilt = np.where(valid, probability, np.float32(np.nan))
    if dtype == "uint8":
        expected = np.where(valid, np.rint(probability * np.float32(PROBABILITY_STEPS)), NODATA_BYTE)
    else:
        expected = spoilt
    for array in (spoilt, np.asfortranarray(spoilt)):
        kept = array.copy()
        stored = encode(array, valid, np.dtype(dtype))
        assert stored.tobytes() == expected.astype(dtype).tobytes()
        assert not np.shares_memory(stored, array)
        assert array.tobytes() == kept.tobytes()


@law
@given(rasters())
def test_float32_keeps_every_bit(raster: tuple[FloatArray, BoolArray]) -> None:
    probability, valid = raster
    decoded = decode(encode(probability, valid, np.dtype("float32")))
    assert decoded[valid].tobytes() == probability[valid].tobytes()


def test_encoding_inverts_decoding() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    decoded = decode(levels)
    again = encode(np.nan_to_num(decoded), ~np.isnan(decoded), np.dtype("uint8"))
    np.testing.assert_array_equal(again, levels)
    assert decoded.ravel()[0] == 0
    assert decoded.ravel()[PROBABILITY_STEPS] == 1


@law
@given(rasters(), st.floats(0, 1), st.sampled_from(DTYPES))
@example((np.zeros((1, 1), np.float32), np.ones((1, 1), np.bool_)), 0.0, "uint8")
@example((np.ones((1, 1), np.float32), np.ones((1, 1), np.bool_)), 1.0, "uint8")
@example((np.ones((1, 1), np.float32), np.ones((1, 1), np.bool_)), 1.0, "float32")
def test_change_is_at_or_above_the_threshold(
    raster: tuple[FloatArray, BoolArray], threshold: float, dtype: str
) -> None:
    probability, valid = raster
    stored = encode(probability, valid, np.dtype(dtype))
    classes = classify(stored, threshold)
    assert classes.dtype == np.uint8
    if dtype == "uint8":
        change = stored[valid] / PROBABILITY_STEPS >= threshold * (1 - 1e-12)
    else:
        change = stored[valid] >= np.float32(threshold)
    np.testing.assert_array_equal(classes[valid], change)


@pytest.mark.parametrize("level", range(PROBABILITY_STEPS + 1))
def test_a_threshold_on_a_level_includes_it(level: int) -> None:
    levels = np.arange(PROBABILITY_STEPS + 1, dtype=np.uint8)
    np.testing.assert_array_equal(classify(levels, level / PROBABILITY_STEPS), levels >= level)


@law
@given(rasters(), st.floats(0, 1), st.floats(0, 1), st.sampled_from(DTYPES))
def test_a_higher_threshold_never_adds_change(
    raster: tuple[FloatArray, BoolArray], first: float, second: float, dtype: str
) -> None:
    stored = encode(*raster, np.dtype(dtype))
    low, high = sorted((first, second))
    assert not ((classify(stored, high) == 1) & (classify(stored, low) != 1)).any()


@law
@given(
    st.one_of(st.floats(0, 1), st.integers(0, PROBABILITY_STEPS).map(lambda level: level / PROBABILITY_STEPS))
)
def test_every_level_is_compared_exactly(threshold: float) -> None:
    levels = np.arange(256, dtype=np.uint8)
    expected = [int(level >= threshold * PROBABILITY_STEPS) for level in range(NODATA_BYTE)] + [NODATA_BYTE]
    assert classify(levels, threshold).tolist() == expected
    assert is_change(levels, threshold).tolist() == [value == 1 for value in expected]
