"""The index of a batch: valid STAC that its reader follows, footprints on the globe, times, products."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pystac.validation
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from ussfc.pipeline.batches.collection import COLLECTION, collection, pair_item
from ussfc.pipeline.runs.manifest import Counts, GridRecord, InputRecord, InputRecords, ModelRecord, RunRecord
from ussfc.pipeline.storage import layout
from ussfc.pipeline.tiling.grid import grid_record

MADE = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)
CITY = GeoBox.from_bbox((730_000, 3_750_000, 737_680, 3_757_680), "EPSG:32636", resolution=10)
LOCAL = 'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
FIELDS = {
    "counts": {"changed_pixels": 3, "unchanged_pixels": 9, "nodata_pixels": 4},
    "products": {"change.tif": {}, "probability.tif": {}, "changes.parquet": {}},
}


def manifest(
    grid: GeoBox = CITY, before: str | None = None, after: str | None = None, **fields: Any
) -> RunRecord:
    """Return the part of a run's record that an index reads."""
    content = {"complete": True} | FIELDS | fields
    return RunRecord.model_construct(
        complete=content["complete"],
        grid=GridRecord(**grid_record(grid)),
        inputs=InputRecords.model_construct(
            before=InputRecord.model_construct(acquired=before),
            after=InputRecord.model_construct(acquired=after),
        ),
        model=ModelRecord.model_construct(name="ussfc-s2-rgb"),
        counts=Counts.model_construct(**content["counts"]),
        products=content["products"],
    )


def item_of(*args: Any, name: str = "a", **fields: Any) -> dict[str, Any]:
    """A valid item as its file holds it."""
    item = json.loads(json.dumps(pair_item(name, manifest(*args, **fields), MADE)))
    # The schema of the projection extension lies on the web.
    pystac.validation.validate_dict(item, extensions=[])
    return dict(item)


def pixel_area(grid: GeoBox) -> GeoBox:
    return GeoBox(grid.shape, grid.affine, None)


def test_item_has_place_model_and_share() -> None:
    item = item_of()
    assert item["stac_extensions"] == ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"]
    properties = item["properties"]
    assert properties["proj:code"] == "EPSG:32636"
    assert "proj:wkt2" not in properties
    assert properties["proj:shape"] == [768, 768]
    assert properties["proj:transform"] == [10, 0, 730_000, 0, -10, 3_757_680]
    assert properties["ussfc:model"] == "ussfc-s2-rgb"
    assert properties["ussfc:changed_share"] == 0.25
    assert properties["ussfc:complete"] is True
    assert item_of(complete=False)["properties"]["ussfc:complete"] is False
    assert {key: (asset["href"], asset["type"], asset["roles"]) for key, asset in item["assets"].items()} == {
        "change": ("./change.tif", "image/tiff; application=geotiff; profile=cloud-optimized", ["data"]),
        "probability": (
            "./probability.tif",
            "image/tiff; application=geotiff; profile=cloud-optimized",
            ["data"],
        ),
        "changes": ("./changes.parquet", "application/vnd.apache.parquet", ["data"]),
    }
    assert all(asset["title"] for asset in item["assets"].values())


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("changes.gpkg", "application/geopackage+sqlite3"),
        ("changes.fgb", "application/vnd.flatgeobuf"),
        ("changes.geojson", "application/geo+json"),
    ],
)
def test_layer_has_the_media_type_of_its_format(file: str, kind: str) -> None:
    assets = item_of(products={file: {}})["assets"]
    assert {key: (asset["href"], asset["type"]) for key, asset in assets.items()} == {
        "changes": (f"./{file}", kind)
    }


def test_every_layer_is_an_asset() -> None:
    assets = item_of(products={"changes.parquet": {}, "changes.gpkg": {}, "changes.geojson": {}})["assets"]
    assert {key: asset["href"] for key, asset in assets.items()} == {
        "changes": "./changes.parquet",
        "changes-gpkg": "./changes.gpkg",
        "changes-geojson": "./changes.geojson",
    }


