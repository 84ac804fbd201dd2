"""Runs of a stub network over a small pair, and what is asked of their products."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import pyogrio
import pytest
import rasterio
from click.testing import CliRunner, Result

from tests.support.stubs import StubRecipe
from ussfc import cli
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.runs.validate import validate

COMPUTATION = Computation(StubRecipe(32, 4, 1, 3))
SETS = (
    "output.smoothing=median3",
    "tiling.tile_size=64",
    "tiling.patch_size=32",
    "threshold=0.1",
    "cluster.kind=serial",
)


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


def layers(out: Path) -> set[str]:
    return {file.name for file in out.glob("changes.*") if file.suffix != ".qml"}


def polygons(path: Path) -> geopandas.GeoDataFrame:
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else pyogrio.read_dataframe(path)


def failures(out: Path) -> list[str]:
    return [check.name for check in validate(out) if not check.ok]


def assert_of_one_threshold(out: Path, threshold: float) -> None:
    """Compare every product and the record with the threshold, and with each other."""
    record = RunRecord.parse(json.loads((out / "run.json").read_text("utf-8")), "run.json")
    assert record.threshold == threshold
    assert record.thresholds == {"mosaic": threshold, "vectorise": threshold}
    with rasterio.open(out / "change.tif") as change, rasterio.open(out / "probability.tif") as source:
        changed = int((change.read(1) == 1).sum())
        levels = source.read(1)
        assert float(change.tags()["USSFC_THRESHOLD"]) == threshold
    assert (
        changed == ((levels >= threshold * 254) & (levels != 255)).sum() == record.counts.changed_pixels > 0
    )
    found = layers(out)
    assert found == set(record.products) - {"change.tif", "probability.tif"}
    for name in found:
        frame = polygons(out / name)
        assert frame["pixels"].sum() == changed
        assert frame["area_m2"].sum() == pytest.approx(record.counts.polygon_area_m2)
    assert failures(out) == []


def smoothing_of(out: Path) -> str:
    """Return the smoothing of all products, once they and the record agree in it."""
    record = RunRecord.parse(json.loads((out / "run.json").read_text("utf-8")), "run.json")
    (found,) = {product.key.smoothing or "none" for product in record.products.values()}
    for name in ("change.tif", "probability.tif"):
        with rasterio.open(out / name) as raster:
            assert raster.tags().get("USSFC_SMOOTHING", "none") == found
    assert record.config["output"]["smoothing"] == found
    return found
