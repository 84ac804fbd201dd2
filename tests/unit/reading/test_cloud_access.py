"""GDAL's options for stores, and errors without secrets."""

from __future__ import annotations

import pytest
from rasterio.errors import RasterioIOError

from ussfc.addresses import shown_address
from ussfc.pipeline.reading.cloud_access import gdal_reason, over_network, store_options, unreachable


@pytest.mark.parametrize("uri", ["s3://bucket/a.tif", "https://host/a.tif", "/vsis3/bucket/a.tif"])
def test_remote_scenes_are_over_a_network(uri: str) -> None:
    assert over_network(uri)


@pytest.mark.parametrize("uri", ["/data/a.tif", "a.tif", "/vsizip/a.zip/a.tif"])
def test_local_scenes_are_not_over_a_network(uri: str) -> None:
    assert not over_network(uri)


def test_a_local_scene_needs_no_store_options() -> None:
    assert store_options("/data/scene.tif", "scene.tif") == {}


def test_gdals_reason_is_one_line_without_secrets() -> None:
    uri = "https://host/a.tif?X-Amz-Signature=abc"
    reason = gdal_reason(RasterioIOError(f"{uri}: HTTP 403\nsecond line"), uri, shown_address(uri))
    assert reason == "https://host/a.tif: HTTP 403"


def test_an_absent_scene_has_a_remedy() -> None:
    message = str(unreachable("s3://bucket/a.tif", FileNotFoundError("a.tif")))
    assert message.startswith("s3://bucket/a.tif: cannot be read (")
    assert message.endswith("; check the address")
