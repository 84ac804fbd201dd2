"""City-scale change detection: two images of any size in, a change raster and polygons out.

``run`` goes from files to products, ``detect_changes`` works on xarray arrays; the network, its weights and the
detectors made of it are here as well. Public names are
imported on first use: ``import ussfc`` and everything around model cards work without waiting for torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ussfc.detector import detector_choices as detector_choices
    from ussfc.detector import detector_spec as detector_spec
    from ussfc.detector import gpus as gpus
    from ussfc.engine_selection import anywhere as anywhere
    from ussfc.engine_selection import fastest as fastest
    from ussfc.errors import ModelError as ModelError
    from ussfc.network import USSFCNet as USSFCNet
    from ussfc.pipeline import detect_changes as detect_changes
    from ussfc.pipeline import load_config as load_config
    from ussfc.pipeline import plan as plan
    from ussfc.pipeline import run as run
    from ussfc.spec import ModelSpec as ModelSpec
    from ussfc.spec import find_model as find_model
    from ussfc.spec import list_models as list_models
    from ussfc.weights import load_weights as load_weights

_HOME = {
    "ModelError": "ussfc.errors",
    "ModelSpec": "ussfc.spec",
    "USSFCNet": "ussfc.network",
    "anywhere": "ussfc.engine_selection",
    "detect_changes": "ussfc.pipeline",
    "detector_choices": "ussfc.detector",
    "detector_spec": "ussfc.detector",
    "fastest": "ussfc.engine_selection",
    "find_model": "ussfc.spec",
    "gpus": "ussfc.detector",
    "list_models": "ussfc.spec",
    "load_config": "ussfc.pipeline",
    "load_weights": "ussfc.weights",
    "plan": "ussfc.pipeline",
    "run": "ussfc.pipeline",
}

__all__ = [
    "ModelError",
    "ModelSpec",
    "USSFCNet",
    "__version__",
    "anywhere",
    "detect_changes",
    "detector_choices",
    "detector_spec",
    "fastest",
    "find_model",
    "gpus",
    "list_models",
    "load_config",
    "load_weights",
    "plan",
    "run",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("ussfc")
    if name not in _HOME:
        raise AttributeError(f"module 'ussfc' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
