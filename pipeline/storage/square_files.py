"""Files of what is made of one square of the grid: named arrays, whole or not there at all.

A file is a NumPy archive (npz, not compressed: rasters are already), whose entries carry checksums of their own.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import Index

ORIGIN = "origin"
"""Array that tells which probabilities a square was made of."""

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class SquareFiles:
    """The squares of one kind in a run's ``work`` folder; safe for any number of writers of the same content."""

    work: Folder
    """The run's ``work`` folder."""
    name: str
    """Name of the kind: everything but the probabilities that decides a byte."""

    def write(self, index: Index, origin: npt.NDArray[np.int64], arrays: Arrays) -> None:
        """Write a square.

        Args:
            index: row and column of the square.
            origin: what it was made of, any integers.
            arrays: by name; none may be called ``origin``.

        Raises:
            StoreError: the folder cannot be written.
        """
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **{ORIGIN: origin}, **arrays)
        self.work.write(self._file(index), content.getvalue())

    def find(self, index: Index, origin: npt.NDArray[np.int64]) -> Arrays | None:
        """Return the arrays of a square; None where it is not there, damaged, or made of something else.

        Raises:
            StoreError: the folder cannot be read.
        """
        file = self._file(index)
        if not self.work.exists(file):
            return None
        try:
            with np.load(io.BytesIO(self.work.read(file)), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile):
            return None
        return arrays if np.array_equal(arrays.pop(ORIGIN, None), origin) else None

    def remove(self) -> None:
        """Remove all squares of the kind.

        Raises:
            StoreError: one cannot be removed.
        """
        self.work.remove(f"{layout.SQUARES}/{self.name}")

    def _file(self, index: Index) -> str:
        return f"{layout.SQUARES}/{self.name}/{index[0]}/{index[1]}"
