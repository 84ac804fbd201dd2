"""Random units of a stratum in one pass: those of the smallest random keys, each a function of seed and place.

A key depends on nothing but the seed, and the row and column of its unit: whatever the order and the size of the
windows, the same units are drawn, and a larger sample of the same seed holds the smaller one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.types import BoolArray

KeyArray = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.void]

STEP = 4
"""Numbers that NumPy's Philox generator makes at once: first columns are multiples of it."""

ROW = np.dtype([
    ("key", np.uint64), ("row", np.int64), ("col", np.int64), ("mapped", np.uint8), ("size", np.float64),
])  # fmt: skip
"""A unit that was drawn: its key, its row and column among the units, its map class and its size."""


def keys(seed: int, row: int, col: int, shape: tuple[int, int]) -> KeyArray:
    """Return the random keys of a window of units, (rows, cols), uniform over 64 bits.

    Args:
        seed: 0 or more.
        row: first row of the window, among the units.
        col: first column, a multiple of :data:`STEP`.
        shape: rows and columns.
    """
    assert col % STEP == 0
    generator = np.random.Philox(key=seed)
    # A new generator for each row would take three times as long.
    state = generator.state
    found = np.empty(shape, np.uint64)
    for line in range(shape[0]):
        state["state"]["counter"] = np.array([col // STEP, row + line, 0, 0], np.uint64)
        generator.state = state
        found[line] = generator.random_raw(shape[1])
    return found


class SmallestKeys:
    """The units of the smallest keys among all that were offered."""

    def __init__(self, most: int) -> None:
        """Hold ``most`` units; between two sortings twice as many, and those of a window."""
        self._most = most
        self._held: list[Rows] = [np.empty(0, ROW)]
        self._limit = np.uint64(np.iinfo(np.uint64).max)

    def offer(
        self, key: KeyArray, chosen: BoolArray, first: tuple[int, int], **columns: npt.NDArray[np.generic]
    ) -> None:
        """Take the units with small keys of a window; arrays are (rows, cols).

        Args:
            key: keys.
            chosen: True for units of the stratum.
            first: row and column of the window's first unit.
            columns: values of the other fields of :data:`ROW`.
        """
        small = np.flatnonzero(chosen & (key <= self._limit)) if self._most else np.empty(0, np.int64)
        if not len(small):
            return
        taken = key.ravel()[small]
        if len(small) > self._most:
            kept = taken <= np.partition(taken, self._most - 1)[self._most - 1]
            small, taken = small[kept], taken[kept]
        offered = np.empty(len(small), ROW)
        offered["key"] = taken
        offered["row"], offered["col"] = np.unravel_index(small, key.shape)
        offered["row"] += first[0]
        offered["col"] += first[1]
        for name, values in columns.items():
            offered[name] = values.ravel()[small]
        self._held.append(offered)
        if sum(map(len, self._held)) > 2 * self._most:
            self._sort()

    def smallest(self, count: int) -> Rows:
        """Return the units of the ``count`` smallest keys, by key; at most as many as are held."""
        self._sort()
        return self._held[0][:count]

    def _sort(self) -> None:
        held = np.concatenate(self._held)
        self._held = [held[np.lexsort((held["col"], held["row"], held["key"]))][: self._most]]
        if len(self._held[0]) == self._most > 0:
            self._limit = self._held[0]["key"][-1]
