"""STAC items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.products import write_item
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.sources.bands import BandFile, BandSet
from ussfc.pipeline.reading.sources.stac import is_item, item_set


def red(bands: BandSet) -> BandFile:
    return next(file for file in bands.files if file.label == "red")


@pytest.mark.parametrize(
    ("properties", "raster", "expected"),
    [
        ({}, {"scale": 0.0001, "offset": -0.1}, (1e-4, -0.1)),
        ({"s2:processing_baseline": "05.09"}, {}, (1e-4, -0.1)),
        ({"processing:version": "02.14"}, {}, (1e-4, 0.0)),
        ({"earthsearch:boa_offset_applied": True}, {"scale": 0.0001, "offset": -0.1}, (1e-4, 0.0)),
        ({"earthsearch:boa_offset_applied": False}, {"scale": 0.0001, "offset": -0.1}, (1e-4, -0.1)),
        (
            {"constellation": "landsat", "platform": "landsat-8"},
            {"scale": 2.75e-5, "offset": -0.2},
            (2.75e-5, -0.2),
        ),
        ({"constellation": "planet"}, {}, (None, None)),
    ],
)
def test_scale_and_offset_are_those_of_the_item(
    tmp_path: Path, properties: dict[str, Any], raster: dict[str, Any], expected: tuple[float, float]
) -> None:
    found = red(item_set(str(write_item(tmp_path, properties, size=0, **raster)), "item"))
    assert (found.scale, found.offset) == expected


def test_bands_come_from_the_data_assets_in_the_quickest_format(tmp_path: Path) -> None:
    bands = item_set(str(write_item(tmp_path, size=0)), "item")
    assert [file.label for file in bands.files] == ["blue", "green", "red", "nir"]
    assert red(bands).uri == str(tmp_path / "B04.tif")
    assert bands.acquired == "2022-06-30T10:16:32Z"
    assert bands.product == "Sentinel-2 L2A"


def rewrite(path: Path, **changes: Any) -> str:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(path)


def test_an_asset_of_several_bands_and_version_1_1(tmp_path: Path) -> None:
    names = [
        {"name": "b1", "eo:common_name": "red", "raster:scale": 0.5},
        {"name": "Green"},
        {"eo:common_name": "blue"},
    ]
    path = rewrite(
        write_item(tmp_path, size=0), stac_version="1.1.0", assets={"image": {"href": "./all.tif", "bands": names}},
        properties={"datetime": "2022-06-30T10:16:32Z"},
    )  # fmt: skip
    bands = item_set(path, "item")
    assert [(file.label, file.index, file.scale) for file in bands.files] == [
        ("red", 1, 0.5), ("green", 2, None), ("blue", 3, None),
    ]  # fmt: skip


def test_the_finest_of_several_sizes_is_taken(tmp_path: Path) -> None:
    assets = {
        f"B04_{size}m": {
            "href": f"./{size}.jp2",
            "roles": ["data"],
            "bands": [{"name": "B04", "eo:common_name": "red"}],
        }
        for size in (60, 10, 20)
    }
    bands = item_set(rewrite(write_item(tmp_path, size=0), stac_version="1.1.0", assets=assets), "item")
    assert [(file.label, Path(file.uri).name) for file in bands.files] == [("B04", "10.jp2")]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"type": "FeatureCollection"}, "no STAC item"),
        ({"stac_version": "0.9.0"}, "no STAC item"),
        ({"properties": {}}, "no valid STAC item"),
        ({"assets": 3}, "no valid STAC item"),
        ({"assets": {"data": {"href": "./x.tif"}}}, "no asset of the item is a band"),
        (
            {"assets": {"red": {"href": "/vsicurl/x", "bands": [{"name": "red"}]}}},
            "neither a path nor an address",
        ),
    ],
)
def test_what_is_no_item_is_one_line(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ReadError, match=rf"item: .*{what}"):
        item_set(rewrite(write_item(tmp_path, size=0), **changes), "item")


def test_items_are_known_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "area.geojson").write_text('{"type": "FeatureCollection"}')
    assert not is_item(str(tmp_path / "area.geojson"))
    assert is_item(str(write_item(tmp_path, size=0)))
    assert is_item("https://api.example/v1/collections/sentinel-2-l2a/items/S2B_32TQM?token=x")
    assert is_item("s3://archive/item.json")
    assert not is_item("https://store.example/scene.tif")


@pytest.mark.parametrize(
    ("properties", "warned"),
    [
        ({}, True),
        ({"datetime": "2018-06-30T10:16:32Z"}, False),
        ({"s2:processing_baseline": "05.09"}, False),
        ({"earthsearch:boa_offset_applied": True}, False),
        ({"constellation": "landsat"}, False),
    ],
)
def test_an_item_that_leaves_its_offset_open_is_warned_of(
    tmp_path: Path, properties: dict[str, Any], warned: bool
) -> None:
    bands = item_set(str(write_item(tmp_path, properties, size=0)), "item")
    assert ["neither offset nor processing baseline" in note for note in bands.notes] == [True] * warned


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}", "./{}", "{}"])
@pytest.mark.parametrize("escaped", [True, False])
def test_local_addresses_may_escape_spaces(tmp_path: Path, form: str, escaped: bool) -> None:
    folder = tmp_path / "two words"
    item = write_item(folder, size=0)
    document = json.loads(item.read_text())
    (folder / "red band.tif").touch()
    href = form.format("red band.tif" if form.startswith("./") else folder / "red band.tif")
    document["assets"]["red"]["href"] = href.replace(" ", "%20") if escaped else href
    item.write_text(json.dumps(document))
    assert red(item_set(str(item), "item")).uri == str(folder / "red band.tif")


def test_numbers_that_are_none_are_not_stated(tmp_path: Path) -> None:
    item = write_item(tmp_path, size=0, scale=0.0001, offset=float("nan"))
    assert (red(item_set(str(item), "item")).scale, red(item_set(str(item), "item")).offset) == (1e-4, 0.0)
