"""The order of tiles and the size of GDAL's cache fit together."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import pytest

from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.tiling.memory import block_cache


@pytest.mark.parametrize("tile_size", [512, 1000, 1024, 2048, 4096])
@pytest.mark.parametrize("patch_size", [256, 512])
@pytest.mark.parametrize("offset", [0, 300])
def test_blocks_are_fetched_about_once(tile_size: int, patch_size: int, offset: int) -> None:
    """Both dates, 6 bytes a pixel, in blocks of 512 px that the grid does not start with."""
    plan, block, pixel_bytes = TilePlan.of((17000, 17000), tile_size, patch_size, 0.125), 512, 6
    room = block_cache(plan, 2 * pixel_bytes) // (block**2 * pixel_bytes)
    kept: OrderedDict[tuple[int, int, int], None] = OrderedDict()
    fetched = []
    for index in plan.indices():
        halo = plan.tile(index).halo
        rows = range((halo.y0 + offset) // block, -(-(halo.y1 + offset) // block))
        cols = range((halo.x0 + offset) // block, -(-(halo.x1 + offset) // block))
        for key in itertools.product((0, 1), rows, cols):
            if key not in kept:
                fetched.append(key)
            kept[key] = None
            kept.move_to_end(key)
            while len(kept) > room:
                kept.popitem(last=False)
    assert len(fetched) / len(set(fetched)) < 1.25
