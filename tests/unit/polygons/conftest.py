"""Fixtures of the tests of polygons."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ussfc.pipeline.polygons.measure import Ellipsoid


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module", autouse=True)
def quick_small_files() -> Iterator[None]:
    """Hundreds of small files are written here: none has to outlive a power cut, and PROJ takes half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(Ellipsoid, "of_grid", staticmethod(functools.cache(Ellipsoid.of_grid)))
        yield
