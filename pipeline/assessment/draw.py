"""Random units of a stratum in one pass: those of the smallest random keys, each a function of seed and place.

A key depends on nothing but the seed, and the row and column of its unit: whatever the order and the size of the
windows, the same units are drawn, and a larger sample of the same seed holds the smaller one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
    found = np.empty(shape, np.uint64)
    for line in range(shape[0]):
        generator = np.random.Philox(key=seed, counter=[col // STEP, row + line, 0, 0])
        found[line] = generator.random_raw(shape[1])
    return found


class SmallestKeys:
    """The units of the smallest keys among all that were offered."""

    def __init__(self, most: int) -> None:
        """Hold ``most`` units or fewer."""
        self._most = most
        self._held: Rows = np.empty(0, ROW)
        self._limit = np.uint64(np.iinfo(np.uint64).max)

    def offer(
        self, key: KeyArray, place: tuple[npt.NDArray[np.int64], ...], **columns: npt.NDArray[np.generic]
    ) -> None:
        """Take the units with small keys.

        Args:
            key: (n,) keys.
            place: (n,) rows and (n,) columns of the units.
            columns: (n,) values of the other fields of :data:`ROW`.
        """
        small = key <= self._limit
        if not self._most or not small.any():
            return
        if small.sum() > self._most:
            small &= key <= np.partition(key[small], self._most - 1)[self._most - 1]
        offered = np.empty(int(small.sum()), ROW)
        offered["key"], offered["row"], offered["col"] = key[small], place[0][small], place[1][small]
        for name, values in columns.items():
            offered[name] = values[small]
        held = np.concatenate([self._held, offered])
        self._held = held[np.lexsort((held["col"], held["row"], held["key"]))][: self._most]
        if len(self._held) == self._most:
            self._limit = self._held["key"][-1]

    def smallest(self, count: int) -> Rows:
        """Return the units of the ``count`` smallest keys, by key."""
        return self._held[:count]
