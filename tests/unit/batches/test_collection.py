"""The index of a batch: a valid collection that its reader follows, over places and times."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import pystac.validation
from odc.geo.geobox import GeoBox

from tests.support.records import CITY, run_record
from ussfc.pipeline.batches.collection import collection
from ussfc.pipeline.report.item import COLLECTION, run_item
from ussfc.pipeline.storage import layout

MADE = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)
PIXELS = GeoBox(CITY.shape, CITY.affine, None)


def item_of(*args: Any, name: str = "a", **fields: Any) -> dict[str, Any]:
    """A valid item as its file holds it."""
    item = json.loads(json.dumps(run_item(name, run_record(*args, **fields), MADE, in_batch=True)))
    # No package ships the schemas of the extensions.
    pystac.validation.validate_dict(item, extensions=[])
    return dict(item)


def index_of(items: list[dict[str, Any]]) -> dict[str, Any]:
    found = json.loads(json.dumps(collection("Cities", items)))
    pystac.validation.validate_dict(found)
    return dict(found)


def test_moved_batch_is_readable_by_pystac(tmp_path: Path) -> None:
    items = [
        item_of(name="a"),
        item_of(PIXELS, name="b.2"),
        item_of(name="c", products=()),
    ]
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
    assert extent(item_of(PIXELS))[0] == [-180, -90, 180, 90]
    assert extent() == ([-180, -90, 180, 90], [None, None])
