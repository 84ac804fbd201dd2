"""Squares are made as soon as what they need is stored, once, whatever the order of the tiles."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.layers import grid
from tests.support.tile_runs import GRID, PLAN, job_in, serially, unwanted
from ussfc.pipeline.choices import Smoothing
from ussfc.pipeline.execution.follow_ups import FollowUps, make_ready
from ussfc.pipeline.execution.serial_executor import SerialExecutor
from ussfc.pipeline.execution.square_job import OpenSquares, RasterPart, RegionPart, SquareJob
from ussfc.pipeline.execution.worker_cache import WorkerCache
from ussfc.pipeline.polygons.vectorise import RegionRules, VectorOptions
from ussfc.pipeline.rasters.compression import CogOptions
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, TileResult


def job_of(shape: tuple[int, int], side: int, smoothing: Smoothing, store: Folder | None = None) -> SquareJob:
    return SquareJob.of(Folder.of(".") if store is None else store, shape, side, smoothing, ["test"])


@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    tile=st.integers(3, 40),
    side=st.sampled_from([4, 8, 16, 32]),
    smoothing=st.sampled_from(["none", "median3"]),
    order=st.randoms(use_true_random=False),
    resumed=st.integers(0, 9),
)
def test_every_square_comes_once_and_not_too_early(
    shape: tuple[int, int], tile: int, side: int, smoothing: Smoothing, order: random.Random, resumed: int
) -> None:
    tiles, job = TilePlan.of(shape, tile, 1, 0), job_of(shape, side, smoothing)
    indices = list(tiles.indices())
    order.shuffle(indices)
    done = dict.fromkeys(indices[:resumed], 7)
    follow_ups = FollowUps([job], tiles, done, lambda result: None)
    seen = []
    covered = np.zeros(shape, bool)
    for index in done:
        covered[tiles.core(index).slices] = True
    for index in indices[resumed:]:
        covered[tiles.core(index).slices] = True
        for square in follow_ups.add(TileResult(index, 1, 1, checksum=7)):
            assert covered[job.around(job.plan.core(square.index)).slices].all()
            seen.append(square.index)
    assert len(seen) == len(set(seen))
    # Those that an earlier process had all tiles of are left to the products.
    early = [square for square in job.plan.indices() if square not in seen]
    known = np.zeros(shape, bool)
    for index in done:
        known[tiles.core(index).slices] = True
    assert all(known[job.around(job.plan.core(square)).slices].all() for square in early)


def test_a_tile_without_checksum_is_not_counted() -> None:
    follow_ups = FollowUps([job_of((8, 8), 8, "none")], TilePlan.of((8, 8), 8, 1, 0), {}, lambda result: None)
    assert follow_ups.add(TileResult((0, 0), 1, 1)) == []
    (square,) = follow_ups.add(TileResult((0, 0), 1, 1, checksum=5))
    assert (square.index, square.checksums) == ((0, 0), (((0, 0), 5),))


Made = tuple[SquareJob, SquareJob, list[TileResult]]


@pytest.fixture
def run_with(tmp_path: Path) -> Callable[[SerialExecutor], Made]:
    """Return a function that computes all tiles with the squares of both kinds in passing."""

    def run(executor: SerialExecutor) -> Made:
        job, made = job_in(tmp_path / "work"), []
        rasters = RasterPart(GRID, CogOptions(block_size=16), 0.5, probability=True)
        regions = RegionPart(RegionRules(GRID, 0.5, VectorOptions()), None, over_network=False)
        jobs = [SquareJob.of(job.store, PLAN.shape, 16, "median3", [kind], **{kind: part})
                for kind, part in (("rasters", rasters), ("regions", regions))]  # fmt: skip
        follow_ups = FollowUps(jobs, PLAN, {}, made.append)
        executor.run(job, PLAN.indices(), lambda result: None, unwanted, follow_ups=follow_ups)
        return jobs[0], jobs[1], made

    return run


def test_squares_are_made_beside_the_tiles(run_with: Callable[[SerialExecutor], Made]) -> None:
    rasters, regions, made = run_with(SerialExecutor(concurrent_tiles=2))
    assert sorted(result.index for result in made) == sorted(rasters.plan.indices())
    store = ProbabilityStore(rasters.store)
    for job, name in ((rasters, "change.sizes"), (regions, "regions.top")):
        for index in job.plan.indices():
            found = job.files.read(index, job.origin(store, job.plan.core(index)))
            assert found is not None
            assert name in found
    steps = [name for name, *_ in made[0].timeline.steps] if made[0].timeline else []
    assert steps == ["read", "pack", "write", "polygons", "write"]


def test_a_square_that_fails_ends_nothing(
    run_with: Callable[[SerialExecutor], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **names: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("ussfc.pipeline.execution.square_job.pack", fail)
    rasters, _, made = run_with(SerialExecutor())
    assert made == []
    assert len(ProbabilityStore(rasters.store).done()) == PLAN.tile_count
    assert serially(tmp_path / "expected")


def test_squares_go_by_the_tiles_that_they_name(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path / "work", grid((8, 16)), "uint8", 8)
    checksum = store.write(Box(0, 0, 8, 8), np.full((8, 8), 200, np.uint8), TileResult((0, 0), 1, 64))
    part = RasterPart(grid((8, 16)), CogOptions(block_size=8), 0.5, probability=False)
    job = SquareJob.of(store.root, (8, 16), 8, "none", ["test"], rasters=part)
    follow_ups = FollowUps([job], TilePlan.of((8, 16), 8, 1, 0), {}, lambda result: None)
    (square,) = follow_ups.add(TileResult((0, 0), 1, 64, checksum=checksum))
    cache = WorkerCache()
    make_ready(square, cache)
    later = store.write(Box(0, 8, 8, 16), np.full((8, 8), 9, np.uint8), TileResult((0, 1), 1, 64))
    (other,) = follow_ups.add(TileResult((0, 1), 1, 64, checksum=later))
    assert make_ready(other, cache).index == (0, 1)
    fresh = ProbabilityStore(store.root)
    assert all(job.files.read(index, job.origin(fresh, job.plan.core(index))) for index in job.plan.indices())


@pytest.mark.parametrize("tile", [8, 12, 16, 40])
@pytest.mark.parametrize("seed", range(3))
def test_squares_do_not_depend_on_the_order_of_tiles(tmp_path: Path, tile: int, seed: int) -> None:
    shape, side = (50, 70), 16
    stored = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
    store = ProbabilityStore.create(tmp_path / "work", grid(shape), "uint8", tile)
    part = RasterPart(grid(shape), CogOptions(block_size=16), 0.5, probability=True)
    job = SquareJob.of(store.root, shape, side, "median3", ["test"], rasters=part)
    tiles, cache = TilePlan.of(shape, tile, 1, 0), WorkerCache()
    follow_ups = FollowUps([job], tiles, {}, lambda result: None)
    indices = list(tiles.indices())
    random.Random(seed).shuffle(indices)
    for index in indices:
        core = tiles.core(index)
        checksum = store.write(core, stored[core.slices], TileResult(index, 1, 1))
        for square in follow_ups.add(TileResult(index, 1, 1, checksum=checksum)):
            make_ready(square, cache)
    fresh, again = ProbabilityStore(store.root), replace(job, key="again")
    opened = OpenSquares(again)
    for index in job.plan.indices():
        opened.make(index)
        origin = job.origin(fresh, job.plan.core(index))
        found, expected = job.files.read(index, origin), again.files.read(index, origin)
        assert found is not None
        assert expected is not None
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=f"{index} {name}")
