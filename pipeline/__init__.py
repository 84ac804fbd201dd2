"""The pipeline: two scenes in, a change raster and polygons out.

Public names are imported on first use: the command line needs neither xarray nor Dask to start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ussfc.pipeline.api.detect import detect_changes as detect_changes
    from ussfc.pipeline.api.products import classify as classify
    from ussfc.pipeline.config.load import load_config as load_config
    from ussfc.pipeline.config.schema import RunConfig as RunConfig
    from ussfc.pipeline.errors import ClusterError as ClusterError
    from ussfc.pipeline.errors import ConfigError as ConfigError
    from ussfc.pipeline.errors import GridError as GridError
    from ussfc.pipeline.errors import InsufficientMemoryError as InsufficientMemoryError
    from ussfc.pipeline.errors import PipelineError as PipelineError
    from ussfc.pipeline.errors import PipelineWarning as PipelineWarning
    from ussfc.pipeline.errors import ReadError as ReadError
    from ussfc.pipeline.errors import StoreError as StoreError
    from ussfc.pipeline.errors import TileError as TileError
    from ussfc.pipeline.runs.plan import plan as plan
    from ussfc.pipeline.runs.run import run as run

_HOME = {
    "ClusterError": "ussfc.pipeline.errors",
    "ConfigError": "ussfc.pipeline.errors",
    "GridError": "ussfc.pipeline.errors",
    "InsufficientMemoryError": "ussfc.pipeline.errors",
    "PipelineError": "ussfc.pipeline.errors",
    "PipelineWarning": "ussfc.pipeline.errors",
    "ReadError": "ussfc.pipeline.errors",
    "RunConfig": "ussfc.pipeline.config.schema",
    "StoreError": "ussfc.pipeline.errors",
    "TileError": "ussfc.pipeline.errors",
    "classify": "ussfc.pipeline.api.products",
    "detect_changes": "ussfc.pipeline.api.detect",
    "load_config": "ussfc.pipeline.config.load",
    "plan": "ussfc.pipeline.runs.plan",
    "run": "ussfc.pipeline.runs.run",
}

__all__ = [
    "ClusterError",
    "ConfigError",
    "GridError",
    "InsufficientMemoryError",
    "PipelineError",
    "PipelineWarning",
    "ReadError",
    "RunConfig",
    "StoreError",
    "TileError",
    "classify",
    "detect_changes",
    "load_config",
    "plan",
    "run",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ussfc.pipeline' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
