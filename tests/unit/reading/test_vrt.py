"""VRTs: what they lead to is looked at before anything is opened."""

from __future__ import annotations

import gzip
import os
import tarfile
import time
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
import rasterio
import rasterio.shutil
from fsspec.implementations.memory import MemoryFileSystem

from tests.support.images import image, write_tif
from tests.support.web_server import LOGIN, SECRETS, locked_server, silent_server
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.parallel.backoff import ONCE
from ussfc.pipeline.reading import describe_scene
from ussfc.pipeline.reading.vrt import check_sources
from ussfc.pipeline.storage import remote

OUTSIDE = "neither in its folder nor in the working directory"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of mosaics and tiles side by side, and a stranger's; the working directory is elsewhere."""
    for name in ("city/mosaics/below", "city/tiles", "stranger", "work", "home"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "city/tiles/a.tif",
        "city/mosaics/a.tif",
        "city/mosaics/below/a.tif",
        "work/a.tif",
        "home/a.tif",
    ):
        write_tif(tmp_path / name, image(1))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def vrt(path: Path, *sources: str, relative: bool = True, head: str = "") -> str:
    """Write a VRT of one band by each source, as gdalbuildvrt does but for what it says of the sources."""
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{number}"><SimpleSource>'
        f'<SourceFilename relativeToVRT="{int(relative)}">{source}</SourceFilename><SourceBand>1</SourceBand>'
        f"</SimpleSource></VRTRasterBand>"
        for number, source in enumerate(sources, 1)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    place = "<SRS>EPSG:32636</SRS><GeoTransform>700000,10,0,3700000,0,-10</GeoTransform>"
    path.write_text(f'{head}<VRTDataset rasterXSize="64" rasterYSize="64">{place}{bands}</VRTDataset>')
    return str(path)


@pytest.mark.parametrize(
    "source",
    ["a.tif", "below/a.tif", "../tiles/a.tif", "../mosaics/a.tif", "/vsizip/pair.zip/a.tif", "absent.tif"],
)
def test_sources_near_a_vrt_are_taken(place: Path, source: str) -> None:
    mosaic = vrt(place / "city/mosaics/m.vrt", source)
    assert check_sources(mosaic, mosaic, everywhere=False)
    if source.endswith("/a.tif"):
        with zipfile.ZipFile(place / "city/mosaics/pair.zip", "w") as archive:
            archive.write(place / "work/a.tif", "a.tif")


