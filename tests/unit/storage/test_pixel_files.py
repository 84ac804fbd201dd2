"""Files of kept pixels: what was kept of the tiles, for blocks of any size, or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.layers import grid
from ussfc.pipeline.pixels.kept import KeptPixels
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.pixel_files import PixelFiles, PixelSource
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import Box, Pixels, TileResult, blocks

SHAPE, TILE, BANDS = (70, 100), 32, 2


class Kept:
    """A store whose tiles have kept a twelfth of their pixels; tile (1, 1) is not there, of (0, 2) nothing was kept."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(1)
        row, col = np.indices(SHAPE)
        self.wanted = (5 * row + col) % 12 == 0
        self.dates = [
            Pixels(rng.integers(0, 9999, (BANDS, *SHAPE)).astype(np.uint16), rng.random(SHAPE) > 0.2)
            for _ in range(2)
        ]
        self.store = ProbabilityStore.create(root / "work", grid(SHAPE), "uint8", TILE, "run")
        self.files = PixelFiles(self.store.root, "run")
        self.absent = np.zeros(SHAPE, bool)
        self.checksums: dict[tuple[int, int], int] = {}
        for box in blocks(SHAPE, TILE):
            index = box.y0 // TILE, box.x0 // TILE
            if index in ((1, 1), (0, 2)):
                self.absent[box.slices] = True
            if index == (1, 1):
                continue
            stored = rng.integers(0, 255, box.shape, dtype=np.uint8)
            self.checksums[index] = self.store.write(box, stored, TileResult(index, 1, 1, {}))
            if index != (0, 2):
                self.files.write(index, self.checksums[index], self.of(box))

    def of(self, box: Box) -> KeptPixels:
        before, after = (
            Pixels(date.values[(slice(None), *box.slices)], date.valid[box.slices]) for date in self.dates
        )
        kept = KeptPixels.of(before, after, self.wanted[box.slices])
        assert kept is not None
        return kept


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


@pytest.mark.parametrize("side", [17, TILE, 64, 100])
def test_blocks_of_any_size_find_what_was_kept(kept: Kept, side: int) -> None:
    source = PixelSource(kept.store, BANDS)
    count = 0
    for box in blocks(SHAPE, side):
        changed = np.flatnonzero(kept.wanted[box.slices])
        left = np.ones(len(changed), bool)
        for members, pixels in source.find(changed, box):
            row, col = np.divmod(changed[members], box.shape[1])
            place = row + box.y0, col + box.x0
            np.testing.assert_array_equal(pixels.before, kept.dates[0].values[:, place[0], place[1]])
            np.testing.assert_array_equal(pixels.after, kept.dates[1].values[:, place[0], place[1]])
            np.testing.assert_array_equal(
                pixels.valid, kept.dates[0].valid[place] & kept.dates[1].valid[place]
            )
            assert left[members].all()
            left[members] = False
        np.testing.assert_array_equal(left, kept.absent[box.slices].ravel()[changed])
        count += int((~left).sum())
    assert count == (kept.wanted & ~kept.absent).sum() > 300


def test_a_tile_that_lacks_a_pixel_gives_none(kept: Kept) -> None:
    box = Box(0, 0, TILE, 2 * TILE)
    wanted = kept.wanted[box.slices].copy()
    wanted[tuple(np.argwhere(~wanted[:, :TILE])[0])] = True
    changed = np.flatnonzero(wanted)
    found = np.concatenate([members for members, _ in PixelSource(kept.store, BANDS).find(changed, box)])
    np.testing.assert_array_equal(found, np.flatnonzero(changed % (2 * TILE) >= TILE))


def test_other_bands_probabilities_and_runs_are_not_found(kept: Kept) -> None:
    box = Box(0, 0, TILE, TILE)
    changed = np.flatnonzero(kept.wanted[box.slices])
    assert list(PixelSource(kept.store, BANDS).find(changed, box))
    assert not list(PixelSource(kept.store, BANDS + 1).find(changed, box))
    assert kept.files.read((0, 0), kept.checksums[0, 0] + 1) is None
    assert PixelFiles(kept.store.root, "other").read((0, 0), kept.checksums[0, 0]) is None
    # Computed again, of other probabilities than those that the pixels were kept of.
    kept.store.write(box, np.zeros(box.shape, np.uint8), TileResult((0, 0), 1, 1, {}))
    assert not list(PixelSource(ProbabilityStore(kept.store.root), BANDS).find(changed, box))


@pytest.mark.parametrize("damage", ["flip", "folder"])
def test_a_file_that_cannot_be_used_is_none(kept: Kept, damage: str) -> None:
    path = Path(Folder.of(kept.store.root).address) / "pixels" / "run" / "0" / "0"
    content = bytearray(path.read_bytes())
    content[-3] ^= 8
    path.unlink()
    if damage == "flip":
        path.write_bytes(content)
    else:
        path.mkdir()
    assert kept.files.read((0, 0), kept.checksums[0, 0]) is None
