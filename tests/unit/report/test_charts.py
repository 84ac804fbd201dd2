"""Plots as SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.report.charts import Axis, arrows, bars, curve, tile_map
from ussfc.pipeline.types import Box

HOSTILE = "<script>alert(1)</script> & \"'"
AXIS = Axis([(0, HOSTILE), (1, "1")], HOSTILE)


def parsed(text: str) -> ET.Element:
    assert "<script" not in text
    return ET.fromstring(text)


def shapes(found: ET.Element, tag: str, kind: str) -> list[ET.Element]:
    return [each for each in found.iter(tag) if each.get("class") == kind]


def test_bars_stand_for_counts() -> None:
    found = parsed(bars([0, 5, 10], AXIS, HOSTILE, ["a", HOSTILE, "c"]))
    heights = [float(bar.get("height", "")) for bar in shapes(found, "rect", "bar")]
    assert heights == [0.0, pytest.approx(heights[2] / 2, abs=0.1), max(heights)]
    assert found.find("title").text == HOSTILE  # type: ignore[union-attr]
    assert f"{HOSTILE}: 5" in [title.text for title in found.iter("title")]
    assert HOSTILE in [label.text for label in found.iter("text")]


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
def test_bars_stay_inside(counts: list[int]) -> None:
    found = parsed(bars(counts, Axis([], "x"), "x", [str(count) for count in counts]))
    for bar in shapes(found, "rect", "bar"):
        assert float(bar.get("y", "")) >= 11.9
        assert float(bar.get("height", "")) >= 0


@given(st.floats(1e-9, 1e12), st.floats(0, 1))
def test_curves_stay_inside(top: float, mark: float) -> None:
    found = parsed(curve([(0.1, top), (1, 0)], AXIS, top, HOSTILE, mark, HOSTILE))
    points = shapes(found, "polyline", "line")[0].get("points", "").split()
    assert all(0 <= float(each.split(",")[1]) <= 200 for each in points)
    assert len(shapes(found, "line", "mark")) == 1


def test_arrows_point_from_their_windows() -> None:
    found = parsed(arrows([(10, 20, 1, -2, True), (30, 40, 0, 0, False)], (50, 60), 5, HOSTILE))
    first = shapes(found, "g", "agrees")[0].find("line")
    assert first is not None
    assert [first.get(name) for name in ("x1", "y1", "x2", "y2")] == ["20.0", "10.0", "10.0", "15.0"]
    assert len(shapes(found, "g", "differs")) == 1


def test_failed_tiles_are_marked() -> None:
    found = parsed(tile_map(16, [Box(16, 0, 32, 16)], (40, 50), HOSTILE))
    assert [each.get("y") for each in shapes(found, "rect", "failed")] == ["16"]
    assert len(shapes(found, "line", "edge")) == 3 + 2
