"""Band files: names in the names of files."""

from __future__ import annotations

import pytest

from ussfc.pipeline.reading.sources.bands import band_label, is_raster


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("T32TQM_20180630T101029_B04_10m.jp2", "B04"),
        ("T32TQM_20180630T101029_B8A_20m.jp2", "B8A"),
        ("S2A_OPER_MSI_L1C_TL_EPA__20151001T000000_A001_T32TQM_B04.jp2", "B04"),
        ("LC08_L2SP_193024_20180630_20200831_02_T1_SR_B4.TIF", "SR_B4"),
        ("HLS.S30.T10TEM.2021001T190801.v2.0.B04.tif", "B04"),
        ("B4.tif", "B4"),
        ("city-red.tif", "red"),
        ("red_sea_nir.tif", "nir"),
        ("red_B08.tif", "B08"),
        ("https://store.example/a/B03.tif?signature=B04", "B03"),
        ("T32TQM_20180630T101029_TCI_10m.jp2", None),
        ("web2_B40.tif", None),
        ("AB04.tif", None),
        ("rediscovered.tif", None),
    ],
)
def test_the_name_of_a_file_names_its_band(name: str, label: str | None) -> None:
    assert band_label(name)[0] == label


def test_bands_of_one_scene_share_the_rest_of_their_names() -> None:
    folder = "/p/IMG_DATA"
    red = band_label(f"{folder}/R10m/T32TQM_20180630T101029_B04_10m.jp2")[1]
    assert red == band_label(f"{folder}/R20m/T32TQM_20180630T101029_B11_20m.jp2")[1]
    assert red != band_label(f"{folder}/R10m/T32TQL_20180630T101029_B04_10m.jp2")[1]


def test_pictures_beside_the_bands_are_no_imagery() -> None:
    assert is_raster("B04.JP2")
    assert not is_raster("scene_thumb_large.jpeg")
    assert not is_raster("MSK_CLDPRB_20m.jp2")
    assert not is_raster("B04.tif.aux.xml")
