"""Tiles in memory: broken files, memory, numbering of instances, and how often a place is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.mask_tiles import TILE, ground, save, village
from ussfc.errors import DataError
from ussfc.training.synthesis.store import TileStore, read_tile
from ussfc.training.synthesis.tiles import MaskTile, MaskTiles, open_masks


def test_every_broken_file_is_named(copy: Path) -> None:
    broken = [copy / "buildings/hill_z19/image/tile0.png", copy / "background/field/field1.png"]
    for file in broken:
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError) as caught:
        TileStore(open_masks(copy))
    assert [message.split(":")[0] for message in caught.value.messages] == [str(file) for file in broken]


@pytest.mark.parametrize(
    ("file", "levels", "message"),
    [
        (
            "mask/tile1.png",
            np.zeros((TILE, TILE - 1)),
            r"mask/tile1.png: 96 x 95 pixels, its image .*image/tile1.png has 96 x 96",
        ),
        ("mask/tile1.png", np.full((TILE, TILE), 7), r"mask/tile1.png: label values 7; expected 0 and 1"),
        (
            "image/tile1.png",
            np.zeros((TILE, TILE)),
            r"image/tile1.png: one grey band; expected .* red, green",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(copy: Path, file: str, levels: np.ndarray, message: str) -> None:
    save(copy / "buildings/hill_z19" / file, levels)
    with pytest.raises(DataError, match=message):
        TileStore(open_masks(copy))


def test_masks_without_a_whole_instance_are_refused(tmp_path: Path) -> None:
    mask = np.zeros((TILE, TILE))
    mask[:10, 20:40] = 255
    save(tmp_path / "edge/image/a.png", ground(np.random.default_rng(0)))
    save(tmp_path / "edge/mask/a.png", mask)
    with pytest.raises(DataError, match="no instance lies entirely inside a tile"):
        TileStore(open_masks(tmp_path))


def test_tiles_beyond_memory_are_read_again(tiles: MaskTiles) -> None:
    kept, again = TileStore(tiles), TileStore(replace(tiles, memory=0))
    assert kept.read(4) is kept.read(4)
    assert again.read(4) is not again.read(4)
    for ours, theirs in zip(kept.read(4), again.read(4), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_tile_holds_any_number_of_instances(tmp_path: Path) -> None:
    mask = np.zeros((530, 530))
    mask[1:-1:2, 1:-1:2] = 255
    image = save(tmp_path / "a.png", np.zeros((530, 530, 3)))
    tile = MaskTile(image, save(tmp_path / "b.png", mask), "a", 0.3)
    numbers = read_tile(tile).numbers
    assert numbers.max() == 264**2 > 2**16
    assert ((numbers > 0) == (mask > 0)).all()


def test_places_are_drawn_by_the_root_of_their_pixels(tmp_path: Path) -> None:
    image, mask = village(np.random.default_rng(0))
    files = save(tmp_path / "image.png", image), save(tmp_path / "mask.png", mask)
    places = ["large"] * 9 + ["small"]
    store = TileStore(MaskTiles(tmp_path, tuple(MaskTile(*files, place, 0.3) for place in places)))
    rng = np.random.default_rng(0)
    drawn = np.array([store.draw_tile(rng) for _ in range(2000)])
    assert 0.22 < (drawn == 9).mean() < 0.28
    assert store.draw_background(rng) in range(10)
