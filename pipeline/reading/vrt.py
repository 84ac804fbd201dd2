"""Files that name others (VRTs, map services): what they lead to is looked at before GDAL opens anything."""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs
from xml.etree import ElementTree

from ussfc.addresses import DRIVER, shown_address
from ussfc.local_files import check_regular, open_regular
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.reading.archives import archived_head
from ussfc.pipeline.reading.cloud_access import NETWORK_NAME, stored_at, unreachable
from ussfc.pipeline.storage import remote

MOST_BYTES = 256 * 1024 * 1024
"""Largest VRT that is read."""

MOST_SOURCES = 1_000_000
"""Files that a VRT and those among its sources may name."""

HEAD_BYTES = 4096
"""Beginning of a file by which GDAL knows what it is."""

REMEDY = "allow it with inputs.vrt_sources=any if you trust the file"

CONTAINER = re.compile(r"^/vsi(?:(?:zip|tar|gzip|7z|rar)/\{?|subfile/[^,]*,)")
"""Start of the name of a file in an archive, or of a part of a file."""

SERVICES = (b"<GDAL_WMS", b"<GDALTileIndexDataset", b"<GDAL_WMTS", b"<WMS_", b"<WCS_GDAL", b'"stac_version"')
"""Beginnings of files that stand for an address on the web."""

MRF_REFERENCES = (b"<CachedSource", b"<DataFile", b"<IndexFile")
"""Elements by which an MRF, which describes itself in XML, leads to other files."""

STREAMING = re.compile(r"^/(vsi[a-z0-9]+)_streaming/")
"""Start of GDAL's names of files on a network that are read from their beginning."""

REQUESTS = 16
"""Files on a network whose beginnings are asked for at a time."""

INDEXES = (".gti.gpkg", ".gti.fgb", ".gti.parquet", ".gti")
"""Ends of names of tables of files that GDAL opens as one raster."""

NAMES = re.compile(r"(filename|sourcedataset|dempath|indexdataset)(_\d+)?$", re.IGNORECASE)
"""Ends of the names of elements that hold the name of a file."""

BESIDE = re.compile(r"\.\./[^/.][^/]*/(?!.*(?:^|/)\.\.(?:/|$))")
"""Name of a file in a folder beside that of the VRT, relative to it."""


@dataclass(frozen=True)
class _Vrt:
    """A VRT, and the place that relative names in it start from."""

    shown: str
    text: str | None
    """None: a description whose sources cannot be looked at."""
    base: str
    """Folder, local or remote, without a slash at its end."""


def check_sources(uri: str, shown: str, everywhere: bool) -> bool:
    """Refuse a VRT that leads to a network, or out of the folders that it may read, and special files in any case.

    Those are its own with what is below, a folder beside its own where the name is relative to the VRT, and the
    working directory. A home, the root and the folder of temporary files count for neither of the latter two, since
    files of all kinds are below them. VRTs among the sources are looked at likewise.

    Args:
        uri: path or URI of a scene.
        shown: the same for messages, without credentials.
        everywhere: True: a network and other folders are allowed.

    Returns:
        True if the scene is a VRT.

    Raises:
        ReadError: names the source and the way out.
    """
    pending = _read(_within_name(uri), shown, everywhere)
    found, seen = bool(pending), set[str]()
    while pending:
        vrt = pending.pop()
        if vrt.text is None and not everywhere:
            raise ReadError(
                f"{vrt.shown}: stands for files or addresses that cannot be looked at beforehand (a map service, an "
                f"index, or a VRT within another file); unpack it, or {REMEDY}"
            )
        places = []
        for name, relative in _names(vrt):
            place = _resolved(name, relative, vrt)
            if place in seen:
                continue
            seen.add(place)
            places.append(place)
            if not everywhere:
                _check_place(place, vrt, relative and bool(BESIDE.match(name)))
            if not _is_remote(place):
                _check_kind(place, vrt)
            if len(seen) > MOST_SOURCES:
                raise ReadError(f"{shown}: leads to more than {MOST_SOURCES} files; build larger ones")
        pending += _read_all(places, shown, everywhere)
    return found or uri.startswith("vrt://")


def _within_name(uri: str) -> str:
    """Return the raster in a name that selects bands of one (``vrt://a.tif?bands=1``)."""
    return uri.removeprefix("vrt://").partition("?")[0] if uri.startswith("vrt://") else uri


