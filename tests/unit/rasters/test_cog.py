"""The GeoTIFFs: exact pixels, change at every zoom, strict layout, the same bytes, all or nothing."""

from __future__ import annotations

import os
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rioxarray
import xarray
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning
from rio_cogeo.cogeo import cog_validate

from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.events import Advanced, Event, ignore
from ussfc.pipeline.pixels import pyramid
from ussfc.pipeline.pixels.encoding import classify, decode
from ussfc.pipeline.pixels.pyramid import average, level_shapes, pool, square
from ussfc.pipeline.rasters import tiff
from ussfc.pipeline.rasters.cog import ChangeRaster, ClassCounts, CogOptions, ProbabilityRaster, write
from ussfc.pipeline.types import Box

UTM = Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0)
SMALL_BLOCKS = CogOptions(block_size=256)
Pixels = npt.NDArray[Any]


@dataclass
class Held:
    """Probabilities in memory; ``fails_at`` reads before it fails, if it does."""

    values: Pixels
    fails_at: int | None = None
    reads: list[Box] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.values.dtype

    def read(self, box: Box) -> Pixels:
        if len(self.reads) == self.fails_at:
            raise ReadError("the store is gone")
        self.reads.append(box)
        return self.values[box.slices]


def probabilities(shape: tuple[int, int], dtype: str = "uint8", seed: int = 0) -> Pixels:
    """Mostly low, some high, an area and single pixels without data."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 90, shape, dtype=np.uint8)
    values[rng.random(shape) < 0.001] = 200
    values[rng.random(shape) < 0.01] = 255
    values[shape[0] // 2 :, : shape[1] // 3] = 255
    return values if dtype == "uint8" else decode(values)


def grid(shape: tuple[int, int], crs: str | None = "EPSG:32632", affine: Affine = UTM) -> GeoBox:
    return GeoBox(shape, affine, crs)


def load(file: Path, level: int | None = None) -> Pixels:
    """Full resolution, or an overview."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        how = {} if level is None else {"overview_level": level}
        with rasterio.open(file, **how) as raster:
            pixels: Pixels = raster.read(1)
    return pixels


