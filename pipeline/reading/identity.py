"""Identity of a scene: its kind, and a text that changes when its content does."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.reading.cloud_access import stat, unreachable
from ussfc.pipeline.storage import remote

ARRAY_SUFFIXES = (".zarr", ".nc", ".nc4", ".netcdf")

ZARR_METADATA = ("zarr.json", ".zmetadata", ".zgroup", ".zattrs", ".zarray")


def is_zarr(uri: str) -> bool:
    """Return True if a path or URI is a Zarr store, by its name or by its metadata file."""
    if uri.rstrip("/").endswith(".zarr"):
        return True
    return any((Path(uri) / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def is_array(uri: str) -> bool:
    """Return True if xarray reads a path or URI: a Zarr or a NetCDF."""
    # A local name may hold a "#" or "?" of its own.
    path = urlsplit(uri).path if remote.is_remote(uri) else uri
    return path.rstrip("/").lower().endswith(ARRAY_SUFFIXES) or is_zarr(uri)


def scene_identity(uri: str, shown: str) -> tuple[str, int]:
    """Identify the content of a scene by the marks of its file system or store.

    Args:
        uri: path or URI.
        shown: the same for messages, without credentials.

    Returns:
        A text that changes when the content does, as far as file system or store report it, and the size of the
        file in bytes, 0 where it is no single file or its size is unknown.

    Raises:
        ReadError: the scene does not exist, access is denied, or the store does not answer.
    """
    if remote.is_remote(uri):
        found = _zarr_stat(uri, shown) if is_zarr(uri) else stat(uri, shown)
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
    """Return the marks of a Zarr's metadata; None where no file system of ours knows the scheme."""
    marks: tuple[str, ...] = ()
    absent: OSError = FileNotFoundError()
    try:
        for name in ZARR_METADATA:
            request = functools.partial(remote.stat, f"{uri.rstrip('/')}/{name}")
            try:
                marks += remote.retry_request(request).marks
            except (FileNotFoundError, PermissionError) as error:
                # Without the right to list a bucket, a missing object is reported as a denied one.
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
