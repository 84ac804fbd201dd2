"""From the changed pixels of one block to their outlines: runs in rows, posts, rings, polygons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from ussfc.pipeline.polygons.arrays import Connectivity, FlagArray, Geometries, IntArray
from ussfc.pipeline.types import Box


@dataclass(frozen=True, slots=True)
class Runs:
    """The changed pixels of a block as runs within its rows; every array holds one element a run."""

    shape: tuple[int, int]
    """(rows, cols) of the block."""
    row: IntArray
    """Row of the run."""
    start: IntArray
    """First column."""
    end: IntArray
    """Column after the last one."""

    @staticmethod
    def from_positions(changed: IntArray, shape: tuple[int, int]) -> Runs:
        """Return the runs of changed pixels.

        Args:
            changed: (n,) row-major positions in the block, ascending.
            shape: (rows, cols) of the block.
        """
        cols = shape[1]
        first = np.flatnonzero((np.diff(changed, prepend=-2) != 1) | (changed % cols == 0))
        row, start = np.divmod(changed[first], cols)
        return Runs(shape, row, start, start + np.diff(first, append=len(changed)))

    def touching(self, connectivity: Connectivity) -> IntArray:
        """Return the (n, 2) numbers, from 1, of runs in neighbouring rows that touch; 8 includes corners."""
        stride = self.shape[1] + 1
        below = (self.row + 1) * stride
        # Of the runs in the row below: the first that does not end too early, and the first that starts too late.
        ends, starts = self.row * stride + self.end, self.row * stride + self.start
        if connectivity == 4:
            first = np.searchsorted(ends, below + self.start, "right")
            last = np.searchsorted(starts, below + self.end, "left")
        else:
            first = np.searchsorted(ends, below + self.start, "left")
            last = np.searchsorted(starts, below + self.end, "right")
        several = np.maximum(last - first, 0)
        upper = np.repeat(np.arange(len(self.row)), several)
        lower = np.arange(len(upper)) + np.repeat(first - (np.cumsum(several) - several), several)
        return np.stack([upper, lower], axis=1) + 1

    def edges(self, number: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Return the numbers along the top, the bottom, the left and the right side of the block.

        Args:
            number: (runs,) number of each run.

        Returns:
            (cols,), (cols,), (rows,), (rows,): the number of the run at each pixel, 0 where there is none.
        """
        rows, cols = self.shape
        sides = []
        for row in (0, rows - 1):
            here = self.row == row
            line = np.zeros(cols + 1, np.int64)
            line[self.start[here]] += number[here]
            line[self.end[here]] -= number[here]
            sides.append(np.cumsum(line)[:-1])
        for touching in (self.start == 0, self.end == cols):
            line = np.zeros(rows, np.int64)
            line[self.row[touching]] = number[touching]
            sides.append(line)
        top, bottom, left, right = sides
        return top, bottom, left, right