def test_ways_of_gdalbuildvrt(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it writes names from the folder of the mosaic, from the folder of both, and for absolute names."""
    beside = vrt(place / "city/mosaics/beside.vrt", "../tiles/a.tif")
    above = vrt(place / "city/mosaics/above.vrt", "tiles/a.tif", relative=False)
    absolute = vrt(place / "city/mosaics/absolute.vrt", str(place / "city/tiles/a.tif"), relative=False)
    assert describe_scene(beside).bands
    monkeypatch.chdir(place / "city")
    for name in (beside, above, absolute, "mosaics/beside.vrt"):
        assert describe_scene(name).bands


def test_links_in_the_folder_are_meant(place: Path) -> None:
    (place / "stranger/tiles").symlink_to(place / "city/tiles")
    (place / "work/link.vrt").symlink_to(vrt(place / "city/mosaics/m.vrt", "a.tif"))
    assert check_sources(vrt(place / "stranger/m.vrt", "tiles/a.tif"), "m.vrt", everywhere=False)
    assert describe_scene(str(place / "work/link.vrt")).bands


@pytest.mark.parametrize(
    ("source", "relative"),
    [
        ("{place}/city/tiles/a.tif", False),
        ("../city/mosaics/../../city/tiles/a.tif", True),
        ("../../city/tiles/a.tif", True),
        ("../secret.tif", True),
        ("../.ssh/id", True),
        ("/etc/passwd", False),
        ("/vsizip/{place}/city/tiles/a.zip/a.tif", False),
        ("/vsizip/{{{place}/city/tiles/a.zip}}/a.tif", False),
        ("/vsigzip//vsitar/{place}/city/tiles/a.tar/a.tif", False),
        ("/vsisubfile/10_20,{place}/city/tiles/a.tif", False),
        ('NETCDF:"{place}/city/tiles/a.nc":red', False),
        ("GTIFF_DIR:1:{place}/city/tiles/a.tif", False),
        ("vrt://{place}/city/tiles/a.tif?bands=1", False),
        (
            "&lt;VRTDataset&gt;&lt;SourceFilename&gt;/etc/passwd&lt;/SourceFilename&gt;&lt;/VRTDataset&gt;",
            False,
        ),
    ],
)
def test_sources_elsewhere_are_refused(place: Path, source: str, relative: bool) -> None:
    mosaic = vrt(place / "stranger/m.vrt", source.format(place=place), relative=relative)
    with pytest.raises(ReadError, match=OUTSIDE) as caught:
        describe_scene(mosaic)
    assert str(caught.value).startswith(f"{mosaic}: leads to ")
    assert str(caught.value).endswith("allow it with inputs.vrt_sources=any if you trust the file")
    assert check_sources(mosaic, mosaic, everywhere=True)


@pytest.mark.parametrize(
    "source",
    [
        "/vsicurl/http://{host}/a.tif", "http://{host}/a.tif", "/vsicurl?url=http%3A%2F%2F{host}%2Fa.tif",
        "/vsis3/bucket/a.tif", "/vsizip//vsicurl/http://{host}/a.zip/a.tif", "/vsicurl_streaming/http://{host}/a",
        'NETCDF:"http://{host}/a.nc":red', "WMS:http://{host}/wms?LAYERS=a", "vrt:///vsicurl/http://{host}/a.tif?bands=1",
        "/vsistdin/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("nested", [False, True])
def test_networks_are_refused_before_they_are_asked(place: Path, source: str, nested: bool) -> None:
    with silent_server() as host:
        name = source.format(host=f"{LOGIN}@{host}")
        mosaic = vrt(place / "stranger/inner.tif", name, relative=False)
        if nested:
            mosaic = vrt(place / "stranger/m.vrt", "inner.tif")
        begun = time.monotonic()
        with pytest.raises(
            ReadError, match=r"leads to .*, which is not in its folder; copy that here, or"
        ) as caught:
            describe_scene(mosaic)
        assert time.monotonic() - begun < 5
    assert not [secret for secret in SECRETS if secret in str(caught.value)]


def test_an_allowed_source_that_stays_silent_ends(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "STORE_BACKOFF", ONCE)
    monkeypatch.setattr("ussfc.web.ANSWER_SECONDS", 0.3)
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    with silent_server() as host:
        mosaic = vrt(place / "stranger/m.vrt", f"/vsicurl/http://{host}/a.tif", relative=False)
        begun = time.monotonic()
        with pytest.raises(ReadError, match="timed out"):
            describe_scene(mosaic, "any")
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize("vrt_sources", ["near", "any"])
def test_a_pipe_among_the_sources_is_refused(place: Path, vrt_sources: str) -> None:
    os.mkfifo(place / "city/mosaics/pipe.tif")
    inner = vrt(place / "city/mosaics/inner.vrt", "pipe.tif")
    mosaic = vrt(place / "city/mosaics/m.vrt", "a.tif", "inner.vrt")
    for name in (inner, mosaic):
        with pytest.raises(ReadError, match=r"its source .*pipe\.tif is a named pipe, expected a file"):
            describe_scene(name, vrt_sources)


def test_folders_of_everything_are_not_beside_or_around(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VRT in a home's folder of downloads reads nothing beside that, wherever the command is given."""
    (place / "home/private").mkdir()
    mosaic = vrt(place / "home/downloads/m.vrt", "../private/a.tif")
    for folder in (place / "work", place / "home", Path("/")):
        monkeypatch.chdir(folder)
        with pytest.raises(ReadError, match=OUTSIDE):
            describe_scene(mosaic)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.xml",
            "<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>",
        ),
        ("a.json", '{"type": "FeatureCollection", "stac_version": "1.0.0", "features": []}'),
        ("a.gti.fgb", "anything"),
        (
            "a.tif",
            "<GDALTileIndexDataset><IndexDataset>http://127.0.0.1:9/a</IndexDataset></GDALTileIndexDataset>",
        ),
        ("b.tif", "<MRF_META><CachedSource><Source>http://127.0.0.1:9/</Source></CachedSource></MRF_META>"),
    ],
)
def test_other_files_that_lead_elsewhere_are_refused(place: Path, name: str, text: str) -> None:
    (place / "stranger" / name).write_text(text)
    for scene in (str(place / "stranger" / name), vrt(place / "stranger/m.vrt", name)):
        with pytest.raises(ReadError, match="stands for files or addresses that cannot be looked at"):
            describe_scene(scene)


