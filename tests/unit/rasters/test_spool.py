"""Blocks in the file are those handed over, in the order of a COG, or the raster is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.rasters import change_of, files_under, probabilities, probability_of
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.rasters import tiff
from ussfc.pipeline.rasters.spool import BlockSpool
from ussfc.pipeline.rasters.workspace import workspace


def test_blocks_come_back_in_the_order_of_a_cog(tmp_path: Path) -> None:
    full = {(row, col): f"full {row} {col}".encode() for row in range(2) for col in range(3)}
    target = tmp_path / "x.tif"
    with workspace(target, tmp_path / "scratch") as work:
        spool = BlockSpool(work, [(20, 40), (10, 16)], 16)
        spool.put(1, 0, 0, 1, [b"overview"])
        spool.put(0, 0, 1, 2, [full[0, 1], full[0, 2], full[1, 1], full[1, 2]])
        spool.put(0, 0, 0, 1, [full[0, 0], full[1, 0]])
        spool.assemble([{}, {}])
        spool.close()
    content = target.read_bytes()
    level, overview = tiff.directories(content)
    assert (level[tiff.LENGTH].numbers, level[tiff.WIDTH].numbers) == ([20], [40])
    places = zip(level[tiff.OFFSETS].numbers, level[tiff.BYTE_COUNTS].numbers, strict=True)
    assert [content[start : start + size] for start, size in places] == [full[key] for key in sorted(full)]
    assert content[overview[tiff.OFFSETS].numbers[0] :].startswith(b"overview")
    assert overview[tiff.OFFSETS].numbers[0] < level[tiff.OFFSETS].numbers[0]


def test_blocks_are_framed_as_the_file_promises(tmp_path: Path) -> None:
    """In the order of the levels, smallest first, row by row, nothing between them."""
    path = probability_of(probabilities((1301, 1750)), tmp_path)
    content = path.read_bytes()
    levels = tiff.directories(content)
    assert len(levels) == 4
    end = 0
    for level in reversed(levels):
        for offset, size in zip(level[tiff.OFFSETS].numbers, level[tiff.BYTE_COUNTS].numbers, strict=True):
            assert end in (0, offset - 4)
            assert content[offset - 4 : offset] == size.to_bytes(4, "little")
            end = offset + size + 4
            assert content[end - 4 : end] == content[end - 8 : end - 4]
    assert end == len(content)


@pytest.mark.parametrize("place", [0, 0.1, 0.5, 1])
def test_bytes_lost_on_the_disk_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: float
) -> None:
    """From the header over the directories and blocks to the very last byte."""

    def lose(handle: int) -> None:
        with (tmp_path / "change.part.tif").open("r+b") as part:
            part.seek(int(place * (os.fstat(handle).st_size - 1)))
            (byte,) = part.read(1)
            part.seek(-1, os.SEEK_CUR)
            part.write(bytes([byte ^ 0xFF]))

    monkeypatch.setattr(os, "fsync", lose)
    with pytest.raises(StoreError, match="read back are not those written"):
        change_of(probabilities((600, 700)), tmp_path)
    assert files_under(tmp_path) == set()


def test_a_damaged_scratch_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", lambda handle, buffers, offset: 0)
    with pytest.raises(StoreError, match="read back are not those written"):
        probability_of(probabilities((600, 700)), tmp_path)
    assert files_under(tmp_path) == set()