@dataclass(frozen=True, slots=True)
class Posts:
    """Upright edges between changed and other pixels, as long as they look the same way; one element a post."""

    x: IntArray
    """Column of pixels to the right of the post."""
    head: IntArray
    """First row."""
    foot: IntArray
    """Row after the last one."""
    closing: FlagArray
    """True where change ends at the post, False where it begins to the right of it."""
    part: IntArray
    """Number of the part whose edge it is."""

    @staticmethod
    def from_runs(runs: Runs, part: IntArray) -> Posts:
        """Join the ends of runs that stand above each other; the arguments are those of :func:`trace_outlines`."""
        rows = runs.shape[0]
        # Edges by column, by what they are (0: change begins to the right of it, 1: ends), by row.
        key = np.concatenate([2 * runs.start, 2 * runs.end + 1]) * (rows + 1) + np.tile(runs.row, 2)
        order = np.argsort(key)
        key = key[order]
        heads = np.flatnonzero(np.diff(key, prepend=-2) != 1)
        feet = np.append(heads[1:], len(key)) - 1
        column, head = np.divmod(key[heads], rows + 1)
        foot = key[feet] % (rows + 1) + 1
        return Posts(column // 2, head, foot, column % 2 == 1, part[order[heads] % len(part)])

    def following(self, cols: int) -> IntArray:
        """Return the post that comes after each one on its ring, (posts,), in a block with ``cols`` columns.

        A post has a corner at its head and its foot, and the corners along a line between two rows of pixels are
        joined two by two from left to right. So each post leads to a next one, and around to itself: a ring.
        """
        posts = len(self.x)
        # Corners are numbered: the heads of all posts, then their feet.
        corner = np.concatenate([self.head, self.foot]) * (cols + 1) + np.tile(self.x, 2)
        along = np.argsort(corner, kind="stable")
        # Where a foot stands on another post's head, two changed pixels meet at a corner. Two rings pass there, and
        # each turns round a pixel without change if one part is on both sides, else round its own part.
        meet = np.flatnonzero(np.diff(corner[along]) == 0)
        lower, upper = along[meet], along[meet + 1] - posts
        turned = self.closing[upper] != (self.part[upper] == self.part[lower])
        swapped = meet[turned]
        along[swapped], along[swapped + 1] = along[swapped + 1], along[swapped]
        facing = np.empty(2 * posts, np.int64)
        facing[along[0::2]], facing[along[1::2]] = along[1::2], along[0::2]
        # With change at the right hand: down where it ends, up where it begins.
        leave = np.where(self.closing, np.arange(posts) + posts, np.arange(posts))
        return facing[leave] % posts


def trace_outlines(
    runs: Runs, part: IntArray, label: IntArray, box: Box
) -> list[tuple[shapely.Geometry, ...]]:
    """Return the outline of each label, in pixel coordinates of the grid.

    Every part, a set of pixels connected by their sides, is a polygon: parts that touch at a corner only are
    valid side by side in a MultiPolygon, while one ring through that corner is not.

    Args:
        runs: changed pixels of the block, at least one run.
        part: (runs,) number of the part that each belongs to, from 0, none left out.
        label: (runs,) number of the piece, likewise.
        box: the block.
    """
    polygons = trace_polygons(runs, part, box)
    owner = np.zeros(len(polygons), np.int64)
    owner[part] = label
    order = np.argsort(owner, kind="stable")
    parts = np.bincount(owner)
    single = polygons[order][np.cumsum(parts) - parts]
    if (parts > 1).any():
        single = np.where(parts == 1, single, shapely.multipolygons(polygons[order], indices=owner[order]))
    return [(outline,) for outline in single]


def trace_polygons(runs: Runs, part: IntArray, box: Box) -> Geometries:
    """Return one polygon for each part, with the fewest corners; the arguments are those of :func:`trace_outlines`."""
    posts = Posts.from_runs(runs, part)
    count = len(posts.x)
    walk, starts = cycles(posts.following(runs.shape[1]))
    length = np.diff(starts, append=count)
    area = np.add.reduceat((posts.x * (posts.foot - posts.head) * (2 * posts.closing - 1))[walk], starts)
    # By part, the shell before the holes, which lie the other way round.
    owner = posts.part[walk[starts]]
    rings = np.lexsort((area < 0, owner))
    length, owner = length[rings], owner[rings]
    ring = np.repeat(np.arange(len(rings)), length)
    walk = walk[np.arange(count) + np.repeat(starts[rings] - (np.cumsum(length) - length), length)]

    # Two corners for each post; a ring ends with its first one.
    down, x, head, foot = posts.closing[walk], posts.x[walk], posts.head[walk], posts.foot[walk]
    place = 2 * np.arange(count) + ring
    corners = np.empty((2 * count + len(rings), 2))
    for step, y in enumerate((np.where(down, head, foot), np.where(down, foot, head))):
        corners[place + step] = np.stack([x + box.x0, y + box.y0], axis=1)
    bounds = np.concatenate([[0], np.cumsum(2 * length + 1)])
    corners[bounds[1:] - 1] = corners[bounds[:-1]]
    holes = np.searchsorted(owner, np.arange(owner[-1] + 2))
    polygons: Geometries = shapely.from_ragged_array(shapely.GeometryType.POLYGON, corners, (bounds, holes))
    return polygons


def cycles(following: IntArray) -> tuple[IntArray, IntArray]:
    """Return the cycles of a permutation, one after the other from their least members on, and where each starts.

    Every member looks twice as far ahead in each round, for the least member and the steps to it: as many rounds as
    the longest cycle's length has bits, and all of it in NumPy, which lets other threads trace meanwhile.

    Args:
        following: (n,) member after each one.

    Returns:
        (n,) members and (cycles,) positions among them.
    """
    count = len(following)
    # Least member and steps to it in one number, so that the lesser of two is the one to keep.
    nearest, ahead, hop = np.arange(count) << 32, following, 1
    while not np.array_equal(found := np.minimum(nearest, nearest[ahead] + hop), nearest):
        nearest, ahead, hop = found, ahead[ahead], 2 * hop
    least, steps = nearest >> 32, nearest & 0xFFFFFFFF
    first = np.flatnonzero(steps == 0)
    length = steps[following[first]] + 1
    steps[first] = length
    ends = np.zeros(count, np.int64)
    ends[first] = np.cumsum(length)
    walk = np.empty(count, np.int64)
    walk[ends[least] - steps] = np.arange(count)
    return walk, ends[first] - length
