"""Addresses as messages, records and logs show them: without users, passwords and signatures."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

SECRET_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET",
    "GS_SECRET_ACCESS_KEY", "GS_ACCESS_KEY_ID",
)  # fmt: skip
"""Environment variables whose values no message repeats, whichever library wrote it."""

SHORTEST_SECRET = 6
"""Letters from which a hidden part of an address is looked for in a message; a shorter one may be in any word."""

SHOWN_PARAMETERS = frozenset((
    "service", "version", "request", "layer", "layers", "style", "styles", "srs", "crs", "bbox", "format", "width",
    "height", "coverage", "coverageid", "identifier", "time", "tilematrixset", "transparent", "band", "bands",
))  # fmt: skip
"""Parameters of map services, which stay in GDAL's names since they decide what is seen; any other may be a secret."""

SHOWN_OPTIONS = frozenset((
    "use_head", "max_retry", "retry_delay", "retry_codes", "list_dir", "empty_dir", "timeout", "connecttimeout",
    "low_speed_time", "low_speed_limit", "unsafessl", "useragent", "chunk_size", "cache_size",
))  # fmt: skip
"""Options in GDAL's names (``/vsicurl?max_retry=3&url=...``) that hold no secret."""

SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
DRIVER = re.compile(r"[A-Za-z][A-Za-z0-9_]+:")
"""Start of GDAL's names by driver, as ``NETCDF:"file":variable``."""

_SCHEMES = re.compile(rf"({SCHEME.pattern})", re.IGNORECASE)
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d*)?")
_QUOTED_URL = re.compile(rf"{SCHEME.pattern}[^\"'{{}}<>]*", re.IGNORECASE)
_WRITTEN_URL = re.compile(rf"{SCHEME.pattern}[^\s\"'<>{{}}]*", re.IGNORECASE)
_OPTIONS = re.compile(r"(/vsi[a-z0-9_]+\?)([^\s\"'{}<>]*)", re.IGNORECASE)
_STORE_QUERY = re.compile(r"(/vsi[a-z0-9_]+/[^\s\"'{}<>?]*)\?[^\s\"'{}<>]*=[^\s\"'{}<>]*", re.IGNORECASE)
_LOGIN = re.compile(
    r"\b((?:user)?pwd|userpwd|passw(?:or)?d|api_?key|token|secret)(\s*[=>]\s*)('[^']*'|\"[^\"]*\"|[^\s,&;'\"<]+)",
    re.IGNORECASE,
)
_TAIL = re.compile(r"\?[^\s?'\"]*=[^\s'\"]*?(?=[,;:.)]*(?:[\s'\"]|$))")
_VARIABLE = re.compile(r"(?:NETCDF|HDF5|ZARR):[^\"]*(:[A-Za-z_][\w./-]*)$", re.IGNORECASE)
_WORD = re.compile(rf"[^\s/&=:@?#\"'{{}}<>,;|%]{{{SHORTEST_SECRET},}}")


def shown_address(address: str | Path) -> str:
    """Return a path or address as messages and records show it: without user, password and signed query.

    Two addresses that differ in what is hidden alone are shown alike. A local path is shown as it is.

    Args:
        address: local path, URI, or a name of GDAL's: ``/vsicurl/...``, ``/vsicurl?...``, ``/vsizip//vsicurl/...``,
            ``NETCDF:"https://..."``.
    """
    text = str(address)
    if SCHEME.match(text):
        return _shown_url(text, frozenset())
    if not text.startswith(("/vsi", "<", "{")) and not DRIVER.match(text):
        return text
    # GDAL takes what follows the last colon for a variable of the file.
    variable = _VARIABLE.match(text)
    text = _OPTIONS.sub(_shown_options, text)
    text = _QUOTED_URL.sub(lambda found: _shown_url(found[0], SHOWN_PARAMETERS), text)
    text = _LOGIN.sub(r"\1\2...", _STORE_QUERY.sub(r"\1", text))
    return text if variable is None or text.endswith(variable[1]) else text + variable[1]


def without_secrets(text: str, address: str = "") -> str:
    """Return a message, of whichever library, without secrets.

    These are values of credential variables, users and queries of addresses, and the hidden parts of one address that
    the message may quote in pieces.

    Args:
        text: the message.
        address: that it is about, as it was given.
    """
    shown = shown_address(address)
    if address:
        text = text.replace(address, shown)
    # GDAL names a file by the end of its address.
    text = _TAIL.sub("", without_addresses(text))
    for name in SECRET_VARIABLES:
        value = os.environ.get(name)
        # A shorter one is no secret, and may be a part of any word.
        if value and len(value) >= 8:
            text = text.replace(value, f"<{name}>")
    hidden = {
        word for form in (address, unquote(address)) for word in _WORD.findall(form) if word not in shown
    }
    for word in sorted(hidden, key=len, reverse=True):
        text = text.replace(word, "...")
    return text


def without_addresses(text: str) -> str:
    """Return a message with every whole address in it as it is shown; names of local files stay."""
    if "://" not in text and "/vsi" not in text:
        return text
    text = _OPTIONS.sub(_shown_options, text)
    return _STORE_QUERY.sub(r"\1", _WRITTEN_URL.sub(_shown_in_text, text))


def _shown_in_text(found: re.Match[str]) -> str:
    url = found[0].rstrip(".,;:)")
    return _shown_url(url, SHOWN_PARAMETERS) + found[0][len(url) :]


def _shown_url(text: str, parameters: frozenset[str]) -> str:
    """Return an address, or one in another (``zip://https://...``), without what may be secret.

    Args:
        text: begins with a scheme.
        parameters: of the query that stay.
    """
    shown = ""
    _, *parts = _SCHEMES.split(text)
    for scheme, rest in zip(parts[::2], parts[1::2], strict=True):
        rest = _without_user(rest)
        path, _, query = re.sub("#.*", "", rest, flags=re.DOTALL).partition("?")
        shown += scheme.lower() + path
        if len(path) < len(rest):
            kept = [part for part in query.split("&") if part.partition("=")[0].lower() in parameters]
            return shown + ("?" + "&".join(kept) if kept else "")
    return shown


def _without_user(rest: str) -> str:
    """Return what follows a scheme without user and password, which may hold letters that they must not."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return rest[authority.rindex("@") + 1 :]
    return rest if _HOST.fullmatch(authority) or "@" not in rest else rest.rpartition("@")[2]


def _shown_options(found: re.Match[str]) -> str:
    parts = []
    for part in found[2].split("&"):
        name, _, value = part.partition("=")
        if name.lower() == "url":
            url = unquote(value)
            shown = shown_address(url)
            parts.append(part if shown == url else f"{name}={quote(shown, safe=':/')}")
        elif name.lower() in SHOWN_OPTIONS:
            parts.append(part)
    return found[1] + "&".join(parts)
