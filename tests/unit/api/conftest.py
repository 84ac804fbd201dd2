"""Fixtures of the tests of the Python interface: a small pair, and the products of a run over it."""

from __future__ import annotations

from pathlib import Path

import pytest
import rioxarray
import xarray as xr

from tests.support.scenes import write_scene
from tests.support.stubs import StubRecipe
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run

SETTINGS = {
    "tiling.tile_size": 64,
    "tiling.patch_size": 32,
    "threshold": 0.1,
    "cluster.kind": "serial",
}


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write 150 x 150 pixels of the demo; the later date lies four pixels further east."""
    folder = tmp_path_factory.mktemp("pair")
    write_scene(folder, "a", (100, 100), side=150, shift=4)
    return folder / "a_before.tif", folder / "a_after.tif"


@pytest.fixture(scope="session")
def finished(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run over the pair."""
    out = tmp_path_factory.mktemp("finished") / "out"
    config = load_config(flags=SETTINGS)
    run(str(pair[0]), str(pair[1]), out, config, computation=Computation(StubRecipe(32, 4, 1, 3)))
    return out


@pytest.fixture
def arrays(pair: tuple[Path, Path]) -> tuple[xr.DataArray, xr.DataArray]:
    """Open the pair, in chunks."""
    before, after = (rioxarray.open_rasterio(path, chunks={"x": 64, "y": 64}) for path in pair)
    assert isinstance(before, xr.DataArray)
    assert isinstance(after, xr.DataArray)
    return before, after