def valid(file: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        ok, errors, remarks = cog_validate(file, strict=True, quiet=True)
    assert (errors, remarks) == ([], [])
    return bool(ok)


def write_change(
    source: Held,
    geobox: GeoBox,
    threshold: float,
    path: Path,
    scratch: Path,
    options: CogOptions,
    tags: dict[str, str],
    subscriber: Callable[[Event], None] = ignore,
) -> ClassCounts:
    counts = write(source, geobox, [ChangeRaster(path, tags, threshold)], scratch, options, subscriber)
    assert counts is not None
    return counts


def write_probability(
    source: Held, geobox: GeoBox, path: Path, scratch: Path, options: CogOptions, tags: dict[str, str]
) -> None:
    assert write(source, geobox, [ProbabilityRaster(path, tags)], scratch, options) is None


def change_of(
    values: Pixels, folder: Path, options: CogOptions = SMALL_BLOCKS, geobox: GeoBox | None = None
) -> Path:
    path = folder / "change.tif"
    place = geobox or grid(Held(values).shape)
    write_change(Held(values), place, 0.5, path, folder / "scratch", options, {})
    return path


def probability_of(
    values: Pixels, folder: Path, options: CogOptions = SMALL_BLOCKS, geobox: GeoBox | None = None
) -> Path:
    path = folder / "probability.tif"
    write_probability(Held(values), geobox or grid(Held(values).shape), path, folder / "scratch", options, {})
    return path


def files_under(folder: Path) -> set[str]:
    return {item.name for item in folder.rglob("*") if item.is_file()}


def slow_pool(classes: Pixels) -> Pixels:
    """The overview rule word for word."""
    rows, cols = classes.shape
    out = np.full((-(-rows // 2), -(-cols // 2)), 255, np.uint8)
    for y, x in np.ndindex(*out.shape):
        children = classes[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        out[y, x] = 1 if (children == 1).any() else 0 if (children == 0).any() else 255
    return out


CLASSES = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([0, 1, 255]),
)


@given(CLASSES)
def test_pooling_follows_the_rule(classes: Pixels) -> None:
    np.testing.assert_array_equal(pool(classes), slow_pool(classes))


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from([16, 256, 512, 1024]))
def test_levels_halve_until_one_block_holds_the_raster(rows: int, cols: int, block: int) -> None:
    shapes = [(rows, cols), *level_shapes((rows, cols), block)]
    for larger, smaller in pairwise(shapes):
        assert smaller == ((larger[0] + 1) // 2, (larger[1] + 1) // 2)
        assert max(larger) > min(block, 512)
    assert max(shapes[-1]) <= min(block, 512)


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((1301, 2750), 256),
        ((1, 1), 512),
        ((40, 17), 16),
        ((256, 256), 256),
        ((257, 256), 256),
        ((3, 5000), 128),
        ((900, 700), 1024),
        ((4099, 4700), 512),
    ],
)
@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_change_is_exact_at_every_level(
    tmp_path: Path, shape: tuple[int, int], block: int, compression: Any
) -> None:
    values = probabilities(shape)
    path = change_of(values, tmp_path, CogOptions(compression, block, 2))
    expected: Pixels = classify(values, 0.5)
    assert valid(path)
    np.testing.assert_array_equal(load(path), expected)
    with rasterio.open(path) as raster:
        assert raster.compression.name == compression
        assert raster.block_shapes == [(block, block)]
        assert len(raster.overviews(1)) == len(level_shapes(shape, block))
    for level in range(len(level_shapes(shape, block))):
        expected = pool(expected)
        np.testing.assert_array_equal(load(path, level), expected)
    assert files_under(tmp_path) == {"change.tif"}


def test_blocks_of_reading_and_pooling_leave_no_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "READ_SIZE", 512)
    values = probabilities((1301, 1750))
    heard: list[Event] = []
    source = Held(values)
    path = tmp_path / "change.tif"
    write_change(source, grid(source.shape), 0.5, path, tmp_path / "s", SMALL_BLOCKS, {}, heard.append)
    expected: Pixels = classify(values, 0.5)
    np.testing.assert_array_equal(load(path), expected)
    for level in range(len(level_shapes(source.shape, 256))):
        expected = pool(expected)
        np.testing.assert_array_equal(load(path, level), expected)
    assert heard == [Advanced("mosaic", 1, box.pixels) for box in source.reads]
    assert sum(box.pixels for box in source.reads) == values.size


@pytest.mark.parametrize("position", [(0, 0), (1300, 2749), (700, 255)])
def test_one_changed_pixel_shows_in_every_overview(tmp_path: Path, position: tuple[int, int]) -> None:
    values = np.zeros((1301, 2750), np.uint8)
    values[position] = 254
    path = change_of(values, tmp_path)
    for level in range(len(level_shapes((1301, 2750), 256))):
        overview = load(path, level)
        assert np.argwhere(overview == 1).tolist() == [[side >> (level + 1) for side in position]]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_classes_are_counted(tmp_path: Path, dtype: str) -> None:
    values = probabilities((300, 400), dtype)
    source = Held(values)
    options = CogOptions()
    counts = write_change(source, grid((300, 400)), 0.5, tmp_path / "c.tif", tmp_path, options, {})
    classes = classify(values, 0.5)
    assert counts == ClassCounts(*(int((classes == value).sum()) for value in (0, 1, 255)))
    assert min(counts.unchanged, counts.changed, counts.nodata) > 0


def test_change_says_what_it_is(tmp_path: Path) -> None:
    with rasterio.open(change_of(probabilities((300, 400)), tmp_path)) as raster:
        assert (raster.nodata, raster.dtypes, raster.descriptions) == (255, ("uint8",), ("change",))
        colors = raster.colormap(1)
    assert colors[255][3] == 0
    assert colors[1] == (230, 0, 38, 255)
    assert max(colors[0][:3]) < 64


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("shape", "block"), [((1301, 2750), 256), ((20, 30), 512), ((900, 700), 1024)])
def test_probability_is_exact(tmp_path: Path, dtype: str, shape: tuple[int, int], block: int) -> None:
    values = probabilities(shape, dtype)
    path = probability_of(values, tmp_path, CogOptions("zstd", block, 2))
    assert valid(path)
    np.testing.assert_array_equal(load(path), values)
    with rasterio.open(path) as raster:
        assert raster.descriptions == ("change_probability",)
        assert len(raster.overviews(1)) == len(level_shapes(shape, block))
        assert raster.tags(ns="IMAGE_STRUCTURE")["PREDICTOR"] == ("2" if dtype == "uint8" else "3")
    assert files_under(tmp_path) == {"probability.tif"}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_readers_get_probabilities(tmp_path: Path, dtype: str) -> None:
    values = probabilities((300, 400), dtype)
    array = rioxarray.open_rasterio(probability_of(values, tmp_path), mask_and_scale=True)
    assert isinstance(array, xarray.DataArray)
    np.testing.assert_allclose(array.to_numpy()[0], decode(values), rtol=1e-6)
    assert array.rio.crs == "EPSG:32632"
    array.close()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_averages_leave_nodata_out(tmp_path: Path, dtype: str) -> None:
    stored = np.full((600, 600), 100, np.uint8)
    stored[::2, ::2] = 255
    stored[:, 300:] = 255
    values = stored if dtype == "uint8" else decode(stored)
    overview = decode(load(probability_of(values, tmp_path, CogOptions()), 0))
    np.testing.assert_allclose(overview[:, :150], 100 / 254, rtol=1e-6)
    assert np.isnan(overview[:, 150:]).all()


