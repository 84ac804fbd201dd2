"""Squares of the products: made of the store alone, the same bytes as in one pass."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.layers import grid
from ussfc.pipeline.choices import Smoothing
from ussfc.pipeline.errors import DamagedTiles, ReadError, TileError
from ussfc.pipeline.events import ignore
from ussfc.pipeline.execution.square_job import OpenSquares, RasterPart, RegionPart, SquareJob, compute_square
from ussfc.pipeline.execution.tile import compute_item
from ussfc.pipeline.execution.worker_cache import WorkerCache
from ussfc.pipeline.pixels.smoothing import SmoothedSource
from ussfc.pipeline.polygons.band_values import BandValues
from ussfc.pipeline.polygons.vectorise import RegionRules, VectorOptions, vectorise, write_layers
from ussfc.pipeline.rasters import cog
from ussfc.pipeline.runs.squares import read_squares, regions_of, squares_of
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import Box, Pixels, ProbabilitySource, RadiometricMapping, TileResult, blocks

SHAPE, TILE, SIDE = (150, 210), 48, 64
OPTIONS = cog.CogOptions(block_size=32)


@pytest.fixture
def store(tmp_path: Path) -> ProbabilityStore:
    """Probabilities with regions over all seams; one tile is missing."""
    rng = np.random.default_rng(3)
    stored = (rng.random(SHAPE) < 0.6) * rng.integers(120, 255, SHAPE, dtype=np.uint8)
    made = ProbabilityStore.create(tmp_path / "work", grid(SHAPE), "uint8", TILE)
    for box in blocks(SHAPE, TILE):
        index = box.y0 // TILE, box.x0 // TILE
        if index != (1, 2):
            made.write(box, stored[box.slices], TileResult(index, 1, 1, {}))
    return ProbabilityStore(tmp_path / "work")


def job_of(store: ProbabilityStore, smoothing: Smoothing = "median3", **parts: Any) -> SquareJob:
    rasters = RasterPart(grid(SHAPE), OPTIONS, 0.5, probability=True)
    rules = RegionRules(grid(SHAPE), 0.5, VectorOptions(connectivity=8))
    whole = {"rasters": rasters, "regions": RegionPart(rules, None, over_network=False)}
    job = SquareJob.of(store.root, SHAPE, SIDE, smoothing, ["test"], **whole | parts)
    again: SquareJob = pickle.loads(pickle.dumps(job))  # it travels with tasks
    return again


def products_of(job: SquareJob, store: ProbabilityStore, folder: Path) -> list[bytes]:
    folder.mkdir()
    kinds = [cog.ChangeRaster(folder / "c.tif", {}, 0.5), cog.ProbabilityRaster(folder / "p.tif", {})]
    cog.write_squares(
        lambda files: squares_of(job, store), grid(SHAPE), store.dtype, kinds, folder / "s", OPTIONS, SIDE
    )
    assert job.regions is not None
    write_layers(regions_of(job, store), job.regions.rules, {"parquet": folder / "x.parquet"})
    return [(folder / name).read_bytes() for name in ("c.tif", "p.tif", "x.parquet")]


def expected_of(source: ProbabilitySource, folder: Path) -> list[bytes]:
    folder.mkdir()
    kinds = [cog.ChangeRaster(folder / "c.tif", {}, 0.5), cog.ProbabilityRaster(folder / "p.tif", {})]
    cog.write(source, grid(SHAPE), kinds, folder / "s", OPTIONS)
    vectorise(
        source, grid(SHAPE), 0.5, VectorOptions(connectivity=8), {"parquet": folder / "x.parquet"}, ignore
    )
    return [(folder / name).read_bytes() for name in ("c.tif", "p.tif", "x.parquet")]


@pytest.mark.parametrize("smoothing", ["none", "median3"])
def test_squares_give_the_bytes_of_one_pass(
    store: ProbabilityStore, tmp_path: Path, smoothing: Smoothing
) -> None:
    job = job_of(store, smoothing)
    opened = OpenSquares(job)
    for index in reversed(list(job.plan.indices())):
        result = compute_square(job, index, lambda _: opened)
        assert result.timeline is not None
        assert [step for step, *_ in result.timeline.steps] == ["read", "pack", "polygons", "write"]
    source = store if smoothing == "none" else SmoothedSource(store, SIDE)
    assert products_of(job, store, tmp_path / "found") == expected_of(source, tmp_path / "expected")


def test_what_is_missing_damaged_or_old_is_made_again(store: ProbabilityStore, tmp_path: Path) -> None:
    job = job_of(store)
    opened = OpenSquares(job)
    for index in list(job.plan.indices())[:-1]:
        opened.make(index)
    places = sorted((tmp_path / "work" / layout.SQUARES / job.key).glob("*/*"))
    places[0].write_bytes(b"torn")
    pixels = np.full((48, 48), 200, np.uint8)
    store.write(box_of((1, 2)), pixels, TileResult((1, 2), 1, 1, {}))
    fresh = ProbabilityStore(store.root)
    found = products_of(job, fresh, tmp_path / "found")
    assert found == expected_of(SmoothedSource(fresh, SIDE), tmp_path / "expected")


def box_of(index: tuple[int, int]) -> Box:
    (found,) = (box for box in blocks(SHAPE, TILE) if (box.y0 // TILE, box.x0 // TILE) == index)
    return found


def test_a_tile_computed_again_is_read_again(store: ProbabilityStore, tmp_path: Path) -> None:
    """A process that met with a damaged tile sees it as it is when it tries again."""
    job, cache = job_of(store), WorkerCache()
    compute_item(job, (0, 0), cache=cache)
    (tmp_path / "work" / layout.chunk((0, 1))).write_bytes(b"torn")
    with pytest.raises(DamagedTiles):
        compute_item(job, (0, 1), cache=cache)
    # With other pixels than before, as an engine may give that does not repeat itself to the bit.
    store.write(box_of((0, 1)), np.full((48, 48), 200, np.uint8), TileResult((0, 1), 1, 1, {}))
    compute_item(job, (0, 1), cache=cache)
    fresh = ProbabilityStore(store.root)
    assert job.files.read((0, 1), job.origin(fresh, job.plan.core((0, 1)))) is not None


def test_a_square_names_its_tiles(store: ProbabilityStore) -> None:
    job, without = job_of(store), job_of(store, "none")
    box = job.plan.core((1, 1))  # rows and columns 64 to 128
    assert job.origin(store, box)[:, :2].tolist() == [[1, 1], [2, 1], [2, 2]]
    assert without.origin(store, job.plan.core((0, 3)))[:, :2].tolist() == [[0, 4], [1, 4]]
    assert job.origin(store, job.plan.core((0, 3)))[:, :2].tolist() == [[0, 3], [0, 4], [1, 3], [1, 4]]


def test_other_keys_are_other_squares(store: ProbabilityStore) -> None:
    keys = {job_of(store, smoothing).key for smoothing in ("none", "median3")}
    keys |= {SquareJob.of(store.root, SHAPE, side, "none", [threshold]).key
             for side in (64, 128) for threshold in (0.4, 0.5)}  # fmt: skip
    assert len(keys) == 6


def test_errors_name_the_square(store: ProbabilityStore, tmp_path: Path) -> None:
    job = job_of(store)

    def unreadable(_: SquareJob) -> OpenSquares:
        raise ReadError("before.tif: cannot be read")

    with pytest.raises(
        TileError, match=r"square 1,2 \(rows 64\.\.128, columns 128\.\.192\): before.tif: cannot"
    ):
        compute_square(job, (1, 2), unreadable)
    chunk = tmp_path / "work" / layout.chunk((0, 0))
    chunk.write_bytes(b"x" * chunk.stat().st_size)
    with pytest.raises(DamagedTiles):
        compute_square(job, (0, 0), OpenSquares)


class Scene:
    """A scene of one number, its own source and reader."""

    def __init__(self, level: int) -> None:
        self.level = level

    def open(self) -> Scene:
        return self

    def read(self, box: Box) -> Pixels:
        values: npt.NDArray[np.uint16] = np.full((1, *box.shape), self.level, np.uint16)
        return Pixels(values, np.ones(box.shape, np.bool_))

    def sample(self, most: int | None = None) -> Pixels:
        raise NotImplementedError


@pytest.mark.parametrize("over_network", [False, True])
def test_bands_are_read_on_the_worker(store: ProbabilityStore, over_network: bool) -> None:
    mapping = RadiometricMapping((0.0,), (100.0,))
    values = BandValues(("red",), (0.0, 100.0), (((1.0, 0.0),), ((1.0, 0.0),)), (mapping, mapping))
    rules = RegionRules(grid(SHAPE), 0.5, VectorOptions(values=values))
    part = RegionPart(rules, (Scene(10), Scene(30)), over_network)
    job = job_of(store, rasters=None, regions=part)
    found = list(regions_of(job, store))
    regions = [features.closed.regions for _, features in found if len(features.closed.area)]
    assert regions
    before, after = values.means(np.concatenate([each.values for each in regions]))
    assert (before == 10).all()
    assert (after == 30).all()
    assert all("change.sizes" not in arrays for _, arrays in read_squares(job, store))


def test_squares_are_read_row_by_row(store: ProbabilityStore) -> None:
    job = job_of(store, regions=None)
    seen: Iterator[Any] = read_squares(job, store)
    assert [box for box, _ in seen] == list(blocks(SHAPE, SIDE))
