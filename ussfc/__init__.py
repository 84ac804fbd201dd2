"""City-scale change detection: two images of any size in, a change raster and polygons out.

``run`` goes from files to products; ``detect_changes``, ``classify`` and ``polygons`` work on xarray arrays; the
network, its weights and the detectors made of it are here as well. Public names are imported on first use: ``import
ussfc`` and everything around model cards work without waiting for torch.

Importing the package sets ``OMP_WAIT_POLICY=PASSIVE`` in the environment, unless it is set there already.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

# PyTorch's operators share their work among OpenMP threads, which by default wait for each other in a busy loop. Where
# other programs want the cores too, the waiting threads hold those that the working ones need: a training step on two
# busy cores took 44 s so, 5 s with threads that sleep, 4 s with a single thread. libgomp reads the variable once, when
# torch loads it, hence here: no module of ours imports torch before this one. It is standard OpenMP, so that other
# runtimes follow it as well, and child processes inherit it. GOMP_SPINCOUNT and KMP_BLOCKTIME, where set, go before it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from ussfc.detector_options import DetectorOptions as DetectorOptions
    from ussfc.detector_options import detector_choices as detector_choices
    from ussfc.detector_options import detector_spec as detector_spec
    from ussfc.detector_options import gpus as gpus
    from ussfc.engine_selection import anywhere as anywhere
    from ussfc.engine_selection import engine_was_chosen as engine_was_chosen
    from ussfc.engine_selection import fastest as fastest
    from ussfc.engine_selection import patches_per_second as patches_per_second
    from ussfc.errors import DataError as DataError
    from ussfc.errors import ModelError as ModelError
    from ussfc.errors import TrainingError as TrainingError
    from ussfc.network import USSFCNet as USSFCNet
    from ussfc.pipeline import ClusterError as ClusterError
    from ussfc.pipeline import ConfigError as ConfigError
    from ussfc.pipeline import GridError as GridError
    from ussfc.pipeline import InsufficientMemoryError as InsufficientMemoryError
    from ussfc.pipeline import PipelineError as PipelineError
    from ussfc.pipeline import PipelineWarning as PipelineWarning
    from ussfc.pipeline import ReadError as ReadError
    from ussfc.pipeline import RunConfig as RunConfig
    from ussfc.pipeline import StoreError as StoreError
    from ussfc.pipeline import TileError as TileError
    from ussfc.pipeline import classify as classify
    from ussfc.pipeline import detect_changes as detect_changes
    from ussfc.pipeline import load_config as load_config
    from ussfc.pipeline import plan as plan
    from ussfc.pipeline import run as run
    from ussfc.pipeline.api.products import polygons as polygons
    from ussfc.spec import ModelSpec as ModelSpec
    from ussfc.spec import find_model as find_model
    from ussfc.spec import list_models as list_models
    from ussfc.weights import load_weights as load_weights

_HOME = {
    "ClusterError": "ussfc.pipeline",
    "ConfigError": "ussfc.pipeline",
    "DataError": "ussfc.errors",
    "DetectorOptions": "ussfc.detector_options",
    "GridError": "ussfc.pipeline",
    "InsufficientMemoryError": "ussfc.pipeline",
    "ModelError": "ussfc.errors",
    "ModelSpec": "ussfc.spec",
    "PipelineError": "ussfc.pipeline",
    "PipelineWarning": "ussfc.pipeline",
    "ReadError": "ussfc.pipeline",
    "RunConfig": "ussfc.pipeline",
    "StoreError": "ussfc.pipeline",
    "TileError": "ussfc.pipeline",
    "TrainingError": "ussfc.errors",
    "USSFCNet": "ussfc.network",
    "anywhere": "ussfc.engine_selection",
    "classify": "ussfc.pipeline",
    "detect_changes": "ussfc.pipeline",
    "detector_choices": "ussfc.detector_options",
    "detector_spec": "ussfc.detector_options",
    "engine_was_chosen": "ussfc.engine_selection",
    "fastest": "ussfc.engine_selection",
    "find_model": "ussfc.spec",
    "gpus": "ussfc.detector_options",
    "list_models": "ussfc.spec",
    "load_config": "ussfc.pipeline",
    "load_weights": "ussfc.weights",
    "patches_per_second": "ussfc.engine_selection",
    "plan": "ussfc.pipeline",
    "polygons": "ussfc.pipeline.api.products",
    "run": "ussfc.pipeline",
}
"""Module of every public name."""

__all__ = [
    "ClusterError",
    "ConfigError",
    "DataError",
    "DetectorOptions",
    "GridError",
    "InsufficientMemoryError",
    "ModelError",
    "ModelSpec",
    "PipelineError",
    "PipelineWarning",
    "ReadError",
    "RunConfig",
    "StoreError",
    "TileError",
    "TrainingError",
    "USSFCNet",
    "__version__",
    "anywhere",
    "classify",
    "detect_changes",
    "detector_choices",
    "detector_spec",
    "engine_was_chosen",
    "fastest",
    "find_model",
    "gpus",
    "list_models",
    "load_config",
    "load_weights",
    "patches_per_second",
    "plan",
    "polygons",
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
