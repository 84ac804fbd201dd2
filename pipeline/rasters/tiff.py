"""The structure of a TIFF file: directories read, and a cloud-optimised file laid out. No pixels, no compression.

A file is little-endian: a header, a chain of directories (one a pyramid level, each a table of fields), and the
compressed blocks that two fields of a directory point to. TIFF 6.0; BigTIFF has the same with wider numbers; GDAL's
notes on the COG driver describe what stands before the first directory and around each block.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

WIDTH, LENGTH, BLOCK_WIDTH, BLOCK_LENGTH, OFFSETS, BYTE_COUNTS = 256, 257, 322, 323, 324, 325
"""Tags of the fields that hold the size of a level and of its blocks, and the places of these."""

LONG, LONG8 = 4, 16
"""Numbers of two types of field: uint32 and uint64."""

TYPE_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
"""Bytes of one value, by the type's number."""

LEADER, TRAILER = 4, 4
"""Bytes before a block, its size, and after it, its last bytes again."""

GHOST = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
"""Promise of GDAL's driver about the blocks; its readers then fetch a block without asking where it ends. The
space leaves room for a YES of a program that edits the file and breaks the promise."""

CLASSIC_LIMIT = 2**32 - 1
"""Largest file that 32-bit offsets reach, bytes."""

Counts = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Field:
    """One line of a directory."""

    kind: int
    """Number of its type."""
    count: int
    """Number of values."""
    data: bytes
    """The values, little-endian."""

    @property
    def numbers(self) -> list[int]:
        """Return the values of a field of unsigned whole numbers."""
        numbers: list[int] = np.frombuffer(self.data, f"<u{TYPE_SIZES[self.kind]}").tolist()
        return numbers


Directory = Mapping[int, Field]
"""Fields by tag."""

Level = tuple[Directory, tuple[int, int], Counts]
"""A level to lay out: the directory to take over, (rows, cols) in pixels, bytes of each block, row by row."""


@dataclass(frozen=True, slots=True)
class _Form:
    """Widths of the numbers in classic TIFF or in BigTIFF, as formats of ``struct``."""

    header: str
    """Byte order, version and the first offset."""
    entries: str
    """Number of fields of a directory."""
    entry: str
    """Tag, type and count of a field."""
    offset: str
    """Position in the file."""

    @property
    def inline(self) -> int:
        """Return the most bytes of values that stand in the directory itself."""
        return struct.calcsize(self.offset)


CLASSIC = _Form("<2sHI", "<H", "<HHI", "<I")
BIG = _Form("<2sHHHQ", "<Q", "<HHQ", "<Q")


def directories(file: bytes | memoryview) -> list[Directory]:
    """Return the directories of a little-endian TIFF in memory, in the order of their chain.

    Raises:
        ValueError: the bytes are no such file, or end too early.
    """
    try:
        return _directories(file)
    except (struct.error, KeyError) as error:
        raise ValueError(f"a TIFF that ends too early or is none: {error}") from error


def _directories(file: bytes | memoryview) -> list[Directory]:
    magic, version = struct.unpack_from("<2sH", file)
    if magic != b"II" or version not in (42, 43):
        raise ValueError(f"no little-endian TIFF: it begins with {bytes(file[:4])!r}")
    form = CLASSIC if version == 42 else BIG
    offset = struct.unpack_from(form.header, file)[-1]
    found: list[Directory] = []
    while offset:
        (entries,) = struct.unpack_from(form.entries, file, offset)
        offset += struct.calcsize(form.entries)
        fields: dict[int, Field] = {}
        for _ in range(entries):
            tag, kind, count = struct.unpack_from(form.entry, file, offset)
            place, size = offset + struct.calcsize(form.entry), TYPE_SIZES[kind] * count
            if size > form.inline:
                (start,) = struct.unpack_from(form.offset, file, place)
            else:
                start = place
            data = bytes(file[start : start + size])
            if len(data) != size:
                raise ValueError(f"a TIFF that ends within its field {tag}")
            fields[tag] = Field(kind, count, data)
            offset = place + form.inline
        found.append(fields)
        (offset,) = struct.unpack_from(form.offset, file, offset)
    return found


def block_bytes(file: bytes | memoryview) -> list[bytes]:
    """Return the compressed blocks of a TIFF with one level, row by row.

    Raises:
        ValueError: the bytes are no such file, or a block is missing or cut short.
    """
    (level,) = directories(file)
    blocks: list[bytes] = []
    for offset, size in zip(level[OFFSETS].numbers, level[BYTE_COUNTS].numbers, strict=True):
        block = bytes(file[offset : offset + size])
        if not size or len(block) != size:
            raise ValueError(f"block {len(blocks)} of a TIFF has {len(block)} of {size} bytes")
        blocks.append(block)
    return blocks


