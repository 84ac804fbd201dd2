"""Images and masks of one date in folders: tiles, and the places that they show."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ussfc.errors import DataError
from ussfc.training.data import SUFFIXES, natural_order, pictures_in

METRES_AT_ZOOM_0 = 156_543.034
"""Ground size of a pixel of a web map's 256 px tile at zoom 0, at the equator, metres."""

DEFAULT_RESOLUTION_M = 0.3
"""Ground size of a pixel where the name of the folder holds no zoom, metres."""

_ZOOM = re.compile(r"^(?P<place>.+?)_z(?P<zoom>\d{1,2})(?:_\d+)?$")


@dataclass(frozen=True)
class MaskTile:
    """One image, with its mask where it has one."""

    image: Path
    mask: Path | None
    """None: a background, free of the class."""
    place: str
    """Tiles of one place may show the same ground at several zooms."""
    resolution_m: float
    """Ground size of a pixel, metres."""


@dataclass(frozen=True)
class MaskTiles:
    """The tiles of a folder; see :func:`open_masks`."""

    folder: Path
    """Folder below which all files lie."""
    tiles: tuple[MaskTile, ...]
    memory: int = 2**31
    """Bytes of decoded pictures that may stay in memory; the others are read again when they are needed."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tiles: the files of image and mask, relative to the folder."""
        files = ((tile.image, tile.mask) if tile.mask else (tile.image,) for tile in self.tiles)
        return tuple(" ".join(file.relative_to(self.folder).as_posix() for file in each) for each in files)

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the places in natural order; each folder of backgrounds is a place."""
        return _names_of(self.tiles)

    @property
    def masked_places(self) -> tuple[str, ...]:
        """Names of the places that have masks, in natural order."""
        return _names_of([tile for tile in self.tiles if tile.mask])

    def without(self, places: Collection[str]) -> MaskTiles:
        """Leave places out.

        Args:
            places: names of the places.

        Raises:
            DataError: a place is unknown.
        """
        self._require(places)
        return replace(self, tiles=tuple(tile for tile in self.tiles if tile.place not in places))

    def split(self, held_out: Collection[str]) -> tuple[MaskTiles, MaskTiles]:
        """Divide into tiles for training and tiles for validation; no place is in both.

        Args:
            held_out: places for validation.

        Raises:
            DataError: a place is unknown, or one side has no tile with a mask.
        """
        self._require(held_out)
        training = self.without(held_out)
        validation = replace(self, tiles=tuple(tile for tile in self.tiles if tile.place in held_out))
        for side, purpose in ((training, "training"), (validation, "validation")):
            if not side.masked_places:
                raise DataError(
                    f"{self.folder}: no tile with a mask is left for {purpose}; hold out some of the places that have "
                    f"masks for validation, not all of them: {', '.join(self.masked_places)}"
                )
        return training, validation

    def _require(self, places: Collection[str]) -> None:
        if odd := sorted(set(places) - set(self.places)):
            raise DataError(
                f"{self.folder}: no place {', '.join(odd)} in it; its places: {', '.join(self.places)}"
            )


def _names_of(tiles: Sequence[MaskTile]) -> tuple[str, ...]:
    return tuple(sorted({tile.place for tile in tiles}, key=natural_order))


def open_masks(folder: Path, memory: int = 2**31) -> MaskTiles:
    """List the tiles of a folder; no picture is read.

    Each folder ``image`` with a folder ``mask`` beside it is taken, at any depth. The folder around both names the
    place; an ending ``_zZOOM`` is not part of the name but gives the ground size of a pixel, so ``nairobi_z19`` and
    ``nairobi_z20`` are one place. Pictures below a folder ``background`` need no mask and must be free of the class.

    Args:
        folder: the folder that holds ``PLACE/image`` and ``PLACE/mask``.
        memory: bytes of decoded pictures that may stay in memory.

    Raises:
        DataError: the folder does not exist or has no tile with a mask, or a file has no partner.
    """
    tiles, lone = match_masks(folder)
    if lone:
        raise DataError(*(line for _, line in lone))
    return replace(tiles, memory=memory)


def match_masks(folder: Path) -> tuple[MaskTiles, tuple[tuple[str, str], ...]]:
    """Return the tiles of a folder, and place and line of each picture without a partner; see :func:`open_masks`."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the one that holds PLACE/image and PLACE/mask")
    tiles: list[MaskTile] = []
    lone: list[tuple[str, str]] = []
    taken: set[Path] = set()
    for images in sorted(path for path in folder.rglob("image") if (path.parent / "mask").is_dir()):
        found, without = _match_place(images, images.parent / "mask")
        tiles += found
        lone += without
        taken |= {images, images.parent / "mask"}
    if not tiles and not lone:
        raise DataError(
            f"{folder}: no picture in a folder image with a folder mask beside it; expected PLACE/image/NAME.png and "
            "PLACE/mask/NAME.png"
        )
    for background in sorted(path for path in folder.rglob("background") if path.is_dir()):
        if "background" not in background.parent.relative_to(folder).parts:
            files = [file for file in background.rglob("*") if file.parent not in taken and _is_picture(file)]
            files.sort(key=lambda file: natural_order(str(file)))
            tiles += [MaskTile(file, None, file.parent.name, DEFAULT_RESOLUTION_M) for file in files]
    return MaskTiles(folder, tuple(tiles)), tuple(lone)


def _match_place(images: Path, masks: Path) -> tuple[list[MaskTile], list[tuple[str, str]]]:
    """Match two folders by file stem; also return place and line of each file without a partner."""
    image_of, mask_of = pictures_in(images), pictures_in(masks)
    name = images.parent.name
    if name in ("", ".."):
        name = images.parent.resolve().name
    named = _ZOOM.match(name)
    place = named["place"] if named else name
    resolution_m = METRES_AT_ZOOM_0 / 2 ** int(named["zoom"]) if named else DEFAULT_RESOLUTION_M
    lone = [
        f"{image_of[stem]}: no mask of that stem in {masks}; add it, or take the image away"
        for stem in image_of.keys() - mask_of.keys()
    ]
    lone += [
        f"{mask_of[stem]}: no image of that stem in {images}; add it, or take the mask away"
        for stem in mask_of.keys() - image_of.keys()
    ]
    stems = sorted(image_of.keys() & mask_of.keys(), key=natural_order)
    tiles = [MaskTile(image_of[stem], mask_of[stem], place, resolution_m) for stem in stems]
    return tiles, [(place, line) for line in sorted(lone)]


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
