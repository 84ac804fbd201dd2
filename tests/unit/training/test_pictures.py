"""Small pictures: colours, frames, files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ussfc.metrics import Confusion, Tally
from ussfc.training import pictures


def test_errors_have_their_colours() -> None:
    answer = np.array([[True, True, False], [False, True, False]])
    truth = np.array([[True, False, True], [False, True, True]])
    valid = np.array([[True, True, True], [True, False, False]])
    found, claimed, missed, none, nodata = (
        (255, 255, 255),
        (230, 75, 53),
        (60, 120, 216),
        (0, 0, 0),
        (128, 128, 128),
    )
    drawn = pictures.errors(answer, truth, valid)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, [[found, claimed, missed], [none, nodata, nodata]])
    # Without a mask every pixel is valid.
    np.testing.assert_array_equal(pictures.errors(answer, truth)[1], [none, found, missed])


def test_a_row_stands_side_by_side_in_white() -> None:
    first, second = np.full((6, 5, 3), 10, np.uint8), np.full((6, 9, 3), 20, np.uint8)
    row = pictures.row([first, second])
    gap = pictures.GAP
    assert gap > 0
    assert row.shape == (6 + gap, 5 + 9 + 2 * gap, 3)
    assert row.dtype == np.uint8
    np.testing.assert_array_equal(row[:6, :5], first)
    np.testing.assert_array_equal(row[:6, 5 + gap : 5 + gap + 9], second)
    assert (row[6:] == 255).all()
    assert (row[:, 5 : 5 + gap] == 255).all()
    assert (row[:, -gap:] == 255).all()


def test_grey_goes_from_black_to_white() -> None:
    np.testing.assert_array_equal(pictures.grey(np.array([[False, True]])), [[[0] * 3, [255] * 3]])
    levels = pictures.grey(np.array([[0, 0.5, 1]], np.float32))
    assert levels.dtype == np.uint8
    np.testing.assert_allclose(levels[0, :, 0], [0, 127.5, 255], atol=0.5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_true_colour_maps_percentiles(dtype: type) -> None:
    # 0 to 99 in every band: the percentiles 1 and 99 are within one step of the ends.
    ramp = np.arange(100).reshape(10, 10)
    image = np.stack([ramp, ramp, ramp, np.full((10, 10), 255)]).astype(dtype)
    shown = pictures.true_colour(image)
    assert shown.shape == (10, 10, 3)
    assert shown.dtype == np.uint8
    # The fourth band is not drawn, and numbers beyond the percentiles do not wrap around.
    assert (shown[0, 0] == 0).all()
    assert (shown[9, 9] == 255).all()
    assert abs(int(shown[5, 0, 0]) - 255 * (50 - 1) / 97) < 3
    assert (np.diff(shown[..., 0].ravel().astype(int)) >= 0).all()


def test_true_colour_keeps_the_bands_apart() -> None:
    image = np.zeros((3, 2, 2), np.float32)
    image[0, 0, 0], image[1, 0, 1], image[2, 1, 0] = 1, 1, 1
    red, green, blue, black = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
    np.testing.assert_array_equal(pictures.true_colour(image), [[red, green], [blue, black]])


@pytest.mark.parametrize("bands", [1, 2])
def test_few_bands_become_grey(bands: int) -> None:
    image = np.zeros((bands, 2, 2), np.float32)
    image[0, 0, 0] = 1
    shown = pictures.true_colour(image)
    assert shown.shape == (2, 2, 3)
    np.testing.assert_array_equal(shown[0, 0], [255] * 3)
    assert shown.sum() == 3 * 255


def test_single_colours_do_not_divide_by_zero() -> None:
    assert (pictures.true_colour(np.full((3, 4, 4), 7, np.uint8)) == 0).all()


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_saved_pictures_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "errors.png"
    for seed in (0, 1):
        # The second time over the first file.
        drawn = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
        pictures.save(drawn, path)
        np.testing.assert_array_equal(read(path), drawn)
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_appears_only_when_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "errors.png"
    path.write_bytes(b"old")

    def fail(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        pictures.save(np.zeros((2, 2, 3), np.uint8), path)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("chosen", [Confusion(50, 10, 20, 120), Confusion(tn=5)])
def test_curves_without_points_are_drawn(tmp_path: Path, chosen: Confusion) -> None:
    path = tmp_path / "curve.png"
    tally = Tally.of(np.linspace(0, 1, 50, dtype=np.float32), np.arange(50) % 3 > 0)
    pictures.precision_recall(tally.curve() if chosen.tp else [], chosen, path)
    drawn = read(path)
    assert drawn.shape[0] == drawn.shape[1] > 300
    # The mark of the threshold in use is red; the curve, which is blue, is there only if it has points.
    assert (drawn[..., :3] == (230, 75, 53)).all(axis=-1).any()
    assert (drawn[..., :3] == (60, 120, 216)).all(axis=-1).any() == bool(chosen.tp)
    assert list(tmp_path.iterdir()) == [path]


def test_reliability_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "reliability.png"
    pictures.reliability([(0.05, 0.01, 9000), (0.62, 0.3, 40)], path)
    assert (read(path)[..., :3] == (60, 120, 216)).all(axis=-1).any()
    pictures.reliability([], path)
    assert list(tmp_path.iterdir()) == [path]


def test_two_evaluations_may_draw_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asides = []
    replace = os.replace
    monkeypatch.setattr(
        os, "replace", lambda source, target: (asides.append(source), replace(source, target))
    )
    for _ in range(2):
        pictures.save(np.zeros((2, 2, 3), np.uint8), tmp_path / "a.png")
        pictures.reliability([], tmp_path / "b.png")
    assert len(set(asides)) == 4
