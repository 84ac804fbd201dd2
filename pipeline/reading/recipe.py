"""What a worker needs to open a scene: small, picklable, never an open handle."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.reading.cloud import stat, unreachable
from ussfc.pipeline.reading.raster import RasterReader, describe_raster
from ussfc.pipeline.storage import remote
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import SceneInfo, SceneReader

ARRAY_SUFFIXES = (".zarr", ".nc", ".nc4", ".netcdf")

ZARR_METADATA = ("zarr.json", ".zmetadata", ".zgroup", ".zattrs", ".zarray")


def _is_zarr(uri: str) -> bool:
    """Whether a path or URI is a Zarr store, by its name or by its metadata file."""
    if uri.rstrip("/").endswith(".zarr"):
        return True
    return any((Path(uri) / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def _is_array(uri: str) -> bool:
    return urlsplit(uri).path.rstrip("/").lower().endswith(ARRAY_SUFFIXES) or _is_zarr(uri)


def _identity(uri: str, shown: str) -> tuple[str, int]:
    """What changes when the content does, as far as file system or store tell, and the bytes of a file.

    Raises:
        ReadError: it is not there, not allowed, or nobody answers.
    """
    if remote.is_remote(uri):
        found = _zarr_stat(uri, shown) if _is_zarr(uri) else stat(uri, shown)
        if found is None:
            # GDAL may still reach what no file system of ours does; then the address alone stands for the content.
            return "uri:" + _digest(shown), 0
        return "remote:" + _digest("|".join(found.marks)), found.size
    path = Path(uri)
    if not path.exists():
        # GDAL's own names (NETCDF:"file":variable, /vsizip/...) are no plain paths.
        return "uri:" + _digest(uri), 0
    parts = [path] if path.is_file() else sorted(path.glob("*.json")) + sorted(path.glob(".z*"))
    marks = "|".join(f"{part.stat().st_size}-{part.stat().st_mtime_ns}" for part in parts)
    return f"file:{marks}", path.stat().st_size if path.is_file() else 0


def _zarr_stat(uri: str, shown: str) -> remote.Stat | None:
    """The marks of a Zarr's metadata; None where no file system of ours knows the scheme."""
    marks: tuple[str, ...] = ()
    absent: OSError = FileNotFoundError()
    try:
        for name in ZARR_METADATA:
            request = functools.partial(remote.stat, f"{uri.rstrip('/')}/{name}")
            try:
                marks += remote.retry_request(request).marks
            except (FileNotFoundError, PermissionError) as error:
                # Who may not list a bucket is not told that something is not there.
                absent = error
    except StoreError:
        return None
    except remote.store_exceptions() as error:
        raise unreachable(shown, error) from error
    if not marks:
        raise unreachable(shown, absent) from absent
    return remote.Stat(0, marks)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe_scene(uri: str) -> SceneInfo:
    """The header of a raster that GDAL reads, or of a Zarr or NetCDF that xarray reads. No pixel is read.

    Args:
        uri: local path, or a URI (http, https, s3, gs, az).

    Raises:
        ReadError: nothing there, or no image.
    """
    shown = remote.shown_uri(uri)
    if not remote.is_remote(uri) and not uri.startswith("/vsi") and ":" not in uri and not Path(uri).exists():
        raise ReadError(f"{shown}: no such file; check the path (looked from {Path.cwd()})")
    identity, size = _identity(uri, shown)
    if _is_array(uri):
        from ussfc.pipeline.reading.array import describe_array, open_array

        return describe_array(open_array(uri, shown, _is_zarr(uri)), shown, identity)
    return describe_raster(uri, shown, identity, size)


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
    block_cache: int = GDAL_CACHE
    """GDAL's cache of decoded blocks in the process that reads, bytes; one for all scenes of a process."""
    identity: str = ""
    """Of :class:`ussfc.pipeline.types.SceneInfo`: a remote scene with another one is refused. Empty: any is taken."""

    def open(self) -> SceneReader:
        """A reader on the grid.

        Raises:
            ReadError: the scene cannot be opened, or has changed.
        """
        shown = remote.shown_uri(self.uri)
        if self.identity and remote.is_remote(self.uri) and _identity(self.uri, shown)[0] != self.identity:
            raise ReadError(f"{shown}: has changed since the run began; run again")
        if _is_array(self.uri):
            from ussfc.pipeline.reading.array import ArrayReader, open_array

            array = open_array(self.uri, shown, _is_zarr(self.uri))
            return ArrayReader(array, self.grid, self.bands, self.resampling, shown)
        return RasterReader(self.uri, shown, self.grid, self.bands, self.resampling, self.block_cache)
