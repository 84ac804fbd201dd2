"""Maps of runs: complete, and of what is missing."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint

from tests.support.shown_runs import CHANGES, make_run, write_pair
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.report.view import RunView, open_view
from ussfc.pipeline.report.view_polygons import Filter
from ussfc.pipeline.report.write import write_report

EVERYTHING = (0.0, 0.0, 1e4, 1e4)


def opened(out: Path, review: Path | None = None) -> RunView:
    with ExitStack() as stack:
        return open_view(out, stack, review)


def assert_clicks_hit(view: RunView) -> None:
    assert view.polygons is not None
    for row in range(len(view.polygons)):
        point = view.polygons.outline(row).representative_point()
        assert view.polygons.at(point.y, point.x) == row


def test_grids_without_crs(bare: Path, tmp_path: Path) -> None:
    view = opened(bare, tmp_path / "review.parquet")
    assert_clicks_hit(view)
    assert view.facts()["crs"] is None
    assert view.within(EVERYTHING, Filter())["count"] == len(CHANGES)
    number = view.queue("size", Filter(), "all")["ids"][0]
    assert view.reviews is not None
    view.reviews.set(number, "accepted")
    (feature,) = json.loads(view.export())["features"]
    columns = [point[0] for point in feature["geometry"]["coordinates"][0]]
    assert max(columns) - min(columns) in (60, 90)


@pytest.mark.parametrize("content", [b"", b"PAR1 damaged PAR1"])
def test_map_without_polygons(own: Path, content: bytes) -> None:
    (own / "changes.parquet").write_bytes(content)
    view = opened(own)
    (line,) = view.absent
    assert line.startswith("polygons: ")
    assert "run `ussfc validate`" in line
    facts = view.facts()
    assert (facts["polygons"], facts["review"]) == (None, None)
    assert view.within(EVERYTHING, Filter()) == {"polygons": [], "count": 0}
    assert view.tiles.tile("before", 0, 0, 0) is not None


def test_map_without_dates(tmp_path: Path) -> None:
    out = make_run(tmp_path)
    (tmp_path / "scene_after.tif").unlink()
    view = opened(out)
    (line,) = view.absent
    assert line.startswith("both dates: ")
    assert not view.facts()["dates"]
    assert view.tiles.tile("before", 0, 0, 0) is None
    assert view.tiles.tile("probability", 0, 0, 0) is not None


def test_another_threshold_has_a_review_of_its_own(own: Path, bare: Path) -> None:
    view = opened(own)
    assert view.reviews is not None
    view.reviews.set(view.queue("size", Filter(), "all")["ids"][0], "unsure")
    with pytest.raises(StoreError, match="verdicts on polygons of another run or threshold"):
        opened(bare, own / "review.parquet")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["float", "control points"])
def test_kinds_of_images(tmp_path: Path, kind: str) -> None:
    """Pages and maps hold for images that are no plain bytes on a north-up grid; no warning of NumPy comes up."""
    pair = write_pair(tmp_path)
    for path in pair:
        with rasterio.open(path) as source:
            values, profile = source.read(), dict(source.profile)
        points = []
        if kind == "float":
            values = np.where(values == 0, np.nan, values).astype(np.float32)
            profile |= {"dtype": "float32", "nodata": np.nan}
        else:
            place, crs = profile.pop("transform"), profile.pop("crs")
            corners = [(row, column) for row in (0, 400) for column in (0, 560)]
            points = [GroundControlPoint(row, column, *(place * (column, row))) for row, column in corners]
        with rasterio.open(path, "w", **profile) as target:
            if points:
                target.gcps = (points, crs)
            target.write(values)
    out = make_run(tmp_path, pair=pair)
    assert write_report(out)
    view = opened(out)
    assert view.absent == ()
    assert_clicks_hit(view)
    assert view.tiles.tile("before", 1, 0, 0) is not None
