"""The STAC item of a run: valid, complete, the same again."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pystac.validation
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from tests.support.records import CITY, counts, run_record
from ussfc.pipeline.report.item import run_item, write_item
from ussfc.pipeline.storage.folder import Folder

MADE = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)
LOCAL = 'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'


def item_of(*args: Any, **fields: Any) -> dict[str, Any]:
    """A valid item as its file holds it."""
    item = json.loads(json.dumps(run_item("a", run_record(*args, **fields), MADE)))
    # No package ships the schemas of the extensions.
    pystac.validation.validate_dict(item, extensions=[])
    return dict(item)


def pixel_area(grid: GeoBox) -> GeoBox:
    return GeoBox(grid.shape, grid.affine, None)


def test_item_has_place_model_and_share() -> None:
    item = item_of()
    properties = item["properties"]
    assert properties["proj:code"] == "EPSG:32636"
    assert "proj:wkt2" not in properties
    assert properties["proj:shape"] == [768, 768]
    assert properties["proj:transform"] == [10, 0, 730_000, 0, -10, 3_757_680]
    assert properties["ussfc:model"] == "ussfc-s2-rgb"
    assert properties["ussfc:model_sha256"] == "ab" * 32
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


def test_every_field_is_of_an_extension_that_is_named() -> None:
    item = item_of()
    named = {re.sub(r".*io/(\w+)/v[\d.]+/schema.json", r"\1", uri) for uri in item["stac_extensions"]}
    assert named == {"projection", "raster", "file", "processing"}
    fields = [*item["properties"]]
    for asset in item["assets"].values():
        fields += [*asset, *(field for band in asset.get("bands", ()) for field in band)]
    prefixes = {field.partition(":")[0] for field in fields if ":" in field}
    assert prefixes == {"proj", "raster", "file", "processing", "ussfc"}


def test_processing_names_software_model_and_threshold() -> None:
    properties = item_of()["properties"]
    assert properties["processing:software"] == {"ussfc": "1.2", "gdal": "3.10"}
    assert properties["processing:version"] == "1.2"
    assert properties["processing:level"] == "L4"
    for part in ("ussfc-s2-rgb", "ab" * 32, "0.5"):
        assert part in properties["processing:lineage"]


def test_products_have_size_checksum_and_bands() -> None:
    assets = item_of()["assets"]
    # Multihash: 0x12 is SHA-256, 0x20 its length in bytes.
    assert [asset["file:checksum"] for asset in assets.values()] == ["1220" + "cd" * 32] * 3
    assert [asset["file:size"] for asset in assets.values()] == [0, 1, 2]
    assert "bands" not in assets["changes"]
    (change,), (probability,) = assets["change"]["bands"], assets["probability"]["bands"]
    for band in (change, probability):
        assert (band["data_type"], band["nodata"]) == ("uint8", 255)
        assert (band["raster:sampling"], band["raster:spatial_resolution"]) == ("area", 10)
    assert "0.5" in change["description"]
    assert "raster:scale" not in change
    assert probability["raster:scale"] * 254 + probability["raster:offset"] == pytest.approx(1)


def test_probabilities_in_float32_are_not_scaled() -> None:
    item = item_of(config={"output": {"probability_dtype": "float32"}})
    (band,) = item["assets"]["probability"]["bands"]
    assert (band["data_type"], band["nodata"]) == ("float32", "nan")
    assert "raster:scale" not in band


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:2263", None])
def test_pixels_not_in_metres_have_no_resolution(crs: str | None) -> None:
    (band,) = item_of(GeoBox((4, 4), CITY.affine, crs))["assets"]["change"]["bands"]
    assert "raster:spatial_resolution" not in band


def test_order_of_products_does_not_matter() -> None:
    products = ("changes.geojson", "changes.gpkg", "probability.tif", "changes.parquet", "change.tif")
    record = run_record(products=products)
    turned = record.model_copy(update={"products": dict(reversed(record.products.items()))})
    assert json.dumps(run_item("a", record, MADE)) == json.dumps(run_item("a", turned, MADE))


@pytest.mark.parametrize(
    ("uri", "hrefs"),
    [
        pytest.param("/data/in/a b.tif", ["../in/a%20b.tif"], id="beside"),
        pytest.param("/data/S2/B0[234].jp2", ["../S2"], id="pattern"),
        pytest.param("/data/a.tif,/data/b.tif", ["../a.tif", "../b.tif"], id="several"),
        pytest.param("https://host/a b.tif", ["https://host/a%20b.tif"], id="web"),
        pytest.param("/vsicurl/https://host/a.tif", ["https://host/a.tif"], id="gdal's web"),
        pytest.param("s3://bucket/a.tif", ["s3://bucket/a.tif"], id="store"),
        pytest.param("/vsizip//data/a.zip/a.tif", [], id="gdal"),
        pytest.param('NETCDF:"/data/a.nc":v', [], id="driver"),
    ],
)
def test_item_links_to_its_sources(uri: str, hrefs: list[str]) -> None:
    record = run_record(before="2015-08-20", uris=(uri, "s3://bucket/after.tif"))
    item = run_item("a", record, MADE, folder=Path("/data/runs"))
    found = [(link["href"], link["title"]) for link in item["links"] if link["rel"] == "derived_from"]
    expected = [(href, "before, 2015-08-20") for href in hrefs]
    assert found == [*expected, ("s3://bucket/after.tif", "after")]


def test_item_in_a_store_names_local_sources_whole() -> None:
    links = item_of(uris=("/data/a b.tif", "/data/after.jp2"))["links"]
    assert [(link["href"], link["type"]) for link in links] == [
        ("file:///data/a%20b.tif", "image/tiff; application=geotiff"),
        ("file:///data/after.jp2", "image/jp2"),
    ]


def test_item_has_the_date_of_either_image() -> None:
    properties = item_of(after="2018-08-20T10:00:00Z")["properties"]
    assert properties["ussfc:after"] == "2018-08-20T10:00:00Z"
    assert "ussfc:before" not in properties


@pytest.fixture
def out(tmp_path: Path) -> Folder:
    """A folder with the record of a run."""
    folder = Folder.of(tmp_path / "beirut")
    folder.prepare()
    folder.write("run.json", b"{}")
    return folder


def test_what_is_there_to_look_at_is_an_asset(out: Folder) -> None:
    assert set(write_item(out, run_record())["assets"]) == {"change", "probability", "changes", "run"}
    for name in ("report.html", "preview.png"):
        out.write(name, b"x")
    assets = write_item(out, run_record())["assets"]
    assert [(assets[key]["type"], assets[key]["roles"]) for key in ("report", "preview", "run")] == [
        ("text/html", ["overview"]),
        ("image/png", ["thumbnail"]),
        ("application/json", ["metadata"]),
    ]
    assert assets["run"]["file:size"] == 2
    assert assets["run"]["file:checksum"] == "1220" + hashlib.sha256(b"{}").hexdigest()


def test_same_run_is_not_written_again(out: Folder) -> None:
    first = write_item(out, run_record())
    assert first["id"] == "beirut"
    first["properties"]["datetime"] = "2020-01-02T03:04:05Z"
    first["id"] = "named elsewhere"
    out.write_json("item.json", first)
    kept = out.read("item.json")
    write_item(out, run_record())
    assert out.read("item.json") == kept
    assert write_item(out, run_record(threshold=0.7))["properties"]["datetime"] > "2020-01-03"
    out.write("item.json", b'{"id": ')
    assert write_item(out, run_record())["id"] == "beirut"


def test_item_of_a_pair_stays_in_its_collection(out: Folder) -> None:
    def relations() -> set[str]:
        return {link["rel"] for link in out.read_json("item.json")["links"]} - {"derived_from"}

    write_item(out, run_record())
    assert relations() == set()
    assert write_item(out, run_record(), "a")["id"] == "a"
    kept = out.read("item.json")
    write_item(out, run_record())
    assert out.read("item.json") == kept
    assert relations() == {"root", "parent", "collection"}


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("changes.gpkg", "application/geopackage+sqlite3"),
        ("changes.fgb", "application/vnd.flatgeobuf"),
        ("changes.geojson", "application/geo+json"),
    ],
)
def test_layer_has_the_media_type_of_its_format(file: str, kind: str) -> None:
    assets = item_of(products=(file,))["assets"]
    assert {key: (asset["href"], asset["type"]) for key, asset in assets.items()} == {
        "changes": (f"./{file}", kind)
    }


def test_every_layer_is_an_asset() -> None:
    assets = item_of(products=("changes.parquet", "changes.gpkg", "changes.geojson"))["assets"]
    assert {key: asset["href"] for key, asset in assets.items()} == {
        "changes": "./changes.parquet",
        "changes-gpkg": "./changes.gpkg",
        "changes-geojson": "./changes.geojson",
    }


def test_item_without_valid_pixels_or_products() -> None:
    item = item_of(counts=counts(changed_pixels=0, unchanged_pixels=0))
    assert "ussfc:changed_share" not in item["properties"]
    assert item_of(products=())["assets"] == {}


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


@given(
    days=st.tuples(st.integers(0, 9000), st.integers(0, 9000)),
    forms=st.tuples(*[st.sampled_from(["%Y:%m:%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S"])] * 2),
)
def test_pair_time_spans_its_images(days: tuple[int, int], forms: tuple[str, str]) -> None:
    times = [datetime(2000, 1, 1, 10, tzinfo=UTC) + timedelta(days=day) for day in days]
    before, after = (time.strftime(form) for time, form in zip(times, forms, strict=True))
    properties = run_item("a", run_record(before=before, after=after), MADE)["properties"]
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
