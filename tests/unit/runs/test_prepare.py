"""A date written once as a cloud-optimised GeoTIFF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.support.images import write_tif
from tests.support.products import CRS, PLACE, band, write_safe
from tests.support.rasters import is_valid_cog
from ussfc.pipeline.errors import ConfigError, ReadError, StoreError
from ussfc.pipeline.events import ignore
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.runs.prepare import PreparedScene, prepare
from ussfc.pipeline.types import Box, Pixels


def prepared(
    scene: Path | str, path: Path, bands: list[int | str] | None = None, over: bool = False
) -> PreparedScene:
    return prepare(str(scene), path, bands, over, ignore)


def read(scene: str) -> Pixels:
    info = describe_scene(scene)
    numbers = tuple(band.index for band in info.bands)
    rows, cols = info.geobox.shape
    return SceneRecipe.of(scene, info, info.geobox, numbers, "cubic").open().read(Box(0, 0, rows, cols))


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safe(tmp_path_factory.mktemp("product"))


def test_the_file_is_the_product(safe: Path, tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    found = prepared(safe, path)
    assert found.bands == ("B02", "B03", "B04", "B08")
    assert is_valid_cog(path)
    with rasterio.open(path) as file:
        assert file.descriptions == found.bands
        assert (file.scales, file.offsets) == ((1e-4,) * 4, (-0.1,) * 4)
        assert (file.nodata, file.dtypes, file.transform, file.crs) == (0, ("uint16",) * 4, PLACE, CRS)
        np.testing.assert_array_equal(file.read(), np.stack([band(place) for place in range(4)]))
    product, info = describe_scene(str(safe)), describe_scene(str(path))
    assert (info.acquired, info.product) == (product.acquired, product.product)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["scene.tif", "scene_SCL.tif"]


def test_chosen_bands_may_be_coarser(safe: Path, tmp_path: Path) -> None:
    found = prepared(safe, tmp_path / "scene.tif", ["B11", 4])
    assert found.bands == ("B11", "B04")
    with pytest.raises(ConfigError, match=r"band B12 for .*: it has B01, B02, B03, B04, B08, B11"):
        prepared(safe, tmp_path / "other.tif", ["B12"])


@pytest.mark.parametrize("nodata", [0, 7, None])
def test_missing_pixels_stay_missing(tmp_path: Path, nodata: int | None) -> None:
    values = np.stack([band(place, 60) for place in range(3)])
    values[:, :20, :30] = 0 if nodata is None else nodata
    place = {"crs": CRS, "nodata": nodata}
    first = write_tif(tmp_path / "a.tif", values, transform=PLACE, **place)
    second = write_tif(tmp_path / "b.tif", values + 1, transform=PLACE * Affine.translation(70, 0), **place)
    argument = f"{first},{second}"
    prepared(argument, tmp_path / "out.tif")
    expected, found = read(argument), read(str(tmp_path / "out.tif"))
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.values, expected.values)
    assert not found.valid.all()


def test_an_existing_file_is_kept(safe: Path, tmp_path: Path) -> None:
    path = tmp_path / "scene.tif"
    path.write_text("mine")
    with pytest.raises(StoreError, match=r"scene\.tif: exists; choose another name, or overwrite it"):
        prepared(safe, path)
    assert path.read_text() == "mine"
    assert prepared(safe, path, over=True).bytes == path.stat().st_size


def test_a_failure_leaves_nothing(safe: Path, tmp_path: Path) -> None:
    broken = write_safe(tmp_path / "broken")
    image = next(broken.rglob("*_B03_10m.jp2"))
    image.write_bytes(image.read_bytes()[:2000])
    with pytest.raises(ReadError, match="SAFE"):
        prepared(broken, tmp_path / "scene.tif")
    with pytest.raises(StoreError, match="cannot be written"):
        prepared(safe, tmp_path / "absent/scene.tif")
    with pytest.raises(ConfigError, match=r"ends in \.tif"):
        prepared(safe, tmp_path / "scene.jp2")
    assert [place.name for place in tmp_path.iterdir()] == ["broken"]