@pytest.mark.parametrize("write", [change_of, probability_of])
@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        (None, Affine.identity()),
        (None, UTM),
        ("EPSG:4326", Affine(1e-4, 0.0, 10.1, 0.0, -1e-4, 50.3)),
        ("EPSG:32632", Affine(9.8, 2.1, 500000.0, 2.1, -9.8, 5000000.0)),
        ("+proj=laea +lat_0=1.5 +lon_0=7.25 +ellps=bessel +units=m", UTM),
        ("+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=40 +lon_0=10 +datum=WGS84", UTM),
    ],
)
def test_georeference_is_kept(
    tmp_path: Path, write: Callable[..., Path], crs: str | None, affine: Affine
) -> None:
    geobox = grid((300, 310), crs, affine)
    path = write(probabilities((300, 310)), tmp_path, geobox=geobox)
    assert valid(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as raster:
            assert raster.transform.almost_equals(affine, 1e-9)
            if geobox.crs is None:
                assert raster.crs is None
            else:
                assert raster.crs == rasterio.crs.CRS.from_wkt(geobox.crs.to_wkt())
    assert files_under(tmp_path) <= {path.name, f"{path.name}.aux.xml"}


def test_a_sidecar_of_an_older_product_goes(tmp_path: Path) -> None:
    (tmp_path / "change.tif.aux.xml").write_text("<PAMDataset><Metadata/></PAMDataset>")
    change_of(probabilities((30, 31)), tmp_path)
    assert files_under(tmp_path) == {"change.tif"}


def test_tags_come_back_whatever_they_hold(tmp_path: Path) -> None:
    tags = {'ke<y> & "q"': "x < y && \"z\" 'w' é\nsecond line", "RUN": "1"}
    shape = (30, 31)
    for path in (tmp_path / "change.tif", tmp_path / "probability.tif"):
        source = Held(probabilities(shape))
        if path.stem == "change":
            write_change(source, grid(shape), 0.5, path, tmp_path, CogOptions(), tags)
        else:
            write_probability(source, grid(shape), path, tmp_path, CogOptions(), tags)
        with rasterio.open(path) as raster:
            assert {key: raster.tags()[key] for key in tags} == tags


def of_gdal(values: Pixels, folder: Path, options: CogOptions) -> Path:
    """The same probabilities by GDAL's own driver."""
    whole, path = folder / "whole.tif", folder / "gdal.tif"
    shape = Held(values).shape
    with rasterio.open(
        whole, "w", driver="GTiff", height=shape[0], width=shape[1], count=1, dtype=values.dtype,
        nodata=255 if values.dtype == np.uint8 else np.nan, transform=UTM, crs="EPSG:32632",
    ) as raster:  # fmt: skip
        raster.write(values, 1)
    rasterio.shutil.copy(
        str(whole), str(path), driver="COG", COMPRESS=options.compression, BLOCKSIZE=options.block_size,
        PREDICTOR="YES", OVERVIEW_RESAMPLING="AVERAGE", OVERVIEW_COUNT=len(level_shapes(shape, options.block_size)),
    )  # fmt: skip
    return path


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("options", [CogOptions("deflate", 128), CogOptions("zstd", 512, 2)])
def test_probability_and_its_overviews_are_those_of_gdal(
    tmp_path: Path, dtype: str, options: CogOptions
) -> None:
    shape = (2048, 3072)
    values = np.random.default_rng(5).integers(0, 255, shape, dtype=np.uint8)
    values[np.random.default_rng(6).random(shape) < 0.3] = 255
    values[:1024, :2048] = 9
    values[1024:1536, :] = 255
    if dtype == "float32":
        values = decode(values) * np.random.default_rng(7).random(shape, dtype=np.float32)
    path, expected = probability_of(values, tmp_path, options), of_gdal(values, tmp_path, options)
    for level in (None, *range(len(level_shapes(shape, options.block_size)))):
        np.testing.assert_array_equal(load(path, level), load(expected, level))
    with rasterio.open(path) as found, rasterio.open(expected) as wanted:
        assert found.tags(ns="IMAGE_STRUCTURE") == wanted.tags(ns="IMAGE_STRUCTURE")
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert found.overviews(1) == wanted.overviews(1)
        assert (found.crs, found.transform, found.block_shapes) == (
            wanted.crs, wanted.transform, wanted.block_shapes,
        )  # fmt: skip


def slow_average(stored: Pixels) -> Pixels:
    """The rule word for word: the mean of the valid ones, to the nearest level, halves up."""
    rows, cols = stored.shape
    out = np.full((-(-rows // 2), -(-cols // 2)), 255, np.uint8)
    for y, x in np.ndindex(*out.shape):
        children = [int(v) for v in stored[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].flat if v != 255]
        if children:
            out[y, x] = (2 * sum(children) + len(children)) // (2 * len(children))
    return out


@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
        elements=st.one_of(st.integers(0, 254), st.just(255)),
    )
)
def test_averaging_follows_the_rule(stored: Pixels) -> None:
    np.testing.assert_array_equal(average(stored), slow_average(stored))
    real = average(np.where(stored == 255, np.float32(np.nan), stored.astype(np.float32)))
    np.testing.assert_array_equal(
        np.floor(np.nan_to_num(real, nan=255) + np.float32(0.5)), slow_average(stored)
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_a_large_file_is_a_bigtiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, compression: Any
) -> None:
    values = probabilities((1301, 1750), dtype)
    options = CogOptions(compression, 256)
    classic = probability_of(values, tmp_path, options).read_bytes()
    # One byte more than the limit.
    monkeypatch.setattr(tiff, "lay_out", partial(tiff.lay_out, classic_limit=len(classic) - 1))
    path = probability_of(values, tmp_path, options)
    assert (classic[2], path.read_bytes()[2]) == (42, 43)
    assert valid(path)
    np.testing.assert_array_equal(load(path), values)
    for level in range(len(level_shapes(Held(values).shape, 256))):
        values = average(values)
        np.testing.assert_array_equal(load(path, level), values)
    with rasterio.open(path) as raster:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    monkeypatch.setattr(tiff, "lay_out", partial(tiff.lay_out, classic_limit=len(classic)))
    assert probability_of(values, tmp_path, options).read_bytes()[2] == 42


def test_blocks_are_framed_as_the_file_says(tmp_path: Path) -> None:
    """In the order of the levels, smallest first, row by row, nothing between them."""
    path = probability_of(probabilities((1301, 1750)), tmp_path)
    content = path.read_bytes()
    levels = tiff.directories(content)
    assert len(levels) == 4
    end = 0
    for level in reversed(levels):
        for offset, size in zip(level[tiff.OFFSETS].numbers, level[tiff.BYTE_COUNTS].numbers, strict=True):
            assert end in (0, offset - 4)
            assert content[offset - 4 : offset] == size.to_bytes(4, "little")
            end = offset + size + 4
            assert content[end - 4 : end] == content[end - 8 : end - 4]
    assert end == len(content)


@pytest.mark.parametrize(("block", "chunk"), [(512, 512), (512, 4096), (256, 1000), (128, 2048), (1024, 300)])
def test_the_squares_leave_no_trace(tmp_path: Path, block: int, chunk: int) -> None:
    values = probabilities((2100, 4500))
    source, made = Held(values), []
    for number, size in enumerate((1, chunk)):
        rasters = [
            ChangeRaster(tmp_path / f"c{number}.tif", {}, 0.5), ProbabilityRaster(tmp_path / f"p{number}.tif", {})
        ]  # fmt: skip
        write(source, grid(source.shape), rasters, tmp_path / "s", CogOptions(block_size=block), chunk=size)
        made.append([raster.path.read_bytes() for raster in rasters])
    assert made[0] == made[1]


def test_squares_hold_whole_blocks_and_chunks() -> None:
    assert [square(512, chunk) for chunk in (1, 256, 2048, 4096, 3000)] == [2048, 2048, 2048, 4096, 4096]
    assert [square(block) for block in (128, 256, 1024, 2048, 4096, 144, 4000)] == [
        2048, 2048, 4096, 4096, 4096, 1152, 4000,
    ]  # fmt: skip


def test_both_rasters_in_one_pass(tmp_path: Path) -> None:
    values = probabilities((1301, 1750))
    alone = [change_of(values, tmp_path).read_bytes(), probability_of(values, tmp_path).read_bytes()]
    source = Held(values)
    rasters = [ProbabilityRaster(tmp_path / "p.tif", {}), ChangeRaster(tmp_path / "c.tif", {}, 0.5)]
    counts = write(source, grid(source.shape), rasters, tmp_path / "s", SMALL_BLOCKS)
    assert counts is not None
    assert counts.changed == (classify(values, 0.5) == 1).sum()
    assert [(tmp_path / name).read_bytes() for name in ("c.tif", "p.tif")] == alone
    assert sum(box.pixels for box in source.reads) == values.size


@pytest.mark.parametrize("write", [change_of, probability_of])
@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_the_same_bytes_again_and_over_threads(
    tmp_path: Path, write: Callable[..., Path], compression: Any
) -> None:
    values = probabilities((1301, 1750))
    written = set()
    for number, threads in enumerate([1, 1, 2, 4]):
        folder = tmp_path / str(number)
        folder.mkdir()
        written.add(write(values, folder, CogOptions(compression, 256, threads)).read_bytes())
    assert len(written) == 1


@pytest.mark.parametrize("older", [b"an older product", None])
def test_a_failing_source_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bytes | None
) -> None:
    monkeypatch.setattr(pyramid, "READ_SIZE", 512)
    path, scratch = tmp_path / "product.tif", tmp_path / "scratch"
    if older is not None:
        path.write_bytes(older)
    values = probabilities((1100, 1100))
    with pytest.raises(ReadError, match="the store is gone"):
        write_change(Held(values, 3), grid((1100, 1100)), 0.5, path, scratch, SMALL_BLOCKS, {})
    with pytest.raises(ReadError, match="the store is gone"):
        write_probability(Held(values, 3), grid((1100, 1100)), path, scratch, SMALL_BLOCKS, {})
    assert files_under(tmp_path) == (set() if older is None else {"product.tif"})
    assert older is None or path.read_bytes() == older
    assert list(scratch.iterdir()) == []


def test_leftovers_of_a_killed_run_are_overwritten(tmp_path: Path) -> None:
    values = probabilities((600, 700))
    (tmp_path / "clean").mkdir()
    expected = change_of(values, tmp_path / "clean").read_bytes()
    left = tmp_path / "scratch" / "change-levels"
    left.mkdir(parents=True)
    for name in ("blocks", "product.tif", "product.vrt"):
        (left / name).write_bytes(b"half")
    (tmp_path / "change.part.tif").write_bytes(b"half")
    assert change_of(values, tmp_path).read_bytes() == expected
    assert files_under(tmp_path) == {"change.tif"}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let every file end at ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("write", [change_of, probability_of])
def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, write: Callable[..., Path], threads: int
) -> None:
    values = np.random.default_rng(3).integers(0, 254, (900, 1000), dtype=np.uint8)
    options = CogOptions(block_size=256, threads=threads)
    finished = write(values, tmp_path, options)
    whole = finished.read_bytes()
    finished.unlink()
    # From nothing at all to all but the last byte of the product: rasterio keeps silent of the latter.
    for size in (0, 5000, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 20, len(whole) - 1):
        with largest_file(size), pytest.raises(StoreError) as caught:
            write(values, tmp_path, options)
        message = str(caught.value)
        assert str(finished) in message
        assert "have room" in message
        assert "\n" not in message
        assert caught.value.__cause__ is not None
        assert files_under(tmp_path) == set()
    assert write(values, tmp_path, options).read_bytes() == whole


