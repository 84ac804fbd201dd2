"""A raster appears when it is complete; whatever fails leaves nothing and names the product."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.limits import largest_file
from tests.support.probabilities import ArraySource
from tests.support.rasters import (
    SMALL_BLOCKS,
    change_of,
    files_under,
    grid,
    probabilities,
    probability_of,
    write_change,
    write_probability,
)
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.pixels import pyramid
from ussfc.pipeline.rasters.cog import ChangeRaster, CogOptions, write


def test_a_sidecar_of_an_older_product_goes(tmp_path: Path) -> None:
    (tmp_path / "change.tif.aux.xml").write_text("<PAMDataset><Metadata/></PAMDataset>")
    change_of(probabilities((30, 31)), tmp_path)
    assert files_under(tmp_path) == {"change.tif"}


@pytest.mark.parametrize("older", [b"an older product", None])
def test_a_failing_source_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bytes | None
) -> None:
    monkeypatch.setattr(pyramid, "READ_SIZE", 512)
    path = tmp_path / "product.tif"
    if older is not None:
        path.write_bytes(older)
    values = probabilities((1100, 1100))
    with pytest.raises(ReadError, match="the store is gone"):
        write_change(ArraySource(values, fails_at=3), path, SMALL_BLOCKS)
    with pytest.raises(ReadError, match="the store is gone"):
        write_probability(ArraySource(values, fails_at=3), path, SMALL_BLOCKS)
    assert files_under(tmp_path) == (set() if older is None else {"product.tif"})
    assert older is None or path.read_bytes() == older
    assert list((tmp_path / "scratch").iterdir()) == []


def test_leftovers_of_a_killed_run_are_replaced(tmp_path: Path) -> None:
    values = probabilities((600, 700))
    (tmp_path / "clean").mkdir()
    expected = change_of(values, tmp_path / "clean").read_bytes()
    left = tmp_path / "scratch" / "change-levels"
    left.mkdir(parents=True)
    for name in ("blocks", "product.tif", "product.vrt"):
        (left / name).write_bytes(b"half")
    (tmp_path / "change.part.tif").write_bytes(b"half")
    assert change_of(values, tmp_path).read_bytes() == expected
    assert files_under(tmp_path) == {"change.tif"}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("make", [change_of, probability_of])
def test_a_full_disk_is_reported(tmp_path: Path, make: Callable[..., Path], threads: int) -> None:
    values = np.random.default_rng(3).integers(0, 254, (900, 1000), dtype=np.uint8)
    options = CogOptions(block_size=256, threads=threads)
    finished = make(values, tmp_path, options)
    whole = finished.read_bytes()
    finished.unlink()
    # From nothing at all to all but the last byte of the product: rasterio keeps silent of the latter.
    for size in (0, 5000, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 20, len(whole) - 1):
        with largest_file(size), pytest.raises(StoreError) as caught:
            make(values, tmp_path, options)
        message = str(caught.value)
        assert str(finished) in message
        assert "have room" in message
        assert "\n" not in message
        assert caught.value.__cause__ is not None
        assert files_under(tmp_path) == set()
    assert make(values, tmp_path, options).read_bytes() == whole


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "change.tif"
    source = ArraySource(probabilities((9, 9)))
    with pytest.raises(StoreError, match="nowhere"):
        write(source, grid((9, 9)), [ChangeRaster(path, {}, 0.5)], tmp_path / "s", CogOptions())
