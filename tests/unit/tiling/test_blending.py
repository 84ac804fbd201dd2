"""Weights of a patch and the weighted mean of overlapping patches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stubs import lattice_patches
from ussfc.pipeline.choices import TAPERS, Taper
from ussfc.pipeline.tiling.blending import Blender, taper_weights
from ussfc.pipeline.types import Box

law = settings(deadline=None, max_examples=60)

tapers = st.sampled_from(TAPERS)


@pytest.mark.parametrize("taper", TAPERS)
@pytest.mark.parametrize("size", [1, 2, 3, 16, 255, 256, 1024])
def test_weights_are_positive_and_symmetric(size: int, taper: Taper) -> None:
    weights = taper_weights(size, taper)
    assert weights.shape == (size, size)
    assert weights.dtype == np.float32
    assert weights.min() > np.finfo(np.float32).tiny
    assert weights.max() <= 1
    np.testing.assert_allclose(weights, weights.T, rtol=1e-6)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], rtol=1e-5)


@pytest.mark.parametrize("taper", [t for t in TAPERS if t != "box"])
def test_weights_fall_towards_the_corners(taper: Taper) -> None:
    row = taper_weights(64, taper)[32]
    assert (np.diff(row[:32]) > 0).all()
    assert taper_weights(64, taper)[0, 0] < 0.01


def test_the_box_weighs_all_pixels_alike() -> None:
    assert (taper_weights(9, "box") == 1).all()


@law
@given(taper=tapers, seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 39))
def test_two_cores_give_the_bits_of_one(taper: Taper, seed: int, cut: int) -> None:
    size = 16
    weights = taper_weights(size, taper)
    patches = lattice_patches((40, 40), size, 7)
    probabilities = np.random.default_rng(seed).random((len(patches), size, size), dtype=np.float32)

    def blend(core: Box) -> bytes:
        blender = Blender(core, weights)
        for patch, probability in zip(patches, probabilities, strict=True):
            if patch.y1 > core.y0 and patch.y0 < core.y1:
                blender.add(patch, probability)
        return blender.result().tobytes()

    assert blend(Box(0, 0, cut, 40)) + blend(Box(cut, 0, 40, 40)) == blend(Box(0, 0, 40, 40))


def test_a_pixel_without_a_patch_is_zero() -> None:
    blender = Blender(Box(0, 0, 4, 8), taper_weights(4, "hann"))
    blender.add(Box(0, 0, 4, 4), np.ones((4, 4), np.float32))
    result = blender.result()
    np.testing.assert_allclose(result[:, :4], 1, atol=1e-6)
    assert (result[:, 4:] == 0).all()
