"""STAC items: bands by their common names, scale and offset, date of acquisition."""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from ussfc.addresses import DRIVER, shown_address, without_secrets
from ussfc.local_files import open_regular
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.reading.bands import SPELLINGS
from ussfc.pipeline.reading.cloud_access import unreachable
from ussfc.pipeline.reading.mask_rules import kind_of
from ussfc.pipeline.reading.sources.bands import BandFile, BandSet, file_name, is_raster
from ussfc.pipeline.reading.sources.landsat import SURFACE
from ussfc.pipeline.reading.sources.sentinel2 import BANDS, OFFSET_SINCE, Facts
from ussfc.pipeline.storage import remote
from ussfc.pipeline.types import SceneMask
from ussfc.pipeline.waiting import waiting_for

MOST_BYTES = 16 * 1024 * 1024
"""Largest item."""

HEAD_BYTES = 65_536
"""Beginning of a local file in which an item names its version."""

ADDRESS = re.compile(r"/items/[^/]+$")
"""End of the address of an item in an API."""

FEATURE = re.compile(rb'"type"\s*:\s*"Feature"')
"""Kind of an item; a collection of items has another."""

ENDS = (".json", ".geojson")

MASKS = ("scl", "qa_pixel", "udm2", "omnicloudmask")
"""Kinds of masks among the assets, the one that is taken first."""

REFLECTANCES = frozenset(SPELLINGS.values()) - {"pan", "cirrus"}
"""Common names of bands of reflectance."""

BASELINES = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline")
"""Properties that state the processing baseline of Sentinel-2."""

APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
"""Properties that state that the offset has been taken out of the numbers, whatever ``raster:bands`` say."""

OFFSET_DAY = f"{OFFSET_SINCE[:4]}-{OFFSET_SINCE[4:6]}-{OFFSET_SINCE[6:]}"

NO_STAC = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError)
"""Errors of pystac beside its own, where a field is missing or of another type."""


def is_item(place: str) -> bool:
    """Return True if a path or address is taken for a STAC item."""
    if remote.is_remote(place):
        path = urlsplit(place).path
        return path.lower().endswith(ENDS) or bool(ADDRESS.search(path))
    if not place.lower().endswith(ENDS) or not os.path.isfile(place):
        return False
    with open_regular(place) as file:
        head = file.read(HEAD_BYTES)
    return b'"stac_version"' in head and bool(FEATURE.search(head))


def item_set(place: str, shown: str) -> BandSet:
    """Return the bands of an item.

    Args:
        place: path or address.
        shown: the same for messages.

    Raises:
        ReadError: it cannot be read, is no item, or has no asset with a band of reflectance.
    """
    item = _parsed(_document(place, shown), shown)
    best: dict[str, tuple[Any, ...]] = {}
    for key, asset in item.assets.items():
        for index, band in enumerate(_bands_of(asset), 1):
            label = _label(band, key, item.properties)
            rank = _rank(key, asset)
            if label is not None and (label not in best or rank < best[label][0]):
                best[label] = rank, asset, band, index
    if not best:
        raise ReadError(
            f"{shown}: no asset of the item is a band by its common name (its assets: {', '.join(item.assets)}); give "
            "the files themselves"
        )
    files = []
    for label, (_, asset, band, index) in best.items():
        scale, offset = _numbers(asset, band, index, item, label)
        nodata = _first(band.get("nodata"), _raster_band(asset, index).get("nodata"), 0.0)
        href = _address(asset.href, place, shown)
        files.append(BandFile(href, label, scale, offset, _number(nodata), index))
    when = item.datetime or item.common_metadata.start_datetime
    acquired = when.isoformat().replace("+00:00", "Z") if when else None
    notes = _notes(item, files, acquired, shown)
    return BandSet(shown, tuple(files), acquired, _product(item), notes, _mask(item, place, shown))


def _mask(item: Any, place: str, shown: str) -> SceneMask | None:
    """Return the mask among the assets of an item, by its key or file; None where there is none."""
    found = []
    for key, asset in item.assets.items():
        kind = kind_of([key, file_name(asset.href)])
        if kind is not None and is_raster(file_name(asset.href)) and "thumbnail" not in (asset.roles or ()):
            found.append((MASKS.index(kind), _rank(key, asset), asset.href, kind))
    if not found:
        return None
    _, _, href, kind = min(found)
    return SceneMask(_address(href, place, shown), kind)


def _notes(item: Any, files: list[BandFile], acquired: str | None, shown: str) -> tuple[str, ...]:
    """Return a note on an item that leaves open whether its numbers have the offset of a processing baseline."""
    names = set(item.properties)
    settled = names & {*BASELINES, *APPLIED} or any(file.offset for file in files)
    if not _is_sentinel2(item.properties) or settled or (acquired or OFFSET_DAY) < OFFSET_DAY:
        return ()
    return (
        f"{shown}: is of Sentinel-2 and states neither offset nor processing baseline; from 04.00 on numbers have an "
        "offset of 1000: set before.offset or after.offset to -1000 if it was not taken out",
    )


def _document(place: str, shown: str) -> Mapping[str, Any]:
    try:
        if remote.is_remote(place):
            with waiting_for(remote.host_of(place)):
                content = remote.fetch(place, MOST_BYTES)
        else:
            with open_regular(place) as file:
                content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ReadError(f"{shown}: is larger than {MOST_BYTES >> 20} MiB, which no STAC item is")
        document = json.loads(content)
    except StoreError as error:
        raise ReadError(f"{shown}: cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{shown}: is no JSON ({error}); give a STAC item") from error
    except remote.store_exceptions() as error:
        raise unreachable(shown, error) from error
    if not isinstance(document, dict):
        raise ReadError(f"{shown}: is JSON but no object; give a STAC item")
    return document


