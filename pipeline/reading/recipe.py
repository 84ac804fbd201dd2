"""Scenes as they are passed to workers: small and picklable, never an open handle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.identity import is_array, is_zarr, scene_identity
from ussfc.pipeline.reading.raster import RasterReader, describe_raster
from ussfc.pipeline.storage import remote
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import SceneInfo, SceneReader


def describe_scene(uri: str) -> SceneInfo:
    """Read the header of a raster that GDAL reads, or of a Zarr or NetCDF that xarray reads; no pixel is read.

    Args:
        uri: local path, or a URI (http, https, s3, gs, az).

    Raises:
        ReadError: the scene does not exist, cannot be reached, or is no image.
    """
    shown = remote.shown_uri(uri)
    if not remote.is_remote(uri) and not uri.startswith("/vsi") and ":" not in uri and not Path(uri).exists():
        raise ReadError(f"{shown}: no such file; check the path (looked from {Path.cwd()})")
    identity, size = scene_identity(uri, shown)
    if is_array(uri):
        from ussfc.pipeline.reading.array import describe_array, open_array

        return describe_array(open_array(uri, shown, is_zarr(uri)), shown, identity)
    return describe_raster(uri, shown, identity, size)


@dataclass(frozen=True)
class SceneRecipe:
    """A scene on the grid, which each worker opens for itself."""

    uri: str
    """Path or URI, as given."""
    grid: GeoBox
    """Common grid."""
    bands: tuple[int, ...]
    """Band numbers from 1, in the model's order."""
    resampling: str
    """rasterio's name of the kernel for imagery."""
    block_cache: int = GDAL_CACHE
    """GDAL's cache of decoded blocks in the process that reads, bytes; one for all scenes of a process."""
    identity: str = ""
    """Identity of :class:`ussfc.pipeline.types.SceneInfo`; a remote scene with another one is refused. Empty: any
    is accepted."""

    def open(self) -> SceneReader:
        """Return a reader on the grid.

        Raises:
            ReadError: the scene cannot be opened, or has changed.
        """
        shown = remote.shown_uri(self.uri)
        if (
            self.identity
            and remote.is_remote(self.uri)
            and scene_identity(self.uri, shown)[0] != self.identity
        ):
            raise ReadError(f"{shown}: has changed since the run began; run again")
        if is_array(self.uri):
            from ussfc.pipeline.reading.array import ArrayReader, open_array

            array = open_array(self.uri, shown, is_zarr(self.uri))
            return ArrayReader(array, self.grid, self.bands, self.resampling, shown)
        return RasterReader(self.uri, shown, self.grid, self.bands, self.resampling, self.block_cache)
