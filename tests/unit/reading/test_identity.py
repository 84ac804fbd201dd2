"""Identity of a scene."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.images import image, write_array, write_tif
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
