"""Lattice of patches, and the tiles that own its results."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stubs import lattice_patches, lattice_positions
from ussfc.pipeline.tiling.lattice import Lattice, TilePlan
from ussfc.pipeline.types import Box

law = settings(deadline=None, max_examples=60)

sides = st.integers(1, 70)


def plan_of(margin: int, patch_size: int, **sizes: Any) -> TilePlan:
    return TilePlan.of(patch_size=patch_size, margin=min(margin, patch_size - 1), **sizes)


plans = st.builds(
    plan_of,
    shape=st.tuples(sides, sides),
    tile_size=st.integers(1, 80),
    patch_size=st.integers(1, 40),
    overlap=st.floats(0, 0.95),
    margin=st.integers(0, 12),
).filter(lambda plan: plan.tile_count * plan.patch_count < 20_000)


def touches(patch: Box, core: Box) -> bool:
    return patch.intersect(core).shape[0] > 0 and patch.intersect(core).shape[1] > 0


@pytest.mark.parametrize(
    ("tile_size", "width"), [(8192, 1), (4096, 1), (3000, 2), (2048, 2), (1000, 5), (64, 64)]
)
def test_tiles_come_in_strips_of_4096_pixels(tile_size: int, width: int) -> None:
    plan = TilePlan.of((9000, 21000), tile_size, 64, 0.25)
    assert plan.strip_columns == width
    indices = list(plan.indices())
    assert indices == sorted(indices, key=lambda index: (index[1] // width, index))
    assert len(set(indices)) == plan.tile_count


@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    tile=st.sampled_from([512, 2048, 4096]),
    count=st.integers(1, 9),
)
def test_bands_divide_the_order_of_tiles(rows: int, cols: int, tile: int, count: int) -> None:
    plan = TilePlan.of((rows * tile, cols * tile), tile, 64, 0.25)
    order = list(plan.indices())
    walked = list(plan.indices(count))
    assert sorted(walked) == sorted(order)
    bands = [plan.tile_band(index, count) for index in order]
    # One band after the other, of lengths that differ by one at most.
    assert bands == sorted(bands)
    lengths = [bands.count(band) for band in range(count)]
    assert max(lengths) - min(lengths) <= 1
    for band in range(count):
        own = [index for index in order if plan.tile_band(index, count) == band]
        assert [index for index in walked if plan.tile_band(index, count) == band] == own
    # Side by side: at any time the bands are one tile apart at most, until the shorter ones end.
    seen = [0] * count
    for index in walked:
        seen[plan.tile_band(index, count)] += 1
        assert max(seen) - min(seen) <= 1


@law
@given(plans)
def test_a_tile_has_all_patches_touching_its_core(plan: TilePlan) -> None:
    lattice = lattice_patches(plan.shape, plan.patch_size, plan.stride)
    for index in plan.indices():
        tile = plan.tile(index)
        assert list(tile.patches) == [patch for patch in lattice if touches(patch, tile.core)]
        wide, core = plan.tile(index, margin=2), tile.core
        assert wide.core == Box(
            max(core.y0 - 2, 0),
            max(core.x0 - 2, 0),
            min(core.y1 + 2, plan.shape[0]),
            min(core.x1 + 2, plan.shape[1]),
        )
        assert list(wide.patches) == [patch for patch in lattice if touches(patch, wide.core)]


@law
@given(plans)
def test_the_halo_is_the_hull_of_the_patches_and_the_margin(plan: TilePlan) -> None:
    for index in plan.indices():
        tile = plan.tile(index)
        around = tile.core.grown(plan.margin)
        assert tile.halo == Box(
            max(min(around.y0, *(p.y0 for p in tile.patches)), 0),
            max(min(around.x0, *(p.x0 for p in tile.patches)), 0),
            min(max(around.y1, *(p.y1 for p in tile.patches)), plan.shape[0]),
            min(max(around.x1, *(p.x1 for p in tile.patches)), plan.shape[1]),
        )
        assert tile.halo.intersect(tile.core) == tile.core


@law
@given(plans)
def test_counts_equal_an_enumeration(plan: TilePlan) -> None:
    computed = [patch for index in plan.indices() for patch in plan.tile(index).patches]
    lattice = lattice_patches(plan.shape, plan.patch_size, plan.stride)
    assert set(computed) == set(lattice)
    assert plan.patch_count == len(lattice) == len(set(lattice))
    assert plan.computed_patches == len(computed)
    assert plan.redundant_share == pytest.approx((len(computed) - len(lattice)) / len(computed))
    assert 0 <= plan.redundant_share < 1


@law
@given(length=st.integers(1, 300), patch=st.integers(1, 64), data=st.data())
def test_the_last_patch_ends_at_the_last_pixel(length: int, patch: int, data: st.DataObject) -> None:
    lattice = Lattice(length, patch, data.draw(st.integers(1, patch)))
    positions = [lattice.position(i) for i in range(lattice.count)]
    assert positions == lattice_positions(length, patch, lattice.stride)
    if length < patch:
        assert positions == [0]
    else:
        assert positions[-1] + patch == length
        assert positions[:-1] == [i * lattice.stride for i in range(lattice.count - 1)]


@law
@given(length=st.integers(1, 300), patch=st.integers(1, 64), data=st.data())
def test_touching_equals_an_enumeration(length: int, patch: int, data: st.DataObject) -> None:
    lattice = Lattice(length, patch, data.draw(st.integers(1, patch)))
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    expected = [
        i for i in range(lattice.count) if lattice.position(i) < stop and lattice.position(i) + patch > start
    ]
    assert list(lattice.touching(start, stop)) == expected


@law
@given(patch=st.integers(1, 512), overlap=st.floats(0, 1, exclude_max=True))
def test_the_stride_follows_the_overlap(patch: int, overlap: float) -> None:
    stride = TilePlan.of((1, 1), 1, patch, overlap).stride
    assert 1 <= stride <= patch
    assert stride == 1 or abs(stride - patch * (1 - overlap)) <= 0.5


@pytest.mark.parametrize("tile_size", [64, 4096])
def test_planning_a_huge_grid_is_instant(tile_size: int) -> None:
    started = time.perf_counter()
    plan = TilePlan.of((10**6, 10**6), tile_size, 256, 0.25)
    assert plan.patch_count == len(lattice_positions(10**6, 256, 192)) ** 2
    assert plan.computed_patches > plan.patch_count
    rows, cols = plan.tiles_shape
    last = plan.tile((rows - 1, cols - 1))
    assert (last.core.y1, last.core.x1) == (10**6, 10**6)
    assert next(plan.indices()) == (0, 0)
    assert time.perf_counter() - started < 1


def test_default_sizes_repeat_little_work() -> None:
    assert 0.05 < TilePlan.of((40960, 40960), 4096, 256, 0.25).redundant_share < 0.1


@pytest.mark.parametrize(
    ("shape", "tile_size", "patch_size", "overlap"),
    [
        ((0, 5), 8, 8, 0.25),
        ((5, 5), 0, 8, 0.25),
        ((5, 5), 8, 0, 0.25),
        ((5, 5), 8, 8, 1.0),
        ((5, 5), 8, 8, -0.1),
    ],
)
def test_a_plan_out_of_bounds_is_refused(
    shape: tuple[int, int], tile_size: int, patch_size: int, overlap: float
) -> None:
    with pytest.raises(ValueError, match="no plan for"):
        TilePlan.of(shape, tile_size, patch_size, overlap)


@pytest.mark.parametrize("index", [(-1, 0), (0, -1), (2, 0), (0, 3)])
def test_an_absent_tile_is_an_index_error(index: tuple[int, int]) -> None:
    with pytest.raises(IndexError, match="of 2 x 3"):
        TilePlan.of((20, 30), 10, 8, 0.25).tile(index)
