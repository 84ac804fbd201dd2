"""Engines: what runs the network's arithmetic."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

PRECISIONS = {"torch": ("float32",)}
"""Engines by name, and the precisions of each."""


class OutOfMemory(Exception):
    """The device has no room for a batch; a smaller one may fit. Names the device."""


class Engine(Protocol):
    """A network ready to run. One batch gives the same bytes, whoever calls and however many at once."""

    @property
    def streams(self) -> int:
        """Batches that may run at the same time; more callers wait."""

    def run(self, before_NBHW: FloatArray, after_NBHW: FloatArray) -> FloatArray:
        """Change probability of a batch.

        Args:
            before_NBHW: ``(N, bands, H, W)`` float32 in [-1, 1], H and W multiples of 16.
            after_NBHW: the same shape.

        Returns:
            ``(N, H, W)`` float32 in [0, 1].

        Raises:
            OutOfMemory: the device has no room for so many patches.
        """
