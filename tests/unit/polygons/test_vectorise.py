"""Polygons agree with the raster, in every format, and appear when they are complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import numpy.typing as npt
import pyogrio
import pytest
import rasterio.features
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from tests.support.layers import (
    ATTRIBUTES,
    PROPERTY,
    UTM,
    Connectivity,
    Format,
    grid,
    label,
    mask,
    rasters,
    write_layer,
)
from tests.support.probabilities import ArraySource
from ussfc.pipeline.errors import ConfigError, ReadError, StoreError
from ussfc.pipeline.pixels.encoding import classify, decode
from ussfc.pipeline.polygons.vectorise import VectorCounts, VectorOptions, vectorise
from ussfc.pipeline.storage.layout import LAYERS


def burn(frame: geopandas.GeoDataFrame, geobox: GeoBox) -> npt.NDArray[np.uint8]:
    """Count the polygons whose inside holds the centre of each pixel."""
    burnt = np.zeros(geobox.shape, np.uint8)
    if len(frame):
        rasterio.features.rasterize(
            frame.geometry,
            out=burnt,
            transform=geobox.affine,
            merge_alg=rasterio.enums.MergeAlg.add,
        )
    return burnt


@PROPERTY
@given(stored=rasters(), block_size=st.integers(3, 17), connectivity=st.sampled_from([4, 8]))
def test_polygons_agree_with_the_raster(
    folder: Path, stored: npt.NDArray[Any], block_size: int, connectivity: Connectivity
) -> None:
    geobox = grid((stored.shape[0], stored.shape[1]))
    path = folder / "polygons.parquet"
    counts, frame = write_layer(stored, path, connectivity=connectivity, block_size=block_size)
    labels, count = label(stored, connectivity)
    changed = labels > 0
    assert counts.polygons == len(frame) == count
    assert counts.pixels == frame.pixels.sum() == changed.sum()
    assert counts.area_m2 == pytest.approx(frame.area_m2.sum())
    assert frame.is_valid.all()
    assert not frame.is_empty.any()
    assert set(frame.geom_type) <= ({"Polygon"} if connectivity == 4 else {"Polygon", "MultiPolygon"})
    # Nodata is 255 in the class raster, so it must not be burnt either.
    np.testing.assert_array_equal(burn(frame, geobox), classify(stored, 0.5) == 1)
    np.testing.assert_array_equal(frame.area, frame.pixels * 100.0)
    probability = decode(stored).astype(np.float64)
    for row in frame.itertuples():
        region = labels == labels.flat[row.id]
        assert row.id == np.flatnonzero(region)[0]
        assert row.pixels == region.sum()
        assert row.max_probability == probability[region].max()
        assert row.mean_probability == pytest.approx(probability[region].mean(), rel=1e-9)


@pytest.mark.parametrize("format_", list(LAYERS))
@pytest.mark.parametrize("crs", [UTM, None])
def test_no_change_gives_an_empty_layer(tmp_path: Path, format_: Format, crs: str | None) -> None:
    path = tmp_path / LAYERS[format_]
    stored = np.full((10, 10), 255, np.uint8)
    counts = vectorise(ArraySource(stored), grid((10, 10), crs), 0.5, VectorOptions(), {format_: path})
    assert counts == VectorCounts(0, 0, None if crs is None else 0.0)
    frame = geopandas.read_parquet(path) if format_ == "parquet" else pyogrio.read_dataframe(path)
    assert len(frame) == 0
    if format_ != "geojson":  # whose fields are those of its features
        assert [name for name in frame.columns if name != "bbox"] == [
            *ATTRIBUTES, "date_before", "date_after", "geometry",
        ]  # fmt: skip


def test_areas_are_null_without_a_reference(folder: Path) -> None:
    stored, path = mask(np.eye(5)), folder / "bare.parquet"
    counts, _ = write_layer(stored, path, geobox=grid((5, 5), None))
    frame = geopandas.read_parquet(path)
    assert counts == VectorCounts(5, 5, None)
    assert frame.crs is None
    assert frame.area_m2.isna().all()
    assert frame.perimeter_m.isna().all()
    assert frame.total_bounds.tolist() == [500_000, 4_999_950, 500_050, 5_000_000]


@pytest.mark.parametrize("option", ["min_area_m2", "simplify_m"])
def test_metres_need_a_reference(tmp_path: Path, option: str) -> None:
    metres: dict[str, Any] = {option: 1.0}
    with pytest.raises(ConfigError, match="geographic reference") as caught:
        write_layer(mask(np.eye(5)), tmp_path / "x.parquet", geobox=grid((5, 5), None), **metres)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format_", list(LAYERS))
def test_a_failing_source_leaves_nothing(tmp_path: Path, format_: Format) -> None:
    path = tmp_path / LAYERS[format_]
    source = ArraySource(mask(np.eye(30)), fails_below=20)
    with pytest.raises(ReadError):
        vectorise(source, grid((30, 30)), 0.5, VectorOptions(), {format_: path}, block_size=10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format_", list(LAYERS))
def test_a_missing_folder_is_reported(tmp_path: Path, format_: Format) -> None:
    path = tmp_path / "missing" / LAYERS[format_]
    with pytest.raises(StoreError, match="changes"):
        vectorise(ArraySource(mask(np.eye(3))), grid((3, 3)), 0.5, VectorOptions(), {format_: path})


def test_another_grid_is_refused(tmp_path: Path) -> None:
    source = ArraySource(mask(np.eye(3)))
    with pytest.raises(ValueError, match="shape"):
        vectorise(source, grid((3, 4)), 0.5, VectorOptions(), {"parquet": tmp_path / "x.parquet"})


def test_the_import_is_light() -> None:
    heavy = "{'pandas', 'geopandas', 'pyarrow', 'pyogrio'}"
    code = f"import sys, ussfc.pipeline.polygons.vectorise; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
