"""Windows that a scene is sampled in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.reading.sampling import BLOCK, SAMPLE_WINDOW, spread_windows
from ussfc.pipeline.types import Box

shapes = st.tuples(st.integers(1, 100_000), st.integers(1, 100_000))


@given(shapes, st.integers(1, 4_000_000), st.integers(1, 4))
def test_windows_lie_on_the_grid_inside_one_block(shape: tuple[int, int], most: int, finer: int) -> None:
    windows = spread_windows(shape, most, finer)
    assert windows
    assert len(set(windows)) == len(windows)
    for window in windows:
        assert window.shape == (min(SAMPLE_WINDOW, shape[0]), min(SAMPLE_WINDOW, shape[1]))
        assert window == window.intersect(Box(0, 0, *shape))
        assert window.y0 // BLOCK == (window.y1 - 1) // BLOCK
        assert window.x0 // BLOCK == (window.x1 - 1) // BLOCK
    if finer == 1:
        assert sum(window.pixels for window in windows) <= max(most, SAMPLE_WINDOW**2)


@given(st.integers(4 * BLOCK, 100_000))
def test_windows_are_spread_from_end_to_end(side: int) -> None:
    windows = spread_windows((side, side), 16 * SAMPLE_WINDOW**2)
    starts = sorted({window.y0 for window in windows})
    wanted = [round(number * (side - SAMPLE_WINDOW) / 3) for number in range(4)]
    assert len(starts) == 4
    assert max(abs(start - want) for start, want in zip(starts, wanted, strict=True)) <= SAMPLE_WINDOW
