"""Numbers of masks that hide the ground."""

from __future__ import annotations

import numpy as np
import pytest

from ussfc.pipeline.reading.mask_rules import KINDS, band_of, kind_of, rule_of


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["T36SYC_20200817T081611_SCL_20m.jp2"], "scl"),
        (["scl.tif"], "scl"),
        (["B04", "SCL", "stack.tif"], "scl"),
        (["Scene classification map", "a.tif"], "scl"),
        (["LC08_L2SP_174037_20200817_20200920_02_T1_QA_PIXEL.TIF"], "qa_pixel"),
        (["qa_pixel", "a.tif"], "qa_pixel"),
        (["20200817_081611_1009_3B_udm2_clip.tif"], "udm2"),
        (["20200817_ortho_udm2.tif"], "udm2"),
        (["S2A_MSIL2A_OCM_v1_3_0.tif"], "omnicloudmask"),
        (["scene_OmniCloudMask.tif"], "omnicloudmask"),
        # Collection 1 of Landsat has other bits in a band of nearly that name, and words may hold the letters.
        (["LC08_pixel_qa.tif", "muscle.tif", "rocmask.tif", "udm.tif", "cloud.tif", "mask.tif"], None),
    ],
)
def test_names_state_the_kind(names: list[str], expected: str | None) -> None:
    assert kind_of(names) == expected


@pytest.mark.parametrize(
    ("kind", "numbers", "masked"),
    [
        ("scl", range(12), {0, 1, 3, 8, 9, 10, 11}),
        ("omnicloudmask", (0, 1, 2, 3, 255), {1, 2, 3, 255}),
        ("udm2", (0, 1), {0}),
        ("nonzero", (0, 1, 7, 255), {1, 7, 255}),
        # Clear land and water; then fill, dilated cloud, cloud of high confidence, shadow, snow, cirrus.
        (
            "qa_pixel",
            (21824, 21952, 1, 21826, 22280, 23888, 30048, 54596),
            {1, 21826, 22280, 23888, 30048, 54596},
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_numbers_that_hide_the_ground(
    kind: str, numbers: tuple[int, ...], masked: set[int], dtype: str
) -> None:
    values = np.array([list(numbers)], dtype)
    found = values[KINDS[kind].rule.masked(values)]  # type: ignore[arg-type]
    assert set(found.astype(int).tolist()) == masked


def test_unknown_numbers_are_masked_where_all_but_zero_are() -> None:
    values = np.array([[0, np.nan, 1]], np.float32)
    assert rule_of("nonzero", None).masked(values).tolist() == [[False, True, True]]


def test_given_classes_take_the_place_of_the_kind() -> None:
    rule = rule_of("scl", [8, 9])
    assert rule.masked(np.arange(12, dtype=np.uint8)[None]).nonzero()[1].tolist() == [8, 9]


@pytest.mark.parametrize(
    ("kind", "names", "band"),
    [
        ("scl", [None], 1),
        ("scl", ["B04", "B03", "SCL"], 3),
        ("scl", [None, None], None),
        ("udm2", ["cloud", "Clear"], 2),
        ("udm2", [None] * 8, 1),
    ],
)
def test_band_is_found_by_its_name(kind: str, names: list[str | None], band: int | None) -> None:
    assert band_of(kind, names) == band
