"""A run in the QGIS of the system, where there is one (Debian: python3-qgis)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.scenes import write_scene, write_toy_model
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.report.write import conclude
from ussfc.pipeline.runs.run import run

PYTHON = "/usr/bin/python3"
"""Python of the system, whose packages QGIS is one of."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what QGIS makes of a run of which about a tenth is change."""
    there = (
        Path(PYTHON).exists()
        and not subprocess.run(
            [PYTHON, "-c", "import qgis.core"], capture_output=True, check=False
        ).returncode
    )
    if not there:
        pytest.skip("needs QGIS for the system's Python (apt: python3-qgis)")
    folder = tmp_path_factory.mktemp("qgis")
    write_scene(folder, "a", (200, 200))
    config = load_config(values={"model": str(write_toy_model(folder, threshold=0.5))})
    run(str(folder / "a_before.tif"), str(folder / "a_after.tif"), folder / "out", config, conclude=conclude)
    done = subprocess.run(
        [PYTHON, str(ROOT / "tests" / "support" / "qgis_check.py"), str(folder / "out")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_project_opens_with_every_layer(shown: dict[str, Any]) -> None:
    assert shown["read"]
    assert shown["layers"] == [
        ["polygons of change", True, True],
        ["change", True, False],
        ["probability of change", True, False],
        ["after", True, True],
        ["before", True, True],
    ]


def test_styles_are_taken_without_a_click(shown: dict[str, Any]) -> None:
    assert shown["renderers"] == ["paletted", "singlebandpseudocolor", "graduatedSymbol"]


def test_no_change_is_transparent(shown: dict[str, Any]) -> None:
    """What lies below change.tif is seen wherever nothing changed."""
    assert shown["transparent"] + shown["coloured"] > 0.95
    assert shown["transparent"] > 0
