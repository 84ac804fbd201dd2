"""Colours and encodings of pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ussfc.pipeline.report.overviews import DateViews
from ussfc.pipeline.report.pictures import (
    CHANGE_COLOR,
    EMPTY_COLOR,
    color_bands,
    colored,
    data_address,
    enlarged,
    outlined,
    png,
    shrunk,
    stretch_ends,
    tinted,
    webp,
)

RNG = np.random.default_rng(3)
PICTURE = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
CHANGED = np.zeros((9, 7), bool)
CHANGED[2:7, 1:6] = True


def views(image: np.ndarray, valid: np.ndarray) -> DateViews:
    return DateViews(image, image, (valid, valid))


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["red", "green", "blue"], (0, 1, 2)),
        (["blue", "nir", "green", "red"], (3, 2, 0)),
        ([None, None, None], (0, 1, 2)),
        (["red", "green"], (0, 1, 1)),
        (["pan"], (0, 0, 0)),
    ],
)
def test_places_of_colours(names: list[str | None], places: tuple[int, int, int]) -> None:
    assert color_bands(names) == places


def test_ends_are_percentiles_of_both_dates() -> None:
    ramp = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(1, 100, 100)
    valid = np.ones((100, 100), bool)
    low, high = stretch_ends(views(ramp, valid), (0, 0, 0))
    assert low == pytest.approx([0.01] * 3, abs=1e-3)
    assert high == pytest.approx([0.99] * 3, abs=1e-3)


@pytest.mark.parametrize(
    "image", [np.full((1, 4, 4), 0.3, np.float32), np.full((1, 4, 4), np.nan, np.float32)]
)
def test_ends_are_apart(image: np.ndarray) -> None:
    valid = np.isfinite(image[0])
    low, high = stretch_ends(views(image, valid), (0, 0, 0))
    assert (high > low).all()


def test_numbers_without_data_are_grey_and_silent() -> None:
    image = np.array([[[0.0, 1.0, np.nan]]] * 3, np.float32)
    ends = np.zeros(3, np.float32), np.ones(3, np.float32)
    found = colored(image, np.array([[True, True, False]]), (0, 1, 2), ends)
    assert found.tolist() == [[[0] * 3, [255] * 3, list(EMPTY_COLOR)]]


def test_outline_is_the_edge_of_the_change() -> None:
    found = outlined(PICTURE, CHANGED)
    edge = CHANGED.copy()
    edge[3:6, 2:5] = False
    assert (found[edge] == CHANGE_COLOR).all()
    assert (found[~edge] == PICTURE[~edge]).all()


def test_tint_leaves_the_rest() -> None:
    found = tinted(PICTURE, CHANGED, 1)
    assert (found[CHANGED] == CHANGE_COLOR).all()
    assert (found[~CHANGED] == PICTURE[~CHANGED]).all()


@pytest.mark.parametrize("shape", [(1, 1), (9, 7), (1, 300)])
def test_lossless_pictures_keep_their_bytes(shape: tuple[int, int]) -> None:
    grey = RNG.integers(0, 256, shape, dtype=np.uint8)
    found = np.asarray(Image.open(io.BytesIO(webp(grey, lossless=True))).convert("RGB"))
    assert (found == grey[..., None]).all()


def test_sizes() -> None:
    assert enlarged(PICTURE, 21).shape == (27, 21, 3)
    assert enlarged(PICTURE, 2) is not None
    assert shrunk(PICTURE, 9) is PICTURE
    assert shrunk(PICTURE, 3).shape == (3, 2, 3)
    assert Image.open(io.BytesIO(png(Image.fromarray(PICTURE)))).size == (7, 9)


def test_addresses_hold_the_picture() -> None:
    assert data_address(b"abc") == "data:image/webp;base64,YWJj"
