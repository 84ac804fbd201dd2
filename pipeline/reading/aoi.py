"""Areas of interest: polygons of any vector file, on the grid."""

from __future__ import annotations

import io
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry

from ussfc.local_files import check_regular
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.reading.cloud_access import unreachable
from ussfc.pipeline.storage import remote
from ussfc.pipeline.types import BoolArray, Box
from ussfc.pipeline.waiting import waiting_for


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
        inside: BoolArray = rasterio.features.geometry_mask(
            [geometry], box.shape, Affine.translation(box.x0, box.y0), invert=True
        )
        return inside


def read_aoi(path: str) -> Geometry:
    """Return the union of all polygons of a vector file (GeoJSON, GeoPackage, FlatGeobuf, GeoParquet, Shapefile).

    Args:
        path: local path, or a URI of one file, which is downloaded whole.

    Raises:
        ReadError: the file cannot be read or holds no polygon.
    """
    import geopandas
    from pyogrio.errors import DataSourceError

    shown = remote.shown_uri(path)
    # geopandas fetches web addresses itself.
    through_store = remote.is_remote(path) and not path.lower().startswith(("http://", "https://"))
    source = _download(path, shown) if through_store else path
    parquet = urlsplit(path).path.endswith(".parquet")
    try:
        check_regular(path)
    except OSError as error:
        raise ReadError(f"{shown}: is {error.strerror}") from error
    try:
        with waiting_for(remote.host_of(path)):
            frame = geopandas.read_parquet(source) if parquet else geopandas.read_file(source)
    except (OSError, ValueError, DataSourceError) as error:
        reason, _ = remote.describe_error(error)
        raise ReadError(
            f"{shown}: cannot be read as a vector layer ({reason}); give a GeoJSON or GeoPackage"
        ) from error
    polygons = frame.geometry[frame.geometry.geom_type.isin(["Polygon", "MultiPolygon"])]
    if polygons.empty:
        raise ReadError(
            f"{shown}: holds {len(frame)} feature(s) but no polygon; the area of interest must be polygons"
        )
    return Geometry(shapely.union_all(polygons.make_valid().values), frame.crs)


def _download(uri: str, shown: str) -> io.BytesIO:
    try:
        system, path = remote.filesystem(uri)
        with waiting_for(remote.host_of(uri)):
            return io.BytesIO(remote.retry_request(lambda: system.cat_file(path)))
    except StoreError as error:
        raise ReadError(f"{shown}: cannot be read ({error})") from error
    except remote.store_exceptions() as error:
        raise unreachable(shown, error) from error


def on_grid(area: Geometry, grid: GeoBox) -> AreaOfInterest:
    """Return the area in pixel coordinates of the grid."""
    to_pixels = ~grid.affine
    shape = shapely.transform(area.geom, lambda xy: np.stack(to_pixels * (xy[:, 0], xy[:, 1]), axis=1))
    return AreaOfInterest(shapely.to_wkb(shape))
