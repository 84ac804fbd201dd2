"""Whole rasters put together from tiles, without files."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tests.support.stubs import StubDetector, window
from ussfc.pipeline.choices import Taper
from ussfc.pipeline.execution.computers import open_computer
from ussfc.pipeline.pixels.encoding import encode
from ussfc.pipeline.pixels.radiometry import MIDDLE
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import PixelPair


@st.composite
def scenes(draw: st.DrawFn) -> PixelPair:
    """Draw noise on both dates, with a validity mask from full to empty."""
    shape = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["all", "none", "noise", "sparse", "half"]))
    share = {"all": 0.0, "none": 1.0, "noise": 0.4, "sparse": 0.995, "half": 0.0}[kind]
    valid = rng.random(shape) >= share
    if kind == "half":
        valid[:, : draw(st.integers(0, shape[1]))] = False
    images = rng.random((2, 2, *shape), dtype=np.float32)
    images[..., ~valid] = MIDDLE
    return PixelPair(images[0], images[1], valid)


def assemble(
    images: PixelPair, tile_size: int, overlap: float, taper: Taper, detector: StubDetector
) -> npt.NDArray[np.float32]:
    """Return the float32 raster as it would be stored, put together from tiles."""
    shape = images.valid.shape[0], images.valid.shape[1]
    plan = TilePlan.of(shape, tile_size, detector.patch_size, overlap)
    computer = open_computer(detector, taper_weights(plan.patch_size, taper))
    result = np.full(plan.shape, -1, np.float32)
    for index in plan.indices():
        tile = plan.tile(index)
        probability, patches = computer.blend(tile, window(images, tile))
        assert 0 <= patches <= len(tile.patches)
        result[tile.core.slices] = encode(probability, images.valid[tile.core.slices], np.dtype("float32"))
    return result
