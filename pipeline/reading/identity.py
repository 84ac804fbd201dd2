"""Identity of a scene: its kind, and a text that changes when its content does."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from ussfc.addresses import shown_address
from ussfc.local_files import check_regular
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.quiet import ignored_warnings
from ussfc.pipeline.reading.cloud_access import (
    GDAL_ERRORS,
    NETWORK_SCHEMES,
    NETWORKS,
    gdal_environment,
    stat,
    unreachable,
)
from ussfc.pipeline.storage import remote
from ussfc.pipeline.tiling.memory import GDAL_CACHE

ARRAY_SUFFIXES = (".zarr", ".nc", ".nc4", ".netcdf")

VRT_TEXT = "<VRTDataset"
"""Beginning of the text of a VRT in memory."""

SOURCE_TAGS = ("SourceFilename", "SourceDataset")
"""Elements of a VRT that hold the name of a file."""

UNKNOWN = "uri:"
"""Beginning of the identity of a scene whose changes cannot be noticed."""

UNLISTED = f"{UNKNOWN}chunks:"
"""Beginning of the identity of a Zarr of which the metadata alone are compared."""

VRT_LOOK = 1024
"""Bytes of a file in which the beginning of a VRT is looked for: a declaration or a comment may stand before it."""

INDEXED = ("GTI", "STACIT", "STACTA")
"""GDAL's drivers that name an index of files and not the files."""

MOST_MEMBERS = 100_000
"""Datasets of a mosaic of mosaics whose own files are looked up."""

ARCHIVE = re.compile(r"([^}]*)\}|(.*?\.(?:zip|kmz|tar|tgz|gz|7z|rar))(?:/|$)", re.IGNORECASE)
"""Address of an archive at the start of the name of a file in it; of its own in braces."""

MOST_CHUNKS = 100_000
"""Objects of a remote Zarr that are listed; of a larger store the metadata stands for the content."""

ZARR_METADATA = ("zarr.json", ".zmetadata", ".zgroup", ".zattrs", ".zarray")


def is_zarr(uri: str) -> bool:
    """Return True if a path or URI is a Zarr store, by its name or by its metadata file."""
    if uri.rstrip("/").endswith(".zarr"):
        return True
    return any(os.path.isfile(f"{uri}/{name}") for name in ("zarr.json", ".zgroup", ".zarray"))


def is_array(uri: str) -> bool:
    """Return True if xarray reads a path or URI: a Zarr or a NetCDF."""
    # A local name may hold a "#" or "?" of its own.
    path = urlsplit(uri).path if remote.is_remote(uri) else uri
    return path.rstrip("/").lower().endswith(ARRAY_SUFFIXES) or is_zarr(uri)


def scene_identity(uri: str, shown: str) -> tuple[str, int]:
    """Identify the content of a scene by the marks of every file that it is made of.

    These are size and time of modification, or the marks of a store. Files are those that GDAL names for the dataset
    (sources of a VRT, masks, overviews and headers beside it), the archive of a file in one, and the chunks of a Zarr.

    Args:
        uri: path or URI.
        shown: the same for messages, without credentials.

    Returns:
        A text that changes when the content does, as far as file system or store report it; it begins with
        :data:`UNKNOWN` where they report nothing. And the size of the file in bytes, 0 where it is no single file or
        its size is unknown.

    Raises:
        ReadError: the scene does not exist, access is denied, or the store does not answer.
    """
    if uri.startswith(VRT_TEXT):
        return _stack_identity(uri, shown)
    if remote.is_remote(uri):
        found = _zarr_stat(uri, shown) if is_zarr(uri) else stat(uri, shown)
        if found is None:
            # GDAL may still reach a place that no file system of ours knows.
            return UNKNOWN + _digest(shown), 0
        start = UNLISTED if UNLISTED in found.marks else "remote:"
        return start + _digest("|".join(found.marks)), found.size
    path = Path(uri)
    if path.is_dir() and is_zarr(uri):
        return f"files:{_tree_digest(path)}", 0
    _check_special(path, shown)
    members = _member_marks(uri, shown)
    if not members:
        return UNKNOWN + _digest(shown), 0
    if set(members) == {str(path)}:
        return f"file:{members[str(path)]}", path.stat().st_size
    # Without secrets: a signature that was renewed makes no other scene.
    text = "|".join(f"{shown_address(name)}={mark}" for name, mark in sorted(members.items()))
    return f"files:{_digest(text)}", path.stat().st_size if path.is_file() and path.suffix != ".vrt" else 0


