"""Labelled pairs for training and evaluation, and the public data sets in their authors' layouts.

A source is anything with pairs by number (:class:`LabelledPairs`). Pictures are read here; georeferenced scenes
come from :mod:`ussfc.pipeline.evaluation.labelled_scenes`, through the pipeline's own reading.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ussfc.errors import DataError
from ussfc.local_files import open_regular

if TYPE_CHECKING:
    from ussfc.spec import Licence
    from ussfc.training.synthesis.tiles import MaskTiles

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

SPLITS = ("train", "val", "test")

GREY_THRESHOLD = 128
"""Smallest grey value that means change in a label stored as JPEG, whose compression smears 0 and 255."""


@dataclass(frozen=True)
class LabelledPair:
    """Both dates of one place, and its changes."""

    name: str
    before: npt.NDArray[np.uint8] | FloatArray
    """Earlier image, (bands, rows, cols): uint8, or float32 in [0, 1]."""
    after: npt.NDArray[np.uint8] | FloatArray
    """Later image, (bands, rows, cols), in the dtype of ``before``."""
    label: BoolArray
    """Change, (rows, cols)."""
    valid: BoolArray | None = None
    """Pixels that count, (rows, cols); None: all."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.label.shape[0], self.label.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        valid = 0 if self.valid is None else self.valid.nbytes
        return self.before.nbytes + self.after.nbytes + self.label.nbytes + valid


class LabelledPairs(Protocol):
    """Pairs by number."""

    @property
    def names(self) -> Sequence[str]:
        """Names, one per pair."""

    def pair(self, index: int) -> LabelledPair:
        """Read one pair.

        Raises:
            DataError: a file cannot be read, or does not fit its partners.
        """


@dataclass(frozen=True)
class TrainingData:
    """Data of a training, and the facts about it for the model card."""

    pairs: LabelledPairs | MaskTiles
    """Pairs to learn from, or tiles to generate them from."""
    validation: LabelledPairs | None
    """Pairs that choose the checkpoint and the threshold; never trained on. None: the last weights are kept."""
    description: str = ""
    """Description of the data."""
    licence: Licence | None = None
    """Licence of the data and so of the weights."""
    threshold: float = 0.5
    """Threshold of the model card of a training without validation."""
    reading: str = ""
    """Name of the way in which pairs are read, where there have been several; a training goes on with the same."""


@dataclass(frozen=True)
class Layout:
    """Layout of a data set on disk."""

    title: str
    folders: tuple[str, str, str]
    """Folders of before, after and label below a split."""
    roots: tuple[str, ...] = ("",)
    """Folders below the given one that may hold the splits."""


LAYOUTS = {
    "levir-cd": Layout("LEVIR-CD (Chen & Shi 2020)", ("A", "B", "label")),
    "cdd": Layout(
        "CDD / SVCD (Lebedev et al. 2018)",
        ("A", "B", "OUT"),
        ("", "ChangeDetectionDataset/Real/subset", "Real/subset", "subset"),
    ),
    "dsifn-cd": Layout("DSIFN-CD (Zhang et al. 2020)", ("t1", "t2", "mask")),
}
"""Data sets of pictures, by name."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


DEEP = ("I", "I;16", "I;16B", "I;16L", "F")
"""Pillow's modes of pictures that a conversion to 8 bits would clip."""

GREY = ("1", "L", "LA", "La")
"""Pillow's modes of pictures without colour."""

Array = TypeVar("Array", npt.NDArray[np.uint8], BoolArray)


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key by which ``img2`` comes before ``img10``."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part.lower())
        for part in re.split(r"(\d+)", name)
        if part
    ]


@dataclass(frozen=True)
class PicturePairs:
    """One split of a data set of pictures; see :func:`open_split`."""

    kind: str
    split: str
    files: tuple[tuple[Path, Path, Path], ...]
    """Files (before, after, label) of every pair, in natural order."""

    @property
    def names(self) -> Sequence[str]:
        """Stems of the earlier images' files."""
        return [before.stem for before, _, _ in self.files]

    def pair(self, index: int) -> LabelledPair:
        """Read one pair: uint8, (3, rows, cols).

        Raises:
            DataError: a file cannot be read, sizes differ, or a label holds odd values.
        """
        before_file, after_file, label_file = self.files[index]
        faults: list[str] = []

        def tried(read: Callable[[Path], Array], file: Path) -> Array | None:
            try:
                return read(file)
            except DataError as error:
                faults.append(str(error))
                return None

        before, after = tried(read_picture, before_file), tried(read_picture, after_file)
        label = tried(read_label, label_file)
        read = [(before_file, before), (after_file, after), (label_file, label)]
        sizes = [(file, array.shape[-2:]) for file, array in read if array is not None]
        faults += [
            f"{file}: {size_text(size)} pixels, its partner {sizes[0][0]} has {size_text(sizes[0][1])}; all three "
            "files of a pair must have one size"
            for file, size in sizes[1:]
            if size != sizes[0][1]
        ]
        if before is None or after is None or label is None or faults:
            raise DataError(*faults)
        return LabelledPair(before_file.stem, before, after, label)


