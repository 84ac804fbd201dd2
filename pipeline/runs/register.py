"""Registration of two scenes on its own: the shift, its vectors, and the later scene moved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox

from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError, StoreError
from ussfc.pipeline.reading import describe_scene
from ussfc.pipeline.reading.sources.resolve import absolute_source
from ussfc.pipeline.runs.comparison import compare_scenes
from ussfc.pipeline.runs.manifest import RegistrationRecord
from ussfc.pipeline.runs.registration import register
from ussfc.pipeline.tiling.grid import common_grid, moved_grid, north_up

LAYER = "registration"
"""Name of the layer of vectors."""

DRIVERS = {".geojson": "GeoJSON", ".gpkg": "GPKG", ".fgb": "FlatGeobuf"}
"""Formats of the vectors by the end of a file's name, besides GeoParquet."""


@dataclass(frozen=True)
class RegisteredScenes:
    """Two scenes and the shift between them."""

    after: str
    """Path or URI of the later scene."""
    opened: tuple[str, ...]
    """Name that GDAL opens for it."""
    grid: GeoBox
    """Common grid."""
    record: RegistrationRecord


def register_scenes(before: str, after: str, config: RunConfig, threads: int = 2) -> RegisteredScenes:
    """Measure the shift between two scenes.

    Args:
        before: earlier scene, path or URI.
        after: later scene.
        config: its section ``grid`` decides the grid.
        threads: windows that are read and measured at a time.

    Raises:
        ReadError, GridError: each names the scene.
    """
    before, after = absolute_source(before), absolute_source(after)
    sources = config.inputs.vrt_sources
    infos = describe_scene(before, sources), describe_scene(after, sources)
    grid = common_grid(*infos, config.grid.reference, config.grid.crs, config.grid.resolution)
    comparison = compare_scenes((before, after), infos, grid, config.grid.resampling)
    record = register(comparison, "correct", threads)
    return RegisteredScenes(infos[1].uri, comparison.recipes[1].opened, grid, record)


def write_vectors(found: RegisteredScenes, path: Path) -> None:
    """Write a point for each window: dy, dx (pixels), quality (0 to 1) and whether it agrees with the consensus.

    Args:
        found: of :func:`register_scenes`.
        path: .parquet, .geojson, .gpkg or .fgb.

    Raises:
        ConfigError: another end of the name.
        StoreError: the file cannot be written.
    """
    import geopandas

    if path.suffix != ".parquet" and path.suffix not in DRIVERS:
        raise ConfigError(f"{path}: expected a name that ends in .parquet, {', '.join(DRIVERS)}")
    rows = [window.dump() for window in found.record.vectors]
    places = [
        found.grid.affine * (row["column"] + row["size"] / 2, row["row"] + row["size"] / 2) for row in rows
    ]
    crs = None if found.grid.crs is None else found.grid.crs.to_wkt()
    columns = {name: [row[name] for row in rows] for name in ("dy", "dx", "quality", "agrees", "size")}
    points = geopandas.points_from_xy([x for x, _ in places], [y for _, y in places])
    frame = geopandas.GeoDataFrame(columns, geometry=points, crs=crs)
    try:
        if path.suffix == ".parquet":
            frame.to_parquet(path)
        else:
            frame.to_file(path, driver=DRIVERS[path.suffix], layer=LAYER)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_moved(found: RegisteredScenes, path: Path) -> None:
    """Write a VRT of the later scene that lies where the earlier one does; no pixel is copied.

    Args:
        found: of :func:`register_scenes`.
        path: of the VRT.

    Raises:
        ConfigError: nothing was found that could be corrected, or the scene is no raster in the CRS of the grid.
        StoreError: the file cannot be written.
    """
    if found.record.matrix is None:
        raise ConfigError(f"{path}: is not written, since there is no correction ({found.record.state})")
    if len(found.opened) > 1:
        raise ConfigError(
            f"{path}: is not written, since {found.after} is several scenes; make one of them with `ussfc prepare`"
        )
    matrix = np.array(found.record.matrix)
    try:
        with rasterio.open(found.opened[0]) as source:
            crs = None if source.crs is None else GeoBox((1, 1), source.transform, source.crs.to_wkt()).crs
            if crs is None or crs != found.grid.crs or not north_up(source.transform):
                raise ConfigError(
                    f"{path}: is not written, since {found.after} is no north-up raster in the CRS of the grid; "
                    "`ussfc run` corrects it as it reads"
                )
            # Where the grid is read at `moved`, its own pixels are shown: the file moves the other way.
            moved = moved_grid(found.grid, matrix).affine
            transform = found.grid.affine * ~moved * source.transform
            rasterio.shutil.copy(source, path, driver="VRT")
        _set_transform(path, transform)
    except (OSError, rasterio.errors.RasterioError) as error:
        raise StoreError(f"{path}: cannot be written ({error})") from error


def _set_transform(path: Path, transform: Any) -> None:
    # GDAL has just written this file.
    tree = ElementTree.parse(path)  # noqa: S314
    node = tree.getroot().find("GeoTransform")
    assert node is not None
    node.text = ", ".join(repr(float(value)) for value in transform.to_gdal())
    tree.write(path)
