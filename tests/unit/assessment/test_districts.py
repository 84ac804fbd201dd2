"""Changed area by district."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas
import pytest
import rasterio
import shapely

from tests.support.scenes import write_scene
from tests.support.stubs import StubRecipe
from ussfc.pipeline.assessment.districts import sum_districts
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.report.write import write_report
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run over 96 x 96 px of longitude and latitude."""
    folder = tmp_path_factory.mktemp("districts")
    write_scene(folder, "a", (200, 200))
    config = load_config(
        sets=["tiling.tile_size=64", "tiling.patch_size=32", "threshold=0.1", "registration=off"]
    )
    stub = Computation(detector=StubRecipe(32, 4, 1, 3))
    run(str(folder / "a_before.tif"), str(folder / "a_after.tif"), folder / "out", config, computation=stub)
    return folder / "out"


def halves(out: Path) -> geopandas.GeoDataFrame:
    with rasterio.open(out / "change.tif") as change:
        left, bottom, right, top = change.bounds
        crs = change.crs
    middle = (left + right) / 2
    shapes = [shapely.box(left, bottom, middle, top), shapely.box(middle, bottom, right, top)]
    return geopandas.GeoDataFrame({"name": ["west", "east"], "code": [7, 8]}, geometry=shapes, crs=crs)


def test_districts_that_part_the_scene_sum_up_to_it(out: Path, tmp_path: Path) -> None:
    halves(out).to_file(tmp_path / "halves.gpkg")
    found = sum_districts(out, str(tmp_path / "halves.gpkg"))
    assert [district.name for district in found.districts] == ["west", "east"]
    with rasterio.open(out / "change.tif") as change:
        classes = change.read(1)
    assert 0 < (classes == 1).sum() < classes.size
    assert sum(district.changed_pixels for district in found.districts) == (classes == 1).sum()
    polygons = geopandas.read_parquet(out / "changes.parquet")
    assert sum(district.changed for district in found.districts) == pytest.approx(
        polygons["area_m2"].sum(), rel=1e-5
    )
    table = pandas.read_csv(out / "districts.csv")
    assert list(table.columns) == ["name", "changed_m2", "classified_m2", "share", "changed_pixels"]
    layer = geopandas.read_parquet(out / "districts.parquet")
    assert (layer["changed_pixels"] == table["changed_pixels"]).all()
    assert layer.crs == polygons.crs


def test_pixels_count_where_their_centre_lies_inside(out: Path, tmp_path: Path) -> None:
    """A district on another CRS, that overlaps another one."""
    frame = halves(out)
    frame.loc[1, "geometry"] = frame.geometry[0].centroid.buffer(0.001)
    frame.to_crs("EPSG:32636").to_file(tmp_path / "a.geojson")
    found = sum_districts(out, str(tmp_path / "a.geojson"), "code")
    assert [district.name for district in found.districts] == ["7", "8"]
    with rasterio.open(out / "change.tif") as change:
        rows, cols = np.mgrid[: change.height, : change.width] + 0.5
        x, y = change.transform * (cols, rows)
        inside = shapely.contains_xy(frame.geometry[1], x, y)
        expected = int(((change.read(1) == 1) & inside).sum())
    assert abs(found.districts[1].changed_pixels - expected) <= 2


def test_report_has_a_section(out: Path, tmp_path: Path) -> None:
    halves(out).assign(name=["<b>west</b>", "east"]).to_file(tmp_path / "h.gpkg")
    sum_districts(out, str(tmp_path / "h.gpkg"))
    assert write_report(out)
    page = (out / "report.html").read_text("utf-8")
    assert "By district" in page
    assert "&lt;b&gt;west" in page
    assert not write_report(out)


@pytest.mark.parametrize(
    ("content", "by", "text"),
    [
        ({"type": "FeatureCollection", "features": []}, None, "holds 0 feature"),
        (
            {"type": "Feature", "properties": {"a": 1}, "geometry": {"type": "Point", "coordinates": [35.5, 33.8]}},
            None,
            "holds 1 feature\\(s\\) but no polygon",
        ),
        (
            {
                "type": "Feature", "properties": {"a": 1},
                "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]},
            },
            "b",
            "has no column b; it has a",
        ),
    ],
)  # fmt: skip
def test_files_that_are_no_districts_are_refused(
    out: Path, tmp_path: Path, content: object, by: str | None, text: str
) -> None:
    path = tmp_path / "d.geojson"
    path.write_text(json.dumps(content))
    with pytest.raises(ReadError, match=text):
        sum_districts(out, str(path), by)


def test_district_outside_the_scene_has_no_change(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "far.geojson"
    geopandas.GeoDataFrame({"name": ["far"]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326").to_file(
        path
    )
    found = sum_districts(out, str(path)).districts[0]
    assert (found.changed, found.classified, found.share) == (0, 0, 0)
