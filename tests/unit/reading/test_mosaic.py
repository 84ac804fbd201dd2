"""Several scenes as one."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning

from tests.support.images import write_tif
from tests.support.products import CRS, PLACE, band
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.reading.mosaic import union_grid
from ussfc.pipeline.types import Box, Pixels

SIZE = 60


def scene(path: Path, seed: int, col: int = 0, hole: bool = False, **extra: object) -> str:
    values = np.stack([band(seed + place, SIZE) for place in range(3)])
    if hole:
        values[:, 10:20, 30:50] = 0
    # Dark in one band alone is a number, not a hole.
    values[0, 5, 5] = 0
    return write_tif(path, values, transform=PLACE * Affine.translation(col, 0), crs=CRS, **extra)


def read(argument: str, box: Box | None = None, grid: GeoBox | None = None) -> Pixels:
    info = describe_scene(argument)
    place = grid or info.geobox
    recipe = pickle.loads(pickle.dumps(SceneRecipe.of(argument, info, place, (3, 1, 2), "cubic")))
    rows, cols = place.shape
    return recipe.open().read(box or Box(0, 0, rows, cols))


def test_the_first_valid_pixel_wins(tmp_path: Path) -> None:
    first, second = scene(tmp_path / "a.tif", 0, hole=True), scene(tmp_path / "b.tif", 10, col=25)
    top = np.stack([band(place, SIZE) for place in (2, 0, 1)])
    below = np.stack([band(10 + place, SIZE) for place in (2, 0, 1)])
    top[1, 5, 5] = below[1, 5, 5] = 0
    found = read(f"{first},{second}")
    assert found.values.shape == (3, SIZE, 85)
    expected = np.concatenate([top, below[:, :, 35:]], axis=2).astype(np.float32)
    expected[:, 10:20, 30:50] = below[:, 10:20, 5:25]
    np.testing.assert_array_equal(found.values, expected)
    assert found.valid.all()
    other = read(f"{second},{first}")
    np.testing.assert_array_equal(other.values[:, :, 25:], below)


def test_windows_agree_with_the_whole(tmp_path: Path) -> None:
    files = [scene(tmp_path / f"{n}.tif", n, col=25 * n, hole=True) for n in range(3)]
    files[1] = scene(tmp_path / "fraction.tif", 1, col=25, hole=True)
    with rasterio.open(files[1], "r+") as file:
        file.transform = PLACE * Affine.translation(25.4, 0.3)
    argument = ",".join(files)
    whole = read(argument)
    for box in (Box(3, 7, 31, 83), Box(12, 40, 13, 41), Box(0, 60, 60, 110)):
        part = read(argument, box)
        np.testing.assert_array_equal(part.values, whole.values[(slice(None), *box.slices)])
        np.testing.assert_array_equal(part.valid, whole.valid[box.slices])


def test_scenes_of_two_zones_meet(tmp_path: Path) -> None:
    with rasterio.open(scene(tmp_path / "east.tif", 0)) as east:
        place = east.transform * (SIZE - 10, 0)
    (x,), (y,) = rasterio.warp.transform(CRS, "EPSG:32633", [place[0]], [place[1]])
    other = write_tif(
        tmp_path / "west.tif", np.full((3, SIZE, SIZE), 700, np.uint16), crs="EPSG:32633",
        transform=Affine(10, 0, x, 0, -10, y),
    )  # fmt: skip
    found = read(f"{tmp_path}/east.tif,{other}")
    info = describe_scene(f"{tmp_path}/east.tif,{other}")
    assert info.geobox.crs is not None
    assert info.geobox.crs.epsg == 32632
    assert info.geobox.shape[1] > SIZE
    np.testing.assert_array_equal(found.values[:, -50, -30], 700)
    assert found.valid.mean() > 0.6


def test_numbers_of_other_scales_are_brought_to_those_of_the_first(tmp_path: Path) -> None:
    first, second = scene(tmp_path / "a.tif", 0), scene(tmp_path / "b.tif", 0, col=SIZE)
    for path, offset in ((first, 0.0), (second, -0.1)):
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = (1e-4,) * 3, (offset,) * 3
    found = read(f"{first},{second}")
    np.testing.assert_allclose(found.values[0, :, SIZE:], band(2, SIZE).astype(float) - 1000, atol=1e-3)


def test_a_sample_is_of_all_scenes(tmp_path: Path) -> None:
    files = [scene(tmp_path / f"{n}.tif", n, col=SIZE * n) for n in range(2)]
    info = describe_scene(",".join(files))
    reader = SceneRecipe.of(files[0], info, info.geobox, (1, 2, 3), "cubic").open()
    assert reader.sample().values.shape == (3, SIZE, 2 * SIZE)
    assert reader.sample(70_000).valid.all()


@pytest.mark.parametrize("what", ["bands", "crs"])
def test_what_does_not_fit_together_is_refused(tmp_path: Path, what: str) -> None:
    first = scene(tmp_path / "a.tif", 0)
    other = scene(tmp_path / "b.tif", 0, col=SIZE)
    if what == "bands":
        with rasterio.open(other, "r+") as file:
            file.descriptions = ("B04", "B03", "B02")
        match = r"a\.tif has the bands without a name, .*b\.tif B04, B03, B02; all must have the same"
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            other = write_tif(tmp_path / "c.tif", np.ones((3, 9, 9), np.uint8), crs=None, transform=None)
        match = r"c\.tif: has no CRS and cannot be laid beside"
    with pytest.raises(ReadError, match=match):
        describe_scene(f"{first},{other}")


def test_the_union_keeps_the_pixels_of_the_first() -> None:
    first = GeoBox((10, 20), Affine(10, 0, 0, 0, -10, 0), CRS)
    other = GeoBox((10, 20), Affine(10, 0, -55, 0, -10, 104), CRS)
    union = union_grid([first, other])
    assert tuple(union.shape) == (21, 26)
    assert union.affine == Affine(10, 0, -60, 0, -10, 110)


def test_numbers_of_other_types_without_a_unit_are_reported(tmp_path: Path) -> None:
    beside = PLACE * Affine.translation(60, 0)
    images = [
        write_tif(tmp_path / f"{name}.tif", np.ones((3, 60, 60), name), transform=place, crs=CRS)
        for name, place in (("uint16", PLACE), ("float32", beside), ("int16", beside))
    ]
    (note,) = describe_scene(",".join(images[:2])).notes
    assert "different types (uint16, float32) and declare neither scale nor offset" in note
    assert describe_scene(f"{images[0]},{images[2]}").notes == ()


def test_alpha_is_no_band_of_an_image(tmp_path: Path) -> None:
    beside, place = PLACE * Affine.translation(60, 0), {"crs": CRS, "photometric": "RGB"}
    values = np.full((4, 60, 60), 9, np.uint8)
    values[3, :10] = 0
    first = write_tif(tmp_path / "a.tif", values[:3], transform=PLACE, **place)
    second = write_tif(tmp_path / "b.tif", values, transform=beside, alpha="YES", **place)
    info = describe_scene(f"{first},{second}")
    assert (len(info.bands), info.geobox.shape) == (3, (60, 120))
    recipe = SceneRecipe.of(f"{first},{second}", info, info.geobox, (1, 2, 3), "cubic")
    valid = recipe.open().read(Box(0, 0, 60, 120)).valid
    assert valid.sum() == 60 * 120 - 10 * 60