def combined_identity(identities: Sequence[str]) -> str:
    """Return the identity of rasters that make up one scene from those of each, the first on top."""
    if len(identities) == 1:
        return identities[0]
    start = UNKNOWN if any(identity.startswith(UNKNOWN) for identity in identities) else "files:"
    return f"{start}{_digest('|'.join(identities))}"


def _stack_identity(text: str, shown: str) -> tuple[str, int]:
    """Identify the text of a VRT by the marks of its files and by what it states about them."""
    try:
        # Expat refuses entities that grow without end.
        elements = list(ElementTree.fromstring(text).iter())  # noqa: S314
    except ElementTree.ParseError:
        elements = []
    marks: dict[str, str] = {}
    for name in (element.text or "" for element in elements if element.tag in SOURCE_TAGS):
        place = _place(name)
        if place is not None and remote.is_remote(place):
            # Files beside one on a network are not looked for.
            marks[place] = _mark(place, shown)
        elif place is not None:
            found = _member_marks(name, shown)
            if found is None:
                return UNKNOWN + _digest(shown), 0
            marks |= found
    if not marks:
        return UNKNOWN + _digest(shown), 0
    size = sum(Path(place).stat().st_size for place in marks if os.path.isfile(place))
    # Without secrets: a signature that was renewed makes no other scene.
    parts = [f"{shown_address(name)}={mark}" for name, mark in sorted(marks.items())]
    return f"files:{_digest('|'.join((shown_address(text), *parts)))}", size


def _tree_digest(folder: Path) -> str:
    """Return a digest of name, size and time of every file below a folder."""
    digest = hashlib.sha256()
    # Folder by folder, so that a store of a million chunks takes no more memory than its largest folder.
    pending = [str(folder)]
    while pending:
        current = pending.pop()
        with os.scandir(current) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_dir():
                pending.append(entry.path)
            else:
                state = entry.stat()
                _check_special(Path(entry.path), str(folder), state)
                digest.update(
                    f"{entry.path}={state.st_size}-{state.st_mtime_ns}\n".encode("utf-8", "surrogateescape")
                )
    return digest.hexdigest()[:16]


def _check_special(path: Path, shown: str, state: os.stat_result | None = None) -> None:
    """Refuse a named pipe, a device or a socket among the files of a dataset: GDAL would wait for it.

    Args:
        path: a file; those beside it that have its name and an end more, or another end, are looked at as well.
        shown: the scene for messages.
        state: of the file, where it is known: nothing else is looked at then.

    Raises:
        ReadError: one is such a file.
    """
    places = [path]
    if state is None and os.path.exists(path.parent) and path.parent.is_dir():
        with os.scandir(path.parent) as listing:
            places += [
                Path(entry.path)
                for entry in listing
                if entry.name.startswith(f"{path.stem}.") and not entry.is_file() and not entry.is_dir()
            ]
    for place in places:
        try:
            check_regular(place, state)
        except OSError as error:
            where = "" if str(place) == shown else f"{place} "
            raise ReadError(f"{shown}: {where}is {error.strerror}") from error


