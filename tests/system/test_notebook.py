"""The notebook runs from top to bottom on what the package holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import matplotlib as mpl
import numpy as np
import pytest
import rasterio

from tests.support.paths import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "first_map.ipynb"


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_notebook_carries_no_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells())


def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a warning, and its files are those that it shows."""
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    found: dict[str, Any] = {}
    for number, cell in enumerate(code_cells(), 1):
        # A kernel would cost twenty packages; the cells are plain Python.
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, code cell {number}", "exec"), found)
    found["plt"].close("all")

    assert 0 < found["share"] < 0.5
    assert (found["regions"]["area_m2"] >= 500).all()
    assert len(geopandas.read_file("changes.gpkg", layer="changes")) == len(found["regions"]) > 0
    with rasterio.open("probability.tif") as file:
        assert file.crs == found["before"].rio.crs
        assert np.array_equal(file.read(1), found["probability"].values, equal_nan=True)
