"""Probabilities on disk: as other programs see them, finished tiles, and stores of other runs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor
import xarray as xr
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import DamagedTiles, StoreError
from ussfc.pipeline.pixels.encoding import decode
from ussfc.pipeline.storage.probability_store import (
    ProbabilityStore,
    start_store,
)
from ussfc.pipeline.types import Box, TileResult

pytestmark = [
    # affine 3 wants `@`, which affine 2 does not know; odc-geo calls what shapely will drop.
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning"),
]
UTM = GeoBox((70, 100), Affine(10, 0, 500_000, 0, -10, 4_000_000), "EPSG:32636")
DEGREES = GeoBox((70, 100), Affine(1e-4, 0, 33.5, 0, -1e-4, 36.25), "EPSG:4326")
BARE = GeoBox((70, 100), Affine.identity(), None)
KEY: dict[str, Any] = {"before": ["a.tif", "1"], "tiling": [64, 16, 12, "hann"], "model": "stub", "aoi": None}


def levels(dtype: str) -> Any:
    rng = np.random.default_rng(0)
    if dtype == "uint8":
        return rng.integers(0, 256, UTM.shape).astype(np.uint8)
    values = rng.random(UTM.shape, dtype=np.float32)
    values[3:9, 70:] = np.nan
    return values


def fill(store: ProbabilityStore, values: Any, size: int = 64) -> None:
    for row in range(2):
        for col in range(2):
            core = Box(row * size, col * size, min(row * size + size, 70), min(col * size + size, 100))
            store.write(core, values[core.slices], TileResult((row, col), 1, core.pixels))


def opened(root: Path) -> Any:
    return xr.open_dataset(
        root / "probability.zarr", engine="zarr", consolidated=False, decode_coords="all", mask_and_scale=True
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("grid", [UTM, DEGREES])
def test_xarray_opens_the_store(tmp_path: Path, grid: GeoBox, dtype: str) -> None:
    values = levels(dtype)
    fill(ProbabilityStore.create(tmp_path, grid, dtype, 64), values)
    with opened(tmp_path) as dataset:
        array = dataset["probability"]
        assert array.dims == ("y", "x")
        np.testing.assert_allclose(array.values, decode(values), rtol=0, atol=1e-6)
        np.testing.assert_array_equal(np.isnan(array.values), np.isnan(decode(values)))
        assert grid.crs is not None
        assert array.rio.crs.to_epsg() == grid.crs.epsg
        assert array.rio.transform().almost_equals(grid.affine, 1e-9)
        assert array.rio.transform(recalc=True).almost_equals(grid.affine, 1e-6)
        assert array.rio.encoded_nodata == (255 if dtype == "uint8" else None)
        assert array.attrs["long_name"] == "change probability"


@pytest.mark.parametrize("old", [False, True])
def test_group_opens_with_its_crs(tmp_path: Path, old: bool) -> None:
    """By xarray's defaults; stores of earlier versions lack the attributes, and still continue."""
    grid = GeoBox((100, 120), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")
    store = start_store(tmp_path, {"a": 1}, grid, "uint8", 64, overwrite=False)
    store.write(Box(0, 0, 64, 64), np.full((64, 64), 127, np.uint8), TileResult((0, 0), 1, 4096))
    if old:
        file = tmp_path / "probability.zarr" / "probability" / "zarr.json"
        content = json.loads(file.read_text("utf-8"))
        for name in ("coordinates", "_CRS"):
            del content["attributes"][name]
        file.write_text(json.dumps(content), "utf-8")
    again = start_store(tmp_path, {"a": 1}, grid, "uint8", 64, overwrite=False)
    assert (again.read(Box(0, 0, 64, 64)) == 127).all()
    with xr.open_zarr(tmp_path / "probability.zarr", consolidated=False) as dataset:
        probability = dataset["probability"]
        assert float(probability[0, 0]) == 0.5
        assert ("spatial_ref" in dataset.data_vars) is old
        if not old:
            assert probability.rio.crs == dataset.rio.crs == "EPSG:32633"
            assert probability.rio.transform() == grid.affine
            assert CRS(probability.attrs["_CRS"]["wkt"]) == CRS("EPSG:32633")


def test_without_a_crs_coordinates_are_pixels(tmp_path: Path) -> None:
    fill(ProbabilityStore.create(tmp_path, BARE, "uint8", 64), levels("uint8"))
    with opened(tmp_path) as dataset:
        np.testing.assert_array_equal(dataset["y"], np.arange(70) + 0.5)
        np.testing.assert_array_equal(dataset["x"], np.arange(100) + 0.5)
        assert dataset["probability"].rio.crs is None


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_written_pixels_are_read_again(tmp_path: Path, dtype: str) -> None:
    values = levels(dtype)
    fill(ProbabilityStore.create(tmp_path, UTM, dtype, 64), values)
    store = ProbabilityStore(tmp_path)
    assert store.shape == (70, 100)
    assert store.dtype == dtype
    box = Box(50, 30, 70, 90)
    assert store.read(box).tobytes() == values[box.slices].tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_chunk_of_nothing_but_nodata_is_a_file(tmp_path: Path, dtype: str) -> None:
    ProbabilityStore.create(tmp_path, UTM, dtype, 64)
    store = ProbabilityStore(tmp_path)
    nodata = np.full((64, 64), 255 if dtype == "uint8" else np.nan, dtype)
    store.write(Box(0, 0, 64, 64), nodata, TileResult((0, 0), 0, 0))
    folder = tmp_path / "probability.zarr" / "probability"
    assert [p.relative_to(folder).as_posix() for p in (folder / "c").rglob("*") if p.is_file()] == ["c/0/0"]
    # A tile that was never written reads as nodata, never as no change.
    assert np.isnan(decode(store.read(Box(0, 64, 64, 100)))).all()


def test_a_tile_with_a_record_is_done(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, UTM, "uint8", 64)
    assert store.done() == {}
    result = TileResult((1, 0), 7, 100, {"read": 0.25})
    store.write(Box(64, 0, 70, 64), np.zeros((6, 64), np.uint8), result)
    assert ProbabilityStore(tmp_path).done() == {(1, 0): result}


def test_the_record_comes_after_the_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ProbabilityStore.create(tmp_path, UTM, "uint8", 64)
    chunk = tmp_path / "probability.zarr" / "probability" / "c" / "0" / "0"
    seen = []
    monkeypatch.setattr(
        "ussfc.pipeline.storage.local_folder.LocalFolder.touch",
        lambda folder, name: seen.append(chunk.exists()),
    )
    store.write(Box(0, 0, 64, 64), np.zeros((64, 64), np.uint8), TileResult((0, 0), 1, 1))
    assert seen == [True]
    assert store.done() == {}


def test_an_unwritable_chunk_leaves_no_record(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, UTM, "uint8", 64)
    (tmp_path / "probability.zarr" / "probability" / "c").write_bytes(b"a file where a folder should be")
    with pytest.raises(StoreError, match="cannot be written"):
        store.write(Box(0, 0, 64, 64), np.zeros((64, 64), np.uint8), TileResult((0, 0), 1, 1))
    assert store.done() == {}


@pytest.mark.parametrize("name", ["0.1", "0.1.json", "a.b.p1.v1.b1.00000000", "1.1.p1.v1.b1.123.part"])
def test_a_file_that_is_no_record_does_not_count(tmp_path: Path, name: str) -> None:
    store = ProbabilityStore.create(tmp_path, UTM, "uint8", 64)
    store.write(Box(0, 0, 64, 64), np.zeros((64, 64), np.uint8), TileResult((0, 0), 1, 1))
    (tmp_path / "done" / "0" / name).touch()
    assert list(store.done()) == [(0, 0)]


def chunk_of(root: Path, name: str = "0/0") -> Path:
    return root / "probability.zarr" / "probability" / "c" / name


def halved(chunk: Path) -> None:
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])


