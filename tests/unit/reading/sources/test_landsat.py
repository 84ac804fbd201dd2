"""Scenes of Landsat."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.support.products import LANDSAT_NAME, write_landsat
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.sources.bands import BandSet
from ussfc.pipeline.reading.sources.landsat import listed_set, scene_set
from ussfc.pipeline.reading.sources.trees import Tree, open_tree


def found(place: Path) -> BandSet:
    tree = open_tree(str(place))
    assert tree is not None
    bands = scene_set(tree, place.name)
    assert bands is not None
    return bands


@pytest.mark.parametrize("kind", ["json", "txt", "xml"])
def test_a_scene_by_its_metadata(tmp_path: Path, kind: str) -> None:
    bands = found(write_landsat(tmp_path, kind, size=0))
    assert [file.label for file in bands.files] == [
        "coastal (SR_B1)", "blue (SR_B2)", "green (SR_B3)", "red (SR_B4)", "nir (SR_B5)", "swir16 (SR_B6)",
        "swir22 (SR_B7)",
    ]  # fmt: skip
    assert {(file.scale, file.offset, file.nodata) for file in bands.files} == {(2.75e-5, -0.2, 0.0)}
    assert bands.product == "Landsat 8 L2"
    assert bands.acquired == "2018-06-30T10:02:11Z"


def test_a_scene_without_metadata_by_its_name(tmp_path: Path) -> None:
    bands = found(write_landsat(tmp_path, None, size=0))
    assert {(file.scale, file.offset) for file in bands.files} == {(2.75e-5, -0.2)}
    assert bands.acquired == "2018-06-30"


def test_numbers_mean_other_colours_on_older_satellites() -> None:
    files = [(f"SR_B{n}", f"/x/LT05_L2SP_193024_20080630_20200831_02_T1_SR_B{n}.TIF") for n in (1, 3, 4)]
    bands = listed_set(files, "list")
    assert bands is not None
    assert [file.label for file in bands.files] == ["blue (SR_B1)", "red (SR_B3)", "nir (SR_B4)"]


def test_reflectances_at_the_top_are_divided_by_the_sine_of_the_suns_height() -> None:
    text = (
        "GROUP = IMAGE_ATTRIBUTES\nSUN_ELEVATION = 30.0\nEND_GROUP = IMAGE_ATTRIBUTES\n"
        "GROUP = LEVEL1_RADIOMETRIC_RESCALING\nREFLECTANCE_MULT_BAND_4 = 2.0E-05\nREFLECTANCE_ADD_BAND_4 = -0.1\n"
        "END_GROUP = LEVEL1_RADIOMETRIC_RESCALING\n"
    )
    name = "LC08_L1TP_193024_20180630_20200831_02_T1"
    tree = Tree("/x", (f"{name}_B4.TIF", f"{name}_B8.TIF", f"{name}_MTL.txt"), "/x", lambda _: text.encode())
    bands = scene_set(tree, "x")
    assert bands is not None
    assert [file.label for file in bands.files] == ["red (TOA_B4)"]
    assert math.isclose(bands.files[0].scale or 0, 4e-5)
    assert math.isclose(bands.files[0].offset or 0, -0.2)
    assert bands.product == "Landsat 8 L1"


def test_two_scenes_are_refused() -> None:
    names = tuple(f"LC08_L2SP_193024_2018063{day}_20200831_02_T1_SR_B4.TIF" for day in (0, 1))
    with pytest.raises(ReadError, match="holds 2 scenes of Landsat"):
        scene_set(Tree("/x", names, "/x", lambda _: b""), "x")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"LANDSAT_METADATA_FILE": 3}', '{"LANDSAT_METADATA_FILE": {"A": {}}}']
)
def test_damaged_metadata_are_one_line(tmp_path: Path, text: str) -> None:
    folder = write_landsat(tmp_path, None, size=0)
    (folder / f"{LANDSAT_NAME}_MTL.json").write_text(text)
    with pytest.raises(ReadError, match="get the scene again"):
        found(folder)


def test_other_folders_are_none(tmp_path: Path) -> None:
    (tmp_path / "B04.tif").touch()
    tree = open_tree(str(tmp_path))
    assert tree is not None
    assert scene_set(tree, "x") is None


def test_level_1_without_metadata_is_one_line(tmp_path: Path) -> None:
    for number in (2, 3, 4):
        (tmp_path / f"LC08_L1TP_193024_20180630_20200831_02_T1_B{number}.TIF").touch()
    with pytest.raises(ReadError, match="is of level 1 and has no metadata"):
        found(tmp_path)


@pytest.mark.parametrize("number", ["0", "nan", "-1"])
def test_scale_that_no_number_has_is_one_line(tmp_path: Path, number: str) -> None:
    folder = write_landsat(tmp_path, "txt", size=0)
    metadata = folder / f"{LANDSAT_NAME}_MTL.txt"
    metadata.write_text(metadata.read_text().replace("2.75e-05", number))
    with pytest.raises(ReadError, match=r"state no reflectance of band 1 .*factor"):
        found(folder)
