"""Files of a product: below a folder, or in an archive, read without unpacking."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ussfc.addresses import shown_address
from ussfc.local_files import open_regular
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.reading.cloud_access import unreachable
from ussfc.pipeline.storage import remote
from ussfc.pipeline.waiting import waiting_for

MOST_FILES = 50_000
"""Files of a product; what has more is none."""

MOST_DEPTH = 6
"""Folders below each other; a .SAFE has five."""

MOST_BYTES = 32 * 1024 * 1024
"""Largest file of metadata."""

DEEP = ("GRANULE", "IMG_DATA", "R10m", "R20m", "R60m")
"""Folders of a product of Sentinel-2; another folder is not looked through below its own files."""

LISTED = ("s3", "gs", "az")
"""Schemes of stores whose folders are listed."""

REMOTE = re.compile(r"/(?:[^/]+\.SAFE|GRANULE|IMG_DATA|R[126]0m|L[COETM]0[45789]_L[12][A-Z]{2}_[^/.]+)$")
"""End of the address of a product's folder."""

ARCHIVES = (".zip", ".tar")

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".7z", ".rar")
"""Ends of the names of archives of which no part can be read without all that is before it."""

MOST_NAMED = 4
"""Folders that a message lists."""


@dataclass(frozen=True)
class Tree:
    """Names of files, and ways to reach them."""

    path: str
    """Folder or archive."""
    names: tuple[str, ...]
    """Files below it, sorted, with slashes."""
    prefix: str
    """Start of GDAL's name of a file."""
    fetch: Callable[[str], bytes]
    """Return at most one byte more than :data:`MOST_BYTES` of a file."""

    def gdal_name(self, name: str) -> str:
        """Return the name by which GDAL opens a file."""
        return f"{self.prefix}/{name}"

    def text(self, name: str) -> str:
        """Return the text of a file of metadata.

        Raises:
            ReadError: it cannot be read, or is too large.
        """
        shown = f"{shown_address(self.path)}: {name}"
        try:
            content = self.fetch(name)
        except (OSError, zipfile.BadZipFile, tarfile.TarError, NotImplementedError, RuntimeError) as error:
            raise ReadError(f"{shown} cannot be read ({error}); get the product again") from error
        if len(content) > MOST_BYTES:
            raise ReadError(f"{shown} is larger than {MOST_BYTES >> 20} MiB, which no metadata are")
        return content.decode("utf-8-sig", "replace")


def open_tree(path: str) -> Tree | None:
    """Return the files of a folder or archive; None for anything else.

    Of a folder these are its own files, and those below it where it is a product of Sentinel-2 or holds one.

    Args:
        path: local path.

    Raises:
        ReadError: the archive is damaged, or there are too many files.
    """
    # An address may be longer than a name: Path.is_dir() would raise.
    if os.path.exists(path) and Path(path).is_dir():
        return Tree(path, _folder_names(path), path.rstrip("/") or "/", lambda name: _head(f"{path}/{name}"))
    if path.lower().endswith(COMPRESSED) and os.path.isfile(path):
        raise ReadError(f"{path}: is compressed as a whole, and no part of it can be read alone; unpack it")
    if not path.lower().endswith(ARCHIVES) or not os.path.isfile(path):
        return None
    names: tuple[str, ...]
    try:
        # A special file is refused, not waited for.
        open_regular(path).close()
        if path.lower().endswith(".zip"):
            with zipfile.ZipFile(path) as archive:
                names = tuple(sorted(name for name in archive.namelist() if not name.endswith("/")))
            return Tree(path, _bounded(names, path), f"/vsizip/{{{path}}}", lambda name: _zipped(path, name))
        with tarfile.open(path, "r:") as bundle:
            names = tuple(sorted(member.name for member in bundle if member.isfile()))
        return Tree(path, _bounded(names, path), f"/vsitar/{{{path}}}", lambda name: _bundled(path, name))
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReadError(
            f"{path}: cannot be read as an archive ({reason}); check that its download was complete"
        ) from error