def flipped(chunk: Path) -> None:
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 0x40
    chunk.write_bytes(bytes(content))


def another(chunk: Path) -> None:
    """A whole chunk, of other pixels and of the same size: only the pixels differ."""
    folder = chunk.parents[3] / "other"
    other = ProbabilityStore.create(folder, UTM, "uint8", 64)
    values = np.ones((64, 64), np.uint8)
    values[60:, :] = 9
    other.write(Box(0, 0, 64, 64), values, TileResult((0, 0), 1, 1))
    size = chunk.stat().st_size
    content = chunk_of(folder).read_bytes()
    assert len(content) == size
    chunk.write_bytes(content)


@pytest.mark.parametrize("harm", [halved, Path.unlink])
def test_a_chunk_cut_short_or_gone_is_not_done(tmp_path: Path, harm: Any) -> None:
    store = ProbabilityStore.create(tmp_path, UTM, "uint8", 64)
    fill(store, levels("uint8"))
    harm(chunk_of(tmp_path))
    assert set(store.done()) == {(0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("harm", [halved, Path.unlink, flipped, another])
def test_damaged_pixels_are_never_read(tmp_path: Path, harm: Any) -> None:
    store = ProbabilityStore.create(tmp_path, UTM, "uint8", 64)
    values = np.zeros(UTM.shape, np.uint8)
    values[60:, :] = 7
    fill(store, values)
    assert len(store.known()) == 4
    harm(chunk_of(tmp_path))
    with pytest.raises(DamagedTiles, match=r"chunk 0/0 \(rows 0\.\.64, columns 0\.\.64\)") as caught:
        store.read(Box(0, 0, 70, 100))
    assert caught.value.indices == ((0, 0),)
    assert pickle.loads(pickle.dumps(caught.value)).indices == ((0, 0),)
    np.testing.assert_array_equal(store.read(Box(64, 0, 70, 100)), values[64:])
    assert store.damaged() == [(0, 0)]
    store.forget(store.damaged())
    assert set(store.done()) == {(0, 1), (1, 0), (1, 1)}
    assert (store.read(Box(0, 0, 64, 64)) == 255).all()
    fill(store, values)
    np.testing.assert_array_equal(store.read(Box(0, 0, 70, 100)), values)


def test_records_of_another_run_do_not_count(tmp_path: Path) -> None:
    """A worker that outlived its run writes into the store of the next."""
    old = ProbabilityStore.create(tmp_path, UTM, "uint8", 64, run="old")
    new = ProbabilityStore.create(tmp_path, UTM, "uint8", 64, run="new")
    values = levels("uint8")
    fill(new, values)
    old.write(Box(0, 0, 64, 64), np.full((64, 64), 9, np.uint8), TileResult((0, 0), 1, 1))
    reader = ProbabilityStore(tmp_path)
    assert set(reader.done()) == {(0, 1), (1, 0), (1, 1)}
    assert (reader.read(Box(0, 0, 64, 64)) == 255).all()


def test_files_of_killed_writers_are_swept(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, UTM, "uint8", 64)
    fill(store, levels("uint8"))
    before = sorted(tmp_path.rglob("*"))
    chunk_of(tmp_path, "0/0.1b2c.partial").write_bytes(b"half")
    assert len(store.done()) == 4
    store.sweep()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_content_is_a_digest_of_the_pixels(tmp_path: Path) -> None:
    values = levels("uint8")
    names = []
    for number, change in enumerate((0, 0, 1)):
        store = ProbabilityStore.create(tmp_path / str(number), UTM, "uint8", 64)
        changed = values.copy()
        changed[69, 99] ^= change
        fill(store, changed)
        names.append(store.content())
    assert names[0] == names[1] != names[2]


def test_the_same_key_continues(tmp_path: Path) -> None:
    root = tmp_path / "out" / "work"
    values = levels("uint8")
    fill(start_store(root, KEY, UTM, "uint8", 64, False), values)
    again = start_store(root, json.loads(json.dumps(KEY)), UTM, "uint8", 64, False)
    assert len(again.done()) == 4
    np.testing.assert_array_equal(again.read(Box(0, 0, 70, 100)), values)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "other"}, "model"),
        ({"aoi": "x", "before": ["a.tif", "2"]}, "aoi, before"),
        ({"new": 1}, "new"),
    ],
)
def test_another_key_is_refused_by_its_difference(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    root = tmp_path / "out" / "work"
    values = levels("uint8")
    fill(start_store(root, KEY, UTM, "uint8", 64, False), values)
    with pytest.raises(StoreError) as caught:
        start_store(root, KEY | change, UTM, "uint8", 64, False)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'out'}: holds another run, which differs in {named};")
    assert "overwrite it" in message
    assert "\n" not in message
    assert len(ProbabilityStore(root).done()) == 4


