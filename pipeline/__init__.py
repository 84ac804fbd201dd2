"""The pipeline: two scenes in, a change raster and polygons out.

``pipeline.detect_changes`` works on xarray arrays; the command line goes through ``pipeline.run``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.api import detect_changes as detect_changes

__all__ = ["detect_changes"]


def __getattr__(name: str) -> object:
    # Imported on first use: xarray and Dask are not needed by the command line.
    if name == "detect_changes":
        from pipeline.api import detect_changes

        return detect_changes
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