def open_remote_tree(uri: str, shown: str) -> Tree | None:
    """Return the files of a product in an object store; None for an address that is no folder.

    Args:
        uri: address of a folder: its end names a product, or is a slash.
        shown: the same for messages.

    Raises:
        ReadError: the store does not answer, or there are too many files.
    """
    scheme, _, rest = uri.partition("://")
    if scheme.lower() not in LISTED or not (uri.endswith("/") or REMOTE.search(rest)):
        return None
    folder = uri.rstrip("/")
    try:
        with waiting_for(remote.host_of(uri)):
            system, path = remote.filesystem(folder)
            found = remote.retry_request(lambda: list(islice(system.find(path), MOST_FILES + 1)))
    except StoreError as error:
        raise ReadError(f"{shown}: cannot be listed ({error})") from error
    except remote.store_exceptions() as error:
        raise unreachable(shown, error) from error
    names = tuple(sorted(str(name).removeprefix(path).lstrip("/") for name in found))
    if not names:
        return None
    return Tree(folder, _bounded(names, shown), folder, lambda name: _fetched(f"{folder}/{name}"))


def _fetched(uri: str) -> bytes:
    try:
        return remote.fetch(uri, MOST_BYTES)
    except StoreError as error:
        raise OSError(str(error)) from error
    except remote.store_exceptions() as error:
        raise OSError(remote.describe_error(error)[0]) from error


def local_text(place: Path) -> str:
    """Return the text of a local file of metadata.

    Raises:
        ReadError: it cannot be read, or is too large.
    """
    folder = str(place.parent)
    return Tree(folder, (), folder, lambda name: _head(f"{folder}/{name}")).text(place.name)


def folder_remedy(path: str) -> str | None:
    """Return advice on a local folder that is no scene; None for anything else."""
    if remote.is_remote(path) or not (os.path.exists(path) and Path(path).is_dir()):
        return None
    inner = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    if not inner:
        return "holds no raster and no product that is known; give the files, or the folder of a product"
    more = ", ..." if len(inner) > MOST_NAMED else ""
    return (
        f"holds no raster and no product that is known, but folders ({', '.join(inner[:MOST_NAMED])}{more}); give the "
        "one of a product"
    )


def _folder_names(path: str) -> tuple[str, ...]:
    found: list[str] = []
    pending = [(path, "", 0)]
    within = _is_deep(Path(path).name)
    while pending:
        folder, prefix, depth = pending.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            raise ReadError(
                f"{folder}: cannot be listed ({error.strerror}); check its permissions"
            ) from error
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if not entry.is_dir():
                found.append(name)
            elif depth < MOST_DEPTH and (within or prefix or _is_deep(entry.name)):
                pending.append((entry.path, f"{name}/", depth + 1))
        _bounded(found, path)
    return tuple(sorted(found))


def _is_deep(folder: str) -> bool:
    return folder in DEEP or folder.endswith(".SAFE")


def _bounded(names: tuple[str, ...] | list[str], path: str) -> tuple[str, ...]:
    if len(names) > MOST_FILES:
        raise ReadError(f"{path}: holds more than {MOST_FILES} files; give the folder of one product")
    return tuple(names)


def _head(path: str) -> bytes:
    with open_regular(path) as file:
        return file.read(MOST_BYTES + 1)


def _zipped(path: str, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        return file.read(MOST_BYTES + 1)


def _bundled(path: str, name: str) -> bytes:
    with tarfile.open(path, "r:") as bundle:
        file = bundle.extractfile(name)
        return b"" if file is None else file.read(MOST_BYTES + 1)


def files_above(path: str, wanted: re.Pattern[str], levels: int) -> list[Path]:
    """Return the nearest files above a local file whose names match: beside it, then a folder up, and on.

    Args:
        path: of the file; none are found above an address.
        wanted: pattern of the names.
        levels: folders to go up.
    """
    if remote.is_remote(path) or path.startswith("/vsi"):
        return []
    folder = Path(path).absolute().parent
    for place in (folder, *list(folder.parents)[:levels]):
        try:
            with os.scandir(place) as listing:
                found = sorted(
                    entry.name for entry in listing if wanted.search(entry.name) and entry.is_file()
                )
        except OSError:
            return []
        if found:
            return [place / name for name in found]
    return []
