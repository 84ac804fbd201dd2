"""This machine: its parts, its load, and what its memory and arithmetic allow a network."""

from __future__ import annotations

import os
import platform
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ussfc.cores import cores
from ussfc.pipeline.benchmark.samples import Samples

if TYPE_CHECKING:
    from ussfc.detector import DetectorSpec

COPY_BYTES = 2**30
"""Buffer that is copied to measure memory, bytes: many times what caches hold."""

PACKAGES = ("ussfc", "torch", "numpy", "rasterio", "zarr", "distributed", "openvino", "triton", "monai")
"""Packages whose versions are recorded where they are installed."""


def describe_machine(device: str) -> dict[str, Any]:
    """Return processor, memory, system and versions as the result of ``ussfc bench`` holds them.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    import rasterio

    from ussfc.bench import gpu_name

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": gpu_name() if device == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions | {"gdal": rasterio.__gdal_version__},
    }


def _processor() -> str:
    """Return the processor's name; Python knows it on few systems."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class LoadClock:
    """Measures how much of the machine's processor time other programs take from now on."""

    def __init__(self) -> None:
        self._start = _processor_seconds()

    def others_share(self) -> float:
        """Return the share of all cores' time since the start that other programs took, 0..1."""
        every, used, own = (now - then for now, then in zip(_processor_seconds(), self._start, strict=True))
        return min(1.0, max(0.0, (used - own) / max(every, 1e-9)))


def _processor_seconds() -> tuple[float, float, float]:
    """Return seconds of all cores since the machine's start; those in use; those of this process."""
    # A guest's seconds are counted as the user's as well.
    spent = {
        name: value for name, value in psutil.cpu_times()._asdict().items() if not name.startswith("guest")
    }
    every = sum(spent.values())
    return every, every - spent["idle"] - spent.get("iowait", 0.0), sum(os.times()[:4])


def measure_roof(recipe: DetectorSpec, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure what memory and arithmetic of the device allow a network.

    Args:
        recipe: network and device.
        rounds: measurements of each quantity.
        seconds: wall time of one measurement.

    Returns:
        ``roof`` of the result of ``ussfc bench``.
    """
    from ussfc import bench as measures

    network = measures.PlainNetwork(recipe).network
    size = COPY_BYTES
    if recipe.device == "cpu":
        size = min(size, psutil.virtual_memory().available // 8)
    copied = Samples.of(rounds, lambda: measures.copy_rate(recipe.device, size, seconds))
    rates: dict[str, Samples | None] = {}
    for precision in measures.BYTES:
        if measures.has_arithmetic(recipe.device, precision):
            rate = partial(measures.matrix_rate, recipe.device, precision, seconds)
            rates[precision] = Samples.of(rounds, rate)
        else:
            rates[precision] = None
    flop = measures.pixel_flop(network)
    moved = {precision: measures.pixel_bytes(network, precision) for precision in rates}
    plain = rates["float32"]
    assert plain is not None
    allowed = {}
    for precision, measured in rates.items():
        # What has no arithmetic of its own, or a slower one, computes in float32 and still moves less.
        fastest = max(plain.median, measured.median if measured else 0.0)
        allowed[precision] = min(copied.median / moved[precision], fastest / flop) / 1e6
    return {
        "copy_bytes_per_s": copied.record(),
        "flop_per_s": {precision: measured and measured.record() for precision, measured in rates.items()},
        "flop_per_pixel": flop,
        "bytes_per_pixel": moved,
        "mpx_per_s": allowed,
    }
