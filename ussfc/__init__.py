"""USSFC-Net: the network, its weights, and detectors made of it.

Public names are imported on first use: ``import ussfc`` and everything around model cards work without
waiting for torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ussfc.choice import anywhere as anywhere
    from ussfc.choice import fastest as fastest
    from ussfc.detector import detector_choices as detector_choices
    from ussfc.detector import detector_recipe as detector_recipe
    from ussfc.detector import gpus as gpus
    from ussfc.errors import ModelError as ModelError
    from ussfc.network import USSFCNet as USSFCNet
    from ussfc.spec import ModelSpec as ModelSpec
    from ussfc.spec import find_model as find_model
    from ussfc.spec import list_models as list_models
    from ussfc.weights import load_weights as load_weights

_HOME = {
    "ModelError": "ussfc.errors",
    "ModelSpec": "ussfc.spec",
    "USSFCNet": "ussfc.network",
    "anywhere": "ussfc.choice",
    "detector_choices": "ussfc.detector",
    "detector_recipe": "ussfc.detector",
    "fastest": "ussfc.choice",
    "find_model": "ussfc.spec",
    "gpus": "ussfc.detector",
    "list_models": "ussfc.spec",
    "load_weights": "ussfc.weights",
}

__all__ = [
    "ModelError",
    "ModelSpec",
    "USSFCNet",
    "__version__",
    "anywhere",
    "detector_choices",
    "detector_recipe",
    "fastest",
    "find_model",
    "gpus",
    "list_models",
    "load_weights",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("ussfc")
    if name not in _HOME:
        raise AttributeError(f"module 'ussfc' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
