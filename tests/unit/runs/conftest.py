"""A finished run of a stub network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.scenes import write_scene
from tests.support.stub_runs import COMPUTATION, SETS
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.run import run


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    write_scene(folder, "a", (100, 100), side=150)
    return str(folder / "a_before.tif"), str(folder / "a_after.tif")


@pytest.fixture(scope="module")
def finished(pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    run(*pair, out, load_config(sets=SETS), computation=COMPUTATION)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"
