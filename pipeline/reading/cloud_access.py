"""Access to scenes in object stores and on web servers: GDAL's options, credentials, and errors without secrets."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.session import Session

from ussfc.addresses import without_secrets
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.storage import remote
from ussfc.pipeline.tiling.memory import FETCHED

GDAL_ERRORS = (RasterioError, CPLE_BaseError)
"""Errors that rasterio raises when GDAL fails; some calls pass on GDAL's own kind."""

NETWORKS = ("/vsis3/", "/vsicurl/", "/vsigs/", "/vsiaz/")
"""GDAL's prefixes of files that it reads over a network."""

NETWORK_SCHEMES = {"/vsis3/": "s3", "/vsigs/": "gs", "/vsiaz/": "az"}

NETWORK_NAME = re.compile(
    r"/vsi(s3|gs|az|adls|oss|swift|curl|hdfs|webhdfs)(_streaming)?[/?]|[A-Za-z][A-Za-z0-9_]+:\"?https?://"
)
"""Names of GDAL's that lead to a network."""

TIMEOUTS: dict[str, Any] = {
    # Enough for a slow-down or two; the caller waits out longer outages.
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    # A server that hangs is an error.
    "GDAL_HTTP_CONNECTTIMEOUT": 15,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
}
"""Options for every file, since a local one may name others that are on a network."""

NETWORK_OPTIONS: dict[str, Any] = {
    # Without it every open lists the bucket's folder; local files need the listing for .ovr and .msk.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # A header of 5,000 blocks comes with the first request.
    "GDAL_INGESTED_BYTES_AT_OPEN": 65_536,
    # All blocks of a window in one round of exact ranges, neighbours in one; what is beyond comes one by one.
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": FETCHED,
}
"""Further options for reading over a network; an environment variable of the same name takes precedence."""


class StoreSession(Session):  # type: ignore[misc]  # rasterio has no types
    """Session that passes given options to GDAL.

    Without a session of ours, rasterio makes one of boto3 for each environment as soon as boto3 is installed and
    the environment holds keys: tens of milliseconds a read.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = dict(options)

    def get_credential_options(self) -> dict[str, str]:
        """Return GDAL's options, credentials among them."""
        return self._options


class _Redaction(logging.Filter):
    """Log filter that removes secrets: rasterio logs GDAL's messages, signed addresses included."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True


REDACTION = _Redaction("redaction")


def over_network(uri: str) -> bool:
    """Return True if GDAL reads a path or URI over a network."""
    return remote.is_remote(uri) or bool(NETWORK_NAME.search(uri))


def stored_at(name: str) -> str | None:
    """Return the address of a file in a store or on a web server by a URI, or by GDAL's name for one; else None."""
    if remote.is_remote(name):
        return None if "+" in name.partition("://")[0] else name
    for prefix in NETWORKS:
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            return rest if prefix == "/vsicurl/" else f"{NETWORK_SCHEMES[prefix]}://{rest}"
    return None


def gdal_environment(uri: str, block_cache: int, options: Mapping[str, str]) -> Any:
    """Return the environment for every GDAL call that touches a scene.

    Args:
        uri: path or URI of the scene.
        block_cache: GDAL's cache of decoded blocks in this process, bytes.
        options: options of the scene's store, from :func:`store_options`.
    """
    settings: dict[str, Any] = {"GDAL_CACHEMAX": block_cache, "GDAL_NUM_THREADS": 1}
    wanted = TIMEOUTS | NETWORK_OPTIONS if over_network(uri) else TIMEOUTS
    settings |= {name: value for name, value in wanted.items() if name not in os.environ}
    if over_network(uri):
        # GDAL would remember for good that a file was out of reach, and answers that were cut short.
        settings["CPL_VSIL_CURL_NON_CACHED"] = ":".join(NETWORKS)
        if re.search("signature(=|%3d)", uri, re.IGNORECASE):
            # An address that is signed for GET refuses HEAD.
            settings["CPL_VSIL_CURL_USE_HEAD"] = "NO"
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("rasterio"):
            logging.getLogger(name).addFilter(REDACTION)
    return rasterio.Env(StoreSession(options), **settings)


def store_options(uri: str, shown: str) -> dict[str, str]:
    """Return GDAL's options for the store of a scene: current endpoint, region and credentials.

    Credentials change: temporary ones are renewed, and a handle keeps those it was opened with.

    Args:
        uri: path or URI of the scene.
        shown: the same for messages, without credentials.

    Raises:
        ReadError: no credentials are found, or their provider does not answer.
    """
    if not (uri.lower().startswith("s3://") or "/vsis3/" in uri):
        return {}
    try:
        found = remote.retry_request(remote.aws)
        if found is None:
            return {}
        keys = remote.retry_request(found.credentials.get_frozen_credentials) if found.credentials else None
    except remote.store_exceptions() as error:
        raise unreachable(shown, error) from error
    options = {"AWS_REGION": found.region} if found.region else {}
    if found.endpoint:
        parts = urlsplit(found.endpoint)
        options |= {
            "AWS_S3_ENDPOINT": parts.netloc + parts.path.rstrip("/"),
            "AWS_HTTPS": "NO" if parts.scheme == "http" else "YES",
            "AWS_VIRTUAL_HOSTING": "TRUE" if found.virtual_hosts else "FALSE",
        }
    if keys is None:
        return options | {"AWS_NO_SIGN_REQUEST": "YES"}
    return options | {
        "AWS_NO_SIGN_REQUEST": "NO",
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        # Empty, lest GDAL takes that of other keys from the environment.
        "AWS_SESSION_TOKEN": keys.token or "",
    }


def stat(uri: str, shown: str) -> remote.Stat | None:
    """Return size and marks of a remote scene, waiting until its store answers.

    Args:
        uri: path or URI of the scene.
        shown: the same for messages, without credentials.

    Returns:
        None for a local path, and where no file system of ours knows the scheme.

    Raises:
        ReadError: the scene does not exist, access is denied, or the store does not answer.
    """
    if not remote.is_remote(uri):
        return None
    try:
        return remote.retry_request(lambda: remote.stat(uri))
    except StoreError:
        return None
    except remote.store_exceptions() as error:
        raise unreachable(shown, error) from error


def unreachable(shown: str, error: BaseException) -> ReadError:
    """Return the error of a scene whose store refuses the request or is out of reach."""
    what, remedy = remote.describe_error(error)
    if isinstance(error, FileNotFoundError):
        remedy = "check the address"
    return ReadError(f"{shown}: cannot be read ({what}); {remedy}")


def gdal_reason(error: Exception, uri: str, shown: str) -> str:
    """Return GDAL's message in one line without secrets."""
    lines = without_secrets(str(error.__cause__ or error), uri).splitlines()
    return lines[0] if lines else type(error).__name__
