"""Probabilities in memory, as the stages after inference read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.types import Box


@dataclass
class ArraySource:
    """A probability source over an array."""

    values: npt.NDArray[Any]
    """(rows, cols) stored probabilities."""
    fails_at: int | None = None
    """Number of reads after which reading fails."""
    fails_below: int | None = None
    """Row from which reading fails."""
    reads: list[Box] = field(default_factory=list)
    """Boxes read so far."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored probabilities."""
        return self.values.dtype

    def read(self, box: Box) -> npt.NDArray[Any]:
        """Return the values, or fail."""
        if len(self.reads) == self.fails_at or (self.fails_below is not None and box.y0 >= self.fails_below):
            raise ReadError("the store is gone")
        self.reads.append(box)
        return self.values[box.slices]
