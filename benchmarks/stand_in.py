"""A detector that costs next to nothing, to measure everything around the network. It detects no change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StandIn:
    """The difference of the first band, as a probability."""

    patch_size: int
    bands: int = 3
    batch_size: int = 1
    streams: int = 1

    @property
    def identity(self) -> str:
        return f"stand-in, patch {self.patch_size}"

    def build(self) -> StandIn:
        return self

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        return np.abs(before[:, 0] - after[:, 0])
