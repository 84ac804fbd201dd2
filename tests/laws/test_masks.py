"""Masked pixels are nodata of both dates, and no tile, batch or device changes a bit of the rest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stubs import UNIT, StubArea, StubDetector, StubMask, StubScene, StubTileDetector
from ussfc.pipeline.execution.computers import open_computer
from ussfc.pipeline.execution.tile_job import OpenPair
from ussfc.pipeline.pixels.alteration import Alteration, CombinedOdds
from ussfc.pipeline.pixels.encoding import encode
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box

ODDS = CombinedOdds(Alteration(((3.0, -2.5),), (0.1,), 0.6), 0.4, 1.5, -1.0, 1.5, 5)
"""IR-MAD beside the network, of one band."""


def computed(
    pair: OpenPair, shape: tuple[int, int], size: int, detector: StubDetector
) -> tuple[npt.NDArray[np.float32], tuple[int, int]]:
    """Return the raster as it would be stored, and the masked pixels of both dates, tile by tile."""
    margin = 0 if pair.odds is None else pair.odds.margin
    plan = TilePlan.of(shape, size, detector.patch_size, 0.25, margin)
    computer = open_computer(detector, taper_weights(plan.patch_size, "hann"))
    result, masked = np.full(shape, -1, np.float32), np.zeros(2, int)
    for index in plan.indices():
        tile = plan.tile(index)
        found = computer.compute(tile, pair)
        result[tile.core.slices] = encode(found.probability, found.valid, np.dtype("float32"))
        masked += found.masked
    return result, (int(masked[0]), int(masked[1]))


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    shares=st.tuples(st.sampled_from([None, 0.0, 0.3, 0.9, 1.0]), st.sampled_from([None, 0.3, 0.9])),
    seed=st.integers(0, 99),
    rows=st.integers(1, 60),
    sizes=st.lists(st.integers(7, 70), min_size=1, max_size=2),
    batch=st.integers(1, 4),
    odds=st.sampled_from([None, ODDS]),
)
def test_masks_hide_both_dates_whatever_the_tiles(
    shape: tuple[int, int],
    shares: tuple[float | None, float | None],
    seed: int,
    rows: int,
    sizes: list[int],
    batch: int,
    odds: CombinedOdds | None,
) -> None:
    readers = StubScene(shape, seed).open(), StubScene(shape, seed + 1, Box(0, 0, 3, 3)).open()
    given_masks = [
        None if share is None else StubMask(shape, seed + date, share) for date, share in enumerate(shares)
    ]
    masks = given_masks[0], given_masks[1]
    inside = Box(0, 0, rows, shape[1])
    pair = OpenPair(*readers, (UNIT, UNIT), StubArea(inside), masks, odds=odds)
    box = Box(0, 0, *shape)
    hidden = [np.zeros(shape, bool) if mask is None else mask.masked(box) for mask in masks]

    whole, counted = computed(pair, shape, 100, StubDetector(16, 1))
    area = StubArea(inside).mask(box)
    valid = readers[0].valid & readers[1].valid & ~hidden[0] & ~hidden[1]
    np.testing.assert_array_equal(np.isnan(whole), ~(valid & area))
    assert counted == (int((hidden[0] & area).sum()), int((hidden[1] & area).sum()))
    # The network sees a masked pixel as one without data.
    bare = [
        type(reader)(np.where(valid, reader.values, 0).astype(np.float32), valid.copy()) for reader in readers
    ]
    unmasked, _ = computed(
        OpenPair(bare[0], bare[1], (UNIT, UNIT), StubArea(inside), odds=odds), shape, 100, StubDetector(16, 1)
    )
    assert unmasked.tobytes() == whole.tobytes()

    for size in sizes:
        for detector in (StubDetector(16, batch), StubTileDetector(16, batch)):
            cut, again = computed(pair, shape, size, detector)
            assert cut.tobytes() == whole.tobytes()
            assert again == counted
