"""Areas of interest."""

from __future__ import annotations

import os
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from odc.geo.geobox import GeoBox

from tests.support.images import AFFINE, SHAPE, UTM
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import on_grid, read_aoi
from ussfc.pipeline.types import Box

WEST, NORTH = AFFINE * (40, 20)
EAST, SOUTH = AFFINE * (90, 70)


def test_a_mask_is_true_inside_the_area(tmp_path: Path) -> None:
    path = tmp_path / "aoi.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.box(WEST, SOUTH, EAST, NORTH)], crs=UTM).to_file(path)
    area = on_grid(read_aoi(str(path)), GeoBox(SHAPE, AFFINE, UTM))
    mask = area.mask(Box(0, 0, *SHAPE))
    assert mask.sum() == 50 * 50
    np.testing.assert_array_equal(area.mask(Box(10, 30, 60, 80)), mask[10:60, 30:80])
    assert not area.mask(Box(100, 100, 120, 120)).any()


def test_a_layer_without_polygons_is_refused(tmp_path: Path) -> None:
    points = tmp_path / "points.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.Point(WEST, SOUTH)], crs=UTM).to_file(points)
    with pytest.raises(ReadError, match="no polygon"):
        read_aoi(str(points))


def test_a_file_that_is_no_layer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.geojson").write_text("no layer")
    with pytest.raises(ReadError, match=r"text\.geojson: cannot be read as a vector layer"):
        read_aoi(str(tmp_path / "text.geojson"))


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "aoi.geojson")
    with pytest.raises(ReadError, match=r"aoi\.geojson: is a named pipe, expected a file"):
        read_aoi(str(tmp_path / "aoi.geojson"))
