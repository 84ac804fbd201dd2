"""Scenes as they are passed to workers."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.support.images import image, write_tif
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.types import Box


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"absent\.tif: no such file; check the path"):
        describe_scene(str(tmp_path / "absent.tif"))


def test_a_file_that_is_no_raster_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(ReadError, match=r"text\.tif: cannot be opened"):
        describe_scene(str(tmp_path / "text.tif"))


def test_a_recipe_survives_pickling(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "scene.tif", image())
    recipe = SceneRecipe(path, describe_scene(path).geobox, (2, 1), "bilinear")
    box = Box(70, 10, 90, 30)
    found = pickle.loads(pickle.dumps(recipe)).open().read(box)
    np.testing.assert_array_equal(found.values, image()[[1, 0]][(slice(None), *box.slices)])


def test_a_folder_without_a_scene_names_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"holds no raster and no product that is known; give"):
        describe_scene(str(tmp_path))
    (tmp_path / "download").mkdir()
    with pytest.raises(ReadError, match=r"but folders \(download\); give the one of a product"):
        describe_scene(str(tmp_path))


@pytest.mark.parametrize(("scale", "offset"), [(0.0, 0.0), (float("nan"), 0.0), (1e-4, float("inf"))])
def test_a_scale_that_no_number_has_is_left_out_with_a_note(
    scale: float, offset: float, tmp_path: Path
) -> None:
    paths = [write_tif(tmp_path / f"{name}.tif", image()) for name in "ab"]
    with rasterio.open(paths[0], "r+") as file:
        file.scales, file.offsets = (1.0, scale, 1.0), (0.0, offset, 0.0)
    for scene in (paths[0], ",".join(paths)):
        info = describe_scene(scene)
        assert info.scales((1, 2, 3)) == ((1, 0),) * 3
        (note,) = info.notes
        assert "band 2 declares scale" in note
        assert "they are left out" in note
