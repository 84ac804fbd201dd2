"""The choice between the host and a device, made once, when a detector is opened."""

from __future__ import annotations

from contextlib import AbstractContextManager

from ussfc.pipeline.execution.device_computer import DeviceComputer
from ussfc.pipeline.execution.host_computer import HostComputer, PatchCache
from ussfc.pipeline.execution.tile_computer import TileComputer
from ussfc.pipeline.types import Detector, FloatArray, TileDetector


def open_computer(
    detector: Detector,
    weights: FloatArray,
    cache: PatchCache | None = None,
    turn: AbstractContextManager[object] | None = None,
) -> TileComputer:
    """Return the computer of a detector, for the tiles of one run.

    Args:
        detector: of the plan's patch size.
        weights: blend weights of a patch.
        cache: patches that neighbouring tiles share on the host; None: no patch is kept.
        turn: held by the one tile that is in the host's network; None: tiles take no turns.
    """
    if isinstance(detector, TileDetector):
        return DeviceComputer(detector, weights)
    return HostComputer(detector, weights, cache, turn)