def _member_marks(uri: str, shown: str) -> dict[str, str] | None:
    """Return the marks of every file that GDAL names for a local dataset, by its name; None where it names an index."""
    pending, opened = [uri], set[str]()
    marks: dict[str, str] = {}
    while pending and len(opened) < MOST_MEMBERS:
        name = pending.pop()
        if name in opened:
            continue
        opened.add(name)
        files = _gdal_files(name)
        if files is None:
            return None
        for member in (name, *files):
            place = _place(member)
            if place is None or place in marks:
                continue
            marks[place] = _mark(place, shown)
            # GDAL names the sources of a VRT, but not theirs. It opens one by its content, whatever its name.
            if _is_vrt(place) or ".gti" in PurePath(place).suffixes:
                pending.append(place)
    return marks


def _is_vrt(place: str) -> bool:
    """Return whether a member of a dataset is a VRT: a local file by its first bytes, another one by its name."""
    if not remote.is_remote(place):
        with suppress(OSError), Path(place).open("rb") as file:
            return VRT_TEXT.encode() in file.read(VRT_LOOK)
    return place.lower().endswith(".vrt")


def _gdal_files(name: str) -> list[str] | None:
    """Return the files that GDAL names for a dataset, None where it names an index of them alone.

    A dataset that cannot be opened, which is reported later, has none.
    """
    with ignored_warnings(NotGeoreferencedWarning):
        try:
            with gdal_environment(name, GDAL_CACHE, {}), rasterio.open(name) as source:
                return None if source.driver in INDEXED else list(source.files)
        except GDAL_ERRORS:
            return []


def _place(member: str) -> str | None:
    """Return the file or address that holds a member of a dataset: an archive for a file in it; None if unknown."""
    if remote.is_remote(member):
        return member
    for prefix in NETWORKS:
        if prefix in member:
            before, _, rest = member.partition(prefix)
            if before and (found := ARCHIVE.match(rest)):
                rest = found[1] or found[2]
            return rest if prefix == "/vsicurl/" else f"{NETWORK_SCHEMES[prefix]}://{rest}"
    path = member
    if member.startswith("/vsi"):
        path = "/" + member.removeprefix("/").partition("/")[2].lstrip("{").replace("}", "")
    # The longest beginning that is a file: the archive of /vsizip/a.zip/b.tif.
    for candidate in (Path(path), *Path(path).parents):
        # A special file is one as well, which is refused.
        if os.path.exists(candidate) and not candidate.is_dir():
            return str(candidate)
    return None


def _mark(place: str, shown: str) -> str:
    if remote.is_remote(place):
        found = stat(place, shown_address(place))
        return "unknown" if found is None else "-".join(found.marks)
    try:
        state = Path(place).stat()
        check_regular(place, state)
    except OSError as error:
        raise ReadError(f"{shown}: {place} cannot be read ({error.strerror}); check the path") from error
    return f"{state.st_size}-{state.st_mtime_ns}"


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
    return remote.Stat(0, (*marks, *_chunk_marks(uri, shown)))


def _chunk_marks(uri: str, shown: str) -> tuple[str, ...]:
    """Return a digest of the listing of a remote Zarr; :data:`UNLISTED` where it may not be listed or is too large."""
    system, path = remote.filesystem(uri)
    listed: list[str] = []
    try:
        for _, _, files in remote.retry_request(lambda: list(_bounded_walk(system, path))):
            for name, entry in files.items():
                fields = "-".join(
                    f"{entry[key]}" for key in ("size", *remote.VERSION_FIELDS) if entry.get(key)
                )
                listed.append(f"{name}={fields}")
    except PermissionError:
        return (UNLISTED,)
    except remote.store_exceptions() as error:
        raise unreachable(shown, error) from error
    return (UNLISTED,) if len(listed) > MOST_CHUNKS else (_digest("|".join(sorted(listed))),)


def _bounded_walk(system: Any, path: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    count = 0
    for folder, folders, files in system.walk(path, detail=True):
        yield folder, folders, {f"{folder}/{name}": entry for name, entry in files.items()}
        count += len(files)
        if count > MOST_CHUNKS:
            return


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
