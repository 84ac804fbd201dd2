"""What a worker needs to open a scene: small, picklable, never an open handle."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from odc.geo.geobox import GeoBox

from pipeline.errors import ReadError
from pipeline.reading.raster import RasterReader, describe_raster
from pipeline.types import SceneInfo, SceneReader

ARRAY_SUFFIXES = (".zarr", ".nc", ".nc4", ".netcdf")
URI = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def shown_uri(uri: str) -> str:
    """A path or URI as messages and manifests show it: without user, password and signed query."""
    if not URI.match(uri):
        return uri
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _is_zarr(uri: str) -> bool:
    """Whether a path or URI is a Zarr store, by its name or by its metadata file."""
    if uri.rstrip("/").endswith(".zarr"):
        return True
    return any((Path(uri) / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def _is_array(uri: str) -> bool:
    return urlsplit(uri).path.rstrip("/").lower().endswith(ARRAY_SUFFIXES) or _is_zarr(uri)


def _identity(uri: str) -> str:
    """Changes when the content does, as far as the file system tells."""
    if URI.match(uri):
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(uri)
            info = system.info(path)
        except (ImportError, OSError, ValueError):
            # GDAL may still reach what fsspec does not; then the address alone stands for the content.
            return "uri:" + hashlib.sha256(shown_uri(uri).encode()).hexdigest()[:16]
        marks = [
            str(info.get(name))
            for name in ("size", "ETag", "etag", "mtime", "LastModified")
            if info.get(name)
        ]
        return "remote:" + hashlib.sha256("|".join(marks).encode()).hexdigest()[:16]
    path = Path(uri)
    if not path.exists():
        # GDAL's own names (NETCDF:"file":variable, /vsizip/...) are no plain paths.
        return "uri:" + hashlib.sha256(uri.encode()).hexdigest()[:16]
    parts = [path] if path.is_file() else sorted(path.glob("*.json")) + sorted(path.glob(".z*"))
    return "file:" + "|".join(f"{part.stat().st_size}-{part.stat().st_mtime_ns}" for part in parts)


def describe_scene(uri: str) -> SceneInfo:
    """The header of a raster that GDAL reads, or of a Zarr or NetCDF that xarray reads. No pixel is read.

    Args:
        uri: local path, or a URI (http, https, s3, gs, az).

    Raises:
        ReadError: nothing there, or no image.
    """
    shown = shown_uri(uri)
    if not URI.match(uri) and not uri.startswith("/vsi") and ":" not in uri and not Path(uri).exists():
        raise ReadError(f"{shown}: no such file; check the path (looked from {Path.cwd()})")
    if _is_array(uri):
        from pipeline.reading.array import describe_array, open_array

        return describe_array(open_array(uri, shown, _is_zarr(uri)), shown, _identity(uri))
    return describe_raster(uri, shown, _identity(uri))


@dataclass(frozen=True)
class SceneRecipe:
    """A scene on the grid, to be opened by whoever reads it."""

    uri: str
    """Path or URI, as given."""
    grid: GeoBox
    """The common grid."""
    bands: tuple[int, ...]
    """Band numbers from 1, in the model's order."""
    resampling: str
    """rasterio's name of the kernel for imagery."""

    def open(self) -> SceneReader:
        """A reader on the grid.

        Raises:
            ReadError: the scene cannot be opened.
        """
        shown = shown_uri(self.uri)
        if _is_array(self.uri):
            from pipeline.reading.array import ArrayReader, open_array

            return ArrayReader(
                open_array(self.uri, shown, _is_zarr(self.uri)), self.grid, self.bands, self.resampling
            )
        return RasterReader(self.uri, shown, self.grid, self.bands, self.resampling)
