"""Areas of interest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from odc.geo.crs import CRS
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


RING = [[35.0, 33.0], [36.0, 33.0], [36.0, 34.0], [35.0, 34.0], [35.0, 33.0]]
FOLDER = """<Folder><name>{name}</name><Placemark><MultiGeometry><Polygon><outerBoundaryIs><LinearRing><coordinates>
{west},33,5 {east},33,5 {east},34,5 {west},34,5 {west},33,5</coordinates></LinearRing></outerBoundaryIs></Polygon>
<Point><coordinates>1,2,3</coordinates></Point></MultiGeometry></Placemark></Folder>"""


def test_a_kml_is_read_with_all_its_folders(tmp_path: Path) -> None:
    folders = FOLDER.format(name="west", west=35, east=36) + FOLDER.format(name="east", west=36, east=38)
    text = f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document>{folders}</Document></kml>'
    (tmp_path / "area.kml").write_text(text)
    area = read_aoi(str(tmp_path / "area.kml"))
    assert area.area == pytest.approx(3)
    assert (area.crs, area.geom.has_z) == (CRS("EPSG:4326"), False)


def test_layers_of_polygons_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "area.gpkg"
    for layer, shape in (("lines", shapely.LineString(RING)), ("a", shapely.Polygon(RING))):
        geopandas.GeoDataFrame(geometry=[shape], crs="EPSG:4326").to_file(path, layer=layer)
    assert read_aoi(str(path)).area == pytest.approx(1)
    geopandas.GeoDataFrame(geometry=[shapely.Polygon(RING)], crs="EPSG:4326").to_file(path, layer="b")
    with pytest.raises(ReadError, match="holds polygons in 2 layers; give a file with one of them"):
        read_aoi(str(path))


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"type": "Polygon", "coordinates": []}, "empty or have no area"),
        ({"type": "Polygon", "coordinates": [[*RING[:2], [float("nan"), 34.0], *RING[3:]]]}, "is no number"),
        ({"type": "Polygon", "coordinates": [RING[:2]]}, "cannot be read as a vector layer"),
        ({"type": "Point", "coordinates": RING[0]}, "no polygon"),
        (None, "no polygon"),
    ],
    ids=["empty", "nan", "no ring", "point", "none"],
)
def test_files_without_an_area_are_one_line(tmp_path: Path, geometry: object, message: str) -> None:
    feature = {"type": "Feature", "properties": {}, "geometry": geometry}
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(ReadError, match=message) as caught:
        read_aoi(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_heights_do_not_matter(tmp_path: Path) -> None:
    high = {"type": "Polygon", "coordinates": [[[*point, 100.0] for point in RING]]}
    (tmp_path / "high.geojson").write_text(json.dumps(high))
    (tmp_path / "flat.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [RING]}))
    high_area, flat_area = (read_aoi(str(tmp_path / f"{name}.geojson")) for name in ("high", "flat"))
    assert high_area.geom.wkb == flat_area.geom.wkb
