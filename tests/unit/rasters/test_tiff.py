"""The structure of TIFF files: what is laid out is read again, what is broken is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.rasters import tiff
from ussfc.pipeline.rasters.tiff import (
    CLASSIC_LIMIT,
    Field,
    Level,
    block_bytes,
    directories,
    frame,
    is_framed,
    lay_out,
)

TEXT = Field(2, 9, b"change 1\0")


def level(rows: int, cols: int, sizes: list[int], **more: Field) -> Level:
    fields = {259: Field(3, 1, b"\x08\x00"), 305: TEXT}
    return fields, (rows, cols), np.array(sizes, np.uint32)


@given(st.lists(st.lists(st.integers(1, 2**31), min_size=1, max_size=6), min_size=1, max_size=4))
def test_what_is_laid_out_is_read_again(sizes: list[list[int]]) -> None:
    levels = [level(16 * len(counts), 16 - number, counts) for number, counts in enumerate(sizes)]
    head = lay_out(levels, 16)
    total = len(head) + sum(size + 8 for counts in sizes for size in counts)
    # A BigTIFF has larger directories: what fits into a classic file is one.
    assert head[2] == 42 if total <= CLASSIC_LIMIT else head[2] in (42, 43)
    end = len(head)
    found = directories(head)
    for number, (fields, counts) in reversed(list(enumerate(zip(found, sizes, strict=True)))):
        assert fields[305] == TEXT
        assert fields[tiff.LENGTH].numbers == [16 * len(counts)]
        assert fields[tiff.WIDTH].numbers == [16 - number]
        assert fields[tiff.BYTE_COUNTS].numbers == counts
        for offset, size in zip(fields[tiff.OFFSETS].numbers, counts, strict=True):
            assert offset == end + 4
            end = offset + size + 4
    assert (end <= CLASSIC_LIMIT) == (head[2] == 42)


def test_the_blocks_of_a_file() -> None:
    blocks = [b"first block", b"the second", b"the third one"]
    head = lay_out([level(48, 16, [len(block) for block in blocks])], 16)
    framed = [bytearray(4) + block + bytearray(4) for block in blocks]
    assert not any(is_framed(memoryview(block)) for block in framed)
    for block in framed:
        frame(memoryview(block))
    assert all(is_framed(memoryview(block)) for block in framed)
    assert not is_framed(memoryview(framed[0])[:-1])
    file = head + b"".join(framed)
    assert block_bytes(file) == blocks
    with pytest.raises(ValueError, match="block 2 of a TIFF has 9 of 13 bytes"):
        block_bytes(file[:-8])
    for end in (0, 3, 7, 100, 200, 250, len(head) - 9):
        with pytest.raises(ValueError, match="TIFF"):
            directories(file[:end])
    with pytest.raises(ValueError, match="TIFF"):
        directories(b"MM\0*" + file[4:])