def _read_all(places: Sequence[str], scene: str, everywhere: bool) -> list[_Vrt]:
    """Return the VRTs among places; those on a network are asked several at a time."""
    if not any(stored_at(place) for place in places):
        return [found for place in places for found in _read(place, scene, everywhere)]
    with ThreadPoolExecutor(REQUESTS, "ussfc-vrt") as pool:
        lists = pool.map(lambda place: _read(place, scene, everywhere), places)
        return [found for some in lists for found in some]


def _read(place: str, scene: str, everywhere: bool) -> list[_Vrt]:
    """Return the VRT at a place, if there is one.

    Args:
        place: path, URI, GDAL's name of a file, or the text of a VRT.
        scene: the scene for messages.
        everywhere: True: on a network, only files whose names are those of VRTs are looked at.

    Raises:
        ReadError: it cannot be read.
    """
    shown = shown_address(place)
    if place.lstrip().startswith("<"):
        return [_Vrt(scene, place, str(Path.cwd()))]
    if (address := _address_of(place)) is not None:
        return _read_remote(address, shown, everywhere)
    if place.startswith("/vsi") or "+" in place.partition("://")[0]:
        is_vrt = place.lower().endswith(".vrt") or _kind_of(archived_head(place, HEAD_BYTES)) is not None
        return [_Vrt(shown, None, "/")] if is_vrt else []
    if not os.path.isfile(place):
        return []
    with open_regular(place) as file:
        head = file.read(HEAD_BYTES)
        base = str(Path(place).absolute().parent)
        if _kind_of(head) == "vrt":
            return [_Vrt(shown, _text(head + file.read(MOST_BYTES), shown), base)]
        if _kind_of(head) or place.lower().endswith(INDEXES):
            return [_Vrt(shown, None, base)]
    return []


def _read_remote(address: str, shown: str, everywhere: bool) -> list[_Vrt]:
    plain = re.split("[?#]", address, maxsplit=1)[0]
    base = plain.rpartition("/")[0]
    kind = "vrt" if plain.lower().endswith(".vrt") else None
    if kind is None and not everywhere and not plain.lower().rstrip("/").endswith(".zarr"):
        # A name proves nothing: GDAL goes by the content, and asks for the sources as it opens it.
        kind = _kind_of(_fetched_head(address, shown))
    if kind is None:
        return []
    return [_Vrt(shown, _fetched(address, shown) if kind == "vrt" else None, base)]


def _address_of(place: str) -> str | None:
    """Return the address of a file on a network, by any of GDAL's names for one."""
    if place.startswith("/vsicurl?"):
        return next(iter(parse_qs(place.partition("?")[2]).get("url", ())), None)
    return stored_at(STREAMING.sub(r"/\1/", place, count=1))


def _kind_of(head: bytes) -> str | None:
    """Return ``vrt``, ``service`` for another description of files or addresses, or None by the start of a file."""
    if b"<VRTDataset" in head:
        return "vrt"
    referring = b"<MRF_META" in head and any(mark in head for mark in MRF_REFERENCES)
    return "service" if referring or any(mark in head for mark in SERVICES) else None


def _fetched_head(address: str, shown: str) -> bytes:
    try:
        return remote.fetch_head(address, HEAD_BYTES)
    except (StoreError, FileNotFoundError, PermissionError):
        # The opening reports it; of a source that is absent GDAL makes nodata.
        return b""
    except remote.store_exceptions() as error:
        raise unreachable(shown, error) from error


def _fetched(address: str, shown: str) -> str:
    try:
        return _text(remote.fetch(address, MOST_BYTES), shown)
    except StoreError as error:
        raise ReadError(f"{shown}: cannot be read ({error})") from error
    except remote.store_exceptions() as error:
        raise unreachable(shown, error) from error


def _text(content: bytes, shown: str) -> str:
    if len(content) > MOST_BYTES:
        raise ReadError(f"{shown}: is larger than {MOST_BYTES >> 20} MiB; build the VRT over fewer files")
    return content.decode("utf-8", "replace")


