"""GeoPackage and FlatGeobuf hold the same as GeoParquet."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely

from tests.support.layers import ATTRIBUTES, UTM, Connectivity, grid, mask, write_layer
from tests.support.probabilities import ArraySource
from ussfc.pipeline.polygons.vectorise import VectorOptions, vectorise
from ussfc.pipeline.storage.layout import LAYERS


@pytest.mark.parametrize("format_", ["gpkg", "flatgeobuf"])
@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("crs", [UTM, None])
def test_other_formats_hold_the_same(
    tmp_path: Path, format_: Literal["gpkg", "flatgeobuf"], connectivity: Connectivity, crs: str | None
) -> None:
    stored = mask(np.random.default_rng(1).random((50, 60)) > 0.5)
    geobox = grid((50, 60), crs)
    expected_counts, _ = write_layer(
        stored, tmp_path / "a.parquet", geobox=geobox, connectivity=connectivity, block_size=16
    )
    path = tmp_path / LAYERS[format_]
    path.write_bytes(b"an older file")
    options = VectorOptions(connectivity=connectivity)
    counts = vectorise(ArraySource(stored), geobox, 0.5, options, {format_: path}, block_size=16)
    assert counts == expected_counts
    frame = pyogrio.read_dataframe(path).sort_values("id", ignore_index=True)
    expected = geopandas.read_parquet(tmp_path / "a.parquet").sort_values("id", ignore_index=True)
    assert list(frame.columns) == [name for name in expected.columns if name != "bbox"]
    for name in ATTRIBUTES:
        np.testing.assert_array_equal(frame[name], expected[name])
    assert shapely.equals(frame.geometry, expected.geometry).all()
    assert frame.crs == expected.crs
    information = pyogrio.read_info(path)
    assert information["layer_name"] == "changes"
    assert information["geometry_type"] == ("Polygon" if connectivity == 4 else "MultiPolygon")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.parquet", path.name]
