"""Tiles blend the patches of the lattice to their weighted mean."""

from __future__ import annotations

import numpy as np
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


@law
@given(plan=plans, taper=tapers, constant=st.floats(0, 1, width=32))
def test_a_constant_blends_to_that_constant(plan: TilePlan, taper: Taper, constant: float) -> None:
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
@given(plan=plans, taper=tapers)
def test_the_mean_never_leaves_the_unit_interval(plan: TilePlan, taper: Taper) -> None:
    tile = plan.tile((0, 0))
    blender = Blender(tile.core, taper_weights(plan.patch_size, taper))
    for patch in tile.patches:
        blender.add(patch, np.ones((plan.patch_size, plan.patch_size), np.float32))
    assert blender.result().max() <= 1
