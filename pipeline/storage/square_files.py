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
"""Array of the probabilities that a square was made of."""

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

    def present(self) -> set[Index]:
        """Return the squares that have a file, by one listing; whether it is whole, its reading shows.

        Raises:
            StoreError: the folder cannot be listed.
        """
        names = (name.split("/") for name in self.work.sizes(f"{layout.SQUARES}/{self.name}"))
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
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
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
