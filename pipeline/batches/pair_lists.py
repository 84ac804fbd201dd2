"""The list of pairs of a batch: a CSV, a GeoJSON or a STAC catalogue, on a disk, in an object store or on the web.

Lists come from others: everything in them is text until it has been looked at, and their size is bounded.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError

from ussfc.addresses import shown_address, without_secrets
from ussfc.local_files import open_regular
from ussfc.pipeline.choices import NO_MASK
from ussfc.pipeline.config.load import documented_keys, nearest_key, plain_fault
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError, ReadError, StoreError
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.reading.sources.bands import RASTERS
from ussfc.pipeline.reading.sources.resolve import split_list
from ussfc.pipeline.reading.sources.trees import ARCHIVES
from ussfc.pipeline.storage import layout, remote
from ussfc.pipeline.storage.remote import PROBE_BACKOFF
from ussfc.pipeline.waiting import waiting_for

MOST_BYTES = 64 * 1024 * 1024
"""Largest list, and largest file of a STAC catalogue."""

MOST_FILES = 100_000
"""Files of a STAC catalogue, which may have no end."""

TAKEN = (layout.COLLECTION, layout.RESULTS_TABLE, layout.RESULTS_PARQUET)
"""Files that a batch writes beside the folders of its pairs."""

SCENES = {"before": "earlier", "after": "later"}
COLUMNS = (*SCENES, "name")
SHORT = {
    "date_before": "dates.before",
    "date_after": "dates.after",
    "mask_before": "masks.before",
    "mask_after": "masks.after",
}
"""Columns that are settings under shorter names."""

FILES = ("grid.aoi", "masks.before", "masks.after")
"""Settings that are addresses of files of the pair, and so relative to its list."""

STAC_PREFIX = "ussfc:"
"""Prefix of the keys among the properties of a STAC item."""

LONGEST_YAML = 256
"""Letters of a cell that may be another value than text: PyYAML takes seconds to give up on thousands of brackets."""

KINDS = "a CSV, a GeoJSON FeatureCollection, or a STAC Collection or Catalog"

GDAL_NAME = re.compile(r"[A-Z][A-Z0-9_]+:")
"""Start of GDAL's own names, as ``NETCDF:"file":variable``: they are no relative paths."""

LISTED = (*RASTERS, *ARCHIVES, ".safe", ".json", "*")
"""Ends of names that may stand in a list of files with commas."""

NO_YAML = (yaml.YAMLError, ValueError, KeyError, AttributeError, RecursionError)
"""Errors of PyYAML: tags on words that they do not fit end in other errors than its own."""

NO_STAC = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""Errors of pystac beside its own, where a field is missing or of another type."""

KNOWN = frozenset(key for key, _, _ in documented_keys())


@dataclass(frozen=True, slots=True)
class PairEntry:
    """One pair of a list."""

    name: str
    """Name of the folder of its products."""
    before: str
    """Earlier image: absolute path, or URI."""
    after: str
    """Later image: absolute path, or URI."""
    settings: dict[str, Any]
    """Dotted configuration keys and the values that this pair alone has; None is null, as with ``--set``."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A pair as it stands in its list."""

    where: str
    """List and place in it, for messages."""
    base: str
    """Address of the file that relative paths are beside."""
    values: Mapping[str, Any]
    """Cells by column; None and empty text are not set."""


def read_pairs(source: str) -> tuple[PairEntry, ...]:
    """Read the pairs of a list, in its order.

    A CSV has the columns ``before`` and ``after``, maybe ``name``, and a column for each configuration key that
    differs between pairs; a GeoJSON FeatureCollection has the same as properties, its geometries are not used; the
    items of a STAC Collection or Catalog have assets ``before`` and ``after``, their id is the name, and properties
    ``ussfc:KEY`` are settings. Relative paths are relative to the list, in STAC to the item. Pairs without a name
    are called ``pair-0001`` and on, by their place in the list.

    Args:
        source: local path, or a URI.

    Raises:
        ReadError: the list, or a file of the catalogue, cannot be read.
        ConfigError: it is no such list, or a pair in it cannot be used.
    """
    shown = shown_address(source)
    source = _local(source)
    if not remote.is_remote(source):
        source = str(Path(source).absolute())
    # A misspelt address is reported at once; nothing is lost by giving the command again.
    text = _text(source, shown, PROBE_BACKOFF)
    entries: list[PairEntry] = []
    names: dict[str, str] = {}
    for number, row in enumerate(_rows(text, source, shown), 1):
        entry = _entry(row, number)
        same = names.get(entry.name.lower())
        if same is not None:
            raise ConfigError(
                f"{row.where}: name {entry.name} is that of {same.removeprefix(f'{shown}: ')} too; names become "
                "folders and must differ in more than case"
            )
        names[entry.name.lower()] = row.where
        entries.append(entry)
    if not entries:
        raise ConfigError(f"{shown}: holds no pair; expected {KINDS} with at least one")
    return tuple(entries)


