"""Opening scenes and reading them on the grid: GDAL rasters, and arrays that xarray reads.

:mod:`pipeline.reading.array` is not handed on here: it imports xarray, which a run over GDAL rasters does not need.
"""

from pipeline.reading.aoi import AreaOfInterest, on_grid, read_aoi
from pipeline.reading.bands import choose_bands
from pipeline.reading.cloud import over_network
from pipeline.reading.raster import RasterReader
from pipeline.reading.recipe import SceneRecipe, describe_scene
from pipeline.remote import shown_uri

__all__ = [
    "AreaOfInterest",
    "RasterReader",
    "SceneRecipe",
    "choose_bands",
    "describe_scene",
    "on_grid",
    "over_network",
    "read_aoi",
    "shown_uri",
]
