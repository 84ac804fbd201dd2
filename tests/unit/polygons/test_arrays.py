"""Groups: connected members, and what a reduction gives for each."""

from __future__ import annotations

import numpy as np
import shapely

from ussfc.pipeline.polygons.arrays import components, geometry_array, reduce_groups


def test_members_that_meet_are_one_component() -> None:
    group = components(np.array([[1, 4], [4, 5], [2, 2]]), 5)
    assert group.dtype == np.int64
    assert sorted(set(group)) == [0, 1, 2]
    assert group[0] == group[3] == group[4]
    assert len({group[0], group[1], group[2]}) == 3
    assert components(np.zeros((0, 2), np.int64), 0).tolist() == []


def test_reductions_keep_the_dtype() -> None:
    group = np.array([1, 0, 1, 3])
    total = reduce_groups(np.add, 0, np.array([1, 2, 3, 4]), group, 4)
    assert (total.tolist(), total.dtype) == ([2, 4, 0, 4], np.int64)
    peak = reduce_groups(np.maximum, 0, np.array([0.5, 0.25, 0.75, 1.0]), group, 4)
    assert (peak.tolist(), peak.dtype) == ([0.25, 0.75, 0.0, 1.0], np.float64)


def test_geometries_make_one_column() -> None:
    assert geometry_array([]).shape == (0,)
    assert geometry_array([shapely.box(0, 0, 1, 1), shapely.MultiPolygon()]).shape == (2,)
