"""Georeference, tags and sidecars are those that GDAL writes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning

from tests.support.probabilities import ArraySource
from tests.support.rasters import (
    UTM,
    change_of,
    files_under,
    grid,
    is_valid_cog,
    probabilities,
    probability_of,
    write_change,
    write_probability,
)
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.rasters.cog import CogOptions


@pytest.mark.parametrize("write", [change_of, probability_of])
@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        (None, Affine.identity()),
        (None, UTM),
        ("EPSG:4326", Affine(1e-4, 0.0, 10.1, 0.0, -1e-4, 50.3)),
        ("EPSG:32632", Affine(9.8, 2.1, 500000.0, 2.1, -9.8, 5000000.0)),
        ("+proj=laea +lat_0=1.5 +lon_0=7.25 +ellps=bessel +units=m", UTM),
        ("+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=40 +lon_0=10 +datum=WGS84", UTM),
    ],
)
def test_georeference_is_kept(
    tmp_path: Path, write: Callable[..., Path], crs: str | None, affine: Affine
) -> None:
    geobox = grid((300, 310), crs, affine)
    path = write(probabilities((300, 310)), tmp_path, geobox=geobox)
    assert is_valid_cog(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as raster:
            assert raster.transform.almost_equals(affine, 1e-9)
            if geobox.crs is None:
                assert raster.crs is None
            else:
                assert raster.crs == rasterio.crs.CRS.from_wkt(geobox.crs.to_wkt())
    assert files_under(tmp_path) <= {path.name, f"{path.name}.aux.xml"}


@pytest.mark.parametrize("write", [write_change, write_probability])
def test_any_text_is_kept_in_tags(tmp_path: Path, write: Callable[..., Any]) -> None:
    tags = {'ke<y> & "q"': "x < y && \"z\" 'w' é\nsecond line", "RUN": "1"}
    path = tmp_path / "product.tif"
    write(ArraySource(probabilities((30, 31))), path, CogOptions(), tags=tags)
    with rasterio.open(path) as raster:
        assert {key: raster.tags()[key] for key in tags} == tags


@pytest.mark.parametrize("error", [SystemError("Unknown GDAL Error"), OSError(28, "No space left on device")])
def test_a_failure_inside_gdal_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(rasterio.shutil, "copy", fail)
    with pytest.raises(StoreError, match=str(error).split("] ")[-1]) as caught:
        probability_of(probabilities((30, 31)), tmp_path)
    assert caught.value.__cause__ is error
    assert files_under(tmp_path) == set()


def test_a_sidecar_cut_short_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = rasterio.shutil.copy

    def cut(source: str, target: str, **how: Any) -> None:
        copy(source, target, **how)
        Path(f"{target}.aux.xml").write_text("<PAMDataset><SRS>PROJC")

    monkeypatch.setattr(rasterio.shutil, "copy", cut)
    with pytest.raises(StoreError, match=r"product\.tif\.aux\.xml is cut short"):
        probability_of(probabilities((30, 31)), tmp_path)
    assert files_under(tmp_path) == set()