@pytest.mark.parametrize(
    ("there", "here", "named"),
    [
        ({"offset": 1, "version": 1}, {"offset": 1, "version": 2}, "found by another version of ussfc"),
        ({"offset": 1, "version": 1}, {"offset": 2, "version": 2}, "inference.alteration: IR-MAD"),
        ({"offset": 1, "version": 1}, None, "inference.alteration: IR-MAD"),
    ],
)
def test_another_version_of_a_part_is_named_as_that(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any] | None, named: str
) -> None:
    start_store(tmp_path, KEY | {"alteration": there}, UTM, "uint8", 64, False)
    key = KEY if here is None else KEY | {"alteration": here}
    with pytest.raises(StoreError, match=rf"differs in alteration \({named}"):
        start_store(tmp_path, key, UTM, "uint8", 64, False)


def test_overwrite_starts_over(tmp_path: Path) -> None:
    fill(start_store(tmp_path, KEY, UTM, "uint8", 64, False), levels("uint8"))
    store = start_store(tmp_path, KEY | {"model": "other"}, UTM, "float32", 32, True)
    assert store.done() == {}
    assert store.dtype == np.float32
    assert np.isnan(store.read(Box(0, 0, 70, 100))).all()
    assert start_store(tmp_path, KEY | {"model": "other"}, UTM, "float32", 32, False).dtype == np.float32


def test_a_store_without_its_key_is_made_again(tmp_path: Path) -> None:
    fill(start_store(tmp_path, KEY, UTM, "uint8", 64, False), levels("uint8"))
    (tmp_path / "run_key.json").unlink()
    assert start_store(tmp_path, KEY, UTM, "uint8", 64, False).done() == {}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_a_damaged_key_is_refused(tmp_path: Path, text: str) -> None:
    start_store(tmp_path, KEY, UTM, "uint8", 64, False)
    (tmp_path / "run_key.json").write_text(text)
    with pytest.raises(StoreError, match="overwrite it"):
        start_store(tmp_path, KEY, UTM, "uint8", 64, False)


def test_an_absent_store_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no probabilities; run `ussfc infer`"):
        ProbabilityStore(tmp_path)
