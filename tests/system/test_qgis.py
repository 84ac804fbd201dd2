"""Projects in QGIS itself, where Debian's python3-qgis is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.scenes import write_scene
from tests.support.stubs import StubRecipe
from ussfc.pipeline.assessment.sample import SampleRequest, draw_sample
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run

PYTHON = "/usr/bin/python3"

LOOK = """
import json, os, sys
from qgis.core import QgsApplication, QgsProject
app = QgsApplication([], False)
app.initQgis()
project = QgsProject.instance()
layers = [] if not project.read(sys.argv[1]) else [
    {
        "name": layer.name(), "valid": layer.isValid(), "crs": layer.crs().authid(), "style": layer.renderer().type(),
        "widgets": {
            field.name(): layer.editorWidgetSetup(number).config()
            for number, field in enumerate(layer.fields())
            if layer.editorWidgetSetup(number).type()
        } if hasattr(layer, "fields") else {},
    }
    for layer in project.layerTreeRoot().layerOrder()
]
print(json.dumps({"title": project.title(), "crs": project.crs().authid(), "layers": layers}), flush=True)
os._exit(0)  # QGIS may crash as it ends
"""


def opened(project: Path) -> dict[str, object]:
    """Return a project as QGIS reads it."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GDAL", "PROJ"))
    }
    result = subprocess.run(
        [PYTHON, "-c", LOOK, str(project)],
        env={**environment, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "ModuleNotFoundError" in result.stderr:
        pytest.skip("python3-qgis is not installed")
    found: dict[str, object] = json.loads(result.stdout)
    return found


@pytest.mark.skipif(shutil.which(PYTHON) is None, reason="no Python of the system")
def test_sample_opens_with_both_dates_and_a_form(tmp_path: Path) -> None:
    write_scene(tmp_path, "a", (100, 100), side=96)
    sets = ("tiling.tile_size=64", "tiling.patch_size=32", "threshold=0.1", "cluster.kind=serial")
    scenes = (str(tmp_path / "a_before.tif"), str(tmp_path / "a_after.tif"))
    run(*scenes, tmp_path / "out", load_config(sets=sets), computation=Computation(StubRecipe(32, 4, 1, 3)))
    sample = draw_sample(tmp_path / "out", SampleRequest(points=150))
    values = [{"change": "change"}, {"no change": "no change"}, {"unclear": "unclear"}]
    plain = {"valid": True, "crs": "EPSG:4326", "widgets": {}}
    assert opened(sample.folder / "sample.qgs") == {
        "title": "ussfc sample",
        "crs": "EPSG:4326",
        "layers": [
            {**plain, "name": "sample: fill in reference", "style": "categorizedSymbol",
             "widgets": {"reference": {"map": values}}},
            {**plain, "name": "units", "style": "singleSymbol"},
            {**plain, "name": "change.tif (look after labelling)", "style": "paletted"},
            {**plain, "name": "after", "style": "multibandcolor"},
            {**plain, "name": "before", "style": "multibandcolor"},
        ],
    }  # fmt: skip