def test_item_without_valid_pixels_or_products() -> None:
    item = item_of(counts={"changed_pixels": 0, "unchanged_pixels": 0})
    assert "ussfc:changed_share" not in item["properties"]
    assert item_of(products={})["assets"] == {}


@pytest.mark.parametrize(
    ("grid", "code", "wkt"),
    [
        pytest.param(pixel_area(CITY), None, False, id="pixels"),
        pytest.param(GeoBox(CITY.shape, CITY.affine, CRS(LOCAL)), None, True, id="a site's own coordinates"),
        pytest.param(
            GeoBox.from_bbox((-900_000, -200_000, 100_000, 800_000), "EPSG:3413", resolution=1000), "EPSG:3413",
            False, id="around a pole",
        ),
        pytest.param(
            GeoBox.from_bbox((1e9, 0, 1e9 + 100, 100), "EPSG:32636", resolution=10), "EPSG:32636", False,
            id="beyond the projection",
        ),
    ],
)  # fmt: skip
def test_grid_off_the_globe_has_no_geometry(grid: GeoBox, code: str | None, wkt: bool) -> None:
    item = item_of(grid)
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["properties"]["proj:code"] == code
    assert ("proj:wkt2" in item["properties"]) == wkt


def test_crs_without_a_code_is_given_as_wkt() -> None:
    crs = CRS("+proj=laea +lat_0=33.9 +lon_0=35.5 +ellps=GRS80")
    item = item_of(GeoBox.from_bbox((0, 0, 1000, 1000), crs, resolution=10))
    assert item["properties"]["proj:code"] is None
    assert CRS(item["properties"]["proj:wkt2"]) == crs
    assert item["bbox"][:2] == pytest.approx([35.5, 33.9], abs=1e-6)


@settings(max_examples=12)
@given(
    lon=st.floats(-180, 179.99),
    lat=st.floats(-70, 70),
    side=st.floats(1e3, 2e5),
    across=st.floats(0.01, 0.99),
    down=st.floats(0.01, 0.99),
)
@example(lon=179.5, lat=-17.0, side=2e5, across=0.1, down=0.1)
@example(lon=179.5, lat=-17.0, side=2e5, across=0.9, down=0.9)
def test_a_footprint_holds_the_grid_and_little_else(
    lon: float, lat: float, side: float, across: float, down: float
) -> None:
    crs = CRS.utm(lon, lat)
    x, y = CRS("EPSG:4326").transformer_to_crs(crs)(lon, lat)
    grid = GeoBox.from_bbox((x, y, x + side, y + side / 2), crs, resolution=side / 64)
    to_lonlat = crs.transformer_to_crs("EPSG:4326")
    item = pair_item("a", manifest(grid), MADE)
    geometry = shapely.geometry.shape(item["geometry"])
    assert geometry.is_valid
    assert all(part.exterior.is_ccw for part in shapely.get_parts(geometry))
    west, south, east, north = item["bbox"]
    assert -180 <= west <= 180
    assert -180 <= east <= 180
    # West is greater than east only over the antimeridian, where the outline is cut in two.
    assert (west > east) == (geometry.geom_type == "MultiPolygon")
    to_grid, (rows, cols) = grid.affine, grid.shape
    for right, below, inside in ((across, down, True), (across, -0.01, False), (1.01, down, False)):
        at = to_lonlat(to_grid.a * right * cols + to_grid.c, to_grid.e * below * rows + to_grid.f)
        assert geometry.contains(shapely.Point(at)) == inside
        if inside:
            assert south <= at[1] <= north
            assert west <= at[0] <= east if west <= east else at[0] >= west or at[0] <= east
    # A polygon of the corners alone would leave bent edges by kilometres.
    steps = np.linspace(0, cols, 50)
    edge = shapely.points(*to_lonlat(to_grid.a * steps + to_grid.c, np.full(50, to_grid.f)))
    assert shapely.distance(geometry.boundary, edge).max() < 1e-4


@pytest.mark.parametrize("west", [-180, 0])
def test_a_grid_around_the_globe_is_the_world(west: int) -> None:
    item = item_of(GeoBox.from_bbox((west, -60, west + 360, 60), "EPSG:4326", resolution=1))
    assert item["bbox"] == [-180, -60, 180, 60]
    assert shapely.geometry.shape(item["geometry"]).area == pytest.approx(360 * 120)


