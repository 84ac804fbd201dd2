"""Scenes read on the grid: GDAL rasters, and arrays that xarray reads.

``array`` is not exported here: it imports xarray, which a run over GDAL rasters does not need.
"""

from ussfc.pipeline.reading.aoi import AreaOfInterest, on_grid, read_aoi
from ussfc.pipeline.reading.areas import in_crs_of
from ussfc.pipeline.reading.bands import choose_bands
from ussfc.pipeline.reading.cloud_access import over_network
from ussfc.pipeline.reading.raster import RasterReader
from ussfc.pipeline.reading.recipe import SceneRecipe, describe_scene

__all__ = [
    "AreaOfInterest",
    "RasterReader",
    "SceneRecipe",
    "choose_bands",
    "describe_scene",
    "in_crs_of",
    "on_grid",
    "over_network",
    "read_aoi",
]
