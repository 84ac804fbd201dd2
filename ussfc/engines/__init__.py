"""Engines, which run the network's arithmetic: their interfaces and the combinations that there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
SourceArray = npt.NDArray[np.integer] | FloatArray
"""Numbers of a scene: integers of 8 or 16 bits, or float32."""

DEVICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("torch", "float32"): ("cpu", "cuda"),
    ("torch", "float16"): ("cuda",),
    ("openvino", "float32"): ("cpu",),
    ("openvino", "bfloat16"): ("cpu",),
    ("openvino", "float16"): ("cpu",),
    ("openvino", "int8"): ("cpu",),
    ("triton", "float16"): ("cuda",),
}
"""Devices that an engine computes a precision on. bfloat16 is left out on CUDA: with 8 bits of mantissa the features
move a probability by more than 0.02, float16 by a tenth of that."""

ONLY_BY_NAME = ("int8",)
"""Precisions that `auto` never takes: it flips six times as many pixels as bfloat16."""

CPU_ENGINES = {"openvino": "ussfc.engines.openvino_engine", "torch": "ussfc.engines.torch_engine"}
"""Modules of the engines for CPUs. Each has ``build_engine(network, shape, precision, streams)``, which returns an
:class:`Engine` for batches of that shape, and imports its library when it is imported itself."""

PRECISIONS: dict[str, tuple[str, ...]] = {
    engine: tuple(precision for other, precision in DEVICES if other == engine) for engine, _ in DEVICES
}
"""Engines by name, and the precisions of each."""


class OutOfMemory(Exception):
    """The device has no room for a batch; a smaller one may fit. Names the device."""


class Engine(Protocol):
    """A network ready to run. One batch gives the same bytes from any thread, beside any other calls."""

    @property
    def streams(self) -> int:
        """Batches that may run at the same time; more callers wait."""

    def run(self, before_NBHW: FloatArray, after_NBHW: FloatArray) -> FloatArray:
        """Compute the change probability of a batch.

        Args:
            before_NBHW: ``(N, bands, H, W)`` float32 in [0, 1], H and W multiples of 16.
            after_NBHW: the same shape.

        Returns:
            ``(N, H, W)`` float32 in [0, 1].

        Raises:
            OutOfMemory: the device has no room for so many patches.
        """


class Pending(Protocol):
    """A result that a device is still computing."""

    @property
    def seconds(self) -> float:
        """Time that the device took, seconds; known once there is a result."""

    def result(self) -> FloatArray:
        """Wait for the result and return it."""


class RadiometricMapping(Protocol):
    """Linear mapping of one date to [0, 1], clipped there."""

    @property
    def low(self) -> tuple[float, ...]:
        """Number that becomes 0, one per band."""

    @property
    def high(self) -> tuple[float, ...]:
        """Number that becomes 1, one per band."""


class TileEngine(Engine, Protocol):
    """An engine on a device with memory of its own: a tile goes there once, its patches are cut and blended there."""

    def upload(
        self,
        before_BHW: SourceArray,
        after_BHW: SourceArray,
        mappings: tuple[RadiometricMapping, RadiometricMapping] | None = None,
        seen: BoolArray | None = None,
    ) -> object:
        """Start to copy a tile to the device, from any thread, while the device computes another tile.

        Args:
            before_BHW: ``(bands, rows, cols)`` finite source numbers.
            after_BHW: the same shape.
            mappings: mapping of before and of after; None: the numbers are in [0, 1] already.
            seen: ``(rows, cols)``; False where both dates are set to 0.5. None: nowhere.

        Returns:
            The tile, for :meth:`blend`.

        Raises:
            OutOfMemory: the device has no room for the tile.
        """

    def blend(
        self,
        uploaded: object,
        corners: Sequence[tuple[int, int]],
        core: tuple[int, int, int, int],
        weights: FloatArray,
        batch_size: int,
    ) -> Pending:
        """Start to compute the weighted mean of a tile's patches; one call at a time, none waits for the device.

        Args:
            uploaded: result of :meth:`upload`.
            corners: (row, column) in the tile of each patch's upper left pixel, in the order of summation.
            core: rows and columns ``(y0, x0, y1, x1)`` of the tile to return.
            weights: ``(patch, patch)`` blend weights.
            batch_size: patches that go through the network together; the last batch is filled up.

        Returns:
            ``(y1 - y0, x1 - x0)`` float32; 0 where no patch lies.

        Raises:
            OutOfMemory: the device has no room for so many patches.
        """
