"""Areas of interest and other polygons: of any vector file, on the grid."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from pyproj.exceptions import ProjError
from rasterio.errors import NotGeoreferencedWarning
from shapely.errors import ShapelyError

from ussfc.addresses import shown_address, without_secrets
from ussfc.local_files import check_regular
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.quiet import ignored_warnings
from ussfc.pipeline.reading.areas import holds_polygon, polygons_of
from ussfc.pipeline.reading.cloud_access import TIMEOUTS, over_network, unreachable
from ussfc.pipeline.storage import remote
from ussfc.pipeline.types import BoolArray, Box
from ussfc.pipeline.waiting import waiting_for

MOST_BYTES = 512 * 1024 * 1024
"""Largest file that is downloaded."""


@dataclass(frozen=True, slots=True)
class AreaOfInterest:
    """Polygons in pixel coordinates of the grid; picklable."""

    wkb: bytes
    """Union of the polygons as WKB, x = column, y = row."""

    def mask(self, box: Box) -> BoolArray:
        """Return True for pixels of ``box`` whose centre lies inside, (rows, cols)."""
        geometry = shapely.from_wkb(self.wkb)
        if not geometry.intersects(shapely.box(box.x0, box.y0, box.x1, box.y1)):
            return np.zeros(box.shape, bool)
        # rasterio ignores this warning about its own arrays, which a second thread ends for the first.
        with ignored_warnings(NotGeoreferencedWarning):
            inside: BoolArray = rasterio.features.geometry_mask(
                [geometry], box.shape, Affine.translation(box.x0, box.y0), invert=True
            )
        return inside


def read_aoi(path: str) -> Geometry:
    """Return the union of all polygons of a vector file (GeoJSON, GeoPackage, FlatGeobuf, GeoParquet, Shapefile, KML).

    Args:
        path: local path, a name of GDAL's, or a URI of one file, which is downloaded whole.

    Raises:
        ReadError: the file cannot be read, holds several layers of polygons, or no polygon with an area.
    """
    geometries, crs = _read_layer(path)
    return Geometry(polygons_of(geometries, crs, shown_address(path)), crs)


def read_polygons(path: str) -> Geometry:
    """Do as :func:`read_aoi` does, for a file that may be empty: clouds there are none."""
    geometries, crs = _read_layer(path)
    if not any(geometry is not None and not geometry.is_empty for geometry in geometries):
        return Geometry(shapely.Polygon(), crs)
    return Geometry(polygons_of(geometries, crs, shown_address(path)), crs)


def read_features(path: str) -> Any:
    """Return the features of a vector file as a GeoDataFrame, with their attributes.

    Args:
        path: as :func:`read_aoi` takes it.

    Raises:
        ReadError: the file cannot be read, or holds several layers of polygons.
    """
    import pandas

    frames = _read_frames(path, None)
    return frames[0] if len(frames) == 1 else pandas.concat(frames, ignore_index=True)


def _read_layer(path: str) -> tuple[list[Any], CRS | None]:
    """Return the shapes of a vector file, and their CRS if it has one."""
    frames = _read_frames(path, [])
    crs = None if frames[0].crs is None else CRS(frames[0].crs)
    return [geometry for frame in frames for geometry in frame.geometry], crs


def _read_frames(path: str, columns: list[str] | None) -> list[Any]:
    """Return the features of a vector file, with some columns or, for None, all."""
    from pyogrio import set_gdal_config_options
    from pyogrio.errors import DataLayerError, DataSourceError

    shown = shown_address(path)
    source = _download(path, shown) if remote.is_remote(path) else path
    if over_network(path):
        set_gdal_config_options(TIMEOUTS)
    try:
        check_regular(path)
    except OSError as error:
        raise ReadError(f"{shown}: is {error.strerror}") from error
    try:
        with warnings.catch_warnings():
            # What is wrong with polygons is reported below.
            warnings.simplefilter("ignore")
            parquet = urlsplit(path).path.endswith(".parquet")
            return _frames(source, parquet, shown, columns)
    except (OSError, ValueError, DataSourceError, DataLayerError, ProjError, ShapelyError) as error:
        reason = without_secrets(" ".join(str(error).split()), path)
        raise ReadError(
            f"{shown}: cannot be read as a vector layer ({reason}); give a GeoJSON or GeoPackage"
        ) from error


def _frames(source: str | bytes, parquet: bool, shown: str, columns: list[str] | None) -> list[Any]:
    """Return the layer of a file; of a KML all of them, which are its folders."""
    import geopandas
    import pyogrio

    if parquet:
        return [geopandas.read_parquet(io.BytesIO(source) if isinstance(source, bytes) else source)]
    layers = [index for index, (_, kind) in enumerate(pyogrio.list_layers(source)) if kind is not None] or [0]
    frames = [pyogrio.read_dataframe(source, layer=index, columns=columns) for index in layers]
    found = [frame for frame in frames if any(holds_polygon(shape) for shape in frame.geometry)]
    if len(found) > 1 and pyogrio.read_info(source, layer=layers[0])["driver"] not in ("KML", "LIBKML"):
        raise ReadError(f"{shown}: holds polygons in {len(found)} layers; give a file with one of them")
    return found or frames[:1]


def _download(uri: str, shown: str) -> bytes:
    try:
        with waiting_for(remote.host_of(uri)):
            content = remote.fetch(uri, MOST_BYTES)
    except StoreError as error:
        raise ReadError(f"{shown}: cannot be read ({error})") from error
    except remote.store_exceptions() as error:
        raise unreachable(shown, error) from error
    if len(content) > MOST_BYTES:
        raise ReadError(f"{shown}: is larger than {MOST_BYTES >> 20} MiB; give the polygons alone")
    return content


def on_grid(area: Geometry, grid: GeoBox) -> AreaOfInterest:
    """Return the area in pixel coordinates of the grid."""
    to_pixels = ~grid.affine
    shape = shapely.transform(area.geom, lambda xy: np.stack(to_pixels * (xy[:, 0], xy[:, 1]), axis=1))
    return AreaOfInterest(shapely.to_wkb(shape))
