"""Warps of blocks that are read first give what GDAL's warped views give, where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import odc.geo.xr
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from tests.support.images import AFFINE, UTM, write_tif
from ussfc.pipeline.reading.array import ArrayReader
from ussfc.pipeline.reading.block_warp import BlockWarp
from ussfc.pipeline.reading.handles import RasterHandles
from ussfc.pipeline.reading.raster import RasterReader
from ussfc.pipeline.types import Box, Pixels

KERNELS = (
    Resampling.bilinear,
    Resampling.cubic,
    Resampling.cubic_spline,
    Resampling.lanczos,
    Resampling.average,
)


@contextmanager
def handles(path: str, grid: GeoBox, bands: tuple[int, ...], kernel: Resampling) -> Iterator[RasterHandles]:
    found = RasterHandles(rasterio.open(path), grid, bands, kernel)
    try:
        yield found
    finally:
        found.close()


def read_both(
    path: str, grid: GeoBox, bands: tuple[int, ...], kernel: Resampling, monkeypatch: pytest.MonkeyPatch
) -> tuple[Pixels, Pixels]:
    """Read the grid as it is, and by GDAL's warped views alone."""
    whole = Box(0, 0, *grid.shape)
    with handles(path, grid, bands, kernel) as opened:
        assert opened._block_warp is not None
        found = opened.read(whole)
    with monkeypatch.context() as patch:
        patch.setattr("ussfc.pipeline.reading.handles.keeps_scale", lambda source, grid: False)
        with handles(path, grid, bands, kernel) as opened:
            assert opened._block_warp is None
            return found, opened.read(whole)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[npt.NDArray[Any], float | None, Affine]:
    """Numbers, nodata and place of a file that is read first; a part of the pixels may be missing."""
    shape = draw(st.tuples(st.sampled_from([1, 3, 4, 4, 5]), st.integers(32, 700), st.integers(32, 700)))
    dtype = draw(st.sampled_from(["uint8", "int8", "uint16", "int16"]))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(1, 120, shape).astype(dtype)
    nodata = draw(st.sampled_from([0.0, 0.0, None, *([-9999.0] if dtype == "int16" else [])]))
    holes = draw(st.sampled_from(["none", "one band", "all bands", "all bands"]))
    if holes != "none" and nodata is not None:
        for _ in range(5):
            y, x = draw(st.integers(0, shape[1] - 1)), draw(st.integers(0, shape[2] - 1))
            values[: 1 if holes == "one band" else len(values), y : y + 20, x : x + 9] = nodata
    scale = draw(st.sampled_from([0.5, 1.0, 1.25, 2.0]))
    # Whole pixels are no warp.
    down, right = (draw(st.integers(-30, 30)) + draw(st.floats(0.01, 0.99)) for _ in range(2))
    return values, nodata, AFFINE * Affine.translation(right, down) * Affine.scale(scale)