def lay_out(levels: Sequence[Level], block: int, classic_limit: int = CLASSIC_LIMIT) -> bytes:
    """Return the bytes that stand before the blocks of a cloud-optimised file.

    The blocks follow directly: the smallest level first, each row by row, each block between what :func:`frame` writes.

    Args:
        levels: full resolution first.
        block: side of a block, pixels.
        classic_limit: a larger file becomes a BigTIFF.
    """
    return _lay_out(levels, block, CLASSIC, classic_limit) or _lay_out(levels, block, BIG, math.inf)


def _lay_out(levels: Sequence[Level], block: int, form: _Form, limit: float) -> bytes:
    """Return the head in one form, or no bytes where the file would be larger than ``limit``."""
    ghost = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(GHOST) + GHOST
    # A directory begins at an even offset.
    ghost += b"\0" * ((struct.calcsize(form.header) + len(ghost)) % 2)
    first = struct.calcsize(form.header) + len(ghost)
    # Twice: where the blocks begin follows from the size of the directories, which does not follow from where.
    nowhere = [np.zeros(len(counts), np.uint64) for *_, counts in levels]
    end = first + len(_chain(levels, block, nowhere, form, first))
    offsets: list[Offsets] = []
    for _, _, counts in reversed(levels):
        strides = counts.astype(np.uint64) + np.uint64(LEADER + TRAILER)
        ends = np.uint64(end) + np.cumsum(strides)
        offsets.insert(0, ends - strides + np.uint64(LEADER))
        end = int(ends[-1])
    if end > limit:
        return b""
    head: tuple[Any, ...] = (b"II", 42, first) if form is CLASSIC else (b"II", 43, 8, 0, first)
    return struct.pack(form.header, *head) + ghost + _chain(levels, block, offsets, form, first)


def _chain(levels: Sequence[Level], block: int, offsets: Sequence[Offsets], form: _Form, start: int) -> bytes:
    """Return the directories, one after the other from ``start``, each followed by the values that it points to."""
    chain = b""
    for number, ((template, (rows, cols), counts), places) in enumerate(zip(levels, offsets, strict=True)):
        kind = LONG if form is CLASSIC else LONG8
        fields = dict(template) | {
            WIDTH: Field(LONG, 1, struct.pack("<I", cols)),
            LENGTH: Field(LONG, 1, struct.pack("<I", rows)),
            BLOCK_WIDTH: Field(LONG, 1, struct.pack("<I", block)),
            BLOCK_LENGTH: Field(LONG, 1, struct.pack("<I", block)),
            OFFSETS: Field(kind, len(places), places.astype(f"<u{TYPE_SIZES[kind]}").tobytes()),
            BYTE_COUNTS: Field(LONG, len(counts), counts.astype("<u4").tobytes()),
        }
        here = start + len(chain)
        table = struct.pack(form.entries, len(fields))
        values, behind = b"", here + len(table) + len(fields) * (struct.calcsize(form.entry) + form.inline)
        behind += form.inline
        for tag in sorted(fields):
            field = fields[tag]
            table += struct.pack(form.entry, tag, field.kind, field.count)
            if len(field.data) > form.inline:
                table += struct.pack(form.offset, behind + len(values))
                values += field.data + b"\0" * (-len(field.data) % 8)
            else:
                table += field.data.ljust(form.inline, b"\0")
        values += b"\0" * ((behind + len(values)) % 2)
        following = behind + len(values) if number + 1 < len(levels) else 0
        chain += table + struct.pack(form.offset, following) + values
    return chain


def frame(framed: memoryview) -> None:
    """Complete a block as it stands in the file: its size before it, its last four bytes again after it.

    Args:
        framed: bytes that hold the block, of four bytes or more, behind ``LEADER`` and before ``TRAILER`` others.
    """
    struct.pack_into("<I", framed, 0, len(framed) - LEADER - TRAILER)
    framed[-TRAILER:] = framed[-2 * TRAILER : -TRAILER]


def is_framed(framed: memoryview) -> bool:
    """Return True if a block stands between what :func:`frame` writes."""
    size = len(framed) - LEADER - TRAILER
    return (
        size >= TRAILER
        and framed[:LEADER] == struct.pack("<I", size)
        and framed[-TRAILER:] == framed[-2 * TRAILER : -TRAILER]
    )