def open_split(kind: str, folder: Path, split: str) -> PicturePairs:
    """Open one split of a data set in its authors' layout; no picture is read.

    Both the full pictures and the usual crops of 256 pixels have these layouts. Pairs are matched by file stem
    and ordered naturally.

    Args:
        kind: ``levir-cd``, ``cdd`` or ``dsifn-cd``.
        folder: the data set, with the folders ``train``, ``val`` and ``test``.
        split: ``train``, ``val`` or ``test``.

    Raises:
        DataError: an unknown kind, a folder missing or empty, or a picture without its partners.
    """
    pairs, lone = match_split(kind, folder, split)
    if lone:
        more = f" (and {len(lone) - 1} more such files)" if len(lone) > 1 else ""
        raise DataError(lone[0] + more)
    return pairs


def match_split(kind: str, folder: Path, split: str) -> tuple[PicturePairs, tuple[str, ...]]:
    """Return the pairs of a split, and one line per picture without partners; see :func:`open_split`."""
    base = splits_folder(kind, folder) / split
    layout = LAYOUTS[kind]
    if not base.is_dir():
        raise DataError(f"{base.parent}: no folder {split} in it; {kind} has {_layout_line(layout)}")
    found = []
    for name in layout.folders:
        if not (base / name).is_dir():
            raise DataError(f"{base}: no folder {name} in it; {kind} has {_layout_line(layout)}")
        found.append(pictures_in(base / name))
    before, after, label = found
    if not before:
        raise DataError(
            f"{base / layout.folders[0]}: no pictures in it ({', '.join(SUFFIXES)}); the split is empty"
        )
    stems = sorted(before.keys() | after.keys() | label.keys(), key=lambda stem: (natural_order(stem), stem))
    lone, complete = [], []
    for stem in stems:
        if without := [
            base / name for name, files in zip(layout.folders, found, strict=True) if stem not in files
        ]:
            there = next(files[stem] for files in found if stem in files)
            lone.append(f"{there}: no partner of that stem in {without[0]}; add it, or take this one away")
        else:
            complete.append((before[stem], after[stem], label[stem]))
    return PicturePairs(kind, split, tuple(complete)), tuple(lone)


def splits_folder(kind: str, folder: Path) -> Path:
    """Return the folder of a data set's splits: ``folder`` itself, or the one below it in its authors' archive.

    Raises:
        DataError: an unknown kind, or the folder does not exist.
    """
    if kind not in LAYOUTS:
        raise DataError(f"data set {kind!r}: not known; known: {', '.join((*LAYOUTS, 'geotiff', 'masks'))}")
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder; give the data set's folder, the one with train, val and test"
        )
    roots = [folder / root for root in LAYOUTS[kind].roots]
    return next((root for root in roots if any((root / split).is_dir() for split in SPLITS)), folder)


def pictures_in(folder: Path) -> dict[str, Path]:
    """List the pictures of a folder by file stem.

    Raises:
        DataError: two pictures have one stem.
    """
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
            if file.stem in found:
                raise DataError(f"{file}: {found[file.stem].name} has the same stem; remove one of the two")
            found[file.stem] = file
    return found


def _unreadable() -> tuple[type[Exception], ...]:
    """Return the errors that Pillow raises on damaged files, depending on the damaged byte."""
    from PIL import Image, UnidentifiedImageError

    return OSError, SyntaxError, TypeError, ValueError, UnidentifiedImageError, Image.DecompressionBombError


