"""Values of bands below polygons: their sums are those over the labelled raster, whatever the blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.layers import PROPERTY, Array, grid, label, mask, rasters, read_layer
from tests.support.probabilities import ArraySource
from ussfc.pipeline.pixels.kept import KeptPixels
from ussfc.pipeline.polygons.band_values import BandValues, sum_values
from ussfc.pipeline.polygons.vectorise import (
    RegionRules,
    VectorOptions,
    find_blocks,
    join_features,
    vectorise,
)
from ussfc.pipeline.types import Box, Pixels, RadiometricMapping

NAMES = ("red", "nir")
RANGE = RadiometricMapping((0.0, 0.0), (3500.0, 5000.0))
PLAIN = ((1.0, 0.0), (1.0, 0.0))


def band_values(dates: tuple[Pixels, Pixels], cell: int = 512) -> BandValues:
    def read(boxes: Sequence[Box]) -> Iterator[tuple[Pixels, Pixels]]:
        for box in boxes:
            before, after = (
                Pixels(date.values[(slice(None), *box.slices)], date.valid[box.slices]) for date in dates
            )
            yield before, after

    return BandValues(NAMES, (0.0, 3500.0), (PLAIN, PLAIN), (RANGE, RANGE), read, cell)


def scenes(shape: tuple[int, int], seed: int, whole: bool) -> tuple[Pixels, Pixels]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(2):
        values: Array = rng.integers(0, 65536, (2, *shape)).astype(np.uint16)
        if not whole:
            values = (values / np.float32(7)).astype(np.float32)
        found.append(Pixels(values, rng.random(shape) > 0.1))
    return found[0], found[1]


@PROPERTY
@given(
    rasters(),
    st.integers(0, 99),
    st.booleans(),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([4, 8]),
)
def test_sums_are_those_of_the_labelled_raster(
    stored: Array, seed: int, whole: bool, block: int, cell: int, connectivity: int
) -> None:
    shape = stored.shape[0], stored.shape[1]
    dates = scenes(shape, seed, whole)
    values = band_values(dates, cell)
    options = VectorOptions(connectivity=8 if connectivity == 8 else 4, values=values)
    rules = RegionRules(grid(shape), 0.5, options)
    found = {
        int(first): sums.tolist()
        for batch in join_features(find_blocks(ArraySource(stored), rules, block), rules)
        for first, sums in zip(batch.regions.first, batch.regions.values, strict=True)
    }
    labels, count = label(stored, connectivity)
    valid = dates[0].valid & dates[1].valid
    step = values.steps[0]
    expected = {}
    for number in range(1, count + 1):
        here = labels == number
        counted = here & valid
        sums = [
            int(np.rint(band[counted].astype(np.float64) * step).astype(np.int64).sum())
            for date in dates
            for band in date.values
        ]
        expected[int(np.flatnonzero(here)[0])] = [int(counted.sum()), *sums]
    assert found == expected


def test_the_file_does_not_show_the_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    stored = mask(rng.random((60, 60)) > 0.6)
    dates = scenes((60, 60), 4, whole=False)
    for name, block, cell in (("a", 9, 5), ("b", 60, 512)):
        options = VectorOptions(values=band_values(dates, cell))
        layers = {"parquet": tmp_path / f"{name}.parquet"}
        vectorise(ArraySource(stored), grid((60, 60)), 0.5, options, layers, block_size=block)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_means_are_in_the_numbers_of_the_model(tmp_path: Path) -> None:
    valid = np.array([[True, True], [True, False]])
    before = Pixels(np.array([[[10, 20], [30, 999]], [[40, 40], [40, 999]]], np.uint16), valid)
    after = Pixels(np.array([[[60, 70], [80, 9]], [[10, 10], [10, 9]]], np.uint16), np.ones((2, 2), bool))
    values = band_values((before, after))
    lines = (PLAIN, ((2.0, -1.0), (1.0, 0.0)))
    values = BandValues(NAMES, values.span, lines, values.mappings, values.read)
    path = tmp_path / "a.parquet"
    options = VectorOptions(values=values)
    vectorise(ArraySource(mask(np.ones((2, 2)))), grid((2, 2)), 0.5, options, {"parquet": path})
    (row,) = read_layer(path).to_dict("records")
    assert (row["before_red"], row["before_nir"], row["after_red"], row["after_nir"]) == (20, 40, 139, 10)
    assert row["ndvi_change"] == pytest.approx((10 - 139) / 149 - 20 / 60)
    # Without green and blue there is no brightness.
    assert np.isnan(row["brightness_change"])
    assert row["pixels"] == 4


def test_columns_are_null_where_the_dates_cannot_be_read(tmp_path: Path) -> None:
    values = BandValues(NAMES, (0.0, 1.0), (PLAIN, PLAIN), (RANGE, RANGE))
    path = tmp_path / "a.parquet"
    options = VectorOptions(values=values)
    vectorise(ArraySource(mask(np.eye(3))), grid((3, 3)), 0.5, options, {"parquet": path})
    frame = read_layer(path)
    assert frame[["kind", "ndvi_change", "before_red", "after_nir"]].isna().all(axis=None)


def test_only_squares_with_change_are_read() -> None:
    asked: list[Box] = []

    def read(boxes: Sequence[Box]) -> Iterator[tuple[Pixels, Pixels]]:
        for box in boxes:
            asked.append(box)
            pixels = Pixels(np.zeros((2, *box.shape), np.uint8), np.ones(box.shape, bool))
            yield pixels, pixels

    values = BandValues(NAMES, (0.0, 1.0), (PLAIN, PLAIN), (RANGE, RANGE), read, cell=4)
    changed = np.array([1, 2, 65])
    sums = sum_values(values, changed, np.array([0, 0, 1]), 2, Box(4, 0, 12, 10))
    assert asked == [Box(4, 1, 5, 3), Box(10, 5, 11, 6)]
    assert sums[:, 0].tolist() == [2, 1]


@pytest.mark.parametrize("number", [1e6, -1e6, np.inf, np.nan])
def test_numbers_far_beyond_the_range_are_in_no_mean(number: float) -> None:
    before = Pixels(np.full((2, 1, 3), 100, np.float32), np.ones((1, 3), bool))
    values = before.values.copy()
    values[0, 0, 1] = number
    found = band_values((before, Pixels(values, before.valid)))
    sums = sum_values(found, np.arange(3), np.array([0, 0, 1]), 2, Box(0, 0, 1, 3))
    assert sums[:, 0].tolist() == [1, 1]
    assert np.array(found.means(sums)) == pytest.approx(100)


@PROPERTY
@given(st.integers(0, 99), st.booleans(), st.integers(1, 30), st.sampled_from([0.0, 0.4, 1.0]))
def test_what_is_kept_gives_the_sums_of_what_is_read(seed: int, whole: bool, side: int, share: float) -> None:
    """Tiles of which a share is kept: those are not read, and no sum differs."""
    shape, box = (40, 50), Box(3, 5, 33, 45)
    rng = np.random.default_rng(seed)
    dates = scenes(shape, seed, whole)
    changed = np.flatnonzero(rng.random(box.shape) < 0.3)
    owner = rng.integers(0, 7, len(changed))
    row, col = np.divmod(changed, box.shape[1])
    row, col = row + box.y0, col + box.x0
    tile = row // side * 50 + col // side
    kept = np.isin(tile, [number for number in np.unique(tile) if rng.random() < share])

    def find(wanted: Array, block: Box) -> Iterator[tuple[Array, KeptPixels]]:
        assert (block, wanted.tolist()) == (box, changed.tolist())
        for number in np.unique(tile[kept]):
            members = np.flatnonzero(tile == number)
            at = row[members], col[members]
            numbers = [date.values[:, at[0], at[1]] for date in dates]
            valid = dates[0].valid[at] & dates[1].valid[at]
            yield members, KeptPixels(members.astype(np.uint32), numbers[0], numbers[1], valid)

    asked: list[Box] = []
    values = band_values(dates, cell=10)

    def read(boxes: Sequence[Box]) -> Iterator[tuple[Pixels, Pixels]]:
        assert values.read is not None
        asked.extend(boxes)
        return iter(values.read(boxes))

    expected = sum_values(values, changed, owner, 7, box)
    found = sum_values(replace(values, read=read, kept=find), changed, owner, 7, box)
    np.testing.assert_array_equal(found, expected)
    assert bool(asked) == bool((~kept).any())
    assert all(
        ((row >= each.y0) & (row < each.y1) & (col >= each.x0) & (col < each.x1) & ~kept).any()
        for each in asked
    )