def _names(vrt: _Vrt) -> Iterator[tuple[str, bool]]:
    """Yield the names of the sources of a VRT as they stand, and whether they are relative to it."""
    if vrt.text is None:
        return
    if "<!DOCTYPE" in vrt.text or "<!ENTITY" in vrt.text:
        raise ReadError(f"{vrt.shown}: has a document type, which no VRT needs; remove it")
    try:
        root = ElementTree.fromstring(vrt.text.strip())  # noqa: S314 - no entities, see above
    except ElementTree.ParseError as error:
        raise ReadError(f"{vrt.shown}: is no XML ({error}); build the VRT again") from error
    for element in root.iter():
        given = {key.lower(): value for key, value in element.attrib.items()}
        kind = given.get("name", "") if element.tag.lower() == "argument" else element.tag
        name = (element.text or "").strip()
        if name and NAMES.search(kind):
            yield name, given.get("relativetovrt", "0").strip() not in ("0", "")


def _resolved(name: str, relative: bool, vrt: _Vrt) -> str:
    """Return the file or address that a name in a VRT leads to: for a file in an archive, a name below that's."""
    place = _within_name(name)
    while (inner := CONTAINER.sub("", place, count=1)) != place:
        place = inner.replace("}", "")
    if DRIVER.match(place) and not _is_remote(place):
        place = _file_of(place, vrt.base if relative else ".")
    if not relative or place.startswith(("/", "<")) or _is_remote(place):
        return place
    if remote.is_remote(vrt.base):
        scheme, _, rest = vrt.base.partition("://")
        return f"{scheme}://{posixpath.normpath(f'{rest}/{place}')}"
    return f"{vrt.base}/{place}"


def _is_remote(place: str) -> bool:
    return remote.is_remote(place) or bool(NETWORK_NAME.search(place))


def _file_of(name: str, base: str) -> str:
    """Return the file in one of GDAL's names by driver, as ``NETCDF:"file":variable``."""
    rest = name.partition(":")[2]
    if '"' in rest:
        return rest.split('"')[1]
    parts = rest.split(":")
    names = (
        ":".join(parts[first:last]) for first in range(len(parts)) for last in range(len(parts), first, -1)
    )
    return next(
        (found for found in names if os.path.isfile(f"{base}/{found}") or os.path.isfile(found)), rest
    )


def _check_place(place: str, vrt: _Vrt, beside: bool) -> None:
    shown = shown_address(place)
    if _is_remote(place) or place.startswith("/vsi") or remote.is_remote(vrt.base):
        address = stored_at(place)
        if address is None or not remote.is_remote(vrt.base) or not address.startswith(f"{vrt.base}/"):
            raise ReadError(
                f"{vrt.shown}: leads to {shown}, which is not in its folder; copy that here, or {REMEDY}"
            )
    elif not place.startswith("<") and not any(
        _is_within(place, at) for at in _open_folders(vrt.base, beside)
    ):
        raise ReadError(
            f"{vrt.shown}: leads to {shown}, which is neither in its folder nor in the working directory; move the "
            f"file, or {REMEDY}"
        )


def _open_folders(base: str, beside: bool) -> Iterator[str]:
    """Yield the folders whose files a VRT in a folder may name."""
    yield from dict.fromkeys((base, os.path.realpath(base)))
    for wide in (str(Path(base).parent), str(Path.cwd())) if beside else (str(Path.cwd()),):
        if not _is_shared(wide):
            yield wide


def _is_shared(folder: str) -> bool:
    """Return whether files of all kinds are below a folder: it is the root, a home, or that of temporary files."""
    shared = (str(Path.home()), tempfile.gettempdir(), "/tmp", "/var/tmp")  # noqa: S108 - compared, not written to
    return any(Path(os.path.realpath(place)).is_relative_to(os.path.realpath(folder)) for place in shared)


def _is_within(place: str, folder: str) -> bool:
    names = [os.path.realpath(place)]
    if ".." not in Path(place).parts:
        # A link in the folder to a place elsewhere was made by the one who keeps the folder.
        names.append(str(Path(place).absolute()))
    return any(
        Path(name).is_relative_to(root) for name in names for root in (folder, os.path.realpath(folder))
    )


def _check_kind(place: str, vrt: _Vrt) -> None:
    try:
        check_regular(place)
    except OSError as error:
        raise ReadError(f"{vrt.shown}: its source {place} is {error.strerror}") from error