@pytest.mark.parametrize(
    "name",
    [
        "/vsizip/{folder}/a.zip/m.vrt", "/vsizip/{folder}/a.zip/sub/m.tif", "/vsizip/{{{folder}/a.zip}}/m.vrt",
        "/vsizip/{folder}/one.zip", "/vsitar/{folder}/a.tar.gz/m.tif", "/vsigzip/{folder}/m.tif.gz",
        "/vsizip//{folder}/a.zip/absent.vrt",
    ],
)  # fmt: skip
def test_a_vrt_in_an_archive_is_refused(place: Path, name: str) -> None:
    """Also under the name of another kind of file: before GDAL asks for its sources."""
    folder = place / "stranger"
    text = Path(vrt(folder / "m.vrt", "/vsicurl/http://127.0.0.1:9/a.tif", relative=False)).read_bytes()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive, zipfile.ZipFile(folder / "one.zip", "w") as one:
        archive.writestr("m.vrt", text)
        archive.writestr("sub/m.tif", text)
        one.writestr("m.tif", text)
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        tar.add(folder / "m.vrt", "m.tif")
    (folder / "m.tif.gz").write_bytes(gzip.compress(text))
    with pytest.raises(ReadError, match="cannot be looked at beforehand"):
        describe_scene(name.format(folder=folder))


def test_a_raster_in_an_archive_is_taken(place: Path) -> None:
    with zipfile.ZipFile(place / "stranger/a.zip", "w") as archive:
        archive.write(place / "work/a.tif", "a.tif")
    assert describe_scene(f"/vsizip/{place}/stranger/a.zip/a.tif").bands


@pytest.mark.parametrize(
    ("head", "message"),
    [("<!DOCTYPE a [<!ENTITY b 'c'>]>", "has a document type"), ("<broken", "is no XML")],
)
def test_broken_documents_are_refused(place: Path, head: str, message: str) -> None:
    with pytest.raises(ReadError, match=message):
        describe_scene(vrt(place / "stranger/m.vrt", "a.tif", head=head))


def test_a_remote_vrt_stays_in_its_folder(place: Path) -> None:
    store = MemoryFileSystem()
    for name, source in (
        ("near", "tiles/a.tif"), ("up", "../a.tif"), ("local", "/etc/passwd"), ("web", "/vsicurl/http://h/a.tif"),
    ):  # fmt: skip
        store.pipe(f"/vrts/{name}.vrt", Path(vrt(place / "work/m.vrt", source)).read_bytes())
    assert check_sources("memory://vrts/near.vrt", "near", everywhere=False)
    for name in ("up", "local", "web"):
        with pytest.raises(ReadError, match="is not in its folder"):
            check_sources(f"memory://vrts/{name}.vrt", name, everywhere=False)
        assert check_sources(f"memory://vrts/{name}.vrt", name, everywhere=True)


def test_a_vrt_on_a_server_is_one_under_any_name(place: Path) -> None:
    """Known by its first bytes, also among the sources of another one."""
    vrt(place / "city/tiles/evil.tif", "/vsicurl/http://127.0.0.1:9/a.tif", relative=False)
    vrt(place / "city/tiles/outer.vrt", "a.tif", "evil.tif")
    (place / "city/tiles/empty.tif").touch()
    with locked_server(place / "city/tiles") as host:
        url = f"http://{LOGIN}@{host}"
        for name in (f"{url}/evil.tif", f"/vsicurl/{url}/evil.tif", f"{url}/outer.vrt"):
            with pytest.raises(ReadError, match=r"leads to .*, which is not in its folder"):
                describe_scene(name)
        streamed = f"/vsicurl?url={quote(f'{url}/evil.tif', safe='')}"
        with pytest.raises(ReadError, match="which is not in its folder"):
            check_sources(streamed, "evil", everywhere=False)
        vrt(place / "city/tiles/good.vrt", "a.tif")
        assert describe_scene(f"{url}/good.vrt").bands
        assert not check_sources(f"{url}/a.tif", "a.tif", everywhere=False)
        assert not check_sources(f"{url}/absent.tif", "absent.tif", everywhere=False)
        assert not check_sources(f"{url}/empty.tif", "empty.tif", everywhere=False)


def test_a_vrt_in_a_store_is_one_under_any_name(place: Path) -> None:
    store = MemoryFileSystem()
    store.pipe("/vrts/evil.tif", Path(vrt(place / "work/m.vrt", "/etc/passwd", relative=False)).read_bytes())
    with pytest.raises(ReadError, match="is not in its folder"):
        check_sources("memory://vrts/evil.tif", "evil", everywhere=False)


def test_other_rasters_are_no_vrts(place: Path) -> None:
    assert not check_sources(str(place / "work/a.tif"), "a.tif", everywhere=False)
    assert check_sources("vrt://a.tif?bands=1", "a.tif", everywhere=False)
    with rasterio.open(place / "work/a.tif") as source:
        assert source.driver == "GTiff"
