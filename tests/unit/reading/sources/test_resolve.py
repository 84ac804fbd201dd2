"""Rasters behind an argument."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from tests.support.products import BANDS_10M, PLACE, band, write_band, write_item, write_landsat, write_safe
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import SceneRecipe, choose_bands, describe_scene
from ussfc.pipeline.reading.sources.resolve import absolute_source, resolve_source, split_list
from ussfc.pipeline.types import Box, SceneInfo

RGBN = (("B04", "red"), ("B03", "green"), ("B02", "blue"), ("B08", "nir"))


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A product whose bands of 10 m hold ``band(0)`` to ``band(3)``."""
    folder = tmp_path_factory.mktemp("product")
    safe = write_safe(folder)
    shutil.make_archive(str(folder / "product"), "zip", folder, safe.name)
    return safe


def images(safe: Path) -> Path:
    return next((safe / "GRANULE").iterdir()) / "IMG_DATA/R10m"


def read(argument: str) -> tuple[SceneInfo, np.ndarray]:
    """Return a scene's header and its bands in the order of a model."""
    info = describe_scene(argument)
    bands, notice = choose_bands(info, RGBN, None)
    assert notice is None
    rows, cols = info.geobox.shape
    pixels = SceneRecipe.of(argument, info, info.geobox, bands, "cubic").open().read(Box(0, 0, rows, cols))
    assert pixels.valid.all()
    return info, pixels.values


EXPECTED = np.stack([band(2), band(1), band(0), band(3)])


@pytest.mark.parametrize("form", ["safe", "zip", "r10m", "pattern", "list", "metadata", "shuffled"])
def test_sentinel2_in_every_form_is_the_same_image(safe: Path, form: str) -> None:
    folder = images(safe)
    files = [str(folder / f"T32TQM_20220630T101029_{name}_10m.jp2") for name in BANDS_10M]
    argument = {
        "safe": str(safe), "zip": str(safe.parent / "product.zip"), "r10m": str(folder),
        "pattern": f"{folder}/*.jp2", "list": ",".join(files), "metadata": str(safe / "MTD_MSIL2A.xml"),
        "shuffled": " , ".join(files[::-1]),
    }[form]  # fmt: skip
    info, values = read(argument)
    np.testing.assert_array_equal(values, EXPECTED)
    assert values.dtype == np.uint16
    assert (info.uri, info.product) == (argument, "Sentinel-2 L2A")
    assert info.acquired == "2022-06-30T10:16:32.456Z"
    assert {(scaled.scale, scaled.offset) for scaled in info.bands} == {(1e-4, -0.1)}
    assert info.block_bytes == 2 * 120 * 120


def test_landsat_and_stac(tmp_path: Path) -> None:
    info, values = read(str(write_landsat(tmp_path / "landsat")))
    np.testing.assert_array_equal(values, np.stack([band(4), band(3), band(2), band(5)]))
    assert info.acquired == "2018-06-30T10:02:11Z"
    assert info.scales((4,)) == ((2.75e-5, -0.2),)
    info, values = read(str(write_item(tmp_path / "item", scale=1e-4, offset=-0.1)))
    np.testing.assert_array_equal(values, EXPECTED)


def test_files_are_taken_by_colour_and_by_number(tmp_path: Path) -> None:
    for place, name in enumerate(("blue", "green", "red", "nir")):
        write_band(tmp_path / "colours" / f"city_{name}.tif", band(place))
    np.testing.assert_array_equal(read(str(tmp_path / "colours"))[1], EXPECTED)
    np.testing.assert_array_equal(read(f"{tmp_path}/colours/city_*.tif")[1], EXPECTED)


def test_a_change_of_any_band_changes_the_identity(tmp_path: Path) -> None:
    safe = write_safe(tmp_path)
    before = describe_scene(str(safe))
    recipe = SceneRecipe.of(str(safe), before, before.geobox, (1, 2, 3), "cubic")
    object.__setattr__(recipe, "identity", before.identity)
    recipe.check_unchanged()
    write_band(images(safe) / "T32TQM_20220630T101029_B03_10m.jp2", band(99))
    assert describe_scene(str(safe)).identity != before.identity
    with pytest.raises(ReadError, match=r"\.SAFE: has changed since the run began"):
        recipe.open()


def test_a_change_of_what_the_product_states_changes_the_identity(tmp_path: Path) -> None:
    safe = write_safe(tmp_path)
    before = describe_scene(str(safe))
    metadata = safe / "MTD_MSIL2A.xml"
    metadata.write_text(metadata.read_text().replace("-1000", "-900"))
    assert describe_scene(str(safe)).identity != before.identity


def test_a_missing_band_is_named(safe: Path) -> None:
    files = [str(images(safe) / f"T32TQM_20220630T101029_{name}_10m.jp2") for name in ("B02", "B03", "B08")]
    info = describe_scene(",".join(files))
    with pytest.raises(ReadError, match=r"has no band B04 that the model takes \(its bands: B02, B03, B08\)"):
        choose_bands(info, RGBN[:3], None)


