"""Fixtures of generated pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.mask_tiles import write_tiles
from ussfc.training.synthesis.tiles import MaskTiles, open_masks


@pytest.fixture(scope="package")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> MaskTiles:
    return open_masks(write_tiles(tmp_path_factory.mktemp("masks")))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return write_tiles(tmp_path)
