"""Folders of images and masks: places, ground sizes, splits, and files without a partner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.mask_tiles import ground, save, village
from ussfc.errors import DataError
from ussfc.training.synthesis.tiles import MaskTiles, open_masks


def test_zooms_of_a_place_are_one_place(tiles: MaskTiles) -> None:
    assert tiles.places == ("field", "forest", "hill", "shore")
    assert tiles.masked_places == ("hill", "shore")


def test_ground_size_follows_from_the_zoom(tiles: MaskTiles) -> None:
    sizes = {tile.image.parents[1].name: round(tile.resolution_m, 3) for tile in tiles.tiles if tile.mask}
    assert sizes == {"hill_z19": 0.299, "hill_z20": 0.149, "shore_z19_96": 0.299}


def test_backgrounds_have_no_mask(tiles: MaskTiles) -> None:
    assert {tile.place for tile in tiles.tiles if tile.mask is None} == {"field", "forest"}


def test_names_are_files_below_the_folder(tiles: MaskTiles) -> None:
    assert tiles.names[0] == "buildings/hill_z19/image/tile0.png buildings/hill_z19/mask/tile0.png"
    assert tiles.names[-1] == "background/forest/forest2.png"


def test_a_place_may_be_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, mask = village(np.random.default_rng(0))
    save(tmp_path / "old_town" / "image" / "a.png", image)
    save(tmp_path / "old_town" / "mask" / "a.png", mask)
    monkeypatch.chdir(tmp_path / "old_town")
    for folder in (tmp_path, tmp_path / "old_town", Path()):
        assert [(tile.place, tile.resolution_m) for tile in open_masks(folder).tiles] == [("old_town", 0.3)]


def test_masks_among_backgrounds_stay_masks(copy: Path) -> None:
    image, mask = village(np.random.default_rng(0))
    save(copy / "background" / "park" / "image" / "a.png", image)
    save(copy / "background" / "park" / "mask" / "a.png", mask)
    save(copy / "background" / "background" / "b.png", ground(np.random.default_rng(0)))
    found = [tile for tile in open_masks(copy).tiles if tile.place in ("park", "background", "mask", "image")]
    assert [(tile.place, tile.mask is None) for tile in found] == [("park", False), ("background", True)]


def test_a_split_divides_places(tiles: MaskTiles) -> None:
    training, validation = tiles.split(["hill", "field"])
    assert training.places == ("forest", "shore")
    assert validation.places == ("field", "hill")
    assert {*training.tiles, *validation.tiles} == {*tiles.tiles}


def test_without_leaves_places_out(tiles: MaskTiles) -> None:
    assert tiles.without(["forest"]).places == ("field", "hill", "shore")


def test_unknown_places_are_named(tiles: MaskTiles) -> None:
    with pytest.raises(DataError, match="no place valley in it; its places: field, forest, hill, shore"):
        tiles.split(["valley"])


@pytest.mark.parametrize(("held_out", "side"), [(["hill", "shore"], "training"), (["field"], "validation")])
def test_each_side_of_a_split_has_masks(tiles: MaskTiles, held_out: list[str], side: str) -> None:
    with pytest.raises(DataError, match=f"no tile with a mask is left for {side}; .*: hill, shore"):
        tiles.split(held_out)


def test_files_without_a_partner_are_all_named(copy: Path) -> None:
    (copy / "buildings/hill_z19/mask/tile0.png").unlink()
    (copy / "buildings/shore_z19_96/image/tile2.png").unlink()
    with pytest.raises(DataError) as caught:
        open_masks(copy)
    first, second = caught.value.messages
    assert first.startswith(f"{copy}/buildings/hill_z19/image/tile0.png: no mask of that stem")
    assert second.startswith(f"{copy}/buildings/shore_z19_96/mask/tile2.png: no image of that stem")


def test_two_files_of_a_stem_are_refused(copy: Path) -> None:
    save(copy / "buildings/hill_z19/image/tile0.jpg", ground(np.random.default_rng(0)))
    with pytest.raises(DataError, match=r"tile0.png: tile0.jpg has the same stem"):
        open_masks(copy)


def test_no_folder_and_no_tile(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_masks(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no picture in a folder image with a folder mask beside it"):
        open_masks(tmp_path)
