"""Scenes in other containers and stores: Zarr, NetCDF, Azure, web servers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from odc.geo.geobox import GeoBox

from tests.support.cogs import BOX, NODATA, assert_same, city, opened
from tests.support.fault_proxy import FaultProxy
from tests.support.paths import DEMO
from tests.support.servers import Azurite, SeaweedFS
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import describe_scene, read_aoi
from ussfc.pipeline.types import Box


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_arrays_on_s3(
    proxied: FaultProxy, seaweed: SeaweedFS, bucket: str, tmp_path: Path, quick: None, suffix: str
) -> None:
    import odc.geo.xr
    import xarray as xr

    values, profile = city(300)
    geobox = GeoBox(values.shape[1:], profile["transform"], profile["crs"].to_wkt())
    array = odc.geo.xr.wrap_xr(values, geobox, nodata=NODATA, axis=1).rename("reflectance")
    dataset, path = xr.Dataset({"reflectance": array}), tmp_path / f"scene.{suffix}"
    chunks = (3, 100, 100)
    if suffix == "zarr":
        encoding = {"reflectance": {"chunks": chunks}}
        dataset.to_zarr(path, zarr_format=3, consolidated=False, encoding=encoding)
    else:
        encoding = {"reflectance": {"chunksizes": chunks, "zlib": True}}
        dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
    for part in [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]:
        seaweed.put(bucket, str(part.relative_to(tmp_path)), part.read_bytes())
    uri, whole = f"s3://{bucket}/scene.{suffix}", Box(0, 0, 300, 300)
    info = describe_scene(uri)
    assert info.geobox == describe_scene(str(path)).geobox
    assert info.identity == describe_scene(uri).identity
    assert info.identity.startswith("remote:")
    expected = opened(path, info.geobox).read(whole)
    assert_same(opened(uri, info.geobox).read(whole), expected)
    for kind in ("status", "drop", "truncate"):
        rule = proxied.inject(kind, "GET", times=2, after=1000)
        assert_same(opened(uri, info.geobox).read(whole), expected)
        assert proxied.fired(rule) == 2
    reader = opened(uri, info.geobox)
    proxied.inject("status", "GET", times=None)
    with pytest.raises(ReadError, match=rf"scene\.{suffix}: cannot be opened"):
        opened(uri, info.geobox)
    if suffix == "zarr":  # a NetCDF of this size came with the first request
        with pytest.raises(
            ReadError, match=r"scene\.zarr: rows 0\.\.300, columns 0\.\.300 .* cannot be read"
        ):
            reader.read(whole)
    proxied.heal()
    with pytest.raises(ReadError, match=r"absent\.zarr: cannot be read \(not found"):
        describe_scene(f"s3://{bucket}/absent.zarr")


def test_area_of_interest_on_s3(s3_environment: None, seaweed: SeaweedFS, bucket: str) -> None:
    square = {"type": "Polygon", "coordinates": [[[35, 33], [36, 33], [36, 34], [35, 34], [35, 33]]]}
    feature = {"type": "Feature", "properties": {}, "geometry": square}
    content = json.dumps({"type": "FeatureCollection", "features": [feature]}).encode()
    seaweed.put(bucket, "area.geojson", content)
    assert read_aoi(f"s3://{bucket}/area.geojson").area == pytest.approx(1)
    with pytest.raises(ReadError, match=r"absent\.geojson: cannot be read \(not found"):
        read_aoi(f"s3://{bucket}/absent.geojson")


def test_a_scene_on_azure_is_the_local_one(
    azure_environment: None, azurite: Azurite, container: str, local: Path
) -> None:
    azurite.put(container, "scene.tif", local.read_bytes())
    uri = f"az://{container}/scene.tif"
    info = describe_scene(uri)
    assert info.identity.startswith("remote:")
    assert info.identity == describe_scene(uri).identity
    assert_same(opened(uri, info.geobox).read(BOX), opened(local, info.geobox).read(BOX))
    azurite.put(container, "scene.tif", local.read_bytes() + b"0")
    assert describe_scene(uri).identity != info.identity
    with pytest.raises(ReadError, match=r"absent\.tif: cannot be read \(not found"):
        describe_scene(f"az://{container}/absent.tif")


class RangeHandler(SimpleHTTPRequestHandler):
    """A server of a folder's files, whole or by range, that counts the bytes it sends."""

    sent = 0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span:
            start = int(span[1])
            stop = min(int(span[2]) + 1 if span[2] else len(content), len(content))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            content = content[start:stop]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        type(self).sent += len(content)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[str]:
    RangeHandler.sent = 0
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: RangeHandler(*args, directory=str(DEMO))
    ) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_window_over_http_reads_only_its_blocks(server: str) -> None:
    there, here = f"{server}/beirut_before.tif", str(DEMO / "beirut_before.tif")
    info = describe_scene(there)
    assert info.geobox == describe_scene(here).geobox
    assert info.identity == describe_scene(there.replace("http://", "http://me:secret@")).identity
    box = Box(10, 20, 200, 220)
    assert_same(opened(there, info.geobox).read(box), opened(here, info.geobox).read(box))
    # Two headers of 64 kB for each of the three that opened it, and a ninth of the blocks.
    assert RangeHandler.sent < 6 * 65_536 + 0.15 * (DEMO / "beirut_before.tif").stat().st_size


def test_an_absent_file_is_named(server: str) -> None:
    with pytest.raises(
        ReadError, match=r"absent\.tif: cannot be read \(not found.*check the address"
    ) as caught:
        describe_scene(f"{server}/absent.tif?token=secret")
    assert "secret" not in str(caught.value)
