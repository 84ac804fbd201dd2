"""Masks that products have beside their bands: taken by themselves, unless another is given or none is wanted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from tests.support.products import LANDSAT_NAME, PLACE, write_band, write_item, write_landsat, write_safe
from tests.support.scenes import write_toy_model
from tests.support.stubs import StubRecipe
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.events import ignore
from ussfc.pipeline.reading.date_masks import describe_mask
from ussfc.pipeline.runs.pair import ScenePair, inspect_pair
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.runs.prepare import prepare
from ussfc.pipeline.runs.run_key import run_key
from ussfc.pipeline.types import BoolArray, Box

HALF = 60
"""Side of the classes of a product, pixels of 20 m."""


def classes(*places: tuple[slice, slice], number: int = 9) -> np.ndarray:
    """Return classes of a product, vegetation but for some places."""
    values = np.full((HALF, HALF), 4, np.uint8)
    for place in places:
        values[place] = number
    return values


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy_model(tmp_path_factory.mktemp("model")))


def pair_of(model: str, before: object, after: object, *sets: str) -> ScenePair:
    config = load_config(sets=[f"model={model}", "cluster.kind=serial", *sets])
    return inspect_pair(str(before), str(after), config)


def hidden(pair: ScenePair, date: int = 0) -> BoolArray:
    mask = pair.masks[date]
    assert mask is not None
    return mask.masked(Box(0, 0, *pair.grid.shape))


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safe(tmp_path_factory.mktemp("safe"), scl=classes(np.s_[:10, 20:40]))


@pytest.fixture
def cloud() -> BoolArray:
    expected = np.zeros((120, 120), bool)
    expected[:20, 40:80] = True
    return expected


def granule(safe: Path) -> Path:
    return next((safe / "GRANULE").iterdir())


def test_classes_of_sentinel2_are_the_mask_in_every_form(
    safe: Path, cloud: BoolArray, model: str, tmp_path: Path
) -> None:
    archive = shutil.make_archive(str(tmp_path / safe.stem), "zip", safe.parent, safe.name)
    flat = tmp_path / "flat"
    flat.mkdir()
    images = granule(safe) / "IMG_DATA"
    for image in [*(images / "R10m").iterdir(), images / "R20m/T32TQM_20220630T101029_SCL_20m.jp2"]:
        (flat / image.name).symlink_to(image)
    forms = [safe, archive, granule(safe), images / "R10m", images / "R10m/*_B0*.jp2", flat]
    for form in forms:
        pair = pair_of(model, form, safe, "masks.after=none")
        np.testing.assert_array_equal(hidden(pair), cloud, str(form))
        assert pair.masks[0] is not None
        assert describe_mask(pair.masks[0]).endswith("10, 11; found with the scene)")
        assert pair.masks[1] is None


def test_another_level_without_classes_has_no_mask(model: str, tmp_path: Path) -> None:
    product = write_safe(tmp_path, level="1C")
    assert pair_of(model, product, product).masks == (None, None)


def test_configuration_goes_first(safe: Path, model: str, tmp_path: Path) -> None:
    given = write_band(tmp_path / "clouds.tif", np.ones((120, 120), np.uint8))
    assert hidden(pair_of(model, safe, safe, f"masks.before={given}")).all()
    found = hidden(pair_of(model, safe, safe, "masks.classes_before=[4]"))
    assert found.sum() == 120 * 120 - 20 * 40
    grown = hidden(pair_of(model, safe, safe, "masks.dilation_m=20"))
    assert grown.sum() > 20 * 40


def test_mask_belongs_to_the_key(safe: Path, model: str) -> None:
    detector = StubRecipe(patch_size=32, bands=3)
    keys = []
    for sets in ((), ("masks.before=none", "masks.after=none")):
        config = load_config(sets=[f"model={model}", "cluster.kind=serial", *sets])
        keys.append(run_key(plan(str(safe), str(safe), config), detector))
    assert keys[0]["masks"][0][0].endswith("SCL_20m.jp2")
    assert "masks" not in keys[1]


def test_quality_of_landsat_is_the_mask(model: str, tmp_path: Path) -> None:
    folder = write_landsat(tmp_path / LANDSAT_NAME)
    quality = np.full((120, 120), 21824, np.uint16)
    quality[30:50] = 22280
    write_band(folder / f"{LANDSAT_NAME}_QA_PIXEL.TIF", quality)
    for form in (folder, f"{folder}/*_SR_B[2-5].TIF"):
        pair = pair_of(model, form, folder, "masks.after=none")
        np.testing.assert_array_equal(hidden(pair), quality == 22280)


@pytest.mark.parametrize(
    ("key", "name"), [("scl", "SCL.tif"), ("SCL", "classes.tif"), ("any", "x_SCL_20m.tif")]
)
def test_classes_of_a_stac_item_are_the_mask(
    key: str, name: str, cloud: BoolArray, model: str, tmp_path: Path
) -> None:
    item = write_item(tmp_path)
    write_band(tmp_path / name, classes(np.s_[:10, 20:40]), PLACE * Affine.scale(2))
    document = json.loads(item.read_text())
    document["assets"][f"{key}-jp2"] = {"href": f"missing/{name[:-4]}.jp2", "type": "image/jp2"}
    document["assets"][key] = {"href": name, "type": "image/tiff"}
    document["assets"]["scl-preview"] = {"href": "scl.png", "roles": ["thumbnail"]}
    item.write_text(json.dumps(document))
    np.testing.assert_array_equal(hidden(pair_of(model, item, item)), cloud)


def test_scenes_side_by_side_have_the_mask_of_the_one_that_saw_the_pixel(model: str, tmp_path: Path) -> None:
    # The first scene saw the left half alone, and the second has a cloud over the seam.
    first = write_safe(tmp_path / "a", scl=classes(np.s_[:, 30:], number=0))
    second = write_safe(tmp_path / "b", scl=classes(np.s_[10:20, 20:40]))
    pair = pair_of(model, f"{first},{second}", second, "masks.after=none")
    expected = np.zeros((120, 120), bool)
    expected[20:40, 60:80] = True
    np.testing.assert_array_equal(hidden(pair), expected)
    mask = pair.masks[0]
    assert mask is not None
    for box in (Box(0, 0, 33, 120), Box(15, 50, 60, 101)):
        np.testing.assert_array_equal(mask.masked(box), expected[box.slices])
    mask.with_cache(1 << 26).check_unchanged()
    path = next((second / "GRANULE").rglob("*_SCL_20m.jp2"))
    os.utime(path, (1, 1))
    with pytest.raises(ReadError, match="the mask has changed"):
        mask.check_unchanged()


def test_prepared_scene_keeps_the_mask(safe: Path, cloud: BoolArray, model: str, tmp_path: Path) -> None:
    other = write_safe(tmp_path / "other", affine=PLACE * Affine.translation(60, 0))
    for form, expected in ((safe, cloud), (f"{safe},{other}", np.pad(cloud, ((0, 0), (0, 60))))):
        written = prepare(str(form), tmp_path / "scene.tif", None, True, ignore)
        assert written.mask == tmp_path / "scene_SCL.tif"
        np.testing.assert_array_equal(hidden(pair_of(model, written.path, written.path)), expected)
    written.path.unlink()
    with pytest.raises(StoreError, match=r"scene_SCL\.tif: exists"):
        prepare(str(safe), written.path, None, False, ignore)
    prepare(str(safe), written.path, None, True, ignore)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    written.path.rename(moved / "scene.tif")
    pair = pair_of(model, moved / "scene.tif", safe)
    assert pair.masks[0] is None
    assert any("its mask of clouds, scene_SCL.tif, is not beside it" in notice for notice in pair.notices)


def test_mosaic_of_which_a_scene_has_no_mask_has_none(safe: Path, model: str, tmp_path: Path) -> None:
    bare = write_safe(tmp_path)
    next((bare / "GRANULE").rglob("*_SCL_20m.jp2")).unlink()
    pair = pair_of(model, f"{safe},{bare}", safe)
    assert pair.masks[0] is None
    assert any("has no mask of clouds while other scenes of its date" in notice for notice in pair.notices)


def test_damaged_mask_is_one_line_with_the_way_out(model: str, tmp_path: Path) -> None:
    product = write_safe(tmp_path)
    next((product / "GRANULE").rglob("*_SCL_20m.jp2")).write_bytes(b"no image")
    with pytest.raises(ReadError, match=r"SCL_20m\.jp2: cannot be opened .*masks\.before=none does without"):
        pair_of(model, product, product)
    assert pair_of(model, product, product, "masks.before=none", "masks.after=none").masks == (None, None)