def _rows(text: str, source: str, shown: str) -> Iterator[_Row]:
    suffix = Path(urlsplit(source).path if remote.is_remote(source) else source).suffix.lower()
    if suffix == ".csv" or (suffix not in (".json", ".geojson") and not text.lstrip().startswith("{")):
        return _csv_rows(text, source, shown)
    document = _json(text, shown)
    kind = document.get("type")
    if kind == "FeatureCollection":
        return _feature_rows(document, source, shown)
    if kind in ("Collection", "Catalog"):
        return _item_rows(document, source)
    raise ConfigError(f"{shown}: is JSON of type {_quoted(kind)}; expected {KINDS}")


def _csv_rows(text: str, source: str, shown: str) -> Iterator[_Row]:
    table = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    header: list[str] = []
    number = 0
    try:
        for cells in table:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = cells
                _check_header(header, shown)
                continue
            number += 1
            where = f"{shown}: row {number} (line {table.line_num})"
            if len(cells) != len(header):
                raise ConfigError(
                    f"{where}: has {len(cells)} cells, the header {len(header)}; put what holds a comma into quotes"
                )
            yield _Row(where, source, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise ConfigError(
            f"{shown}: line {table.line_num} is no CSV ({error}); separate by commas and close quotes"
        ) from error


def _check_header(header: list[str], shown: str) -> None:
    # A file that is given by mistake is not shown.
    found = f" (its header: {_quoted(','.join(header))})" if shown.lower().endswith(".csv") else ""
    for column in SCENES:
        if column not in header:
            raise ConfigError(
                f"{shown}: has no column {column}{found}; expected before, after and optionally name and "
                "configuration keys, separated by commas"
            )
    for index, column in enumerate(header):
        if column in header[:index]:
            raise ConfigError(f"{shown}: has two columns {_quoted(column)}; remove one")
    _check_known(header, shown, "column")


def _check_known(columns: Iterable[str], where: str, kind: str) -> None:
    for column in columns:
        if column not in KNOWN and column not in COLUMNS and column not in SHORT:
            nearest = nearest_key(column, {*KNOWN, *COLUMNS, *SHORT})
            hint = f"; did you mean {nearest}?" if nearest else "; remove it"
            raise ConfigError(
                f"{where}: unknown {kind} {_quoted(column)}{hint} (`ussfc config` lists all keys)"
            )


def _feature_rows(document: Mapping[str, Any], source: str, shown: str) -> Iterator[_Row]:
    features = document.get("features")
    if not isinstance(features, list):
        raise ConfigError(f"{shown}: its features are no list; expected {KINDS}")
    for number, feature in enumerate(features, 1):
        where = f"{shown}: feature {number}"
        values = feature.get("properties") if isinstance(feature, dict) else None
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: has no properties; expected before and after among them")
        _check_known(values, where, "property")
        yield _Row(where, source, values)


def _item_rows(document: Mapping[str, Any], source: str) -> Iterator[_Row]:
    """Yield the items of a catalogue and of those below it, in the order of their links.

    pystac would follow links as well, but round a circle for ever and past any size.
    """
    from pystac import Item

    pending, seen = [source], {source}
    while pending:
        address = pending.pop()
        shown = shown_address(address)
        if address != source:
            document = _json(_text(address, shown), shown)
        found = _stac_object(document, shown)
        if isinstance(found, Item):
            yield _item_row(found, address, f"{shown}: item {_quoted(found.id)}")
            continue
        hrefs = [link.get_href(transform_href=False) for link in found.links if link.rel in ("item", "child")]
        below = [_address(href, address, f"{shown}: link to an item or child") for href in hrefs]
        # The last is popped first.
        new = [link for link in reversed(dict.fromkeys(below)) if link not in seen]
        pending += new
        seen.update(new)
        if len(seen) > MOST_FILES:
            raise ConfigError(
                f"{shown}: the catalogue has more than {MOST_FILES} files; give smaller ones, one after the other"
            )


def _stac_object(document: Mapping[str, Any], shown: str) -> Any:
    """Parse an item, collection or catalogue; its links are not followed."""
    import pystac

    version = str(document.get("stac_version"))
    if not re.match(r"[1-9]\d*\.", version):
        # pystac would fetch what older versions refer to, by ways of its own.
        raise ConfigError(
            f"{shown}: is no STAC of version 1.0 or newer (its stac_version: {_quoted(version)}); expected {KINDS}"
        )
    try:
        return pystac.read_dict(dict(document))
    except (pystac.STACError, pystac.STACTypeError, *NO_STAC) as error:
        raise ConfigError(
            f"{shown}: is no valid STAC ({type(error).__name__}: {_quoted(error)}); check it with a STAC validator"
        ) from error


def _item_row(item: Any, address: str, where: str) -> _Row:
    values: dict[str, Any] = {"name": item.id}
    for date in SCENES:
        if date not in item.assets:
            raise ConfigError(
                f"{where}: has no asset {date} (its assets: {_quoted(', '.join(item.assets))}); call the "
                f"{SCENES[date]} image so"
            )
        values[date] = item.assets[date].href
    settings = {
        name.removeprefix(STAC_PREFIX): value
        for name, value in item.properties.items()
        if name.startswith(STAC_PREFIX)
    }
    for key in COLUMNS:
        if key in settings:
            raise ConfigError(f"{where}: {STAC_PREFIX}{key} is no setting; the id and the assets say it")
    _check_known(settings, where, f"key after {STAC_PREFIX}")
    return _Row(where, address, values | settings)


def _entry(row: _Row, number: int) -> PairEntry:
    given = {
        column: value.strip() if isinstance(value, str) else value
        for column, value in row.values.items()
        if value is not None
    }
    given = {SHORT.get(column, column): value for column, value in given.items() if value != ""}
    for date, which in SCENES.items():
        if date not in given:
            raise ConfigError(f"{row.where}: {date} is empty; give the path or address of the {which} image")
    before, after = (_scene(given.pop(date), row.base, f"{row.where}: {date}") for date in SCENES)
    name = given.pop("name", f"pair-{number:04d}")
    if isinstance(name, int):
        name = str(name)
    if not isinstance(name, str) or not layout.PAIR_FOLDER.fullmatch(name):
        raise ConfigError(
            f"{row.where}: name {_quoted(name)} cannot be a folder's; expected a letter or digit, then letters, "
            "digits, dots, dashes and underscores, 128 at most"
        )
    if name.lower() in TAKEN:
        raise ConfigError(f"{row.where}: name {name} is that of a file of the batch; choose another")
    return PairEntry(name, before, after, _settings(given, row))


def _settings(given: Mapping[str, Any], row: _Row) -> dict[str, Any]:
    """Return the values as the configuration takes them; each is checked alone."""
    settings: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    for key, raw in given.items():
        value = _value(raw) if isinstance(raw, str) else raw
        if key in FILES and value is not None and raw != NO_MASK:
            # A file may be called 2018, and is found beside the list.
            value = _address(raw if isinstance(raw, str) else value, row.base, f"{row.where}: {key}")
        settings[key] = value
        section, _, field = key.rpartition(".")
        # Keys of cluster are checked as a whole by their kind, and no pair may set one: the batch refuses them.
        if section != "cluster":
            (nested.setdefault(section, {}) if section else nested)[field] = value
    try:
        RunConfig.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
        raise ConfigError(f"{row.where}: {key} = {_quoted(first['input'])}: {plain_fault(first)}") from error
    return settings


def _value(text: str) -> Any:
    """Parse a cell as YAML if that is a word, a number, a boolean, null or a list of these; else return the text."""
    if len(text) > LONGEST_YAML:
        return text
    try:
        value = yaml.safe_load(text)
    except NO_YAML:
        return text
    parts = value if isinstance(value, list) else [value]
    return value if all(_is_plain(part) for part in parts) else text


def _is_plain(value: Any) -> bool:
    # Python refuses to write integers of thousands of digits, which hexadecimal ones may have.
    if isinstance(value, int):
        return value.bit_length() <= 64
    return value is None or isinstance(value, str | float)


def _scene(text: Any, base: str, where: str) -> str:
    """Return a scene for use: relative names in a list of files are beside the file ``base``, each by itself."""
    if not isinstance(text, str) or "," not in text:
        return _address(text, base, where)
    whole = _address(text, base, where)
    if remote.is_remote(whole) or not os.path.exists(whole):
        parts = split_list(text)
        # One name may hold commas as well.
        if len(parts) > 1 and all(part.lower().endswith(LISTED) for part in parts):
            return ",".join(_address(part, base, where) for part in parts)
    return whole


def _address(text: Any, base: str, where: str) -> str:
    """Return a path or URI for use: relative ones are beside the file ``base``."""
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{where}: {_quoted(text)} is no path or address")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        raise ConfigError(f"{where}: {_quoted(text)} holds control characters; remove them")
    address = _local(text)
    if remote.is_remote(address):
        try:
            urlsplit(address)
        except ValueError as error:
            raise ConfigError(f"{where}: {_quoted(text)} is no address ({error})") from error
        return address
    if address.startswith("/vsi") or GDAL_NAME.match(address):
        return address
    if not remote.is_remote(base):
        return str(Path(base).parent / address)
    scheme, _, rest = base.partition("://")
    query = ""
    if scheme.lower() in ("http", "https"):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
        address, mark, query = address.partition("?")
        query = mark + query
        if address.startswith("/"):
            # Of the same server, as on every page of the web.
            rest, address = rest.partition("/")[0] + "/", address[1:]
    elif address.startswith("/"):
        return address
    host, _, path = rest.partition("/")
    parts = path.split("/")[:-1]
    for part in address.split("/"):
        if part == "..":
            del parts[-1:]
        elif part != ".":
            parts.append(part)
    return f"{scheme}://{host}/{'/'.join(parts)}{query}"


def _local(address: str) -> str:
    return address.removeprefix("file://")


def _json(text: str, shown: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{shown}: is no JSON ({error}); expected {KINDS}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{shown}: is JSON but no object; expected {KINDS}")
    return document


def _text(address: str, shown: str, backoff: Backoff | None = None) -> str:
    """Read the text of a file.

    Args:
        address: local path, or a URI.
        shown: the same for messages.
        backoff: attempts while the store is out; by default its usual ones.

    Raises:
        ReadError: it cannot be read.
        ConfigError: it is too large, or not in UTF-8.
    """
    try:
        if remote.is_remote(address):
            with waiting_for(remote.host_of(address)):
                content = remote.fetch(address, MOST_BYTES, backoff)
        else:
            with open_regular(address) as file:
                content = file.read(MOST_BYTES + 1)
    except StoreError as error:
        raise ReadError(f"{shown}: cannot be read ({error})") from error
    except ValueError as error:
        # A bucket that cannot be.
        raise ReadError(
            f"{shown}: cannot be read ({without_secrets(_quoted(error), address)}); check the address"
        ) from error
    except remote.store_exceptions() as error:
        what, remedy = remote.describe_error(error)
        if not remote.is_remote(address):
            what, remedy = getattr(error, "strerror", None) or what, "check the path"
        elif isinstance(error, FileNotFoundError):
            remedy = "check the address"
        raise ReadError(f"{shown}: cannot be read ({what}); {remedy}") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{shown}: is larger than {MOST_BYTES // 2**20} MiB; split it into smaller lists")
    try:
        # Spreadsheets write a byte order mark.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{shown}: is not in UTF-8 (byte {error.start}); save it in that encoding"
        ) from error


def _quoted(value: Any) -> str:
    """Return text from a stranger as one short line."""
    text = repr(str(value)) if isinstance(value, BaseException) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
