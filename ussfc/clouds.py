"""Clouds and their shadows in images of 10 to 30 m: the networks of ukis-csmask (Wieland et al. 2019, 2022)."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ussfc.errors import ModelError
from ussfc.files import sha256_of

BANDS = (("B02", "blue"), ("B03", "green"), ("B04", "red"), ("B08", "nir"))
"""Name and common name of the bands that the networks take, in their order."""

SIDE = 256
"""Side of an image that they take, pixels."""

PIXEL_M = 30.0
"""Pixels that they were trained with, metres."""

CLOUD_CLASSES = (1, 2)
"""Classes of cloud and of shadow; 0 is neither."""

Level = Literal["l1c", "l2a"]
"""Reflectances at the top of the atmosphere, or at the ground."""


def _folder() -> Path:
    found = importlib.util.find_spec("ukis_csmask")
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            "clouds are found by ukis-csmask, which is not installed here: pip install 'ussfc[clouds]'"
        )
    return Path(next(iter(found.submodule_search_locations)))


class CloudNetwork:
    """A network that finds clouds and their shadows; compiled when it is first used."""

    def __init__(self, level: Level) -> None:
        """Find the network's files.

        Args:
            level: of the reflectances.

        Raises:
            ModelError: the package is missing, or another version than ours is made for.
        """
        self._file = _folder() / f"model_4b_{level}.onnx"
        try:
            facts = json.loads(self._file.with_suffix(".json").read_text())
            data = facts["data"]
            names, side = data["dataset_statistics"]["band_names"], data["target_size"]
            mean, deviation = data["dataset_statistics"]["img"]
            self.version = str(facts["model"]["version"])
            self._mean, self._deviation = (
                np.array(numbers, np.float32)[:, None, None] for numbers in (mean, deviation)
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{self._file}: cannot be used ({type(error).__name__}: {error}); expected ukis-csmask 1: pip install "
                "'ussfc[clouds]'"
            ) from error
        if names != [common for _, common in BANDS] or side != [SIDE, SIDE] or not self._file.is_file():
            raise ModelError(
                f"{self._file}: expected a network of blue, green, red and near infrared in {SIDE} px of ukis-csmask "
                "1; pip install 'ussfc[clouds]'"
            )

    @functools.cached_property
    def identity(self) -> str:
        """Text that changes when the network does."""
        return f"ukis-csmask {self.version} {sha256_of(self._file)[:16]}"

    @functools.cached_property
    def _compiled(self) -> Any:
        from ussfc.engines.openvino_runtime import openvino

        try:
            core = openvino.Core()
            return core.compile_model(core.read_model(self._file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(f"{self._file}: cannot be read ({reason}); install ukis-csmask again") from error

    def classify(self, reflectance: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """Return the class of each pixel, ``(SIDE, SIDE)``: 0, or one of :data:`CLOUD_CLASSES`.

        Args:
            reflectance: ``(4, SIDE, SIDE)`` float32 in the order of :data:`BANDS`, 1 for all light.
        """
        scaled = (reflectance - self._mean) / self._deviation
        logits = self._compiled(scaled[None])[0][0]
        return np.asarray(logits.argmax(0), np.uint8)
