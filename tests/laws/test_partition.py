"""Every pixel has one owner, which computes all patches that the pixel needs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import blocks

law = settings(deadline=None, max_examples=60)

sides = st.integers(1, 70)
plans = st.builds(
    TilePlan.of,
    shape=st.tuples(sides, sides),
    tile_size=st.integers(1, 80),
    patch_size=st.integers(1, 40),
    overlap=st.floats(0, 0.95),
).filter(lambda plan: plan.tile_count * plan.patch_count < 20_000)


@law
@given(plans)
def test_cores_partition_the_grid(plan: TilePlan) -> None:
    owners = np.zeros(plan.shape, np.int64)
    indices = list(plan.indices())
    for index in indices:
        tile = plan.tile(index)
        assert tile.index == index
        assert tile.core == plan.core(index)
        assert tile.core.pixels == tile.core.shape[0] * tile.core.shape[1] > 0
        assert max(tile.core.shape) <= plan.tile_size
        owners[tile.core.slices] += 1
    assert (owners == 1).all()
    assert len(set(indices)) == len(indices) == plan.tile_count


@law
@given(plans)
def test_patches_of_a_tile_cover_its_core(plan: TilePlan) -> None:
    for index in plan.indices():
        tile = plan.tile(index)
        covered = np.zeros(plan.shape, np.bool_)
        for patch in tile.patches:
            covered[patch.slices] = True
        assert covered[tile.core.slices].all()


@law
@given(shape=st.tuples(sides, sides), size=st.integers(1, 80))
def test_blocks_partition_a_raster(shape: tuple[int, int], size: int) -> None:
    seen = np.zeros(shape, np.int64)
    for box in blocks(shape, size):
        assert max(box.shape) <= size
        seen[box.slices] += 1
    assert (seen == 1).all()
