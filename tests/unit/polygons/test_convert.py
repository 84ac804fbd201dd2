"""GeoPackage, FlatGeobuf and GeoJSON hold the same as GeoParquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from tests.support.layers import ATTRIBUTES, UTM, Connectivity, grid, mask, write_layer
from tests.support.probabilities import ArraySource
from ussfc.pipeline.choices import VectorFormat
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


def test_several_formats_come_of_one_pass(tmp_path: Path) -> None:
    source = ArraySource(mask(np.random.default_rng(1).random((30, 40)) > 0.5))
    layers = {format_: tmp_path / name for format_, name in LAYERS.items()}
    counts = vectorise(source, grid((30, 40)), 0.5, VectorOptions(), layers, block_size=16)
    assert len(source.reads) == 2 * 3
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(LAYERS.values())
    for format_, path in layers.items():
        frame = geopandas.read_parquet(path) if format_ == "parquet" else pyogrio.read_dataframe(path)
        assert (len(frame), frame["pixels"].sum()) == (counts.polygons, counts.pixels)


@pytest.mark.parametrize("format_", LAYERS)
def test_equal_runs_give_equal_bytes(tmp_path: Path, format_: VectorFormat) -> None:
    source = ArraySource(mask(np.random.default_rng(1).random((30, 40)) > 0.5))
    found = set()
    for number in range(2):
        path = tmp_path / str(number) / LAYERS[format_]
        path.parent.mkdir()
        vectorise(source, grid((30, 40)), 0.5, VectorOptions(), {format_: path})
        found.add(path.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("crs", "affine"),
    [
        (UTM, Affine(10, 0, 500_000, 0, -10, 5_000_000)),
        ("EPSG:2056", Affine(0.5, 0, 2_600_000, 0, -0.5, 1_200_000)),
        ("EPSG:4326", Affine(1e-4, 0, 179.998, 0, -1e-4, -17)),
    ],
)
def test_geojson_is_in_longitude_and_latitude(tmp_path: Path, crs: str, affine: Affine) -> None:
    """As RFC 7946 demands; polygons over the 180th meridian are cut there."""
    geobox = GeoBox((30, 40), affine, crs)
    stored = mask(np.random.default_rng(1).random((30, 40)) > 0.5)
    layers = {format_: tmp_path / LAYERS[format_] for format_ in ("parquet", "geojson")}
    vectorise(ArraySource(stored), geobox, 0.5, VectorOptions(), layers)
    content = json.loads(layers["geojson"].read_text("utf-8"))
    assert "crs" not in content
    expected = geopandas.read_parquet(layers["parquet"])
    found = geopandas.GeoDataFrame.from_features(content, crs="OGC:CRS84")
    np.testing.assert_array_equal(found["id"], expected["id"])
    assert np.abs(found.total_bounds).max() <= 180
    if crs == "EPSG:4326":
        area = shapely.area(found.geometry.to_numpy())
        np.testing.assert_allclose(area, shapely.area(expected.geometry.to_numpy()), rtol=1e-3)
    else:
        assert found.to_crs(crs).geom_equals_exact(expected.geometry, 0.02).all()


def test_geojson_without_a_reference_keeps_coordinates(tmp_path: Path) -> None:
    path = tmp_path / LAYERS["geojson"]
    vectorise(ArraySource(mask(np.eye(3))), grid((3, 3), None), 0.5, VectorOptions(), {"geojson": path})
    assert pyogrio.read_dataframe(path).total_bounds.tolist() == [500_000, 4_999_970, 500_030, 5_000_000]


@pytest.mark.parametrize("dates", [("2018-06-30", "2022-07-01"), ("2018-06-30", None), (None, None)])
def test_dates_are_columns_of_every_format(tmp_path: Path, dates: tuple[str | None, str | None]) -> None:
    layers = {format_: tmp_path / name for format_, name in LAYERS.items()}
    options = VectorOptions(dates=dates)
    counts = vectorise(ArraySource(mask(np.eye(9))), grid((9, 9)), 0.5, options, layers)
    assert counts.polygons == 9
    for format_, path in layers.items():
        frame = geopandas.read_parquet(path) if format_ == "parquet" else pyogrio.read_dataframe(path)
        for name, date in zip(("date_before", "date_after"), dates, strict=True):
            known = [str(value)[:10] for value in frame[name].dropna()]
            assert known == (9 * [date] if date else [])
