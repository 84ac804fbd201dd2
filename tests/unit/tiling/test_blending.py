"""Weights of a patch and the weighted mean of overlapping patches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stubs import lattice_patches
from ussfc.pipeline.choices import TAPERS, Taper
from ussfc.pipeline.tiling.blending import Blender, taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box

law = settings(deadline=None, max_examples=60)

tapers = st.sampled_from(TAPERS)
plans = st.builds(
    TilePlan.of,
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    tile_size=st.integers(5, 70),
    patch_size=st.integers(1, 32),
    overlap=st.floats(0, 0.8),
)


@pytest.mark.parametrize("taper", TAPERS)
@pytest.mark.parametrize("size", [1, 2, 3, 16, 255, 256, 1024])
def test_weights_are_positive_symmetric_and_at_most_one(size: int, taper: Taper) -> None:
    weights = taper_weights(size, taper)
    assert weights.shape == (size, size)
    assert weights.dtype == np.float32
    assert weights.min() > np.finfo(np.float32).tiny
    assert weights.max() <= 1
    np.testing.assert_allclose(weights, weights.T, rtol=1e-6)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], rtol=1e-5)


@pytest.mark.parametrize("taper", [t for t in TAPERS if t != "box"])
def test_weights_fall_from_the_centre_to_the_corner(taper: Taper) -> None:
    row = taper_weights(64, taper)[32]
    assert (np.diff(row[:32]) > 0).all()
    assert taper_weights(64, taper)[0, 0] < 0.01


def test_the_box_weighs_all_pixels_alike() -> None:
    assert (taper_weights(9, "box") == 1).all()


@law
@given(plan=plans, taper=tapers, constant=st.floats(0, 1, width=32))
def test_a_constant_blends_to_that_constant_at_every_pixel(
    plan: TilePlan, taper: Taper, constant: float
) -> None:
    weights = taper_weights(plan.patch_size, taper)
    patch = np.full((plan.patch_size, plan.patch_size), constant, np.float32)
    for index in plan.indices():
        tile = plan.tile(index)
        blender = Blender(tile.core, weights)
        for position in tile.patches:
            blender.add(position, patch)
        result = blender.result()
        assert result.shape == tile.core.shape
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, constant, rtol=0, atol=1e-6)


@law
@given(plan=plans, taper=tapers, seed=st.integers(0, 2**32 - 1))
def test_the_result_is_the_weighted_mean(plan: TilePlan, taper: Taper, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = plan.patch_size
    weights = taper_weights(size, taper)
    total, weight = np.zeros(plan.shape), np.zeros(plan.shape)
    predictions = {}
    for patch in lattice_patches(plan.shape, size, plan.stride):
        probability = rng.random((size, size), dtype=np.float32)
        predictions[patch] = probability
        rows, cols = patch.intersect(Box(0, 0, *plan.shape)).shape
        part = Box(patch.y0, patch.x0, patch.y0 + rows, patch.x0 + cols).slices
        total[part] += weights[:rows, :cols].astype(np.float64) * probability[:rows, :cols]
        weight[part] += weights[:rows, :cols]
    expected = total / weight
    for index in plan.indices():
        tile = plan.tile(index)
        blender = Blender(tile.core, weights)
        for patch in tile.patches:
            blender.add(patch, predictions[patch])
        np.testing.assert_allclose(blender.result(), expected[tile.core.slices], rtol=0, atol=2e-6)


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


@law
@given(plan=plans, taper=tapers)
def test_the_mean_never_leaves_the_unit_interval(plan: TilePlan, taper: Taper) -> None:
    tile = plan.tile((0, 0))
    blender = Blender(tile.core, taper_weights(plan.patch_size, taper))
    for patch in tile.patches:
        blender.add(patch, np.ones((plan.patch_size, plan.patch_size), np.float32))
    assert blender.result().max() <= 1
