"""Windows that a scene is sampled in."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.reading.sampling import SAMPLE_WINDOW, spread_windows
from ussfc.pipeline.types import Box

shapes = st.tuples(st.integers(1, 100_000), st.integers(1, 100_000))


@given(shapes, st.integers(1, 4_000_000), st.integers(1, 4))
def test_windows_lie_on_the_grid_at_multiples_of_their_side(
    shape: tuple[int, int], most: int, finer: int
) -> None:
    windows = spread_windows(shape, most, finer)
    assert windows
    assert len(set(windows)) == len(windows)
    for window in windows:
        assert (window.y0 % SAMPLE_WINDOW, window.x0 % SAMPLE_WINDOW) == (0, 0)
        assert window.pixels > 0
        assert window == window.intersect(Box(0, 0, *shape))
        assert max(window.shape) <= SAMPLE_WINDOW
    if finer == 1:
        assert sum(window.pixels for window in windows) <= max(most, SAMPLE_WINDOW**2)


@given(st.integers(4 * SAMPLE_WINDOW, 100_000))
def test_windows_reach_from_end_to_end(side: int) -> None:
    windows = spread_windows((side, side), 16 * SAMPLE_WINDOW**2)
    starts = sorted({window.y0 for window in windows})
    assert starts[0] == 0
    assert side - starts[-1] < 2 * SAMPLE_WINDOW
    assert max(after - before for before, after in itertools.pairwise(starts)) < side / 3 + SAMPLE_WINDOW
