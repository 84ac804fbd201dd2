"""Band files as one raster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.support.products import CRS, PLACE, SIZE, band, write_band
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.sources.bands import BandFile, BandSet
from ussfc.pipeline.reading.sources.stacks import shifted_notes, stack


def bands(*files: BandFile) -> BandSet:
    return BandSet("scene", files, "2018-06-30T10:00:00Z", "Sentinel-2 L2A")


def test_the_stack_states_what_the_product_does(tmp_path: Path) -> None:
    red = write_band(tmp_path / "a & <b>'.tif", band(1))
    with rasterio.open(stack(bands(BandFile(str(red), "B04", 1e-4, -0.1, 0.0)))) as file:
        assert file.descriptions == ("B04",)
        assert (file.scales, file.offsets, file.nodata) == ((1e-4,), (-0.1,), 0.0)
        assert file.tags()["ACQUISITIONDATETIME"] == "2018-06-30T10:00:00Z"
        assert file.colorinterp[0].name == "red"
        assert file.transform == PLACE
        np.testing.assert_array_equal(file.read(1), band(1))


def test_coarser_bands_are_repeated_and_the_same_in_every_window(tmp_path: Path) -> None:
    coarse = band(2, 20)
    fine = write_band(tmp_path / "fine.tif", band(1))
    sixty = write_band(tmp_path / "coarse.tif", coarse, PLACE * Affine.scale(6))
    with rasterio.open(stack(bands(BandFile(str(sixty), "B01"), BandFile(str(fine), "B04")))) as file:
        expected = coarse.repeat(6, axis=0).repeat(6, axis=1)
        np.testing.assert_array_equal(file.read(1), expected)
        window = rasterio.windows.Window(31, 47, 23, 17)
        np.testing.assert_array_equal(file.read(1, window=window), expected[47:64, 31:54])


def test_what_a_file_declares_stays(tmp_path: Path) -> None:
    path = write_band(tmp_path / "a.tif", band(1), nodata=7)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets, file.descriptions = (0.5,), (2.0,), ("mine",)
    with rasterio.open(stack(BandSet("scene", (BandFile(str(path), None),)))) as file:
        assert (file.scales, file.offsets, file.nodata, file.descriptions) == ((0.5,), (2.0,), 7, ("mine",))


@pytest.mark.parametrize(
    ("moved", "side", "told"),
    [(0.5, 1, "0.5 px"), (0.75, 1, "0.25 px"), (1, 1, None), (0.04, 1, None), (0.5, 2, None)],
)
def test_bands_between_the_pixels_of_others_are_told(
    tmp_path: Path, moved: float, side: int, told: str | None
) -> None:
    """Coarser pixels may begin anywhere: the 15 and 30 m of Landsat are half a small pixel apart."""
    first = write_band(tmp_path / "a.tif", band(1))
    place = PLACE * Affine.translation(moved, 0) * Affine.scale(side)
    other = write_band(tmp_path / "b.tif", band(2, SIZE // side), place)
    notes = shifted_notes(stack(bands(BandFile(str(first), "B04"), BandFile(str(other), "B03"))), "scene")
    assert [f"scene: its band files lie {told} off" in note for note in notes] == [True] * (told is not None)


@pytest.mark.parametrize(
    ("affine", "crs", "what"),
    [
        (PLACE * Affine.translation(2, 0), CRS, "show different ground"),
        (PLACE, "EPSG:32633", "different coordinate systems"),
        (PLACE, None, "different coordinate systems"),
    ],
)
def test_bands_of_other_ground_are_refused(
    tmp_path: Path, affine: Affine, crs: str | None, what: str
) -> None:
    first = write_band(tmp_path / "a.tif", band(1))
    second = write_band(tmp_path / "b.tif", band(2), affine, crs)
    with pytest.raises(ReadError, match=rf"scene: its band files .*{what}.*b\.tif"):
        stack(bands(BandFile(str(first), "B04"), BandFile(str(second), "B03")))


def test_a_vrt_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    secret = write_band(tmp_path / "far/secret.tif", band(1))
    (tmp_path / "near").mkdir()
    disguised = tmp_path / "near/B04.tif"
    disguised.write_text(stack(bands(BandFile(str(secret), "B04"))))
    with pytest.raises(ReadError, match="leads to"):
        stack(bands(BandFile(str(disguised), "B04")))
    assert stack(bands(BandFile(str(disguised), "B04")), everywhere=True)
