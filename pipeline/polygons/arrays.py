"""Array types of this folder, and reductions over groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely

IntArray = npt.NDArray[np.int64]
RealArray = npt.NDArray[np.float64]
FlagArray = npt.NDArray[np.bool_]
Geometries = npt.NDArray[np.object_]
Connectivity = Literal[4, 8]
"""Neighbours of a pixel: 4 share a side with it, 8 a side or a corner."""


def components(pairs: IntArray, count: int) -> IntArray:
    """Return the connected component of each of ``count`` members.

    Args:
        pairs: (n, 2) numbers, from 1, of members that are connected.
        count: number of members.

    Returns:
        (count,) number of the component, from 0, none left out.
    """
    # The start of a run need not wait for SciPy's linear algebra, which comes with it.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), np.bool_), tuple(pairs.T - 1)), shape=(count, count))
    group: IntArray = connected_components(links, directed=False)[1].astype(np.int64)
    return group


def reduce_groups(ufunc: np.ufunc, start: int, values: Any, group: Any, count: int) -> Any:
    """Reduce the values of each group to one.

    Args:
        ufunc: the reduction: ``np.add``, ``np.minimum``, ...
        start: result of an empty group.
        values: (n, ...) of any dtype, which is also the result's.
        group: (n,) number of the group, from 0.
        count: number of groups.

    Returns:
        (count, ...).
    """
    result = np.full((count, *values.shape[1:]), start, values.dtype)
    ufunc.at(result, group, values)
    return result


def geometry_array(geometries: Sequence[shapely.Geometry]) -> Geometries:
    """Return geometries as a one-dimensional array, of length 0 too."""
    column = np.empty(len(geometries), np.object_)
    column[:] = geometries
    return column