def test_levels_do_not_mix(tmp_path: Path) -> None:
    first = write_safe(tmp_path, size=12)
    second = write_safe(tmp_path, level="1C", size=12)
    with pytest.raises(
        ReadError, match=r"is Sentinel-2 L2A and .* is Sentinel-2 L1C; lay scenes of one kind"
    ):
        describe_scene(f"{first},{second}")


def test_one_name_is_no_list(tmp_path: Path) -> None:
    path = write_band(tmp_path / "a,b.tif", band(0))
    assert split_list(str(path)) == (str(path),)
    assert resolve_source(str(path)) is None
    assert resolve_source("https://store.example/a.tif?bbox=1,2,3,4") is None
    assert resolve_source('NETCDF:"a,b.nc":red') is None
    assert split_list("https://a.example/x.tif,https://a.example/y.tif") == (
        "https://a.example/x.tif",
        "https://a.example/y.tif",
    )


def test_names_are_absolute_in_lists_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_band(tmp_path / "a.tif", band(0))
    write_band(tmp_path / "b.tif", band(0))
    assert absolute_source("a.tif, b.tif") == f"{tmp_path}/a.tif,{tmp_path}/b.tif"
    assert absolute_source("*.tif") == f"{tmp_path}/*.tif"
    assert absolute_source("absent.tif") == "absent.tif"
    assert absolute_source("s3://bucket/a.tif") == "s3://bucket/a.tif"


def test_what_leads_nowhere_is_named(tmp_path: Path) -> None:
    path = write_band(tmp_path / "a.tif", band(0))
    with pytest.raises(ReadError, match=r"absent\.tif: no such file; check the list"):
        describe_scene(f"{path},{tmp_path}/absent.tif")
    with pytest.raises(ReadError, match=r"\*\.jp2: matches no file"):
        describe_scene(f"{tmp_path}/*.jp2")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="holds no raster and no product"):
        describe_scene(str(tmp_path / "empty"))


def test_a_band_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a/B04.tif", "b/B04.tif"):
        write_band(tmp_path / name, band(0))
    shutil.copy(tmp_path / "a/B04.tif", tmp_path / "a/B04.tiff")
    with pytest.raises(ReadError, match=r"names band B04 twice \(B04\.tif, B04\.tiff\)"):
        describe_scene(f"{tmp_path}/a")


def test_bands_without_names_are_stacked_as_listed_with_a_notice(tmp_path: Path) -> None:
    files = [str(write_band(tmp_path / f"{name}.tif", band(place))) for place, name in enumerate("xyz")]
    info = describe_scene(",".join(files))
    bands, notice = choose_bands(info, RGBN[:3], None)
    assert bands == (1, 2, 3)
    assert notice is not None
    assert "by position" in notice


def test_a_folder_of_tiles_is_a_mosaic_by_band(tmp_path: Path) -> None:
    for tile in range(2):
        for place, name in enumerate(("B02", "B03", "B04", "B08")):
            affine = PLACE * Affine.translation(120 * tile, 0)
            write_band(tmp_path / f"tile{tile}_{name}.tif", band(10 * tile + place), affine)
    info, values = read(str(tmp_path))
    assert tuple(info.geobox.shape) == (120, 240)
    np.testing.assert_array_equal(values[:, :, :120], EXPECTED)
    np.testing.assert_array_equal(values[0, :, 120:], band(12))


def test_recipes_know_what_is_costly_and_what_is_in_files_of_its_own(safe: Path, tmp_path: Path) -> None:
    def recipe(argument: str) -> SceneRecipe:
        info = describe_scene(argument)
        return SceneRecipe.of(argument, info, info.geobox, (1,), "cubic")

    plain = str(write_band(tmp_path / "B04.tif", band(0)))
    assert (recipe(str(safe)).costly, recipe(str(safe)).is_stack) == (True, True)
    assert (recipe(str(images(safe) / "T32TQM_20220630T101029_B04_10m.jp2")).costly) is True
    assert (recipe(plain).costly, recipe(plain).is_stack) == (False, False)


def test_a_message_names_the_argument_not_the_text_of_a_vrt(tmp_path: Path) -> None:
    safe = write_safe(tmp_path)
    info = describe_scene(str(safe))
    image = images(safe) / "T32TQM_20220630T101029_B04_10m.jp2"
    recipe = SceneRecipe.of(str(safe), info, info.geobox, (4,), "cubic")
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    with pytest.raises(ReadError, match=r"\.SAFE: rows 0\.\.120") as failure:
        recipe.open().read(Box(0, 0, 120, 120))
    assert "<VRT" not in str(failure.value)
    assert "\n" not in str(failure.value)
    image.unlink()
    with pytest.raises(ReadError) as failure:
        SceneRecipe.of(str(safe), info, info.geobox, (4,), "cubic").open().read(Box(0, 0, 120, 120))
    assert "<VRT" not in str(failure.value)