@given(
    days=st.tuples(st.integers(0, 9000), st.integers(0, 9000)),
    forms=st.tuples(*[st.sampled_from(["%Y:%m:%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S"])] * 2),
)
def test_pair_time_spans_its_images(days: tuple[int, int], forms: tuple[str, str]) -> None:
    times = [datetime(2000, 1, 1, 10, tzinfo=UTC) + timedelta(days=day) for day in days]
    before, after = (time.strftime(form) for time, form in zip(times, forms, strict=True))
    properties = pair_item("a", manifest(before=before, after=after), MADE)["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] == min(times).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert properties["end_datetime"] == max(times).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, None),
        ("2015-08-20T10:00:00Z", None),
        ("2015-08-20", "spring"),
        ("0000:00:00 00:00:00", "2015:08:20 10:00:00"),
    ],
)
def test_item_without_image_times_has_its_own(before: str | None, after: str | None) -> None:
    properties = item_of(before=before, after=after)["properties"]
    assert properties["datetime"] == "2024-02-03T04:05:06Z"
    assert "start_datetime" not in properties


def index_of(items: list[dict[str, Any]]) -> dict[str, Any]:
    found = json.loads(json.dumps(collection("Cities", items)))
    pystac.validation.validate_dict(found)
    return dict(found)


def test_moved_batch_is_readable_by_pystac(tmp_path: Path) -> None:
    items = [item_of(name="a"), item_of(pixel_area(CITY), name="b.2"), item_of(name="c", products={})]
    for item in items:
        (tmp_path / item["id"]).mkdir()
        (tmp_path / item["id"] / layout.ITEM).write_text(json.dumps(item))
        for asset in item["assets"].values():
            (tmp_path / item["id"] / asset["href"]).touch()
    (tmp_path / layout.COLLECTION).write_text(json.dumps(index_of(items)))
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    found = pystac.Collection.from_file(str(moved / layout.COLLECTION))
    assert (found.id, found.title, found.license) == (COLLECTION, "Cities", "other")
    assert [item.id for item in found.get_items()] == ["a", "b.2", "c"]
    files = [Path(asset.get_absolute_href()) for item in found.get_items() for asset in item.assets.values()]
    assert len(files) == 6
    assert all(file.exists() for file in files)
    for item in found.get_items():
        parent = pystac.Item.from_file(item.get_self_href()).get_collection()
        assert parent is not None
        assert parent.get_self_href() == found.get_self_href()
    text = (moved / layout.COLLECTION).read_text() + (moved / "a" / layout.ITEM).read_text()
    assert str(tmp_path.parent) not in text


def test_collection_extent_covers_its_items() -> None:
    taken = {"before": "2015-08-20T10:00:00Z", "after": "2018-08-20T10:00:00Z"}
    near = item_of(GeoBox.from_bbox((10, 40, 11, 41), "EPSG:4326", resolution=0.1), **taken)
    far = item_of(GeoBox.from_bbox((-20, 50, -19, 51), "EPSG:4326", resolution=0.1), name="b")
    dateline = item_of(GeoBox.from_bbox((179, 0, 181, 1), "EPSG:4326", resolution=0.1), name="c")
    assert dateline["bbox"] == [179, 0, -179, 1]

    def extent(*items: dict[str, Any]) -> tuple[list[float], list[str | None]]:
        found = index_of(list(items))["extent"]
        return found["spatial"]["bbox"][0], found["temporal"]["interval"][0]

    assert extent(near) == ([10, 40, 11, 41], ["2015-08-20T10:00:00Z", "2018-08-20T10:00:00Z"])
    assert extent(near, far) == ([-20, 40, 11, 51], ["2015-08-20T10:00:00Z", "2024-02-03T04:05:06Z"])
    assert extent(near, dateline)[0] == [-180, 0, 180, 41]
    assert extent(item_of(pixel_area(CITY)))[0] == [-180, -90, 180, 90]
    assert extent() == ([-180, -90, 180, 90], [None, None])
