"""Warps by fixed blocks of the grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from tests.support.images import AFFINE, UTM, write_tif
from ussfc.pipeline.reading import SceneRecipe
from ussfc.pipeline.reading.warp import WARP_BLOCK, warp_blocks
from ussfc.pipeline.types import Box

sides = st.tuples(st.integers(0, 3000), st.integers(1, 1500))


@given(sides, sides)
def test_warp_blocks_cover_the_box(rows: tuple[int, int], cols: tuple[int, int]) -> None:
    box = Box(rows[0], cols[0], rows[0] + rows[1], cols[0] + cols[1])
    blocks = list(warp_blocks(box, (4600, 4600)))
    assert sum(block.intersect(box).pixels for block in blocks) == box.pixels
    assert len(set(blocks)) == len(blocks)
    for block in blocks:
        assert (block.y0 % WARP_BLOCK, block.x0 % WARP_BLOCK) == (0, 0)
        assert block.intersect(box).pixels


def test_a_cut_over_several_blocks_is_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = write_tif(tmp_path / "big.tif", rng.integers(1, 4000, (1, 1300, 1200)).astype(np.uint16))
    grid = GeoBox.from_bbox(GeoBox((1300, 1200), AFFINE, UTM).footprint("EPSG:3857").boundingbox, "EPSG:3857",
                            resolution=12)  # fmt: skip
    reader = SceneRecipe(path, grid, (1,), "bilinear").open()
    whole = reader.read(Box(0, 0, *grid.shape))
    part = reader.read(Box(400, 300, 900, 1100))
    np.testing.assert_array_equal(part.values, whole.values[:, 400:900, 300:1100])
