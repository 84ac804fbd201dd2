"""Runs over the tiles of a small stub scene, one of which may meet with misfortune."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from tests.support.stubs import StubScene, Witness, store_bytes, stub_job
from ussfc.pipeline.execution.serial_executor import SerialExecutor
from ussfc.pipeline.execution.tile_job import TileJob
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, TileFailure, TileResult

GRID = GeoBox((70, 100), Affine(1, 0, 0, 0, -1, 70), "EPSG:32636")
PLAN = TilePlan.of((70, 100), 32, 16, 0.25)
UNLUCKY = (0, 1)
UNLUCKY_PIXEL = (5, 48)
"""A pixel that the unlucky tile alone reads."""
LUCKY = [index for index in PLAN.indices() if index != UNLUCKY]
BACKOFF = Backoff(attempts=3, first=0.1, factor=2, longest=1)
ONCE = Backoff(attempts=1)


def job_in(root: Path, **changes: object) -> TileJob:
    store = ProbabilityStore.create(root, GRID, "float32", 32)
    return stub_job(store, PLAN, f"job-{root}", **changes)


def unlucky(misfortune: Callable[[], None]) -> StubScene:
    """Return the second date of :func:`stub_job`, with something that happens when the unlucky tile is read."""
    return StubScene(PLAN.shape, 2, Box(0, 0, PLAN.shape[0], PLAN.tile_size), UNLUCKY_PIXEL, misfortune)


def make_witness(folder: Path, seconds: float) -> Witness:
    folder.mkdir()
    return Witness(folder, seconds)


def serially(root: Path) -> dict[str, bytes]:
    SerialExecutor().run(job_in(root), PLAN.indices(), lambda result: None, unwanted)
    return store_bytes(root)


def unwanted(failure: TileFailure) -> None:
    pytest.fail(str(failure))


def indices_of(results: list[TileResult]) -> list[tuple[int, int]]:
    return sorted(result.index for result in results)


def at(count: int, results: list[TileResult], *acts: Callable[[], None]) -> Callable[[TileResult], None]:
    """Return an ``on_result`` that acts in the middle of a run: when the result of that number comes."""

    def on_result(result: TileResult) -> None:
        results.append(result)
        if len(results) == count:
            for act in acts:
                act()

    return on_result


def watched(results: list[TileResult], ahead: list[int]) -> Iterator[tuple[int, int]]:
    """Yield all indices; note how many were taken without a result at every take."""
    for taken, index in enumerate(PLAN.indices(), 1):
        ahead.append(taken - len(results))
        yield index
