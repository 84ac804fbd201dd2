"""Contract of the readers: one image in every container reads the same, in any cut, on any grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.enums
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox
from rasterio.io import MemoryFile
from rasterio.windows import Window

from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.reading import SceneRecipe, choose_bands, describe_scene, on_grid, read_aoi, shown_uri
from ussfc.pipeline.reading.array import ArrayReader
from ussfc.pipeline.types import BandInfo, Box, Pixels, SceneInfo

UTM = "EPSG:32633"
AFFINE = Affine(10, 0, 330_000, 0, -10, 5_862_000)
SHAPE = (180, 230)
NODATA = 0


def image(bands: int = 3) -> np.ndarray:
    """Smooth numbers, a nodata wedge, and one pixel that is 0 in one band only."""
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    values = np.stack([1000 + 40 * np.sin(rows / (7 + b)) * np.cos(cols / 11) * 10 for b in range(bands)])
    values = values.round().astype(np.uint16)
    values[:, rows + cols < 60] = NODATA
    values[0, 100, 100] = NODATA
    return values


def write_tif(path: Path, values: np.ndarray, **extra: object) -> str:
    profile = {
        "driver": "GTiff", "count": len(values), "dtype": values.dtype, "height": values.shape[1],
        "width": values.shape[2], "crs": UTM, "transform": AFFINE, "nodata": NODATA, **extra,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as target:
        target.write(values)
    return str(path)


def write_array(path: Path, values: np.ndarray) -> str:
    import odc.geo.xr

    geobox = GeoBox(values.shape[1:], AFFINE, UTM)
    array = odc.geo.xr.wrap_xr(values, geobox, nodata=NODATA, axis=1).rename("reflectance")
    dataset = xr.Dataset({"reflectance": array})
    if path.suffix == ".zarr":
        dataset.to_zarr(path, zarr_format=3, consolidated=False)
    else:
        dataset.to_netcdf(path, engine="h5netcdf")
    return str(path)


WRITERS: dict[str, Callable[[Path, np.ndarray], str]] = {
    "tif": write_tif,
    "zarr": write_array,
    "nc": write_array,
}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scene")
    return WRITERS[request.param](folder / f"image.{request.param}", image())


def test_header(scene: str) -> None:
    info = describe_scene(scene)
    assert info.geobox == GeoBox(SHAPE, AFFINE, UTM)
    assert info.dtype == "uint16"
    assert len(info.bands) == 3
    assert info.identity.startswith("file:")


def test_plain_window_is_the_source(scene: str) -> None:
    grid = describe_scene(scene).geobox
    box = Box(20, 10, 120, 130)
    pixels = SceneRecipe(scene, grid, (3, 1), "bilinear").open().read(box)
    expected = image()[[2, 0]][:, 20:120, 10:130]
    valid = (image() != NODATA).any(axis=0)[20:120, 10:130]
    np.testing.assert_array_equal(pixels.valid, valid)
    np.testing.assert_array_equal(pixels.values, np.where(valid, expected, 0))
    assert pixels.values.dtype == np.uint16


SMALL = ["uint8", "int8", "uint16", "int16"]
"""Types that come as they are; all others come as float32."""

NUMBERS = {
    "uint8": (0, 7, 255), "int8": (0, -5, -128), "uint16": (0, 9, 65535), "int16": (0, -9999, 32767),
    "int32": (0, -9999, 2**31 - 1), "float32": (0, -9999.0, np.nan, np.inf), "float64": (0, 1e300, np.nan),
}  # fmt: skip


@st.composite
def odd_images(draw: st.DrawFn) -> tuple[np.ndarray, float | None, tuple[int, ...], Box]:
    """Bands, nodata, the bands to be read and a window, which may reach beyond the image."""
    dtype = draw(st.sampled_from(SMALL) | st.sampled_from(sorted(NUMBERS)))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(3))
    # Two or three different numbers, so that pixels with nodata in some, all and no bands are frequent.
    values = draw(hnp.arrays(dtype, shape, elements=st.sampled_from(NUMBERS[dtype]), fill=st.nothing()))
    if draw(st.booleans()):
        values[:] = np.where(np.nan_to_num(values) == 0, np.array(7, dtype), values)
    numbers = [None, *NUMBERS[dtype], 0.5]
    bands = draw(st.lists(st.integers(1, shape[0]), min_size=1, max_size=3))
    y, x = (sorted(draw(st.tuples(*(st.integers(-2, size + 2),) * 2))) for size in shape[1:])
    return values, draw(st.sampled_from(numbers)), tuple(bands), Box(y[0], x[0], y[1] + 1, x[1] + 1)


def plainly(values: np.ndarray, valid: np.ndarray, box: Box) -> Pixels:
    """What a reader is to say of a window: float32, 0 where a number is missing or outside."""
    values = values.astype(np.float32)
    valid = valid & np.isfinite(values).all(axis=0)
    margin = 10
    values = np.pad(np.where(valid, values, 0), ((0, 0), (margin, margin), (margin, margin)))
    rows, cols = (slice(part.start + margin, part.stop + margin) for part in box.slices)
    return Pixels(values[:, rows, cols], np.pad(valid, margin)[rows, cols])


def assert_same(pixels: Pixels, expected: Pixels, dtype: str) -> None:
    assert pixels.values.dtype == (dtype if dtype in SMALL else "float32")
    np.testing.assert_array_equal(pixels.valid, expected.valid)
    np.testing.assert_array_equal(pixels.values, expected.values)


@settings(max_examples=300)
@given(image=odd_images(), mark=st.sampled_from(["nodata", "mask", "alpha", "alpha, nodata"]), data=st.data())
def test_a_raster_in_its_own_type_reads_as_gdal_sees_it(
    image: tuple[np.ndarray, float | None, tuple[int, ...], Box], mark: str, data: st.DataObject
) -> None:
    """Every pattern of nodata over bands that are read and bands that are not, masks and alpha."""
    values, nodata, bands, box = image
    count, rows, cols = values.shape
    shown = data.draw(hnp.arrays(np.uint8, (rows, cols), elements=st.sampled_from([0, 255])))
    profile = {
        "driver": "GTiff", "count": count + ("alpha" in mark), "dtype": values.dtype, "height": rows, "width": cols,
        "crs": UTM, "transform": AFFINE, "nodata": nodata if "nodata" in mark else None,
        "photometric": "MINISBLACK",  # else four bytes would be taken for colours with alpha
    }  # fmt: skip
    with MemoryFile() as memory:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), memory.open(**profile) as target:
            target.write(values, range(1, count + 1))
            if "alpha" in mark:
                target.colorinterp = [rasterio.enums.ColorInterp.gray] * count + [
                    rasterio.enums.ColorInterp.alpha
                ]
                target.write(shown.astype(values.dtype) // 2, count + 1)
            if mark == "mask":
                target.write_mask(shown > 0)
        with memory.open() as source:
            whole = Window(0, 0, cols, rows)
            alpha = source.read(count + 1, window=whole) if "alpha" in mark else source.dataset_mask()
            expected = plainly(source.read(bands, out_dtype="float32"), alpha > 0, box)
        grid = GeoBox((rows, cols), AFFINE, UTM)
        pixels = SceneRecipe(memory.name, grid, bands, "bilinear").open().read(box)
    assert_same(pixels, expected, str(values.dtype))


@settings(max_examples=200)
@given(image=odd_images(), swapped=st.booleans())
def test_an_array_in_its_own_type_reads_as_its_numbers_say(
    image: tuple[np.ndarray, float | None, tuple[int, ...], Box], swapped: bool
) -> None:
    import odc.geo.xr

    values, nodata, bands, box = image
    chosen = values[[band - 1 for band in bands]]
    marked = (chosen == nodata).all(axis=0) if nodata is not None else np.zeros(values.shape[1:], bool)
    with np.errstate(over="ignore"):
        expected = plainly(chosen, ~marked, box)
        grid = GeoBox(values.shape[1:], AFFINE, UTM)
        stored = values.astype(values.dtype.newbyteorder(">")) if swapped else values
        array = odc.geo.xr.wrap_xr(stored, grid, nodata=nodata, axis=1)
        pixels = ArrayReader(array, grid, bands, "bilinear").read(box)
    assert_same(pixels, expected, str(values.dtype))
    assert pixels.values.dtype.isnative


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("bands", [(1,), (4,), (2, 1), (3, 3), (1, 2, 3), (4, 2, 3), (1, 2, 3, 4)])
def test_a_pixel_is_missing_when_all_bands_of_the_file_are(
    bands: tuple[int, ...], dtype: str, tmp_path: Path
) -> None:
    nodata = NUMBERS[dtype][1]
    patterns = np.arange(16)
    values = np.stack([np.where(patterns >> band & 1, 1 + band, nodata) for band in range(4)]).astype(dtype)
    values = values[:, None]
    path = write_tif(tmp_path / "patterns.tif", values, nodata=nodata, photometric="MINISBLACK")
    reader = SceneRecipe(path, describe_scene(path).geobox, bands, "bilinear").open()
    for start in range(16):
        pixels = reader.read(Box(0, start, 1, 16))
        np.testing.assert_array_equal(pixels.valid[0], patterns[start:] > 0)
        expected = values[[band - 1 for band in bands], :, start:] * (patterns[start:] > 0)
        np.testing.assert_array_equal(pixels.values, expected)


@pytest.mark.parametrize(("nodata", "valid"), [((0, 0), [0, 1, 1]), ((200, 0), [1, 0, 1])])
def test_a_band_of_another_type_that_is_not_read_tells_what_is_missing(
    nodata: tuple[int, int], valid: list[int], tmp_path: Path
) -> None:
    parts = [np.array([[0, 200, 0]], np.uint8), np.array([[0, 0, 60_000]], np.uint16)]
    names = [write_tif(tmp_path / f"{part.dtype}.tif", part[None]) for part in parts]
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i + 1}"><NoDataValue>{nodata[i]}</NoDataValue><SimpleSource>'
        f"<SourceFilename>{names[i]}</SourceFilename></SimpleSource></VRTRasterBand>"
        for i, kind in enumerate(("Byte", "UInt16"))
    )
    both = tmp_path / "both.vrt"
    both.write_text(f'<VRTDataset rasterXSize="3" rasterYSize="1">{bands}</VRTDataset>')
    grid = describe_scene(str(both)).geobox
    pixels = SceneRecipe(str(both), grid, (2,), "bilinear").open().read(Box(0, 0, 1, 3))
    assert pixels.values.dtype == np.uint16
    assert pixels.values.tolist() == [[[0, 0, 60_000]]]
    assert pixels.valid.tolist() == [valid]


def test_zero_in_one_band_is_a_number(scene: str) -> None:
    pixels = (
        SceneRecipe(scene, describe_scene(scene).geobox, (1, 2, 3), "bilinear").open().read(Box(0, 0, *SHAPE))
    )
    assert pixels.valid[100, 100]


GRIDS = {
    "half a pixel off": GeoBox((150, 170), AFFINE * Affine.translation(20.5, 13.25), UTM),
    "coarser": GeoBox((80, 90), AFFINE * Affine.scale(2.5), UTM),
    "another CRS": GeoBox.from_bbox(
        GeoBox(SHAPE, AFFINE, UTM).footprint("EPSG:4326").boundingbox, "EPSG:4326", resolution=0.00012
    ),
}


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_warp_agrees_with_the_geotiff(scene: str, name: str, tmp_path: Path) -> None:
    grid = GRIDS[name]
    box = Box(0, 0, *grid.shape)
    reference = SceneRecipe(write_tif(tmp_path / "r.tif", image()), grid, (2, 3), "bilinear").open().read(box)
    pixels = SceneRecipe(scene, grid, (2, 3), "bilinear").open().read(box)
    assert 0.2 < reference.valid.mean() < 1
    # The two roads interpolate coordinates differently by up to the warp tolerance.
    assert (pixels.valid != reference.valid).mean() < 0.002
    both = pixels.valid & reference.valid
    # (Band 1 has a lone zero, next to which a hundredth of a pixel is ten units.)
    np.testing.assert_allclose(pixels.values[:, both], reference.values[:, both], atol=2)


@pytest.mark.parametrize("name", sorted(GRIDS))
@given(data=st.data())
def test_windows_do_not_depend_on_the_cut(name: str, data: st.DataObject, scene: str) -> None:
    grid = GRIDS[name]
    reader = SceneRecipe(scene, grid, (2,), "cubic").open()
    whole = reader.read(Box(0, 0, *grid.shape))
    y = sorted(data.draw(st.lists(st.integers(0, grid.shape[0]), min_size=2, max_size=2, unique=True)))
    x = sorted(data.draw(st.lists(st.integers(0, grid.shape[1]), min_size=2, max_size=2, unique=True)))
    part = reader.read(Box(y[0], x[0], y[1], x[1]))
    np.testing.assert_array_equal(part.values, whole.values[:, y[0] : y[1], x[0] : x[1]])
    np.testing.assert_array_equal(part.valid, whole.valid[y[0] : y[1], x[0] : x[1]])


def test_cut_over_several_warp_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = write_tif(tmp_path / "big.tif", rng.integers(1, 4000, (1, 1300, 1200)).astype(np.uint16))
    grid = GeoBox.from_bbox(GeoBox((1300, 1200), AFFINE, UTM).footprint("EPSG:3857").boundingbox, "EPSG:3857",
                            resolution=12)  # fmt: skip
    reader = SceneRecipe(path, grid, (1,), "bilinear").open()
    whole = reader.read(Box(0, 0, *grid.shape))
    part = reader.read(Box(400, 300, 900, 1100))
    np.testing.assert_array_equal(part.values, whole.values[:, 400:900, 300:1100])


def test_mask_band_alpha_and_nan_are_not_valid(tmp_path: Path) -> None:
    expected = np.ones(SHAPE, bool)
    expected[30:60, 40:90] = False
    values = np.full((3, *SHAPE), 100, np.uint8)
    masked = write_tif(tmp_path / "mask.tif", values, nodata=None)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as target:
        target.write_mask(expected)
    alpha = write_tif(
        tmp_path / "alpha.tif", np.concatenate([values, expected[None] * np.uint8(255)]), nodata=None,
        photometric="RGB", alpha="YES",
    )  # fmt: skip
    floats = values.astype(np.float32)
    floats[1, ~expected] = np.nan
    nan = write_tif(tmp_path / "nan.tif", floats, nodata=None)
    for path in (masked, alpha, nan):
        info = describe_scene(path)
        assert len(info.bands) == 3
        pixels = SceneRecipe(path, info.geobox, (1, 2, 3), "bilinear").open().read(Box(0, 0, *SHAPE))
        np.testing.assert_array_equal(pixels.valid, expected, err_msg=path)
        shifted = GeoBox(SHAPE, AFFINE * Affine.translation(0.25, 0.25), UTM)
        warped = SceneRecipe(path, shifted, (1, 2, 3), "bilinear").open().read(Box(0, 0, *SHAPE))
        assert not warped.valid[33:57, 43:87].any(), path
        assert warped.valid[65:170, 5:200].all(), path


def test_south_up_is_flipped(tmp_path: Path) -> None:
    values = image(1)
    upside_down = AFFINE * Affine.translation(0, SHAPE[0]) * Affine.scale(1, -1)
    path = write_tif(tmp_path / "south.tif", values[:, ::-1], transform=upside_down)
    info = describe_scene(path)
    assert info.geobox == GeoBox(SHAPE, AFFINE, UTM)
    assert "south-up" in info.notes[0]
    pixels = SceneRecipe(path, info.geobox, (1,), "bilinear").open().read(Box(0, 0, *SHAPE))
    np.testing.assert_allclose(pixels.values[0], values[0], atol=1e-3)


def test_rotated_is_warped(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "rot.tif", image(1), transform=AFFINE * Affine.rotation(17))
    info = describe_scene(path)
    assert info.geobox.affine.b == 0
    assert "rotated" in info.notes[0]
    pixels = SceneRecipe(path, info.geobox, (1,), "bilinear").open().read(Box(0, 0, *info.geobox.shape))
    assert 0.4 < pixels.valid.mean() < 0.8


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("odc-geo/tests/data/au-gcp.tif", (0.40, 0.45)),
        ("rio-tiler/tests/fixtures/cog_gcps.tif", (0.68, 0.72)),
        ("mapchete/test/testdata/gcps.tif", (0.62, 0.67)),
        ("rasterio/tests/data/RGB.byte.tif", (0.67, 0.68)),
        ("rio-color/tests/rgba8.tif", (0.45, 0.46)),
        ("rasterio/tests/data/all-nodata.tif", (0, 0)),
        ("rio-cogeo/tests/fixtures/image_nan.tif", (0.43, 0.44)),
    ],
)
def test_odd_rasters(shared: Path, name: str, valid: tuple[float, float]) -> None:
    path = str(shared / "data" / "nasty" / name)
    info = describe_scene(path)
    pixels = SceneRecipe(path, info.geobox, (1,), "bilinear").open().read(Box(0, 0, *info.geobox.shape))
    assert valid[0] <= pixels.valid.mean() <= valid[1]


def test_errors_name_the_file_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no such file"):
        describe_scene(str(tmp_path / "absent.tif"))
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(ReadError, match=r"text\.tif: cannot be opened"):
        describe_scene(str(tmp_path / "text.tif"))
    whole = Path(write_tif(tmp_path / "whole.tif", image()))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    grid = GeoBox(SHAPE, AFFINE, UTM)
    with pytest.raises(ReadError, match=r"cut\.tif"):
        SceneRecipe(str(cut), grid, (1,), "bilinear").open().read(Box(0, 0, *SHAPE))


def _scene(*bands: tuple[str | None, str | None]) -> SceneInfo:
    infos = tuple(BandInfo(i + 1, description, color) for i, (description, color) in enumerate(bands))
    return SceneInfo("x.tif", GeoBox((1, 1), AFFINE, UTM), infos, "uint16", "", 1.0)


RGB = (("B04", "red"), ("B03", "green"), ("B02", "blue"))


def test_bands_by_name_colour_position_and_choice() -> None:
    named = _scene(("B02", None), ("B03", None), ("B04", None), ("B08", None))
    assert choose_bands(named, RGB, None) == ((3, 2, 1), None)
    common = _scene(("blue", None), ("green", None), ("red", None))
    assert choose_bands(common, RGB, None) == ((3, 2, 1), None)
    coloured = _scene((None, "blue"), (None, "green"), (None, "red"))
    assert choose_bands(coloured, RGB, None) == ((3, 2, 1), None)
    bands, notice = choose_bands(_scene(("a", None), ("b", None), ("c", None), ("d", None)), RGB, None)
    assert bands == (1, 2, 3)
    assert notice is not None
    assert "by position" in notice
    assert choose_bands(named, RGB, (4, 1, 2)) == ((4, 1, 2), None)
    with pytest.raises(ConfigError, match="the file has"):
        choose_bands(named, RGB, (1, 2, 9))
    with pytest.raises(ReadError, match="has 1 image band"):
        choose_bands(_scene((None, None)), RGB, None)


def test_shown_uri_hides_credentials() -> None:
    assert shown_uri("https://me:secret@host/a.tif?X-Amz-Signature=abc") == "https://host/a.tif"
    assert shown_uri("/data/a.tif") == "/data/a.tif"


def test_area_of_interest(tmp_path: Path) -> None:
    import geopandas
    import shapely

    grid = GeoBox(SHAPE, AFFINE, UTM)
    west, north = AFFINE * (40, 20)
    east, south = AFFINE * (90, 70)
    path = tmp_path / "aoi.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.box(west, south, east, north)], crs=UTM).to_file(path)
    area = on_grid(read_aoi(str(path)), grid)
    mask = area.mask(Box(0, 0, *SHAPE))
    assert mask.sum() == 50 * 50
    np.testing.assert_array_equal(area.mask(Box(10, 30, 60, 80)), mask[10:60, 30:80])
    assert not area.mask(Box(100, 100, 120, 120)).any()
    points = tmp_path / "points.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.Point(west, south)], crs=UTM).to_file(points)
    with pytest.raises(ReadError, match="no polygon"):
        read_aoi(str(points))


@pytest.mark.parametrize("overviews", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_the_sample_of_a_large_scene_stands_for_it(tmp_path: Path, overviews: bool, shifted: bool) -> None:
    rng = np.random.default_rng(3)
    rows, cols = np.mgrid[:3000, :2600]
    values = (1000 + 500 * np.sin(rows / 400) + cols / 4 + rng.normal(0, 20, rows.shape)).astype(np.uint16)[
        None
    ]
    values[:, :300] = NODATA
    path = write_tif(tmp_path / "large.tif", values, tiled=True)
    if overviews:
        with rasterio.open(path, "r+") as target:
            target.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    grid = GeoBox(values.shape[1:], AFFINE * Affine.translation(0.5 * shifted, 0), UTM)
    sample = SceneRecipe(path, grid, (1,), "bilinear").open().sample()
    assert sample.valid.size < 4.5e6
    assert 0.85 < sample.valid.mean() < 0.95
    expected = np.percentile(values[values != NODATA], (2, 50, 98))
    np.testing.assert_allclose(np.percentile(sample.values[0][sample.valid], (2, 50, 98)), expected, atol=45)
