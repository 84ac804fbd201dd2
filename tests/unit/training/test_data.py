"""Data sets of pictures: layouts, labels, and messages about unusable files."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ussfc.errors import DataError
from ussfc.training.data import (
    Cached,
    Joined,
    LabelledPair,
    check_pairs,
    mask_of,
    match_split,
    natural_order,
    open_split,
    read_label,
)

SHAPE = (16, 24)
FOLDERS = {"levir-cd": ("A", "B", "label"), "cdd": ("A", "B", "OUT"), "dsifn-cd": ("t1", "t2", "mask")}


def write(file: Path, pixels: np.ndarray, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)
    return file


def photo(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Draw (rows, cols, 3), in blocks of 8 pixels of one colour, which a JPEG keeps."""
    blocks = np.random.default_rng(seed).integers(0, 256, (shape[0] // 8, shape[1] // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def mask(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Draw (rows, cols) bool; its edges cut through the blocks of a JPEG."""
    change = np.zeros(shape, bool)
    change[3:9, 5:14] = True
    return change


def write_pair(folder: Path, name: str, seed: int = 0, kind: str = "levir-cd") -> tuple[Path, Path, Path]:
    before, after, label = FOLDERS[kind]
    return (
        write(folder / before / f"{name}.png", photo(2 * seed)),
        write(folder / after / f"{name}.png", photo(2 * seed + 1)),
        write(folder / label / f"{name}.png", mask().astype(np.uint8) * 255),
    )


def refusal(call: Callable[[], object], *parts: object) -> str:
    """Return the message about unusable data: one line with all parts."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message


@pytest.mark.parametrize(
    ("kind", "root", "picture", "label", "one"),
    [
        ("levir-cd", "", "png", "png", 255),
        ("cdd", "", "jpg", "jpg", 255),
        ("cdd", "ChangeDetectionDataset/Real/subset", "jpg", "jpg", 255),
        ("cdd", "subset", "jpg", "jpg", 255),
        ("dsifn-cd", "", "jpg", "png", 1),
        ("dsifn-cd", "", "jpg", "png", 255),
        ("dsifn-cd", "", "jpg", "tif", 1),
    ],
)
def test_every_layout_is_read(
    tmp_path: Path, kind: str, root: str, picture: str, label: str, one: int
) -> None:
    folders = FOLDERS[kind]
    # A JPEG without thinned colours keeps flat blocks to a few steps.
    options = {"quality": 95, "subsampling": 0} if picture == "jpg" else {}
    splits = {"train": 0, "val": 2, "test": 4}
    for split, seed in splits.items():
        base = tmp_path / root / split
        write(base / folders[0] / f"img1.{picture}", photo(seed), **options)
        write(base / folders[1] / f"img1.{picture}", photo(seed + 1), **options)
        # Every split has its own label.
        write(base / folders[2] / f"img1.{label}", np.roll(mask(), seed, axis=0).astype(np.uint8) * one)
    for split, seed in splits.items():
        pairs = open_split(kind, tmp_path, split)
        assert (pairs.kind, pairs.split, pairs.names) == (kind, split, ["img1"])
        pair = pairs.pair(0)
        assert (pair.name, pair.shape, pair.valid) == ("img1", SHAPE, None)
        for found, expected in ((pair.before, photo(seed)), (pair.after, photo(seed + 1))):
            assert (found.shape, found.dtype) == ((3, *SHAPE), np.uint8)
            off = np.abs(found.transpose(1, 2, 0).astype(int) - expected).max()
            assert off <= (0 if picture == "png" else 5)
        assert pair.label.dtype == np.bool_
        np.testing.assert_array_equal(pair.label, np.roll(mask(), seed, axis=0))


def test_png_keeps_every_value_in_bands_rows_cols(tmp_path: Path) -> None:
    write_pair(tmp_path / "train", "a")
    colours = np.random.default_rng(5).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    write(tmp_path / "train/A/a.png", colours)
    found = open_split("levir-cd", tmp_path, "train").pair(0).before
    for band in range(3):
        np.testing.assert_array_equal(found[band], colours[..., band])
    # A grey picture has three equal bands, a transparent one loses the fourth.
    write(tmp_path / "train/A/a.png", colours[..., 0])
    found = open_split("levir-cd", tmp_path, "train").pair(0).before
    np.testing.assert_array_equal(found, np.stack([colours[..., 0]] * 3))
    write(tmp_path / "train/A/a.png", np.dstack([colours, np.full(SHAPE, 9, np.uint8)]))
    found = open_split("levir-cd", tmp_path, "train").pair(0).before
    np.testing.assert_array_equal(found, colours.transpose(2, 0, 1))


def test_pairs_are_in_natural_order(tmp_path: Path) -> None:
    names = ["img10", "img2", "img1", "Img3", "7", "10", "img2_b10", "img2_b9"]
    for seed, name in enumerate(names):
        write_pair(tmp_path / "test", name, seed)
    pairs = open_split("levir-cd", tmp_path, "test")
    expected = ["7", "10", "img1", "img2", "img2_b9", "img2_b10", "Img3", "img10"]
    assert pairs.names == expected
    # The pictures are in the order of the names.
    for index, name in enumerate(expected):
        pair = pairs.pair(index)
        assert pair.name == name
        np.testing.assert_array_equal(pair.after.transpose(1, 2, 0), photo(2 * names.index(name) + 1))


def test_natural_order_is_total(tmp_path: Path) -> None:
    # Crops are drawn by index: with another order in each process no training could be repeated.
    names = [width * "0" + "1" for width in range(12)]
    for name in names:
        write_pair(tmp_path / "test", name)
    assert open_split("levir-cd", tmp_path, "test").names == sorted(names)


def test_any_name_has_a_place_in_the_order() -> None:
    assert natural_order("1²") > natural_order("1")


def test_partners_are_matched_by_stem(tmp_path: Path) -> None:
    write(tmp_path / "val/A/x.y_1.PNG", photo(0), format="PNG")
    write(tmp_path / "val/B/x.y_1.jpeg", photo(1))
    write(tmp_path / "val/label/x.y_1.tiff", mask())
    (tmp_path / "val/A/Thumbs.db").write_bytes(b"x")
    (tmp_path / "val/B/.x.png").write_bytes(b"x")
    (tmp_path / "val/label/readme.txt").write_bytes(b"x")
    pairs = open_split("levir-cd", tmp_path, "val")
    assert pairs.names == ["x.y_1"]
    assert [file.name for file in pairs.files[0]] == ["x.y_1.PNG", "x.y_1.jpeg", "x.y_1.tiff"]
    np.testing.assert_array_equal(pairs.pair(0).label, mask())


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_labels_are_split_at_128(tmp_path: Path, quality: int) -> None:
    file = write(tmp_path / "a.jpg", mask((64, 64)).astype(np.uint8) * 255, quality=quality)
    with Image.open(file) as image:
        assert np.unique(np.asarray(image)).size > 2
    np.testing.assert_array_equal(read_label(file), mask((64, 64)))


@pytest.mark.parametrize(("grey", "change"), [(127, False), (128, True)])
def test_the_smallest_grey_that_is_change(tmp_path: Path, grey: int, change: bool) -> None:
    file = write(tmp_path / "a.jpg", np.full((8, 8), grey, np.uint8), quality=100)
    with Image.open(file) as image:
        assert set(np.asarray(image).ravel()) == {grey}
    assert (read_label(file) == change).all()
    # In colour as in grey.
    write(file, np.full((8, 8, 3), grey, np.uint8), quality=100)
    assert (read_label(file) == change).all()


def palette(change: np.ndarray, one: int) -> Image.Image:
    """Draw classes 0 and ``one`` as yellow and blue, whose grey values are neither."""
    image = Image.fromarray(change.astype(np.uint8) * one, "L")
    image.putpalette([255, 255, 0] + [0, 0, 255] * 255)
    assert image.mode == "P"
    return image


@pytest.mark.parametrize(
    "label",
    [
        lambda change: Image.fromarray(change.astype(np.uint8)),
        lambda change: Image.fromarray(change.astype(np.uint8) * 255),
        lambda change: Image.fromarray(change),
        lambda change: palette(change, 1),
        lambda change: palette(change, 255),
        lambda change: Image.fromarray(np.dstack([change.astype(np.uint8) * 255] * 3)),
        lambda change: Image.fromarray(
            np.dstack([change.astype(np.uint8) * 255] * 3 + [np.full(SHAPE, 9, np.uint8)])
        ),
        lambda change: Image.fromarray(change.astype(np.uint16)),
    ],
    ids=["0-1", "0-255", "1-bit", "palette-1", "palette-255", "colours", "transparent", "16-bit"],
)
@pytest.mark.parametrize("change", [mask(), np.zeros(SHAPE, bool), np.ones(SHAPE, bool)])
def test_labels_of_every_mode(
    tmp_path: Path, label: Callable[[np.ndarray], Image.Image], change: np.ndarray
) -> None:
    label(change).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), change)


@pytest.mark.parametrize(
    ("values", "listed"),
    [
        ([0, 7], "values 0, 7;"),
        ([0, 254], "values 0, 254;"),
        ([0, 1, 255], "values 0, 1, 255;"),
        ([1, 255], "values 1, 255;"),
        (list(range(6)), "values 0, 1, 2, 3, 4, 5;"),
        (list(range(7)), "values 0, 1, 2, 3, 4, 5, ...;"),
    ],
)
def test_odd_label_values_are_named(tmp_path: Path, values: list[int], listed: str) -> None:
    files = write_pair(tmp_path / "train", "a")
    odd = np.zeros(SHAPE, np.uint8)
    odd.flat[: len(values)] = values
    # 0 must not come in by itself.
    odd.flat[len(values) :] = values[0]
    write(files[2], odd)
    pairs = open_split("levir-cd", tmp_path, "train")
    refusal(lambda: pairs.pair(0), files[2], listed, "0 and 1, or 0 and 255")


@pytest.mark.parametrize(
    ("values", "listed"), [([0, 0.5, 1], "0, 0.5, 1"), ([0, np.nan], "nan"), ([-1, 0], "-1, 0")]
)
def test_masks_of_other_numbers_are_refused(values: list[float], listed: str) -> None:
    refusal(lambda: mask_of(np.array(values, np.float32), "a.tif"), "a.tif", listed)


@pytest.mark.parametrize("gone", range(3))
@pytest.mark.parametrize("kind", FOLDERS)
def test_missing_partners_are_named(tmp_path: Path, kind: str, gone: int) -> None:
    for seed in range(4):
        files = write_pair(tmp_path / "train", f"img{seed}", seed, kind)
        if seed in (1, 3):
            files[gone].unlink()
    folder = tmp_path / "train" / FOLDERS[kind][gone]
    there = tmp_path / "train" / FOLDERS[kind][1 if gone == 0 else 0]
    refusal(lambda: open_split(kind, tmp_path, "train"), there / "img1.png", folder, "add it", "1 more")
    pairs, lone = match_split(kind, tmp_path, "train")
    assert pairs.names == ["img0", "img2"]
    assert len(lone) == 2
    assert all(str(there / f"img{seed}.png") in line for seed, line in zip((1, 3), lone, strict=True))


@pytest.mark.parametrize("odd", [1, 2])
@pytest.mark.parametrize("shape", [(16, 32), (8, 24), (24, 16)])
def test_other_sizes_are_named(tmp_path: Path, odd: int, shape: tuple[int, int]) -> None:
    files = write_pair(tmp_path / "train", "a")
    write(files[odd], photo(1, shape) if odd == 1 else mask(shape))
    pairs = open_split("levir-cd", tmp_path, "train")
    message = refusal(lambda: pairs.pair(0), files[0], f"{shape[0]} x {shape[1]}", "16 x 24", "one size")
    assert message.startswith(str(files[odd]))


@pytest.mark.parametrize("broken", range(3))
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("how", ["empty", "text", "cut", "folder", "pipe"])
# Pillow warns of cut TIFFs before it refuses them.
@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Truncated File):UserWarning")
def test_unreadable_pictures_are_named(tmp_path: Path, broken: int, suffix: str, how: str) -> None:
    files = list(write_pair(tmp_path / "train", "a"))
    files[broken].unlink()
    file = write(files[broken].with_suffix(f".{suffix}"), photo(1) if broken < 2 else mask())
    content = file.read_bytes()
    file.unlink()
    if how == "folder":
        file.mkdir()
    elif how == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(
            {"empty": b"", "text": b"<html>404</html>", "cut": content[: len(content) * 2 // 3]}[how]
        )
    pairs = open_split("levir-cd", tmp_path, "train")
    message = refusal(lambda: pairs.pair(0), "cannot be read as a picture", "get the file again")
    assert message.startswith(f"{file}: ")


@pytest.mark.parametrize("broken", [0, 2])
def test_one_damaged_byte_is_found(tmp_path: Path, broken: int) -> None:
    files = list(write_pair(tmp_path / "train", "a"))
    files[broken].unlink()
    file = write(files[broken].with_suffix(".tif"), photo(1) if broken < 2 else mask())
    content = bytearray(file.read_bytes())
    # StripOffsets (273) of type 11 instead of 4: a float.
    content[content.index(struct.pack("<HH", 273, 4)) + 2] = 11
    file.write_bytes(content)
    pairs = open_split("levir-cd", tmp_path, "train")
    refusal(lambda: pairs.pair(0), file, "get the file again")


@pytest.mark.parametrize("gone", range(3))
def test_vanished_files_are_named(tmp_path: Path, gone: int) -> None:
    files = write_pair(tmp_path / "train", "a")
    pairs = open_split("levir-cd", tmp_path, "train")
    files[gone].unlink()
    refusal(lambda: pairs.pair(0), files[gone], "no such file", "check the data set")


@pytest.mark.parametrize(("kind", "folder"), [(k, f) for k, names in FOLDERS.items() for f in names])
def test_missing_folders_are_named(tmp_path: Path, kind: str, folder: str) -> None:
    write_pair(tmp_path / "train", "a", kind=kind)
    shutil.rmtree(tmp_path / "train" / folder)
    layout = "{train,val,test}/{" + ",".join(FOLDERS[kind]) + "}"
    refusal(
        lambda: open_split(kind, tmp_path, "train"), tmp_path / "train", f"no folder {folder} in it", layout
    )
    refusal(lambda: open_split(kind, tmp_path, "val"), tmp_path, "no folder val in it", layout)


def test_missing_splits_are_named(tmp_path: Path) -> None:
    below = tmp_path / "ChangeDetectionDataset/Real/subset"
    write_pair(below / "train", "a", kind="cdd")
    refusal(lambda: open_split("cdd", tmp_path, "test"), below, "no folder test in it")


def test_missing_data_sets_are_named(tmp_path: Path) -> None:
    refusal(lambda: open_split("levir-cd", tmp_path / "none", "train"), tmp_path / "none", "no such folder")
    known = refusal(lambda: open_split("levir", tmp_path, "train"), "'levir'", "not known")
    assert all(kind in known for kind in (*FOLDERS, "geotiff"))
    for folder in FOLDERS["levir-cd"]:
        (tmp_path / "train" / folder).mkdir(parents=True)
    (tmp_path / "train/A/readme.txt").write_bytes(b"x")
    refusal(lambda: open_split("levir-cd", tmp_path, "train"), tmp_path / "train/A", "no pictures", "empty")


@pytest.mark.parametrize("folder", FOLDERS["levir-cd"])
def test_two_files_of_one_stem_are_refused(tmp_path: Path, folder: str) -> None:
    write_pair(tmp_path / "train", "a")
    double = write(tmp_path / "train" / folder / "a.tif", mask())
    refusal(lambda: open_split("levir-cd", tmp_path, "train"), double, "a.png", "remove one of the two")


def test_a_check_counts_what_is_there(tmp_path: Path) -> None:
    write_pair(tmp_path / "train", "a")
    write_pair(tmp_path / "train", "b")
    write(tmp_path / "train/A/c.png", photo(1, (8, 16)))
    write(tmp_path / "train/B/c.png", photo(2, (8, 16)))
    write(tmp_path / "train/label/c.png", np.eye(8, 16, dtype=np.uint8))
    report = check_pairs("train", open_split("levir-cd", tmp_path, "train"))
    assert (report.split, report.pairs, report.broken) == ("train", 3, ())
    assert report.sizes == {"16 x 24": 2, "8 x 16": 1}
    # Twice 6 rows by 9 columns of change, and a diagonal of 8.
    assert (report.changed, report.pixels) == (2 * 54 + 8, 2 * 16 * 24 + 8 * 16)


def test_a_check_names_every_broken_file(tmp_path: Path) -> None:
    files = [write_pair(tmp_path / "train", f"img{seed}", seed) for seed in range(1, 7)]
    files[0][0].write_bytes(b"x")
    write(files[1][1], photo(1, (8, 8)))
    files[2][2].write_bytes(files[2][2].read_bytes()[:50])
    write(files[3][2], np.full(SHAPE, 7, np.uint8))
    files[5][1].unlink()
    report = check_pairs("train", *match_split("levir-cd", tmp_path, "train"))
    expected = [files[5][0], files[0][0], files[1][1], files[2][2], files[3][2]]
    assert [line.split(": ")[0] for line in report.broken] == [str(file) for file in expected]
    # img6 is no pair; of the five others img5 alone can be read.
    assert (report.pairs, report.sizes, report.changed) == (5, {"16 x 24": 1}, 54)
    assert report.pixels == 16 * 24


def test_check_names_every_file_of_a_broken_pair(tmp_path: Path) -> None:
    files = write_pair(tmp_path / "train", "a")
    for file in files:
        file.write_bytes(b"x")
    broken = check_pairs("train", open_split("levir-cd", tmp_path, "train")).broken
    assert all(any(line.startswith(f"{file}: ") for line in broken) for file in files), broken


class Source:
    """Square pairs of ``sizes`` pixels; it counts the readings."""

    def __init__(self, names: Sequence[str], sizes: Sequence[int], valid: np.ndarray | None = None) -> None:
        self.names = names
        self.sizes = sizes
        self.valid = valid
        self.read: list[int] = []

    def pair(self, index: int) -> LabelledPair:
        self.read.append(index)
        size = self.sizes[index]
        before, after = (np.full((3, size, size), 10 * index + date, np.uint8) for date in (0, 1))
        return LabelledPair(self.names[index], before, after, np.ones((size, size), bool), self.valid)


def test_invalid_pixels_are_not_checked() -> None:
    valid = np.zeros((4, 4), bool)
    valid[0] = True
    report = check_pairs("scenes", Source("a", [4], valid), ("b.tif: lone",))
    assert (report.changed, report.pixels, report.broken) == (4, 4, ("b.tif: lone",))


def test_bytes_of_a_pair() -> None:
    # Two dates of 3 bands, a label, and the mask where there is one.
    assert Source("a", [4]).pair(0).nbytes == 7 * 16
    assert Source("a", [4], np.ones((4, 4), bool)).pair(0).nbytes == 8 * 16


# Pairs of 7 * 16, 7 * 64 and 7 * 16 bytes, each asked for three times.
@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (0, []),
        (7 * 16 - 1, []),
        (7 * 16, [0]),
        (7 * 32, [0, 2]),
        (7 * 80 - 1, [0, 2]),
        (7 * 80, [0, 1]),
        (7 * 96, [0, 1, 2]),
    ],
)
def test_the_cache_keeps_what_fits_its_budget(budget: int, kept: list[int]) -> None:
    source = Source("abc", [4, 8, 4])
    cached = Cached(source, budget)
    assert list(cached.names) == ["a", "b", "c"]
    assert source.read == []
    for _ in range(3):
        for index in range(3):
            found, expected = cached.pair(index), Source("abc", [4, 8, 4]).pair(index)
            assert found.name == expected.name
            for part in ("before", "after", "label"):
                np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
    assert [source.read.count(index) for index in range(3)] == [1 if i in kept else 3 for i in range(3)]


def test_the_cache_remembers_no_failure(tmp_path: Path) -> None:
    files = write_pair(tmp_path / "train", "a")
    content = files[1].read_bytes()
    files[1].write_bytes(b"x")
    cached = Cached(open_split("levir-cd", tmp_path, "train"), 10**6)
    refusal(lambda: cached.pair(0), files[1])
    files[1].write_bytes(content)
    np.testing.assert_array_equal(cached.pair(0).after.transpose(1, 2, 0), photo(1))


def test_joined_sources_are_counted_through() -> None:
    first, none, second = Source("ab", [4, 4]), Source("", []), Source("cde", [8, 8, 8])
    joined = Joined((first, none, second))
    assert joined.names == ["a", "b", "c", "d", "e"]
    assert [joined.pair(index).name for index in range(5)] == joined.names
    assert (first.read, none.read, second.read) == ([0, 1], [], [0, 1, 2])
    with pytest.raises(IndexError):
        joined.pair(5)
    with pytest.raises(IndexError):
        Joined(()).pair(0)
