"""The squares of a pass leave no trace in the file, nor do threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.probabilities import ArraySource
from tests.support.rasters import (
    SMALL_BLOCKS,
    Pixels,
    change_of,
    grid,
    load,
    probabilities,
    probability_of,
    write_change,
)
from ussfc.pipeline.events import Advanced, Event
from ussfc.pipeline.pixels import pyramid
from ussfc.pipeline.pixels.encoding import classify
from ussfc.pipeline.pixels.pyramid import level_shapes, pool
from ussfc.pipeline.rasters.cog import ChangeRaster, CogOptions, ProbabilityRaster, write


def test_squares_leave_no_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "READ_SIZE", 512)
    values = probabilities((1301, 1750))
    events: list[Event] = []
    source = ArraySource(values)
    path = tmp_path / "change.tif"
    write_change(source, path, SMALL_BLOCKS, subscriber=events.append)
    expected: Pixels = classify(values, 0.5)
    np.testing.assert_array_equal(load(path), expected)
    for level in range(len(level_shapes(source.shape, 256))):
        expected = pool(expected)
        np.testing.assert_array_equal(load(path, level), expected)
    assert events == [Advanced("mosaic", 1, box.pixels) for box in source.reads]
    assert sum(box.pixels for box in source.reads) == values.size


@pytest.mark.parametrize(("block", "chunk"), [(512, 512), (512, 4096), (256, 1000), (128, 2048), (1024, 300)])
def test_bytes_do_not_depend_on_squares(tmp_path: Path, block: int, chunk: int) -> None:
    values = probabilities((2100, 4500))
    source, made = ArraySource(values), []
    for number, size in enumerate((1, chunk)):
        rasters = [
            ChangeRaster(tmp_path / f"c{number}.tif", {}, 0.5), ProbabilityRaster(tmp_path / f"p{number}.tif", {})
        ]  # fmt: skip
        write(source, grid(source.shape), rasters, tmp_path / "s", CogOptions(block_size=block), chunk=size)
        made.append([raster.path.read_bytes() for raster in rasters])
    assert made[0] == made[1]


@pytest.mark.parametrize("write", [change_of, probability_of])
@pytest.mark.parametrize("compression", ["deflate", "zstd"])
def test_bytes_do_not_depend_on_threads(tmp_path: Path, write: Callable[..., Path], compression: Any) -> None:
    values = probabilities((1301, 1750))
    written = set()
    for number, threads in enumerate([1, 1, 2, 4]):
        folder = tmp_path / str(number)
        folder.mkdir()
        written.add(write(values, folder, CogOptions(compression, 256, threads)).read_bytes())
    assert len(written) == 1
