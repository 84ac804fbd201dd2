"""Beginnings of files in local archives, by GDAL's names for them; GDAL itself would open what they lead to."""

from __future__ import annotations

import gzip
import os
import re
import tarfile
import zipfile
import zlib
from pathlib import Path

NAME = re.compile(r"^/vsi(zip|tar|gzip)/(?:\{([^}]*)\}/?)?(.*)$")
"""GDAL's name of a file in an archive: its kind, the archive in braces, and the rest."""

FAULTS = (
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
)
"""Errors of the libraries about archives that are damaged, encrypted or of another kind, or lack a member."""


def archived_head(name: str, size: int) -> bytes:
    """Return the first bytes of a file in a local archive; none where it cannot be read so.

    Args:
        name: as GDAL takes it: ``/vsizip/a.zip/b.tif``, ``/vsitar/``, ``/vsigzip/``.
        size: number of bytes.
    """
    found = NAME.match(name)
    if found is None:
        return b""
    kind, archive, rest = found.groups()
    if archive is None:
        # The shortest beginning that is a file.
        places = [str(place) for place in (*reversed(Path(rest).parents), Path(rest))]
        archive = next((place for place in places if os.path.isfile(place)), None)
        rest = "" if archive is None else os.path.relpath(rest, archive)
    if archive is None or not os.path.isfile(archive):
        return b""
    try:
        return _head(kind, archive, "" if rest == "." else rest, size)
    except FAULTS:
        return b""


def _head(kind: str, archive: str, member: str, size: int) -> bytes:
    if kind == "gzip":
        with gzip.open(archive) as file:
            return file.read(size)
    if kind == "zip":
        # Without a member, GDAL takes the only file.
        with zipfile.ZipFile(archive) as zipped, zipped.open(member or _only(zipped.namelist())) as part:
            return part.read(size)
    with tarfile.open(archive) as tar:
        content = tar.extractfile(member or _only(tar.getnames()))
        return b"" if content is None else content.read(size)


def _only(names: list[str]) -> str:
    files = [name for name in names if not name.endswith("/")]
    if len(files) != 1:
        raise KeyError("several files")
    return files[0]
