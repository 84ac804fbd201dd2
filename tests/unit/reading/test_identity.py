"""Identity of a scene."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path

import geopandas
import pytest
import rasterio
import shapely

from tests.support.images import image, write_array, write_tif
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.identity import is_array, is_zarr, scene_identity


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("scene.zarr", True),
        ("s3://bucket/scene.zarr/", True),
        ("https://host/a.NC?signature=x", True),
        ("scene.tif", False),
        ("/vsizip/scene.zip/scene.tif", False),
    ],
)
def test_arrays_are_known_by_their_suffix(uri: str, expected: bool) -> None:
    assert is_array(uri) == expected


def test_a_zarr_is_known_by_its_metadata(tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    assert not is_zarr(str(tmp_path / "scene"))
    (tmp_path / "scene" / "zarr.json").touch()
    assert is_zarr(str(tmp_path / "scene"))


def test_a_file_has_its_size_and_changes_identity(tmp_path: Path) -> None:
    path = Path(write_tif(tmp_path / "scene.tif", image()))
    identity, size = scene_identity(str(path), "scene.tif")
    assert size == path.stat().st_size
    assert scene_identity(str(path), "scene.tif") == (identity, size)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
    assert scene_identity(str(path), "scene.tif")[0] != identity


def test_a_zarrs_identity_follows_its_metadata(tmp_path: Path) -> None:
    path = Path(write_array(tmp_path / "scene.zarr", image()))
    identity, size = scene_identity(str(path), "scene.zarr")
    assert size == 0
    metadata = path / "zarr.json"
    metadata.write_bytes(metadata.read_bytes() + b" ")
    assert scene_identity(str(path), "scene.zarr")[0] != identity


def test_gdals_own_names_are_their_identity() -> None:
    names = ('NETCDF:"a.nc":red', 'NETCDF:"a.nc":green')
    first, second = (scene_identity(name, name) for name in names)
    assert first != second
    assert first[0].startswith("uri:")
    assert first[1] == 0


def rewrite(path: Path) -> None:
    """Change a file's time of modification, as a rewrite would."""
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))


def vrt_of(path: Path, source: Path) -> Path:
    """Write a VRT whose one band is the first of another raster."""
    path.write_text(
        f'<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{source.name}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path


def members_of_every_kind(folder: Path) -> list[tuple[str, Path]]:
    """Return scenes and, of each, a file that it is made of but not named by."""
    plain = Path(write_tif(folder / "plain.tif", image()))
    inner = vrt_of(folder / "inner.vrt", plain)
    outer = vrt_of(folder / "outer.vrt", inner)
    # GDAL knows a VRT by its content.
    unnamed = vrt_of(folder / "outer.xml", vrt_of(folder / "inner.xml", plain))
    beside = Path(write_tif(folder / "beside.tif", image()))
    with rasterio.open(beside) as source:
        mask = source.dataset_mask()
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
        rasterio.open(beside, "r+") as source,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        source.write_mask(mask)
    packed = folder / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(plain, "in/plain.tif")
    store = Path(write_array(folder / "store.zarr", image()))
    chunk = next(path for path in sorted(store.rglob("*")) if path.is_file() and "c" in path.parts)
    netcdf = Path(write_array(folder / "image.nc", image()))
    return [
        (str(inner), plain),
        (str(outer), plain),
        (str(unnamed), plain),
        (str(beside), folder / "beside.tif.msk"),
        (f"/vsizip/{packed}/in/plain.tif", packed),
        (f'NETCDF:"{netcdf}":reflectance', netcdf),
        (str(store), chunk),
    ]


def test_every_member_of_a_scene_counts(tmp_path: Path) -> None:
    for uri, member in members_of_every_kind(tmp_path):
        before = scene_identity(uri, uri)[0]
        assert scene_identity(uri, uri)[0] == before, uri
        rewrite(member)
        assert scene_identity(uri, uri)[0] != before, f"{uri}: {member.name} does not count"


def test_members_of_a_tile_index_are_not_known(tmp_path: Path) -> None:
    """GDAL names the index alone, which stays as it is when a tile is rewritten."""
    path = Path(write_tif(tmp_path / "scene.tif", image()))
    with rasterio.open(path) as source:
        bounds, crs = source.bounds, source.crs
    index = tmp_path / "scene.gti.gpkg"
    tiles = geopandas.GeoDataFrame({"location": [str(path)]}, geometry=[shapely.box(*bounds)], crs=crs)
    tiles.to_file(index, layer="index")
    assert scene_identity(str(index), "scene.gti.gpkg")[0].startswith("uri:")
    # Nor are those of an index inside a VRT.
    outer = vrt_of(tmp_path / "outer.vrt", index)
    assert scene_identity(str(outer), "outer.vrt")[0].startswith("uri:")


def test_a_new_sidecar_counts(tmp_path: Path) -> None:
    path = Path(write_tif(tmp_path / "scene.tif", image()))
    before = scene_identity(str(path), "scene.tif")[0]
    (tmp_path / "scene.tif.aux.xml").write_text("<PAMDataset/>")
    assert scene_identity(str(path), "scene.tif")[0] != before


@pytest.mark.parametrize(
    "name", ["scene.tif", "scene.tif.aux.xml", "scene.tif.msk", "scene.hdr", "scene.vrt"]
)
def test_special_files_are_refused(name: str, tmp_path: Path) -> None:
    """Also beside the scene, where GDAL would open them, and as a source of a mosaic."""
    path = tmp_path / "scene.tif"
    write_tif(path, image())
    if name == "scene.vrt":
        path = vrt_of(tmp_path / name, path)
        (tmp_path / "scene.tif").rename(tmp_path / "whole.tif")
        os.mkfifo(tmp_path / "scene.tif")
    else:
        (tmp_path / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name)
    with pytest.raises(ReadError, match="a named pipe, expected a file"):
        scene_identity(str(path), str(path))


def test_special_chunks_are_refused(tmp_path: Path) -> None:
    path = Path(write_array(tmp_path / "scene.zarr", image()))
    os.mkfifo(path / "pipe")
    with pytest.raises(ReadError, match="pipe is a named pipe, expected a file"):
        scene_identity(str(path), "scene.zarr")
