"""Tiles on a device that cuts and blends: the same bytes as on the host."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from tests.support.stubs import (
    StubArea,
    StubPending,
    StubRecipe,
    StubScene,
    StubTileDetector,
    StubTileRecipe,
    stored,
    stub_job,
)
from tests.support.tile_runs import GRID, PLAN
from ussfc.pipeline.execution.tile import compute_tile
from ussfc.pipeline.execution.worker_cache import WorkerCache
from ussfc.pipeline.reading import SceneRecipe
from ussfc.pipeline.reading.shared_blocks import SharedReader
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, RadiometricMapping, TileDetector


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("case", ["whole", "holes", "area", "small", "small with a hole", "narrow"])
def test_device_and_host_write_the_same_bytes(tmp_path: Path, case: str, dtype: str) -> None:
    shape = {"small": (9, 13), "small with a hole": (9, 13), "narrow": (70, 11)}.get(case, (70, 100))
    plan = TilePlan.of(shape, 32, 16, 0.25)
    grid = GeoBox(shape, Affine(1, 0, 0, 0, -1, shape[0]), "EPSG:32636")
    hole = {"holes": Box(20, 3, 66, 64), "small with a hole": Box(2, 3, 6, 8)}.get(case)
    rasters, records, cache = [], [], WorkerCache()
    for name, recipe in (("plain", StubRecipe(16, 3)), ("device", StubTileRecipe(16, 3))):
        store = ProbabilityStore.create(tmp_path / name, grid, dtype, 32)
        job = stub_job(
            store,
            plan,
            f"{name}-{case}-{tmp_path}",
            after=StubScene(plan.shape, 2, hole),
            area=StubArea(Box(5, 40, 60, 75)) if case == "area" else None,
            mappings=(RadiometricMapping((0.1,), (0.9,)), RadiometricMapping((0.3,), (0.8,))),
            detector=recipe,
        )
        records.append(
            [replace(compute_tile(job, index, cache=cache), seconds={}) for index in plan.indices()]
        )
        rasters.append(stored(tmp_path / name, plan.shape).tobytes())
        detector = cache.detector(recipe)
        if name == "device":
            assert isinstance(detector, TileDetector)
            assert detector.calls == []
            # A tile goes there once, and not at all where it has no valid pixel.
            assert len(detector.uploads) == sum(record.patches > 0 for record in records[-1])
        else:
            assert not isinstance(detector, TileDetector)
    assert rasters[0] == rasters[1]
    assert records[0] == records[1]
    assert any(record.patches == 0 for record in records[0]) == (case in ("holes", "area"))


def test_tiles_of_files_share_what_they_read(tmp_path: Path) -> None:
    """On a device alone; the bytes are those of the host."""
    grid = GeoBox((70, 100), Affine(10, 0, 500_000, 0, -10, 4_000_000), "EPSG:32636")
    plan = TilePlan.of((70, 100), 32, 16, 0.25)
    for number, name in enumerate(("before.tif", "after.tif")):
        values = np.random.default_rng(number).random((1, 90, 110), np.float32)
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", count=1, height=90, width=110, dtype="float32", tiled=True,
            blockxsize=64, blockysize=64, crs="EPSG:32636", transform=grid.affine,
        ) as target:  # fmt: skip
            target.write(values)
    scenes = [
        SceneRecipe(str(tmp_path / name), grid, (1,), "bilinear") for name in ("before.tif", "after.tif")
    ]
    rasters, shared, cache = [], [], WorkerCache()
    for name, recipe in (("plain", StubRecipe(16, 3)), ("device", StubTileRecipe(16, 3))):
        store = ProbabilityStore.create(tmp_path / name, grid, "float32", 32)
        job = stub_job(store, plan, f"{name}-{tmp_path}", detector=recipe)
        job = replace(job, before=scenes[0], after=scenes[1])
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(partial(compute_tile, job, cache=cache), plan.indices()))
        rasters.append(stored(tmp_path / name, plan.shape).tobytes())
        shared.append(isinstance(cache.open_run(job).pair.before, SharedReader))
    assert rasters[0] == rasters[1]
    assert shared == [False, True]


def test_seconds_are_those_of_the_device(tmp_path: Path) -> None:
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(store, PLAN, f"device-{tmp_path}", detector=StubTileRecipe(16, 3))
    cache = WorkerCache()
    assert compute_tile(job, (1, 1), cache=cache).seconds["network"] == 0.25
    assert compute_tile(job, (1, 0), cache=cache).seconds["network"] == 0  # without a valid pixel


def test_next_tile_joins_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No lock is held over the wait for a result."""
    both = threading.Barrier(2)

    class Waiting(StubPending):
        def result(self) -> npt.NDArray[np.float32]:
            both.wait(60)
            return super().result()

    blend = StubTileDetector.blend
    monkeypatch.setattr(StubTileDetector, "blend", lambda *args: Waiting(blend(*args).probability))
    store = ProbabilityStore.create(tmp_path, GRID, "uint8", 32)
    job = stub_job(store, PLAN, f"queue-{tmp_path}", detector=StubTileRecipe(16, 3))
    compute = partial(compute_tile, cache=WorkerCache())
    with ThreadPoolExecutor(2) as threads:
        for tile in list(map(threads.submit, [compute] * 2, [job] * 2, [(0, 1), (2, 2)])):
            tile.result(timeout=60)
    assert set(store.done()) == {(0, 1), (2, 2)}
