"""Blocks of a scene that tiles share."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.raster import RasterReader
from ussfc.pipeline.reading.shared_blocks import BlockCache, BlockGrid, SharedReader, share
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, Pixels

SHAPE = (150, 190)
PLAN = TilePlan.of(SHAPE, 32, 16, 0.25)


class CountingScene:
    """Two bands that are decoded in blocks of 20 x 24 px; counts how often each is."""

    def __init__(self, fails: int = 0) -> None:
        self.values = np.arange(2 * SHAPE[0] * SHAPE[1], dtype=np.uint16).reshape(2, *SHAPE)
        self.decoded: Counter[tuple[int, int]] = Counter()
        self.fails = fails
        self._counting = threading.Lock()

    def blocks(self) -> BlockGrid:
        return BlockGrid((-7, 5), (20, 24))

    def empty(self, shape: tuple[int, int]) -> Pixels:
        return Pixels(np.full((2, *shape), 9, np.uint16), np.zeros(shape, np.bool_))

    def read_into(self, box: Box, target: Pixels) -> None:
        with self._counting:
            self.decoded.update(self.blocks().places(box))
            self.fails -= 1
            if self.fails >= 0:
                raise ReadError("damaged")
        target.values[:] = self.values[(slice(None), *box.slices)]
        target.valid[:] = self.values[0][box.slices] % 7 > 0

    def read(self, box: Box) -> Pixels:
        target = self.empty(box.shape)
        self.read_into(box, target)
        return target

    def sample(self, most: int | None = None) -> Pixels:
        return self.read(Box(0, 0, *SHAPE))


def read_all(scene: CountingScene, reader: SharedReader, threads: int) -> None:
    """Read every tile, and compare it with the scene."""

    def check(index: tuple[int, int]) -> None:
        box = PLAN.tile(index).halo
        found = reader.read(box)
        np.testing.assert_array_equal(found.values, scene.values[(slice(None), *box.slices)])
        np.testing.assert_array_equal(found.valid, scene.values[0][box.slices] % 7 > 0)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(check, PLAN.indices()))


@pytest.mark.parametrize("threads", [1, 5])
def test_each_block_is_decoded_once(threads: int) -> None:
    scene, cache = CountingScene(), BlockCache(10**9)
    read_all(scene, SharedReader(scene, 0, PLAN, cache), threads)
    assert set(scene.decoded.values()) == {1}
    assert cache.kept_bytes == 0


@pytest.mark.parametrize("threads", [1, 5])
def test_pixels_are_the_same_without_room(threads: int) -> None:
    scene, cache = CountingScene(), BlockCache(5000)
    read_all(scene, SharedReader(scene, 0, PLAN, cache), threads)
    assert max(scene.decoded.values()) > 1
    assert cache.kept_bytes <= 5000


def test_what_the_next_tile_wants_is_kept_where_there_is_room_for_it() -> None:
    """The whole scene has 171,000 bytes."""
    scene = CountingScene()
    read_all(scene, SharedReader(scene, 0, PLAN, BlockCache(60_000)), 1)
    assert max(scene.decoded.values()) == 1


def test_a_block_that_failed_is_read_by_the_next_tile() -> None:
    scene = CountingScene(fails=1)
    reader = SharedReader(scene, 0, PLAN, BlockCache(10**9))
    with pytest.raises(ReadError):
        reader.read(PLAN.tile((0, 0)).halo)
    read_all(scene, reader, 3)


def test_those_who_wait_for_a_block_that_fails_read_it_themselves() -> None:
    cache, key = BlockCache(10**9), (0, (0, 0))
    block, own = cache.take(key, 2)
    same, second = cache.take(key, 2)
    assert (own, second) == (True, False)
    assert same is block
    cache.put(block, None)
    cache.give_back(key, block)
    assert block.there.is_set()
    assert block.pixels is None


def test_arrays_are_used_again() -> None:
    scene = CountingScene()
    reader = SharedReader(scene, 0, PLAN, BlockCache(10**9))
    first = reader.read(PLAN.tile((0, 0)).halo)
    assert np.shares_memory(first.values, reader.read(PLAN.tile((0, 0)).halo).values)


def test_readers_without_blocks_stay_as_they_are() -> None:
    class Plain:
        def read(self, box: Box) -> Pixels: ...

        def sample(self, most: int | None = None) -> Pixels: ...

    plain, scene = Plain(), CountingScene()
    left, shared = share((plain, scene), PLAN, 10**6)
    assert left is plain
    assert isinstance(shared, SharedReader)


@pytest.mark.parametrize(
    "box", [Box(0, 0, 20, 24), Box(60, 80, 61, 81), Box(100, 120, 150, 190), Box(31, 31, 33, 33)]
)
def test_tiles_that_read_a_box_are_counted(box: Box) -> None:
    halos = [PLAN.tile(index).halo for index in PLAN.indices()]
    assert PLAN.tiles_reading(box) == sum(halo.intersect(box).pixels > 0 for halo in halos)


def written(path: Path, **profile: object) -> str:
    """Write a scene of 300 x 400 px."""
    values = np.random.default_rng(0).integers(0, 900, (2, 300, 400)).astype(np.uint16)
    with rasterio.open(
        path, "w", driver="GTiff", count=2, width=400, height=300, dtype="uint16", crs="EPSG:32636", nodata=0,
        transform=Affine(10, 0, 500_000, 0, -10, 4_000_000), **profile,
    ) as target:  # fmt: skip
        target.write(values)
    return str(path)


TILED = {"tiled": True, "blockxsize": 128, "blockysize": 64}


@pytest.mark.parametrize(
    ("profile", "grid", "blocks"),
    [
        (TILED, Affine(10, 0, 500_000, 0, -10, 4_000_000), BlockGrid((0, 0), (64, 128))),
        (TILED, Affine(10, 0, 499_950, 0, -10, 3_999_980), BlockGrid((-2, 5), (64, 128))),
        (TILED, Affine(10, 0, 500_003, 0, -10, 4_000_000), BlockGrid((0, 0), (512, 512))),
        ({"blockysize": 8}, Affine(10, 0, 500_000, 0, -10, 4_000_000), None),
    ],
    ids=["same grid", "moved by whole pixels", "warped", "lines"],
)
def test_blocks_are_the_parts_that_a_file_is_decoded_in(
    tmp_path: Path, profile: dict[str, object], grid: Affine, blocks: BlockGrid | None
) -> None:
    uri = written(tmp_path / "scene.tif", **profile)
    box = GeoBox(SHAPE, grid, "EPSG:32636")
    reader, other = (RasterReader(uri, uri, box, (2, 1), "cubic") for _ in range(2))
    assert reader.blocks() == blocks
    shared = SharedReader(reader, 0, PLAN, BlockCache(10**6))
    for index in PLAN.indices():
        found, expected = (each.read(PLAN.tile(index).halo) for each in (shared, other))
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(found.valid, expected.valid)
        assert found.values.dtype == expected.values.dtype
