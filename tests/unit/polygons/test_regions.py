"""Regions are united over the seams of blocks, and nothing shows where these were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from tests.support.layers import (
    ATTRIBUTES,
    PROPERTY,
    Connectivity,
    grid,
    label,
    mask,
    rasters,
    write_layer,
)
from tests.support.probabilities import ArraySource
from ussfc.pipeline.events import Advanced, Event
from ussfc.pipeline.polygons.regions import facing_pairs
from ussfc.pipeline.polygons.vectorise import (
    RegionRules,
    VectorOptions,
    find_blocks,
    join_features,
    vectorise,
)


@PROPERTY
@given(stored=rasters(), block_size=st.integers(3, 17), connectivity=st.sampled_from([4, 8]))
def test_blocks_leave_no_trace(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Connectivity
) -> None:
    whole, split = folder / "whole.parquet", folder / "split.parquet"
    expected = write_layer(stored, whole, connectivity=connectivity)
    found = write_layer(stored, split, connectivity=connectivity, block_size=block_size)
    assert found[0] == expected[0]
    assert found[1][ATTRIBUTES].equals(expected[1][ATTRIBUTES])
    assert shapely.equals_exact(found[1].geometry, expected[1].geometry, tolerance=0).all()
    assert split.read_bytes() == whole.read_bytes()


def spiral(side: int) -> npt.NDArray[np.bool_]:
    """One region a pixel wide that winds to the centre."""
    turns = np.zeros((side, side), bool)
    y, x, dy, dx = 0, 0, 0, 1
    turns[0, 0] = True
    while True:
        for _ in range(2):
            ahead, beyond = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
            free = all(0 <= at < side for at in ahead) and not turns[ahead]
            if free and not (all(0 <= at < side for at in beyond) and turns[beyond]):
                y, x = ahead
                turns[ahead] = True
                break
            dy, dx = dx, -dy
        else:
            return turns


def test_one_region_through_all_blocks(folder: Path) -> None:
    turns = spiral(65)
    assert label(mask(turns), 4)[1] == 1
    for changed, holes in ((turns, 0), (np.indices((64, 64)).min(axis=0) % 2 == 0, 32), (~turns, None)):
        stored = mask(changed)
        counts, frame = write_layer(stored, folder / "giant.parquet", block_size=8)
        whole, once = write_layer(stored, folder / "giant-whole.parquet")
        assert counts == whole
        assert counts.pixels == changed.sum()
        assert shapely.equals_exact(frame.geometry, once.geometry, tolerance=0).all()
        if holes == 0:
            assert counts.polygons == 1
            assert shapely.get_num_interior_rings(frame.geometry).sum() == 0


@pytest.mark.parametrize(("connectivity", "expected"), [(4, 4), (8, 2)])
def test_corners_where_four_blocks_meet(folder: Path, connectivity: Connectivity, expected: int) -> None:
    changed = np.zeros((8, 8), bool)
    changed[[3, 4], [3, 4]] = True  # over the corner of the blocks, falling
    changed[[3, 4], [0, 7]] = True
    changed[4, 0] = changed[3, 7] = True  # over seams, straight
    changed[0, 0] = changed[0, 1] = False
    options: dict[str, Any] = {"connectivity": connectivity, "block_size": 4}
    counts, frame = write_layer(mask(changed), folder / "corner.parquet", **options)
    assert counts.polygons == expected + (0 if connectivity == 4 else 1)
    assert sorted(frame.pixels) == ([1, 1, 2, 2] if connectivity == 4 else [2, 2, 2])
    rising, _ = write_layer(mask(changed[:, ::-1]), folder / "rising.parquet", **options)
    assert rising.polygons == counts.polygons


def test_pieces_meet_over_a_seam() -> None:
    one, other = np.array([1, 1, 0, 2]), np.array([3, 3, 4, 0])
    assert facing_pairs(one, other, 4).tolist() == [[1, 3]]
    assert facing_pairs(one, other, 8).tolist() == [[1, 3], [1, 4], [2, 4]]


def test_regions_leave_by_their_last_pixel() -> None:
    stored = mask(np.random.default_rng(6).random((40, 50)) < 0.4)
    rules = RegionRules(grid((40, 50)), 0.5, VectorOptions())
    batches = list(join_features(find_blocks(ArraySource(stored), rules, 16), rules))
    assert len(batches) == 3
    last = np.concatenate([batch.regions.last for batch in batches])
    assert (np.diff(last) > 0).all()
    assert len(last) == label(stored, 4)[1]


def test_a_source_is_not_read_far_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ussfc.pipeline.polygons.vectorise.AHEAD", 0)
    ahead: list[int] = []
    source = ArraySource(mask(np.eye(60)))
    vectorise(
        source, grid((60, 60)), 0.5, VectorOptions(), {"parquet": tmp_path / "x.parquet"},
        lambda event: ahead.append(len(source.reads) - len(ahead)), block_size=10,
    )  # fmt: skip
    assert len(ahead) == len(source.reads) == 36
    assert max(ahead) <= 4


def test_every_block_is_one_event(tmp_path: Path) -> None:
    events: list[Event] = []
    source = ArraySource(mask(np.eye(25, 30)))
    options = VectorOptions()
    vectorise(
        source,
        grid((25, 30)),
        0.5,
        options,
        {"parquet": tmp_path / "x.parquet"},
        events.append,
        block_size=10,
    )
    steps = [event for event in events if isinstance(event, Advanced)]
    assert len(events) == len(steps)
    assert sum(step.done for step in steps) == 9
    assert sum(step.pixels for step in steps) == 750
