"""Windows that are compared for registration, and the blocks that they lie in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scenes import write_toy_model
from tests.support.textures import texture
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.pixels.phase_correlation import Window, choose_windows
from ussfc.pipeline.reading.shared_blocks import BlockGrid
from ussfc.pipeline.runs.comparison import compare_pair, fit_windows
from ussfc.pipeline.runs.pair import inspect_pair
from ussfc.pipeline.types import Box

sides = st.integers(1, 700)
grids = st.builds(
    BlockGrid, st.tuples(st.integers(-900, 900), st.integers(-900, 900)), st.tuples(sides, sides)
)


def touched(window: Window, grid: BlockGrid) -> int:
    box = Box(window.y, window.x, window.y + window.size, window.x + window.size)
    return len(list(grid.places(box)))


@given(st.integers(64, 1500), st.integers(64, 1500), st.lists(grids, max_size=2), st.integers(0, 99))
@settings(max_examples=100)
def test_fitted_windows_stay_inside_and_touch_no_more_blocks(
    rows: int, cols: int, lattices: list[BlockGrid], seed: int
) -> None:
    windows = choose_windows((rows, cols), seed, 12, 64)
    fitted = fit_windows(windows, (rows, cols), lattices)
    assert [window.size for window in fitted] == [64] * len(windows)
    for window, moved in zip(windows, fitted, strict=True):
        assert 0 <= moved.y <= rows - 64
        assert 0 <= moved.x <= cols - 64
        assert sum(touched(moved, grid) for grid in lattices) <= sum(
            touched(window, grid) for grid in lattices
        )


@given(st.integers(300, 1500), st.integers(64, 512), st.integers(-512, 0), st.integers(0, 99))
def test_window_lies_in_one_block_where_that_holds_it(side: int, block: int, origin: int, seed: int) -> None:
    grid = BlockGrid((origin, origin), (block, block))
    windows = choose_windows((side, side), seed, 12, 64)
    for window, moved in zip(windows, fit_windows(windows, (side, side), [grid]), strict=True):
        # The last block of the image may be too narrow, but then the one before it is not.
        assert touched(moved, grid) == 1
        assert max(abs(moved.y - window.y), abs(moved.x - window.x)) < 64


def test_windows_stay_where_they_are_without_blocks() -> None:
    windows = choose_windows((900, 900), 0, 9, 128)
    assert fit_windows(windows, (900, 900), []) == windows


def test_windows_of_tiled_scenes_lie_in_their_blocks(tmp_path: Path) -> None:
    side, block = 1536, 512
    image = (texture(3, (side, side), blur=1.5) + 1000).clip(1).astype(np.uint16)
    for name in ("before.tif", "after.tif"):
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint16", tiled=True,
            blockxsize=block, blockysize=block, crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 4e6),
        ) as file:  # fmt: skip
            file.write(np.stack([image] * 3))
    model = write_toy_model(tmp_path)
    config = load_config(sets=[f"model={model}", "cluster.kind=serial"])
    pair = inspect_pair(str(tmp_path / "before.tif"), str(tmp_path / "after.tif"), config)
    found = compare_pair(pair).measure(2)
    assert len(found) >= 30
    grid = BlockGrid((0, 0), (block, block))
    assert all(touched(shift.window, grid) == 1 for shift in found)
