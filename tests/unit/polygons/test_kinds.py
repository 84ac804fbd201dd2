"""Hints at the kind of a change, and the numbers that they follow from."""

from __future__ import annotations

import numpy as np
import pytest

from ussfc.pipeline.polygons.kinds import KINDS, hints

NAMES = ("red", "green", "blue", "nir")
GRASS = (700, 900, 800, 2800)
SOIL = (1900, 1500, 1250, 2300)
SITE = (1400, 1300, 1250, 1800)
ROOF = (2200, 2100, 2250, 2400)
WHITE_ROOF = (4000, 3800, 3700, 3900)
LAKE = (500, 700, 800, 300)


def hint(before: tuple[int, ...], after: tuple[int, ...], names: tuple[str, ...] = NAMES) -> str | None:
    values = (np.array(each, float)[: len(names), None] for each in (before, after))
    (number,) = hints(names, *values, (0.0, 3500.0)).kind
    return None if number < 0 else KINDS[number]


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (SOIL, LAKE, "water"),
        (SOIL, GRASS, "vegetated"),
        (GRASS, SOIL, "cleared"),
        (GRASS, SITE, "cleared"),
        (SITE, SOIL, "cleared"),
        (GRASS, ROOF, "built up"),
        (GRASS, WHITE_ROOF, "built up"),
        (SITE, ROOF, "built up"),
        (SOIL, SITE, "built up"),
        (SITE, SITE, "other"),
        (LAKE, LAKE, "other"),
    ],
)
def test_kinds(before: tuple[int, ...], after: tuple[int, ...], kind: str) -> None:
    assert hint(before, after) == kind


def test_without_near_infrared_brightness_and_colour_decide() -> None:
    assert hint(GRASS, WHITE_ROOF, NAMES[:3]) == "built up"
    assert hint(SITE, SITE, NAMES[:3]) == "other"
    found = hints(NAMES[:3], np.ones((3, 1)), np.ones((3, 1)), (0.0, 1.0))
    assert np.isnan(found.ndvi_change).all()


def test_without_pixels_there_is_no_kind() -> None:
    unknown = np.full((4, 2), np.nan)
    assert hints(NAMES, unknown, unknown, (0.0, 1.0)).kind.tolist() == [-1, -1]
    assert hints((), np.zeros((0, 2)), np.zeros((0, 2)), (0.0, 1.0)).kind.tolist() == [-1, -1]


def test_differences_are_after_minus_before() -> None:
    before, after = (np.array(each, float)[:, None] for each in (GRASS, SOIL))
    found = hints(NAMES, before, after, (0.0, 3500.0))
    assert found.brightness_change == pytest.approx((1900 + 1500 + 1250) / 3 - 800)
    assert found.ndvi_change == pytest.approx(400 / 4200 - 2100 / 3500)


def test_negative_numbers_have_no_ratio() -> None:
    assert np.isnan(hints(NAMES, *(np.array([[-5.0], [1], [1], [9]]),) * 2, (0.0, 1.0)).ndvi_change).all()
