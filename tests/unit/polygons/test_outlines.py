"""Outlines of changed pixels are those of GDAL, corners included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
import shapely
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from tests.support.layers import PROPERTY, Connectivity, grid, label, mask, rasters, write_layer
from ussfc.pipeline.polygons.outlines import Runs, cycles


def traced_by_gdal(stored: npt.NDArray[Any], connectivity: int, geobox: GeoBox) -> list[shapely.Geometry]:
    """Trace the whole raster's regions with GDAL, ordered by their first pixel."""
    labels, _ = label(stored, connectivity)
    parts: dict[int, list[shapely.Geometry]] = {}
    shapes = rasterio.features.shapes(labels, mask=labels > 0, connectivity=4, transform=geobox.affine)
    for shape, value in shapes:
        parts.setdefault(int(value), []).append(shapely.geometry.shape(shape))
    united = [some[0] if len(some) == 1 else shapely.multipolygons(some) for _, some in sorted(parts.items())]
    return list(shapely.normalize(shapely.simplify(shapely.normalize(united), 0)))


def assert_as_gdal(stored: npt.NDArray[Any], folder: Path, connectivity: Connectivity, block: int) -> None:
    geobox = grid((stored.shape[0], stored.shape[1]))
    _, frame = write_layer(stored, folder / "gdal.parquet", connectivity=connectivity, block_size=block)
    expected = traced_by_gdal(stored, connectivity, geobox)
    found = shapely.normalize(frame.sort_values("id").geometry.to_numpy())
    assert len(found) == len(expected)
    assert shapely.equals_exact(found, expected, tolerance=0).all()


@PROPERTY
@given(stored=rasters(), block_size=st.sampled_from([5, 17, 2048]), connectivity=st.sampled_from([4, 8]))
def test_outlines_are_those_of_gdal(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Connectivity
) -> None:
    assert_as_gdal(stored, folder, connectivity, block_size)


CORNERS = {
    "checkerboard": np.indices((15, 16)).sum(axis=0) % 2 == 0,
    "checkerboard in a frame": np.pad(np.indices((9, 9)).sum(axis=0) % 2 == 0, 2, constant_values=True),
    "two holes that touch": np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]]),
    "a hole that touches the outside": np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]),
    "a hole that touches another region": np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 1]]),
    "a region in a hole": np.pad(np.pad(np.ones((3, 3)), 1), 1, constant_values=1),
    "everything": np.ones((7, 9)),
    "stripes": np.indices((8, 9))[1] % 2 == 0,
    "dense noise": np.random.default_rng(8).random((45, 40)) < 0.6,
}


@pytest.mark.parametrize("changed", CORNERS.values(), ids=CORNERS.keys())
@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("block", [3, 7, 2048])
def test_corners_are_turned_as_by_gdal(
    folder: Path, changed: npt.NDArray[Any], connectivity: Connectivity, block: int
) -> None:
    # All ways round at one cut: the others are slow, and look for seams alone.
    for turned in (changed, changed[::-1], changed.T) if block == 7 else (changed,):
        assert_as_gdal(mask(turned), folder, connectivity, block)


@given(st.integers(1, 300).flatmap(lambda count: st.permutations(range(count))))
def test_cycles_start_at_their_least_members(following: list[int]) -> None:
    walk, starts = cycles(np.array(following))
    assert sorted(walk) == list(range(len(following)))
    assert starts[0] == 0
    leading = walk[starts]
    assert (np.diff(leading) > 0).all()
    for cycle in np.split(walk, starts[1:]):
        assert cycle[0] == cycle.min()
        assert [following[member] for member in cycle] == [*cycle[1:], cycle[0]]


BLOCK = np.array([[1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 1, 1]])


def test_runs_end_with_their_row() -> None:
    runs = Runs.from_positions(np.flatnonzero(BLOCK), (3, 4))
    assert [runs.row.tolist(), runs.start.tolist(), runs.end.tolist()] == [
        [0, 0, 1, 2, 2], [0, 3, 2, 0, 2], [2, 4, 3, 1, 4],
    ]  # fmt: skip
    wrapped = Runs.from_positions(np.array([3, 4]), (2, 4))
    assert wrapped.row.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("connectivity", "expected"), [(4, [[3, 5]]), (8, [[1, 3], [2, 3], [3, 5]])], ids=["sides", "corners"]
)
def test_runs_touch_by_sides_or_corners(connectivity: Connectivity, expected: list[list[int]]) -> None:
    runs = Runs.from_positions(np.flatnonzero(BLOCK), (3, 4))
    assert runs.touching(connectivity).tolist() == expected


def test_edges_hold_the_numbers_of_runs() -> None:
    runs = Runs.from_positions(np.flatnonzero(BLOCK), (3, 4))
    edges = runs.edges(np.arange(1, 6))
    assert [side.tolist() for side in edges] == [[1, 1, 0, 2], [4, 0, 5, 5], [1, 0, 4], [2, 0, 5]]
