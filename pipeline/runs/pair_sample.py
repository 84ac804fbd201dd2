"""Windows of both dates side by side, spread over the grid: what a run learns of a pair before its first tile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.date_masks import masked_reader
from ussfc.pipeline.reading.sampling import CHECK_PIXELS, spread_windows
from ussfc.pipeline.runs.comparison import REQUESTS, have_large_blocks
from ussfc.pipeline.types import Box, Pixels, SceneReader, blocks

if TYPE_CHECKING:
    from ussfc.pipeline.runs.pair import ScenePair

SAMPLE_PIXELS = 1_700_000
"""Size of the sample of both dates, pixels: 25 windows; smaller grids are read whole."""

BLOCK = 512
"""Side of the parts in which a small grid is read, pixels."""

T = TypeVar("T")

Readers = tuple[SceneReader, SceneReader]


def open_sample(pair: ScenePair, threads: int) -> tuple[Readers, int, int]:
    """Return readers of both dates with their masks, the windows to read at a time, and the size of the sample.

    Args:
        pair: both dates, registered.
        threads: of the run.
    """
    shape = pair.grid.shape[0], pair.grid.shape[1]
    before, after = (masked_reader(recipe.open(), pair.masks, shape) for recipe in pair.recipes)
    if have_large_blocks((pair.before, pair.after)):
        return (before, after), 1, CHECK_PIXELS
    return (before, after), min(REQUESTS, max(2, threads)), SAMPLE_PIXELS


def read_sample(
    readers: Readers, shape: tuple[int, int], threads: int, most: int, take: Callable[[Pixels, Pixels], T]
) -> tuple[list[T], int]:
    """Return what ``take`` makes of both dates in each window, in their order, and how many could not be read.

    Args:
        readers: of before and after, on the common grid, registered.
        shape: (rows, cols) of the grid.
        threads: windows that are read at a time.
        most: size of the sample, pixels.
        take: receives the same window of both dates.
    """

    def read(box: Box) -> list[T]:
        try:
            before, after = (reader.read(box) for reader in readers)
        except ReadError:
            # A damaged block costs the tiles over it and is reported with them.
            return []
        return [take(before, after)]

    small = shape[0] * shape[1] <= most
    windows = list(blocks(shape, BLOCK)) if small else spread_windows(shape, most)
    if threads == 1:
        found = [read(box) for box in windows]
    else:
        with ThreadPoolExecutor(threads, "ussfc-sample") as pool:
            found = list(pool.map(read, windows))
    return [part for parts in found for part in parts], found.count([])
