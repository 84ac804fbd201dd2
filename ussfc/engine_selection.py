"""Which engine and precision a machine computes a network fastest with, measured once and remembered."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np

from ussfc.detector import DetectorSpec, PatchDetector
from ussfc.errors import ModelError

Choice = tuple[str, str]
"""Engine and precision."""

CUDA_ORDER: tuple[Choice, ...] = (("triton", "float16"), ("torch", "float16"), ("torch", "float32"))
"""What is fastest on a CUDA device, where it runs at all: factors apart on every one measured."""

TIMES = 2
"""Batches that are timed, after one that warms up; the best counts."""


ANYWHERE: Mapping[str, tuple[Choice, ...]] = {
    "cpu": (("openvino", "float32"), ("torch", "float32"), ("openvino", "bfloat16")),
    "cuda": (("torch", "float16"), ("torch", "float32")),
}
"""What every machine with such a device has, the fastest first."""


def anywhere(recipes: Sequence[DetectorSpec]) -> DetectorSpec:
    """The fastest recipe of those that any machine with such a device can build.

    Args:
        recipes: at least one, of one device; where no machine is sure to have any, the first is taken.
    """
    known = {(recipe.engine, recipe.precision): recipe for recipe in recipes}
    return next((known[choice] for choice in ANYWHERE[recipes[0].device] if choice in known), recipes[0])


def fastest(recipes: Sequence[DetectorSpec]) -> DetectorSpec:
    """The fastest recipe of those that this machine can build.

    On a CPU each runs a few patches, about a second in all; what was found is kept in ``ussfc/engines.json`` under
    ``XDG_CACHE_HOME`` (``~/.cache``), for this processor, these versions and a network of this shape.

    Args:
        recipes: at least one, which differ in engine and precision alone.

    Raises:
        ModelError: none can be built; tells why, of the last.
    """
    choices = {(recipe.engine, recipe.precision): recipe for recipe in recipes}
    remembered = _Memory(recipes)
    known = remembered.choice()
    if known in choices:
        return choices[known]
    error: ModelError | None = None
    seconds: dict[Choice, float] = {}
    lasting = True
    for made in sorted(recipes, key=_preference):
        try:
            detector = replace(made, streams=1).build()
        except ModelError as found:
            error = found
            # A GPU without room or compiler today may have it tomorrow; a processor learns no instructions.
            lasting = made.device == "cpu"
            continue
        seconds[made.engine, made.precision] = _seconds(detector) if made.device == "cpu" else 0.0
        if made.device != "cpu":
            break
    if not seconds:
        assert error is not None
        raise error
    choice = min(seconds, key=lambda each: seconds[each])
    if lasting:
        remembered.keep(choice)
    return choices[choice]


def _preference(recipe: DetectorSpec) -> int:
    choice = recipe.engine, recipe.precision
    return CUDA_ORDER.index(choice) if choice in CUDA_ORDER else len(CUDA_ORDER)


def _seconds(detector: PatchDetector) -> float:
    shape = (detector.batch_size, detector.bands, detector.patch_size, detector.patch_size)
    pair = np.random.default_rng(0).random((2, *shape), np.float32)
    times = []
    for _ in range(TIMES + 1):
        start = perf_counter()
        detector.predict(*pair)
        times.append(perf_counter() - start)
    return min(times[1:])


class _Memory:
    """What earlier processes found out."""

    def __init__(self, recipes: Sequence[DetectorSpec]) -> None:
        moving = (
            "engine",
            "precision",
            "engine_version",
            "device",
            "bands",
            "ratio",
            "patch_size",
            "ssfc_window",
        )
        shown = sorted(str([getattr(each, name) for name in (*moving, "batch_size")]) for each in recipes)
        facts = json.dumps([_processor(), version("ussfc"), shown])
        self._name = hashlib.sha256(facts.encode()).hexdigest()[:16]

    @staticmethod
    def _file() -> Path:
        """Raises RuntimeError where the user has no home."""
        folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(folder) / "ussfc" / "engines.json"

    def _all(self) -> dict[str, list[str]]:
        # Missing, unreadable or torn: it is measured again.
        with suppress(OSError, ValueError, RuntimeError):
            found = json.loads(self._file().read_text())
            if isinstance(found, dict):
                return found
        return {}

    def choice(self) -> Choice | None:
        found = self._all().get(self._name)
        return (str(found[0]), str(found[1])) if isinstance(found, list) and len(found) == 2 else None

    def keep(self, choice: Choice) -> None:
        # A machine without a home that can be written measures every time.
        with suppress(OSError, RuntimeError):
            file = self._file()
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({**self._all(), self._name: list(choice)}))
            part.replace(file)


def _processor() -> list[str]:
    """What tells a processor, and a GPU if there is one, from others."""
    import torch

    facts = [platform.machine()]
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "flags", "Features")):
                facts.append(line)
            if not line:
                break
    if torch.cuda.is_available():
        facts.append(torch.cuda.get_device_name())
    return facts