@pytest.mark.parametrize("place", [0, 0.1, 0.5, 1])
def test_bytes_lost_on_the_disk_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: float
) -> None:
    """From the header over the directories and blocks to the very last byte."""

    def lose(handle: int) -> None:
        with (tmp_path / "change.part.tif").open("r+b") as part:
            part.seek(int(place * (os.fstat(handle).st_size - 1)))
            (byte,) = part.read(1)
            part.seek(-1, os.SEEK_CUR)
            part.write(bytes([byte ^ 0xFF]))

    monkeypatch.setattr(os, "fsync", lose)
    with pytest.raises(StoreError, match="read back are not those written"):
        change_of(probabilities((600, 700)), tmp_path)
    assert files_under(tmp_path) == set()


def test_a_scratch_file_that_is_damaged_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pread", lambda handle, size, offset: bytes(size))
    with pytest.raises(StoreError, match="read back are not those written"):
        probability_of(probabilities((600, 700)), tmp_path)
    assert files_under(tmp_path) == set()


def test_a_block_that_gdal_cut_short_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiff.block_bytes
    monkeypatch.setattr(tiff, "block_bytes", lambda file: whole(file[:-100]))
    with pytest.raises(StoreError, match="TIFF"):
        probability_of(probabilities((600, 700)), tmp_path, CogOptions("zstd"))
    assert files_under(tmp_path) == set()


@pytest.mark.parametrize("error", [SystemError("Unknown GDAL Error"), OSError(28, "No space left on device")])
def test_a_failure_inside_gdal_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(rasterio.shutil, "copy", fail)
    with pytest.raises(StoreError, match=str(error).split("] ")[-1]) as caught:
        probability_of(probabilities((30, 31)), tmp_path)
    assert caught.value.__cause__ is error
    assert files_under(tmp_path) == set()


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "change.tif"
    with pytest.raises(StoreError, match="nowhere"):
        write_change(Held(probabilities((9, 9))), grid((9, 9)), 0.5, path, tmp_path / "s", CogOptions(), {})


def test_another_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(9, 9\).*\(9, 8\)"):
        change_of(probabilities((9, 9)), tmp_path, geobox=grid((9, 8)))
