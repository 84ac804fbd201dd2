"""The lattice of patches and the tiles that own its results."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stubs import lattice_patches, lattice_positions
from ussfc.pipeline.tiling.lattice import Lattice, TilePlan
from ussfc.pipeline.tiling.memory import block_cache
from ussfc.pipeline.types import Box, blocks

law = settings(deadline=None, max_examples=60)

sides = st.integers(1, 70)
plans = st.builds(
    TilePlan.of,
    shape=st.tuples(sides, sides),
    tile_size=st.integers(1, 80),
    patch_size=st.integers(1, 40),
    overlap=st.floats(0, 0.95),
).filter(lambda plan: plan.tile_count * plan.patch_count < 20_000)


def touches(patch: Box, core: Box) -> bool:
    return patch.intersect(core).shape[0] > 0 and patch.intersect(core).shape[1] > 0


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


@pytest.mark.parametrize(
    ("tile_size", "width"), [(8192, 1), (4096, 1), (3000, 2), (2048, 2), (1000, 5), (64, 64)]
)
def test_tiles_come_by_strips_of_at_least_4096_pixels(tile_size: int, width: int) -> None:
    plan = TilePlan.of((9000, 21000), tile_size, 64, 0.25)
    assert plan.strip_columns == width
    indices = list(plan.indices())
    assert indices == sorted(indices, key=lambda index: (index[1] // width, index))
    assert len(set(indices)) == plan.tile_count


@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    tile=st.sampled_from([512, 2048, 4096]),
    parts=st.integers(1, 9),
)
def test_parts_are_stretches_of_the_one_order_walked_side_by_side(
    rows: int, cols: int, tile: int, parts: int
) -> None:
    plan = TilePlan.of((rows * tile, cols * tile), tile, 64, 0.25)
    order = list(plan.indices())
    walked = list(plan.indices(parts))
    assert sorted(walked) == sorted(order)
    owners = [plan.tile_band(index, parts) for index in order]
    # One stretch after the other, of lengths that differ by one at most.
    assert owners == sorted(owners)
    lengths = [owners.count(part) for part in range(parts)]
    assert max(lengths) - min(lengths) <= 1
    for part in range(parts):
        own = [index for index in order if plan.tile_band(index, parts) == part]
        assert [index for index in walked if plan.tile_band(index, parts) == part] == own
    # Side by side: at any time the parts are one tile apart at most, until the shorter ones end.
    seen = [0] * parts
    for index in walked:
        seen[plan.tile_band(index, parts)] += 1
        assert max(seen) - min(seen) <= 1


@pytest.mark.parametrize("tile_size", [512, 1000, 1024, 2048, 4096])
@pytest.mark.parametrize("patch_size", [256, 512])
@pytest.mark.parametrize("offset", [0, 300])
def test_the_order_and_the_cache_fetch_no_block_much_more_than_once(
    tile_size: int, patch_size: int, offset: int
) -> None:
    """Both dates, 6 bytes a pixel, in blocks of 512 px that the grid does not start with."""
    plan, block, pixel_bytes = TilePlan.of((17000, 17000), tile_size, patch_size, 0.125), 512, 6
    room = block_cache(plan, 2 * pixel_bytes) // (block**2 * pixel_bytes)
    kept: OrderedDict[tuple[int, int, int], None] = OrderedDict()
    fetched = []
    for index in plan.indices():
        halo = plan.tile(index).halo
        rows = range((halo.y0 + offset) // block, -(-(halo.y1 + offset) // block))
        cols = range((halo.x0 + offset) // block, -(-(halo.x1 + offset) // block))
        for wanted in itertools.product((0, 1), rows, cols):
            if wanted not in kept:
                fetched.append(wanted)
            kept[wanted] = None
            kept.move_to_end(wanted)
            while len(kept) > room:
                kept.popitem(last=False)
    assert len(fetched) / len(set(fetched)) < 1.25


@law
@given(plans)
def test_a_tile_computes_every_patch_that_touches_its_core_in_lattice_order(plan: TilePlan) -> None:
    lattice = lattice_patches(plan.shape, plan.patch_size, plan.stride)
    for index in plan.indices():
        tile = plan.tile(index)
        assert list(tile.patches) == [patch for patch in lattice if touches(patch, tile.core)]


@law
@given(plans)
def test_the_halo_is_the_hull_of_the_patches_cut_to_the_grid(plan: TilePlan) -> None:
    for index in plan.indices():
        tile = plan.tile(index)
        assert tile.halo == Box(
            min(p.y0 for p in tile.patches),
            min(p.x0 for p in tile.patches),
            min(max(p.y1 for p in tile.patches), plan.shape[0]),
            min(max(p.x1 for p in tile.patches), plan.shape[1]),
        )
        assert tile.halo.intersect(tile.core) == tile.core


@law
@given(plans)
def test_every_pixel_is_covered_by_patches_of_its_own_tile(plan: TilePlan) -> None:
    for index in plan.indices():
        tile = plan.tile(index)
        covered = np.zeros(plan.shape, np.bool_)
        for patch in tile.patches:
            covered[patch.slices] = True
        assert covered[tile.core.slices].all()


@law
@given(plans)
def test_counts_equal_those_of_an_enumeration(plan: TilePlan) -> None:
    computed = [patch for index in plan.indices() for patch in plan.tile(index).patches]
    lattice = lattice_patches(plan.shape, plan.patch_size, plan.stride)
    assert set(computed) == set(lattice)
    assert plan.patch_count == len(lattice) == len(set(lattice))
    assert plan.computed_patches == len(computed)
    assert plan.redundant_share == pytest.approx((len(computed) - len(lattice)) / len(computed))
    assert 0 <= plan.redundant_share < 1


@law
@given(length=st.integers(1, 300), patch=st.integers(1, 64), data=st.data())
def test_the_last_patch_is_shifted_inward_and_never_beyond_the_grid(
    length: int, patch: int, data: st.DataObject
) -> None:
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
def test_touching_is_what_an_enumeration_finds(length: int, patch: int, data: st.DataObject) -> None:
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
def test_planning_a_million_by_a_million_pixels_takes_no_time(tile_size: int) -> None:
    started = time.perf_counter()
    plan = TilePlan.of((10**6, 10**6), tile_size, 256, 0.25)
    assert plan.patch_count == len(lattice_positions(10**6, 256, 192)) ** 2
    assert plan.computed_patches > plan.patch_count
    rows, cols = plan.tiles_shape
    last = plan.tile((rows - 1, cols - 1))
    assert (last.core.y1, last.core.x1) == (10**6, 10**6)
    assert next(plan.indices()) == (0, 0)
    assert time.perf_counter() - started < 1


def test_redundant_work_at_the_default_size_is_small() -> None:
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
def test_a_tile_that_is_not_there_is_an_index_error(index: tuple[int, int]) -> None:
    with pytest.raises(IndexError, match="of 2 x 3"):
        TilePlan.of((20, 30), 10, 8, 0.25).tile(index)


@law
@given(shape=st.tuples(sides, sides), size=st.integers(1, 80))
def test_blocks_partition_a_raster(shape: tuple[int, int], size: int) -> None:
    seen = np.zeros(shape, np.int64)
    for box in blocks(shape, size):
        assert max(box.shape) <= size
        seen[box.slices] += 1
    assert (seen == 1).all()
