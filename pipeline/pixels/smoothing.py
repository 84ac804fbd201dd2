"""Median of 3 x 3 pixels: takes single dots out of a probability map, however it is cut into blocks."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.choices import Smoothing
from ussfc.pipeline.pixels.encoding import classify
from ussfc.pipeline.types import NODATA_BYTE, BoolArray, Box, ProbabilitySource, StoredArray

STRIP = 1 << 17
"""Pixels that are sorted together: what comes and goes stays in the processor's cache."""

SIDES = tuple(offset for offset in itertools.product((-1, 0, 1), repeat=2) if offset != (0, 0))
"""(down, right) of the eight neighbours of a block."""

FACING = {-1: slice(-1, None), 0: slice(None), 1: slice(0, 1)}
"""Part of a neighbour that faces the block, by its offset along an axis."""

Lines = dict[tuple[int, int], StoredArray]
"""Outermost lines and corners of a block, by the (down, right) of the neighbour that they face."""

RIM = {-1: slice(0, 1), 0: slice(1, -1), 1: slice(-1, None)}
"""Place of that part in a window with a rim of one pixel."""


def median3(window: StoredArray) -> StoredArray:
    """Return the median of the valid ones among every pixel and its eight neighbours.

    Nodata does not count and does not change. Of an even number of valid pixels the lower one of the two in the middle
    is taken, so that the result holds no value that was not there, and the classes of the result are the median of the
    classes at any threshold.

    Args:
        window: (rows + 2, cols + 2) as :func:`ussfc.pipeline.pixels.encoding.encode` writes them: the pixels, and a rim
            of their neighbours; nodata where the grid ends.

    Returns:
        (rows, cols) of the same dtype, without the rim.
    """
    rows, cols = window.shape[0] - 2, window.shape[1] - 2
    smoothed: StoredArray = np.empty((rows, cols), window.dtype)
    step = max(1, STRIP // (cols + 2))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        _median_of_strip(window[start : stop + 2], smoothed[start:stop])
    return smoothed


def _median_of_strip(window: StoredArray, smoothed: StoredArray) -> None:
    # Nodata as the highest number: then the middle one of nine is right wherever all are valid.
    is_byte = window.dtype == np.uint8
    ranks: npt.NDArray[Any] = window if is_byte else np.where(np.isnan(window), np.float32(np.inf), window)
    nodata = NODATA_BYTE if is_byte else np.inf
    low, middle, high = _sorted(ranks[:-2], ranks[1:-1], ranks[2:])
    highest = _over_columns(np.maximum, high)
    lowest_high, highest_low = _over_columns(np.minimum, high), _over_columns(np.maximum, low)
    _, mean, _ = _sorted(*_columns(middle))
    _, smoothed[:], _ = _sorted(highest_low, mean, lowest_high)
    if (highest != nodata).all():
        return
    centre = window[1:-1, 1:-1]
    partly = np.nonzero((highest == nodata) & (ranks[1:-1, 1:-1] != nodata))
    around = np.stack(
        [ranks[partly[0] + down, partly[1] + right] for down, right in np.ndindex(3, 3)], axis=1
    )
    around.sort(axis=1)
    valid = np.count_nonzero(around != nodata, axis=1)
    smoothed[partly] = around[np.arange(len(around)), (valid - 1) // 2]
    np.copyto(smoothed, centre, where=ranks[1:-1, 1:-1] == nodata)


def _sorted(a: Any, b: Any, c: Any) -> tuple[Any, Any, Any]:
    """Return the lowest, the middle and the highest of three arrays, pixel by pixel."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    other = np.minimum(high, c)
    return np.minimum(low, other), np.maximum(low, other), np.maximum(high, c)


def _columns(values: Any) -> tuple[Any, Any, Any]:
    return values[:, :-2], values[:, 1:-1], values[:, 2:]


def _over_columns(best: Any, values: Any) -> Any:
    left, here, right = _columns(values)
    return best(best(left, here), right)


def possible_change(stored: StoredArray, threshold: float, smoothing: Smoothing) -> BoolArray:
    """Return the pixels of a block that may be change after the filter, whatever its neighbours hold.

    Args:
        stored: (rows, cols) as :func:`ussfc.pipeline.pixels.encoding.encode` writes them.
        threshold: least probability of change, in [0, 1].
        smoothing: the filter.

    Returns:
        (rows, cols), True for every pixel that is change after the filter, and for few others.
    """
    classes = classify(stored, threshold)
    if smoothing == "none":
        changed: BoolArray = classes == 1
        return changed
    # The median is change where more than half of the valid pixels are. What has no data, or is not known, counts as
    # change here: then five of the nine are, however many of them are valid.
    around = np.ones([side + 2 for side in stored.shape], np.uint8)
    np.minimum(classes, 1, out=around[1:-1, 1:-1])
    down = around[:-2] + around[1:-1] + around[2:]
    found: BoolArray = down[:, :-2] + down[:, 1:-1] + down[:, 2:] >= 5
    found &= classes != NODATA_BYTE
    return found


class _OfSource:
    def __init__(self, source: ProbabilitySource) -> None:
        self._source = source

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the grid."""
        return self._source.shape

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.float32]:
        """uint8 or float32."""
        return self._source.dtype


class SmoothedSource(_OfSource):
    """Probabilities smoothed by :func:`median3`, a :class:`ussfc.pipeline.types.ProbabilitySource` themselves.

    Of a block that was read the lines which face its neighbours are kept: walked in rows, the source decodes each block
    twice at most, and no more than these lines of three rows of blocks stays in memory.
    """

    def __init__(self, source: ProbabilitySource, side: int) -> None:
        """Begin with nothing read.

        Args:
            source: the probabilities; read from as many threads as this is.
            side: side of the blocks that will be read, pixels; others give the same and take longer.
        """
        super().__init__(source)
        self._side = side
        self._kept: dict[Box, Lines] = {}
        # With what threads are ahead of the slowest.
        self._most_kept = 3 * (-(-source.shape[1] // side) + 2) + 16
        self._keeping = threading.Lock()

    def read(self, box: Box) -> StoredArray:
        """Return the smoothed probabilities of a block, (rows, cols); raises what the source raises."""
        stored, _ = self._read(box)
        window = with_rim(stored)
        for down, right in SIDES:
            neighbour = self._neighbour(box, down, right)
            if neighbour.pixels:
                with self._keeping:
                    lines = self._kept.get(neighbour)
                if lines is None:
                    _, lines = self._read(neighbour)
                window[RIM[down], RIM[right]] = lines[-down, -right]
        return median3(window)

    def _neighbour(self, box: Box, down: int, right: int) -> Box:
        """Return the block beside another one; it has no pixels beyond the grid."""
        y0, y1 = _beside(box.y0, box.y1, self._side, down)
        x0, x1 = _beside(box.x0, box.x1, self._side, right)
        return Box(y0, x0, y1, x1).intersect(Box(0, 0, *self.shape))

    def _read(self, box: Box) -> tuple[StoredArray, Lines]:
        """Read a block of the source, and keep the lines that face its neighbours."""
        stored = self._source.read(box)
        lines = {(down, right): stored[FACING[-down], FACING[-right]].copy() for down, right in SIDES}
        with self._keeping:
            self._kept[box] = lines
            while len(self._kept) > self._most_kept:
                del self._kept[next(iter(self._kept))]
        return stored, lines


class AloneSource(_OfSource):
    """Probabilities smoothed by :func:`median3` block by block: the source may still change beyond a block's rim.

    Args:
        source: the probabilities; read from as many threads as this is.
    """

    def read(self, box: Box) -> StoredArray:
        """Return the smoothed probabilities of a block, (rows, cols); raises what the source raises."""
        rim = Box(box.y0 - 1, box.x0 - 1, box.y1 + 1, box.x1 + 1)
        inside = rim.intersect(Box(0, 0, *self.shape))
        missing = [(inside.y0 - rim.y0, rim.y1 - inside.y1), (inside.x0 - rim.x0, rim.x1 - inside.x1)]
        stored = self._source.read(inside)
        nodata = NODATA_BYTE if stored.dtype == np.uint8 else np.nan
        window: Any = np.pad(stored, missing, constant_values=nodata)
        return median3(window)


def with_rim(stored: StoredArray) -> StoredArray:
    """Return probabilities with a rim of one pixel of nodata."""
    nodata = NODATA_BYTE if stored.dtype == np.uint8 else np.nan
    window: StoredArray = np.full([side + 2 for side in stored.shape], nodata, stored.dtype)
    window[1:-1, 1:-1] = stored
    return window


def _beside(start: int, stop: int, side: int, offset: int) -> tuple[int, int]:
    """Return start and stop of the block before (-1) or behind (1) another one along an axis, or of itself (0)."""
    return {-1: (start - side, start), 0: (start, stop), 1: (stop, stop + side)}[offset]
