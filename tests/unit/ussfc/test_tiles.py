"""A tile's numbers on a device: the bits of the host's own mapping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ussfc.engines.tiles import ends_of, signed, tile_of
from ussfc.pipeline.pixels.radiometry import pair, range_mapping
from ussfc.pipeline.types import BoolArray, Pixels, RadiometricMapping, SourceArray

DTYPES = ("uint8", "int8", "uint16", "int16", "float32")


def on_device(
    before: SourceArray,
    after: SourceArray,
    mappings: tuple[RadiometricMapping, RadiometricMapping] | None,
    seen: BoolArray | None,
) -> Any:
    """Map arrays as the engine does on its device."""
    images = [torch.from_numpy(signed(image)) for image in (before, after)]
    return tile_of(
        images,
        (before.dtype == np.uint16, after.dtype == np.uint16),
        None if mappings is None else torch.from_numpy(ends_of(mappings)),
        None if seen is None else torch.from_numpy(seen),
    ).numpy()


@st.composite
def images(draw: st.DrawFn) -> SourceArray:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    finite = st.floats(-1e6, 1e6, width=32) if dtype.kind == "f" else None
    return draw(hnp.arrays(dtype, (2, 5, 7), elements=finite))


ends = st.tuples(st.floats(-1e5, 1e5), st.floats(0.5, 1e5)).map(lambda two: (two[0], two[0] + two[1]))


@given(images(), images(), st.lists(ends, min_size=4, max_size=4), st.none() | hnp.arrays(np.bool_, (5, 7)))
def test_bits_are_those_of_the_host(
    before: SourceArray, after: SourceArray, ranges: list[tuple[float, float]], seen: BoolArray | None
) -> None:
    one, two = (
        range_mapping(tuple(low for low, _ in part), tuple(high for _, high in part), 2)
        for part in (ranges[:2], ranges[2:])
    )
    known = np.ones((5, 7), np.bool_) if seen is None else seen
    expected = pair(Pixels(before, known), Pixels(after, known), (one, two))
    found = on_device(before, after, (one, two), seen)
    assert found.dtype == np.float32
    assert found[0].tobytes() == expected.before.tobytes()
    assert found[1].tobytes() == expected.after.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_numbers_keep_their_value(dtype: str) -> None:
    limits = np.iinfo(dtype) if dtype != "float32" else np.finfo(dtype)
    image = np.array([[[limits.min, 0, 1, limits.max]]], dtype)
    assert on_device(image, image, None, None)[1].tolist() == image.astype(np.float32).tolist()