def read_picture(file: Path, *, in_colour: bool = False) -> npt.NDArray[np.uint8]:
    """Read a picture, (3, rows, cols) uint8.

    Args:
        file: a picture of 8 bits.
        in_colour: True to refuse a picture of one grey band; False: it becomes three equal bands.

    Raises:
        DataError: the file cannot be read, has numbers of more than 8 bits, or has one band where colours are needed.
    """
    from PIL import Image

    try:
        with open_regular(file) as stream, Image.open(stream) as image:
            if image.mode in DEEP:
                raise DataError(
                    f"{file}: numbers of more than 8 bits ({image.mode}); give geotiff data instead"
                )
            if in_colour and image.mode in GREY:
                raise DataError(f"{file}: one grey band; expected a picture of red, green and blue")
            pixels = np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; check the data set") from error
    except _unreadable() as error:
        raise DataError(f"{file}: cannot be read as a picture ({error}); get the file again") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_label(file: Path) -> BoolArray:
    """Read a label picture as a mask, (rows, cols) bool.

    Masks of 0/1 and of 0/255 are both accepted. A JPEG has greys between the two: change where >= 128.

    Raises:
        DataError: the file cannot be read, or a label that is no JPEG holds other values.
    """
    from PIL import Image

    try:
        with open_regular(file) as stream, Image.open(stream) as image:
            lossy = image.format == "JPEG"
            # The numbers of a palette or a grey picture are the classes; colours become grey.
            grey = np.asarray(
                image if image.mode in ("1", "L", "P", "I", "I;16", "F") else image.convert("L")
            )
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; check the data set") from error
    except _unreadable() as error:
        raise DataError(f"{file}: cannot be read as a picture ({error}); get the file again") from error
    if lossy:
        return np.asarray(grey >= GREY_THRESHOLD)
    return mask_of(grey, str(file))


def mask_of(values: npt.NDArray[np.generic], where: str) -> BoolArray:
    """Return True where a label is change, for labels of 0 and 1 or of 0 and 255.

    Args:
        values: any shape, any dtype.
        where: the file, for the message.

    Raises:
        DataError: any other value.
    """
    found = np.unique(values)
    if not (set(found.tolist()) <= {0, 1} or set(found.tolist()) <= {0, 255}):
        listed = ", ".join(f"{value:g}" for value in found[:6].astype(float)) + (
            ", ..." if found.size > 6 else ""
        )
        raise DataError(f"{where}: label values {listed}; expected 0 and 1, or 0 and 255 (0: no change)")
    return np.asarray(values != 0)


def size_text(shape: Sequence[int]) -> str:
    """Return a size of (rows, cols) in words."""
    return f"{shape[0]} x {shape[1]}"


def _layout_line(layout: Layout) -> str:
    return "{train,val,test}/{" + ",".join(layout.folders) + "}"


class Cached:
    """A source whose pairs stay in memory, as many as fit.

    Args:
        source: the pairs.
        budget: bytes that may be kept; pairs beyond are read each time. None: all are kept.
    """

    def __init__(self, source: LabelledPairs, budget: int | None = None) -> None:
        self._source = source
        self._left = sys.maxsize if budget is None else budget
        self._kept: dict[int, LabelledPair] = {}

    @property
    def names(self) -> Sequence[str]:
        """Names, one per pair."""
        return self._source.names

    def pair(self, index: int) -> LabelledPair:
        """Return one pair, from memory if it is there."""
        if index in self._kept:
            return self._kept[index]
        pair = self._source.pair(index)
        if pair.nbytes <= self._left:
            self._left -= pair.nbytes
            self._kept[index] = pair
        return pair


@dataclass(frozen=True)
class Joined:
    """Several sources one after the other."""

    sources: tuple[LabelledPairs, ...]

    @property
    def names(self) -> Sequence[str]:
        """Names of all pairs, in order."""
        return [name for source in self.sources for name in source.names]

    def pair(self, index: int) -> LabelledPair:
        """Return one pair."""
        for source in self.sources:
            if index < len(source.names):
                return source.pair(index)
            index -= len(source.names)
        raise IndexError(index)


@dataclass(frozen=True)
class SplitReport:
    """Findings of a check of one split."""

    split: str
    pairs: int
    """Pairs with all their files, broken ones included."""
    sizes: dict[str, int]
    """Pairs by size, ``rows x cols``."""
    changed: int
    """Changed pixels."""
    pixels: int
    """Valid pixels."""
    broken: tuple[str, ...]
    """Lines about broken files, one per file."""


def check_pairs(split: str, source: LabelledPairs, lone: Sequence[str] = ()) -> SplitReport:
    """Read every pair of a source; count pairs, sizes and pixels, and list the broken files.

    Args:
        split: name of the split, for the report.
        source: the pairs.
        lone: faults that are known before a pair is read.
    """
    sizes: dict[str, int] = {}
    broken = list(lone)
    changed = pixels = 0
    for pair in _readable(source, broken):
        sizes[size_text(pair.shape)] = sizes.get(size_text(pair.shape), 0) + 1
        valid = np.ones(pair.shape, bool) if pair.valid is None else pair.valid
        changed += int(np.count_nonzero(pair.label & valid))
        pixels += int(np.count_nonzero(valid))
    return SplitReport(split, len(source.names), sizes, changed, pixels, tuple(broken))


def _readable(source: LabelledPairs, broken: list[str]) -> Iterator[LabelledPair]:
    for index in range(len(source.names)):
        try:
            yield source.pair(index)
        except DataError as error:
            broken += error.messages