def _parsed(document: Mapping[str, Any], shown: str) -> Any:
    import pystac

    kind, version = document.get("type"), str(document.get("stac_version"))
    if kind != "Feature" or not re.match(r"[1-9]\d*\.", version):
        # pystac would fetch what older versions refer to, by ways of its own.
        raise ReadError(
            f"{shown}: is no STAC item of version 1.0 or newer (type {str(kind)[:40]!r}, stac_version "
            f"{version[:20]!r}); give the address of one item, not of a catalogue or a search"
        )
    try:
        return pystac.Item.from_dict(dict(document), migrate=False)
    except (pystac.STACError, pystac.STACTypeError, *NO_STAC) as error:
        raise ReadError(
            f"{shown}: is no valid STAC item ({type(error).__name__}: {without_secrets(str(error))[:80]})"
        ) from error


def _bands_of(asset: Any) -> list[Mapping[str, Any]]:
    """Return the bands that an asset declares, by whichever version of STAC."""
    fields = asset.extra_fields
    bands = fields.get("eo:bands") or fields.get("bands") or []
    return [band for band in bands if isinstance(band, dict)] if isinstance(bands, list) else []


def _label(band: Mapping[str, Any], key: str, properties: Mapping[str, Any]) -> str | None:
    """Return the name of a band: Sentinel-2's own number, else the common name; None where it is no reflectance."""
    name = str(band.get("name") or "")
    common = str(band.get("common_name") or band.get("eo:common_name") or "").lower()
    if _is_sentinel2(properties):
        number = next((text.upper()[:3] for text in (name, key) if text.upper()[:3] in BANDS), None)
        if number is not None:
            return number
    if common in REFLECTANCES:
        return common
    word = SPELLINGS.get(re.sub("[^a-z0-9]", "", name.lower()))
    return word if not common and word in REFLECTANCES else None


def _rank(key: str, asset: Any) -> tuple[int, float, int, str]:
    """Return the order of assets that hold the same band: data, fine pixels, quick to read, and by name."""
    roles = set(asset.roles or ())
    aside = int(bool(roles & {"thumbnail", "overview", "visual", "metadata"} or key in ("visual", "tci")))
    size = _number(asset.extra_fields.get("gsd"))
    if size is None:
        size = _number(_raster_band(asset, 1).get("spatial_resolution"))
    in_key = re.search(r"(\d+)m$", key)
    size = float(in_key[1]) if size is None and in_key else size
    slow = int("jp2" in (asset.media_type or "") or asset.href.lower().endswith(".jp2"))
    return aside, size if size is not None else 0.0, slow, key


def _raster_band(asset: Any, index: int) -> Mapping[str, Any]:
    bands = asset.extra_fields.get("raster:bands")
    if not isinstance(bands, list) or len(bands) < index or not isinstance(bands[index - 1], dict):
        return {}
    found: Mapping[str, Any] = bands[index - 1]
    return found


def _numbers(
    asset: Any, band: Mapping[str, Any], index: int, item: Any, label: str
) -> tuple[float | None, float | None]:
    """Return scale and offset of a band; None where only its file may state them."""
    properties = item.properties
    stated = _raster_band(asset, index)
    fields = asset.extra_fields
    scale = _number(_first(band.get("raster:scale"), stated.get("scale"), fields.get("raster:scale")))
    offset = _number(_first(band.get("raster:offset"), stated.get("offset"), fields.get("raster:offset")))
    if _is_sentinel2(properties):
        if any(properties.get(name) is True for name in APPLIED):
            return scale or Facts().scale(label)[0], 0.0
        baseline = next((_number(properties[name]) for name in BASELINES if name in properties), None)
        usual = Facts(baseline=baseline).scale(label)
        return (scale or usual[0]), (usual[1] if offset is None else offset)
    if scale is None and str(item.collection_id).lower().startswith("landsat-c2l2"):
        return SURFACE
    return scale, (0.0 if scale is not None and offset is None else offset)


def _is_sentinel2(properties: Mapping[str, Any]) -> bool:
    names = (
        properties.get("constellation"),
        properties.get("platform"),
        *(properties.get("instruments") or ()),
    )
    return any(re.match(r"sentinel-?2|msi$", str(name), re.IGNORECASE) for name in names)


def _product(item: Any) -> str:
    properties = item.properties
    if not _is_sentinel2(properties):
        return str(properties.get("platform") or properties.get("constellation") or "STAC item")
    text = f"{item.collection_id} {item.id} {properties.get('processing:level')}".lower()
    level = "L1C" if "l1c" in text else "L2A" if "l2a" in text or "l2" in text else ""
    return f"Sentinel-2 {level}".strip()


def _address(href: str, place: str, shown: str) -> str:
    """Return the path or address of an asset; relative ones are beside the item."""
    if href.lower().startswith("file:") and not remote.is_remote(place):
        return _existing(urlsplit(href).path)
    if remote.is_remote(href):
        return href
    if href.startswith(("/vsi", "<", "{")) or DRIVER.match(href):
        raise ReadError(f"{shown}: asset {shown_address(href)[:80]!r} is neither a path nor an address")
    if not remote.is_remote(place):
        return _existing(str(Path(place).absolute().parent / href))
    if place.lower().startswith("http"):
        return urljoin(place, href.replace(" ", "%20"))
    scheme, _, rest = place.partition("://")
    return f"{scheme}://{posixpath.normpath(posixpath.join(posixpath.dirname(rest), href.lstrip('/')))}"


def _existing(path: str) -> str:
    """Return the path of a local asset: as it stands, or with what an address has to escape written out."""
    return path if os.path.exists(path) else unquote(path)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _number(value: Any) -> float | None:
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError):
        return None
    return number if number is None or math.isfinite(number) else None
