"""Products of Sentinel-2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.products import BANDS_10M, PLACE, write_safe
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.sources.bands import BandSet
from ussfc.pipeline.reading.sources.sentinel2 import listed_set, product_set
from ussfc.pipeline.reading.sources.trees import open_tree


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safe(tmp_path_factory.mktemp("product"), size=0)


def found(place: Path) -> BandSet:
    tree = open_tree(str(place))
    assert tree is not None
    bands = product_set(tree, place.name)
    assert bands is not None
    return bands


def granule(safe: Path) -> Path:
    return next((safe / "GRANULE").iterdir())


def labels(bands: BandSet) -> list[str | None]:
    return [file.label for file in bands.files]


@pytest.mark.parametrize("part", ["", "GRANULE", "GRANULE/{}", "GRANULE/{}/IMG_DATA"])
def test_a_product_is_found_from_any_of_its_folders(safe: Path, part: str) -> None:
    bands = found(safe / part.format(granule(safe).name))
    assert labels(bands) == ["B01", "B02", "B03", "B04", "B08", "B11"]
    assert bands.product == "Sentinel-2 L2A"
    assert bands.acquired == "2022-06-30T10:16:32.456Z"
    assert {(file.scale, file.offset, file.nodata) for file in bands.files} == {(1e-4, -0.1, 0.0)}
    assert bands.notes == ()
    red = next(file.uri for file in bands.files if file.label == "B04")
    assert red.endswith("_B04_10m.jp2")


@pytest.mark.parametrize(
    ("baseline", "offset", "expected"),
    [
        ("02.14", None, 0.0),
        ("03.01", None, 0.0),
        ("04.00", -1000, -0.1),
        ("05.09", -500, -0.05),
        ("05.11", None, -0.1),
    ],
)
def test_the_offset_is_that_of_the_baseline(
    tmp_path: Path, baseline: str, offset: int | None, expected: float
) -> None:
    bands = found(write_safe(tmp_path, baseline=baseline, offset=offset, size=0))
    assert {file.offset for file in bands.files} == {expected}


def test_a_level_1c_product(tmp_path: Path) -> None:
    bands = found(write_safe(tmp_path, level="1C", size=0))
    assert labels(bands) == list(BANDS_10M)
    assert bands.product == "Sentinel-2 L1C"
    assert {file.offset for file in bands.files} == {-0.1}


def test_bands_given_alone_have_what_the_metadata_above_state(safe: Path) -> None:
    red = granule(safe) / "IMG_DATA/R10m/T32TQM_20220630T101029_B04_10m.jp2"
    bands = listed_set([("B04", str(red))], "list")
    assert bands is not None
    assert bands.acquired == "2022-06-30T10:16:32.456Z"
    assert bands.files[0].offset == -0.1


def test_the_granules_metadata_are_enough(tmp_path: Path) -> None:
    safe = write_safe(tmp_path, size=0)
    alone = tmp_path / "granule"
    shutil.move(granule(safe), alone)
    bands = found(alone)
    assert {file.offset for file in bands.files} == {-0.1}
    assert bands.acquired == "2022-06-30T10:16:32.456Z"


@pytest.mark.parametrize(("date", "warned"), [("20220630", True), ("20180630", False)])
def test_bands_without_metadata_are_warned_of_where_they_may_have_an_offset(date: str, warned: bool) -> None:
    bands = listed_set([("B04", f"/nowhere/T32TQM_{date}T101029_B04_10m.jp2")], "list")
    assert bands is not None
    assert bands.files[0].offset == 0
    assert bands.acquired == f"{date[:4]}-06-30T10:10:29Z"
    assert [note.startswith("list: no MTD_MSIL2A.xml") for note in bands.notes] == [True] * warned


def test_the_name_of_a_product_states_its_baseline(tmp_path: Path) -> None:
    safe = write_safe(tmp_path, size=0)
    for name in ("MTD_MSIL2A.xml", f"GRANULE/{granule(safe).name}/MTD_TL.xml"):
        (safe / name).unlink()
    bands = found(safe)
    assert bands.product == "Sentinel-2 L2A"
    assert {file.offset for file in bands.files} == {-0.1}
    assert bands.notes == ()


def test_two_granules_are_refused(tmp_path: Path) -> None:
    safe = write_safe(tmp_path, size=0)
    shutil.copytree(granule(safe), safe / "GRANULE" / "L2A_T32TRM_A000001_20220630T101029")
    with pytest.raises(
        ReadError, match=r"holds 2 granules \(L2A_T32TQM.*, L2A_T32TRM.*\); give the folder of one"
    ):
        found(safe)


def test_two_products_are_refused(tmp_path: Path) -> None:
    for place, tile in enumerate(("T32TQM", "T32TRM")):
        write_safe(tmp_path, tile=tile, affine=PLACE, seed=place, size=0)
    with pytest.raises(ReadError, match="holds 2 products"):
        found(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["no xml", "<a><PROCESSING_BASELINE>new</PROCESSING_BASELINE></a>", "<a><BOA_ADD_OFFSET>1</BOA_ADD_OFFSET></a>",
     '<a><BOA_ADD_OFFSET band_id="99">1</BOA_ADD_OFFSET></a>', ""],
)  # fmt: skip
def test_damaged_metadata_are_one_line(tmp_path: Path, text: str) -> None:
    safe = write_safe(tmp_path, size=0)
    (safe / "MTD_MSIL2A.xml").write_text(text)
    with pytest.raises(ReadError, match=r"its MTD_MSIL2A\.xml cannot be read \(.*\); get the product again"):
        found(safe)


def test_a_product_without_images_is_named(tmp_path: Path) -> None:
    safe = write_safe(tmp_path, size=0)
    shutil.rmtree(granule(safe) / "IMG_DATA")
    with pytest.raises(ReadError, match="no image of a band"):
        found(safe)


def test_coarser_copy_of_a_fine_band_is_reported(tmp_path: Path) -> None:
    product = write_safe(tmp_path, size=0)
    next(product.rglob("*_B04_10m.jp2")).unlink()
    (note,) = found(product).notes
    assert "of B04 it has no image in pixels of 10 m" in note
    for image in product.rglob("*_10m.jp2"):
        image.unlink()
    # Of a product without any of them nothing is missing.
    assert found(product).notes == ()


@pytest.mark.parametrize("number", ["0", "-1", "nan", "inf"])
def test_unit_that_no_number_has_is_one_line(tmp_path: Path, number: str) -> None:
    product = write_safe(tmp_path, size=0)
    metadata = product / "MTD_MSIL2A.xml"
    metadata.write_text(metadata.read_text().replace(">10000<", f">{number}<"))
    with pytest.raises(ReadError, match=r"its MTD_MSIL2A\.xml cannot be read .*quantification"):
        found(product)
