"""A finished run, a sample of it and its labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyogrio
import pytest

from tests.support.scenes import write_scene
from tests.support.stubs import StubRecipe
from ussfc.pipeline.assessment.sample import SampleRequest, draw_sample
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run

SETS = ("tiling.tile_size=64", "tiling.patch_size=32", "threshold=0.1", "cluster.kind=serial")


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run; it is not to be changed."""
    folder = tmp_path_factory.mktemp("assessment")
    write_scene(folder, "a", (100, 100), side=150)
    out = folder / "out"
    scenes = (str(folder / "a_before.tif"), str(folder / "a_after.tif"))
    run(*scenes, out, load_config(sets=SETS), computation=Computation(StubRecipe(32, 4, 1, 3)))
    return out


@pytest.fixture(scope="package")
def drawn(finished: Path) -> Path:
    """Return the folder of a sample of it without labels; it is not to be changed."""
    return draw_sample(finished, SampleRequest(points=200)).folder


@pytest.fixture
def labelled(drawn: Path, tmp_path: Path) -> Path:
    """Return a sample whose labels are change where the probability is 0.15 or more."""
    folder = tmp_path / "labelled"
    shutil.copytree(drawn, folder)
    path = folder / "sample.gpkg"
    points = pyogrio.read_dataframe(path, layer="sample")
    metadata = pyogrio.read_info(path, layer="sample")["layer_metadata"]
    points["reference"] = ["change" if value >= 0.15 else "no change" for value in points["probability"]]
    pyogrio.write_dataframe(points, path, layer="sample", layer_metadata=metadata)
    return path
