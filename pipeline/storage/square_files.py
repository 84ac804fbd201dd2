"""Files of what is made of one square of the grid, or kept of one tile: named arrays, whole or not there at all.

A file is a line of JSON and the bytes of the arrays, with a checksum. NumPy's own archives are not read here on many
threads: Python 3.11 may fail to parse their headers then (``SystemError: AST constructor recursion depth mismatch``).
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import Index

ORIGIN = "origin"
"""Array of the probabilities that a square was made of."""

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class SquareFiles:
    """The squares of one kind in a run's ``work`` folder; safe for any number of writers of the same content."""

    work: Folder
    """The run's ``work`` folder."""
    name: str
    """Name of the kind: everything but the probabilities that decides a byte."""
    folder: str = layout.SQUARES
    """Folder of all kinds, in ``work``."""

    def write(self, index: Index, origin: npt.NDArray[np.int64], arrays: Arrays) -> None:
        """Write a square.

        Args:
            index: row and column of the square.
            origin: what it was made of, any integers.
            arrays: by name; none may be called ``origin``.

        Raises:
            StoreError: the folder cannot be written.
        """
        # Nothing waits for the disk: a torn file counts as absent.
        self.work.write(self._file(index), _packed({ORIGIN: origin, **arrays}), sync=False)

    def present(self) -> set[Index]:
        """Return the squares that have a file, by one listing; whether it is whole, its reading shows.

        Raises:
            StoreError: the folder cannot be listed.
        """
        names = (name.split("/") for name in self.work.sizes(f"{self.folder}/{self.name}"))
        return {
            (int(name[0]), int(name[1])) for name in names if len(name) == 2 and "".join(name).isdecimal()
        }

    def read(self, index: Index, origin: npt.NDArray[np.int64]) -> Arrays | None:
        """Return the arrays of a square; None where it is not there, damaged, or made of something else.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            content = self.work.read(self._file(index))
        except FileNotFoundError:
            return None
        try:
            arrays = _unpacked(content)
            return arrays if np.array_equal(arrays.pop(ORIGIN), origin) else None
        except (ValueError, TypeError, KeyError):
            return None

    def remove(self) -> None:
        """Remove all squares of the kind.

        Raises:
            StoreError: one cannot be removed.
        """
        self.work.remove(f"{self.folder}/{self.name}")

    def _file(self, index: Index) -> str:
        return f"{self.folder}/{self.name}/{index[0]}/{index[1]}"


def _packed(arrays: Arrays) -> bytes:
    """Return arrays as bytes, after a line of JSON with the dtype and shape of each, and a CRC-32 of all."""
    header = {name: [array.dtype.newbyteorder("<").str, *array.shape] for name, array in arrays.items()}
    parts = [
        np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes() for array in arrays.values()
    ]
    body = b"".join([json.dumps(header).encode(), b"\n", *parts])
    return struct.pack("<I", zlib.crc32(body)) + body


def _unpacked(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that :func:`_packed` put together.

    Raises:
        ValueError, TypeError, KeyError: these bytes are others.
    """
    if content[:4] != struct.pack("<I", zlib.crc32(memoryview(content)[4:])):
        raise ValueError("the checksum is another one")
    end = content.index(b"\n", 4)
    arrays, start = {}, end + 1
    for name, (dtype, *shape) in json.loads(content[4:end]).items():
        count = math.prod(shape)
        arrays[name] = np.frombuffer(content, dtype, count, start).reshape(shape)
        start += arrays[name].nbytes
    return arrays