@settings(max_examples=40, deadline=None)
@given(
    scene=scenes(),
    kernel=st.sampled_from(KERNELS),
    bands=st.sampled_from([(1, 2, 3, 4, 5), (4, 3, 2, 1), (1, 2, 3), (2, 1), (3,)]),
    mixed=st.booleans(),
)
def test_the_numbers_are_those_of_a_warped_view(
    tmp_path_factory: pytest.TempPathFactory,
    scene: tuple[npt.NDArray[Any], float | None, Affine],
    kernel: Resampling,
    bands: tuple[int, ...],
    mixed: bool,
) -> None:
    values, nodata, affine = scene
    bands = tuple(band for band in bands if band <= len(values)) or (1,)
    # Without, the last of four bands of bytes is one of opacity, and the file is left to GDAL.
    plain = {"photometric": "MINISBLACK", "alpha": "unspecified"}
    path = write_tif(
        tmp_path_factory.mktemp("warp") / "a.tif", values, transform=affine, nodata=nodata, **plain
    )
    if mixed and values.dtype == np.uint8:
        path = of_two_types(path, nodata)
    grid = GeoBox((600, 600), AFFINE, UTM)
    with pytest.MonkeyPatch.context() as monkeypatch:
        found, expected = read_both(path, grid, bands, kernel, monkeypatch)
    # Beside a hole the weights of a kernel may be 0 in sum: the view has the mark of nodata there, and calls it valid.
    unset = ~found.valid & (expected.values == (0 if nodata is None else nodata)).all(axis=0)
    np.testing.assert_array_equal(found.valid, expected.valid & ~unset)
    assert not (unset & expected.valid).any() or kernel == Resampling.lanczos
    # Coordinates count from the part that was read, which may move the last bits.
    np.testing.assert_allclose(
        found.values[:, found.valid], expected.values[:, found.valid], rtol=0, atol=3e-5
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16"])
def test_any_number_of_bands_is_warped_as_a_view_does(
    tmp_path: Path, dtype: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as colours and opacity, as GeoTIFF takes four bands of bytes."""
    values = np.random.default_rng(1).integers(1, 120, (count, 90, 90)).astype(dtype)
    path = write_tif(tmp_path / "a.tif", values, photometric="MINISBLACK", alpha="unspecified")
    grid = GeoBox((80, 80), AFFINE * Affine.translation(0.3, 0.3), UTM)
    bands = tuple(range(1, count + 1))
    found, expected = read_both(path, grid, bands, Resampling.cubic, monkeypatch)
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=3e-5)


def of_two_types(path: str, nodata: float | None) -> str:
    """Return a VRT of a file of bytes whose second band has 16 bits."""
    with rasterio.open(path) as source:
        count, (rows, cols) = source.count, source.shape
        transform = ", ".join(map(repr, source.transform.to_gdal()))
    mark = "" if nodata is None else f"<NoDataValue>{nodata}</NoDataValue>"
    bands = "".join(
        f'<VRTRasterBand dataType="{"Int16" if band == 2 else "Byte"}" band="{band}">{mark}<SimpleSource>'
        f"<SourceFilename>{path}</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in range(1, count + 1)
    )
    virtual = Path(path).with_suffix(".vrt")
    virtual.write_text(
        f'<VRTDataset rasterXSize="{cols}" rasterYSize="{rows}"><SRS>{UTM}</SRS>'
        f"<GeoTransform>{transform}</GeoTransform>{bands}</VRTDataset>"
    )
    return str(virtual)


def marked_apart(path: str, side: int) -> str:
    """Return a VRT of two bands of a file in which 1 marks nodata in the first, and 2 in the second."""
    marked = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{band}"><NoDataValue>{band}</NoDataValue><SimpleSource>'
        f"<SourceFilename>{path}</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2)
    )
    transform = ", ".join(map(repr, AFFINE.to_gdal()))
    virtual = Path(path).with_suffix(".vrt")
    virtual.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{UTM}</SRS>'
        f"<GeoTransform>{transform}</GeoTransform>{marked}"
        '<OverviewList resampling="average">2 4</OverviewList></VRTDataset>'
    )
    return str(virtual)


def test_only_blocks_that_reach_a_hole_mind_nodata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.full((3, 1100, 1100), 7, np.uint16)
    values[:, 600:620, 600:620] = 0
    values[0, 5, 5] = 0
    path = write_tif(tmp_path / "a.tif", values)
    grid = GeoBox((1024, 1024), AFFINE * Affine.translation(30.3, 30.3), UTM)
    marks: list[tuple[int, float | None]] = []
    original = BlockWarp._view

    def view(self: BlockWarp, image: npt.NDArray[Any], nodata: float | None, *rest: Any) -> Any:
        marks.append((len(image), nodata))
        return original(self, image, nodata, *rest)

    monkeypatch.setattr(BlockWarp, "_view", view)
    with handles(path, grid, (1, 2), Resampling.cubic) as opened:
        opened.read(Box(0, 0, 1024, 1024))
    plain, masked, near = (2, None), (2, np.nan), (1, None)
    assert str(marks) == str([plain, plain, plain, masked, near])


def served(path: str, grid: GeoBox) -> bool:
    with handles(path, grid, (1,), Resampling.cubic) as opened:
        return opened._block_warp is not None


def test_other_files_and_warps_are_left_to_gdal(tmp_path: Path) -> None:
    """Masks that are no numbers, marks that GDAL compares loosely, curved outlines, kernels that reach far."""
    values = np.full((2, 60, 60), 7, np.uint8)
    grid = GeoBox((50, 50), AFFINE * Affine.translation(0.3, 0.3), UTM)
    plain = write_tif(tmp_path / "plain.tif", values)
    assert served(plain, grid)
    assert not served(plain, grid.to_crs("EPSG:32632"))
    assert not served(plain, GeoBox((50, 50), AFFINE * Affine.scale(2.1, 1), UTM))
    assert not served(plain, GeoBox((50, 50), AFFINE * Affine.scale(1, 0.4), UTM))
    assert served(write_tif(tmp_path / "none.tif", values, nodata=None), grid)
    assert not served(write_tif(tmp_path / "alpha.tif", values, nodata=None, alpha="yes"), grid)
    assert not served(write_tif(tmp_path / "float.tif", values.astype(np.float32)), grid)
    assert not served(write_tif(tmp_path / "int32.tif", values.astype(np.int32)), grid)
    assert not served(write_tif(tmp_path / "small.tif", values[:, :31]), grid)
    for left, expected in ((10, True), (179.9, False), (-180, False)):
        place = Affine(0.001, 0, left, 0, -0.001, 50)
        degrees = GeoBox((50, 50), place * Affine.translation(0.3, 0.3), "EPSG:4326")
        file = write_tif(tmp_path / "degrees.tif", values, transform=place, crs="EPSG:4326")
        assert served(file, degrees) == expected
    assert not served(marked_apart(write_tif(tmp_path / "apart.tif", values), 60), grid)
    for angle in (10, 90):
        turned = Affine(0, 10, AFFINE.c, 10, 0, AFFINE.f) if angle == 90 else AFFINE * Affine.rotation(angle)
        assert not served(write_tif(tmp_path / f"turned{angle}.tif", values, transform=turned), grid)


def test_a_file_that_is_replaced_after_it_was_opened_does_not_mix(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", np.full((1, 100, 100), 7, np.uint8))
    other = write_tif(tmp_path / "b.tif", np.full((1, 100, 100), 9, np.uint8))
    grid = GeoBox((90, 90), AFFINE * Affine.translation(0.3, 0.3), UTM)
    with handles(path, grid, (1,), Resampling.cubic) as opened:
        Path(other).replace(path)
        assert np.unique(opened.read(Box(0, 0, 90, 90)).values).tolist() == [7]


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 200), st.integers(1, 200)),
    scale=st.sampled_from([0.05, 0.3, 0.5, 1.0, 2.0, 5.0]),
    hole=st.booleans(),
    kernel=st.sampled_from([kernel.name for kernel in KERNELS]),
)
def test_arrays_have_the_numbers_of_gdal_too(
    shape: tuple[int, int, int], scale: float, hole: bool, kernel: str
) -> None:
    values = np.random.default_rng(1).integers(1, 4000, shape).astype(np.uint16)
    if hole:
        values[:, shape[1] // 2, shape[2] // 2] = 0
    place = GeoBox(shape[1:], AFFINE * Affine.translation(3.3, 2.6) * Affine.scale(scale), UTM)
    array = odc.geo.xr.wrap_xr(values, place, nodata=0, axis=1)
    grid = GeoBox((150, 150), AFFINE, UTM)
    whole = Box(0, 0, 150, 150)
    found = ArrayReader(array, grid, (1,), kernel).read(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ussfc.pipeline.reading.block_warp.keeps_scale", lambda source, grid: False)
        expected = ArrayReader(array, grid, (1,), kernel).read(whole)
    np.testing.assert_array_equal(found.valid, expected.valid)
    np.testing.assert_array_equal(found.values, expected.values)


@pytest.mark.parametrize("apart", [False, True])
def test_overviews_are_warped_where_they_lie(tmp_path: Path, apart: bool) -> None:
    """A virtual copy of a file is one of the overview that is read, not of as many pixels of the file itself."""
    rows, cols = np.mgrid[:1024, :1024]
    values = np.stack([rows, cols]).astype(np.uint16) // 8 + 100
    path = write_tif(tmp_path / "a.tif", values, tiled=True)
    if apart:
        path = marked_apart(path, 1024)
    else:
        with rasterio.open(path, "r+") as target:
            target.build_overviews([2, 4], Resampling.average)
    grid = GeoBox((1024, 1024), AFFINE * Affine.translation(0.3, 0.3), UTM)
    found = RasterReader(path, path, grid, (1, 2), "cubic").overview(grid.zoom_out(4), 4)
    assert found is not None
    steps = np.arange(8, 248)
    np.testing.assert_allclose(found.values[0, steps, 128], (steps * 4 + 2) / 8 + 100, atol=1.5)
    np.testing.assert_allclose(found.values[1, 128, steps], (steps * 4 + 2) / 8 + 100, atol=1.5)
