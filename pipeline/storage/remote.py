"""Object stores and web addresses: their file systems and their failures.

Endpoint, region and credentials are found by the libraries of the stores themselves, in the standard environment
variables, profiles and instance roles. Nothing that this package writes or prints holds them.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from ussfc import web
from ussfc.addresses import SCHEME, shown_address, without_secrets
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.web import store_exceptions as store_exceptions

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
}
"""Extras of this package by the schemes whose file systems they install."""

FOLDER_SCHEMES = (*EXTRAS, "http", "https", "memory")
"""Schemes whose file systems can hold a run; others read only, or need more than an address."""

STORE_BACKOFF = Backoff(attempts=7, first=1.0, factor=2.0, longest=30.0)
"""Attempts of a request that an outage may have stopped: a minute in all, beyond the libraries' own."""

LONGEST_OUTAGE = 120.0
"""Time after which no other attempt begins, seconds: a server that stays silent lets each one wait."""

PROBE_BACKOFF = Backoff(attempts=2, first=1.0)
"""Attempts of a first contact: the place is there, or its name is misspelt, which a minute would not mend."""

CLOSE_SECONDS = 2
"""Time that a store has to close its connections when the process ends, seconds."""

TRIES = 4
"""Number of times that botocore sends one request by itself, within about ten seconds."""

PERMANENT = (
    web.UnusableAddress,
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)
"""Errors that a pause does not change."""

VERSION_FIELDS = ("size", "ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "created")
"""Names in fsspec's file systems of the facts that change with the content."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Stat:
    """An object as its store describes it."""

    size: int
    """Size, bytes; 0 where the store does not state it."""
    marks: tuple[str, ...]
    """Size, etag and time, as far as the store states them: other marks, another content."""


@dataclass(frozen=True, slots=True)
class Aws:
    """Access to S3: the endpoint and the credentials."""

    credentials: Any
    """Credentials of botocore, which renews them; None: requests are not signed."""
    region: str | None
    endpoint: str | None
    """URL of a store that is not Amazon's own."""
    virtual_hosts: bool
    """True: the bucket is part of that store's host name, not of the path."""


def is_remote(address: str) -> bool:
    """Return whether an address is a URI (``s3://``, ``https://``, ``memory://`` ...), not a path of this machine."""
    return bool(SCHEME.match(address))


def host_of(address: str) -> str:
    """Return the host or bucket that an address leads to, without credentials; empty for a path of this machine.

    GDAL's own names (``/vsicurl/``, ``/vsis3/``, ``NETCDF:"https://..."``) lead there as well.
    """
    shown = shown_address(address)
    found = re.search(r"([a-z][a-z0-9+.-]*)://([^/?#\s\"']+)", shown, re.IGNORECASE)
    if found is None:
        found = re.search(r"/vsi(s3|gs|az|adls)/([^/?\s]+)", shown)
    if found is None or found[1].lower() in ("file", "memory"):
        return ""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    at = f" at {shown_address(endpoint)}" if endpoint and found[1].lower() in ("s3", "s3a") else ""
    return f"{found[1].lower()}://{found[2]}{at}"


def filesystem(uri: str, asynchronous: bool = False) -> tuple[Any, str]:
    """Return the fsspec file system of a URI and the path in it; one system a process serves all threads.

    Args:
        uri: of any scheme that fsspec knows.
        asynchronous: the system for callers with a loop of their own, as Zarr has.

    Raises:
        StoreError: no file system is installed or known for the scheme.
    """
    scheme, path = uri.split("://", 1)
    scheme = scheme.lower()
    return _filesystem(scheme, asynchronous), uri if scheme in ("http", "https") else path.rstrip("/")


@functools.cache
def _filesystem(scheme: str, asynchronous: bool) -> Any:
    import fsspec

    try:
        known = fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        extra = EXTRAS.get(scheme)
        remedy = f"pip install 'ussfc[{extra}]'" if extra else "use a local folder, s3://, gs:// or az://"
        raise StoreError(f"{scheme}://: no file system for it is installed ({error}); {remedy}") from error
    if scheme not in FOLDER_SCHEMES:
        try:
            known(**options(scheme))
        except (AttributeError, OSError, TypeError, ValueError) as error:
            # Its file system wants a host, an archive or a library beside the address.
            raise StoreError(
                f"{scheme}://: cannot be opened by an address alone ({error}); use a local file, s3://, gs:// or az://"
            ) from error
    if asynchronous and not known.async_impl:
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

        return AsyncFileSystemWrapper(known(**options(scheme)), asynchronous=True)
    system = known(**options(scheme), **({"asynchronous": True} if asynchronous else {}))
    if scheme in ("s3", "s3a"):
        # botocore's attempts are enough; times five, an outage would be reported after minutes.
        system.retries = 1
        if not asynchronous:
            close_at_exit(system, system.loop)
    return system


@functools.cache
def close_at_exit(system: Any, loop: Any) -> None:
    """Close the connections of an S3 system when the process ends: aiohttp complains of open ones.

    Args:
        system: of :func:`filesystem`.
        loop: the running event loop of another thread that its requests go through.
    """
    import asyncio
    import atexit

    def close() -> None:
        client = getattr(system, "_s3", None)
        if client is not None and loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(client.__aexit__(None, None, None), loop)
            # It is a courtesy: a store that does not answer must not hold the process.
            with suppress(TimeoutError, OSError):
                closing.result(CLOSE_SECONDS)

    atexit.register(close)


def forget_connections() -> None:
    """Forget systems and credentials, for an environment that has changed."""
    _filesystem.cache_clear()
    aws.cache_clear()


@functools.cache
def aws() -> Aws | None:
    """Return the access to S3 by environment, profile, SSO or role, found once a process; None without botocore.

    Raises:
        BotoCoreError: no credentials, no such profile, or their source does not answer.
    """
    try:
        from botocore.configprovider import ConfiguredEndpointProvider
        from botocore.exceptions import NoCredentialsError
        from botocore.session import Session
    except ImportError:
        return None
    session = Session()
    profile = session.get_scoped_config()
    endpoint = None
    if not session.get_config_variable("ignore_configured_endpoint_urls"):
        endpoint = ConfiguredEndpointProvider(session.full_config, profile, "s3").provide()
    credentials = None if unsigned() else session.get_credentials()
    if credentials is None and not unsigned():
        raise NoCredentialsError
    style = (session.get_config_variable("s3") or {}).get("addressing_style")
    return Aws(credentials, session.get_config_variable("region"), endpoint, style == "virtual")


def unsigned() -> bool:
    """Return whether requests to S3 go without credentials, as public buckets need: AWS_NO_SIGN_REQUEST."""
    return os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "ON", "1")


def stat(uri: str) -> Stat:
    """Return the description of one object; a single request, not repeated here.

    Raises:
        StoreError: no file system is installed for the scheme.
        OSError: or another of :func:`store_exceptions`: it does not exist, is not allowed, or the store is out.
    """
    if web.is_web(uri):
        # fsspec calls a server that is out "not found".
        return _web_stat(uri)
    system, path = filesystem(uri)
    found = system.info(path)
    return Stat(
        int(found.get("size") or 0),
        tuple(f"{name}={found[name]}" for name in VERSION_FIELDS if found.get(name)),
    )


def _web_stat(url: str) -> Stat:
    # An address signed for GET refuses HEAD, and some servers do not know it.
    try:
        with web.answer(url, "HEAD") as found:
            facts = found.headers
    except OSError as error:
        status = web.status_of(error)
        if status is None or (status >= 500 and status != 501):
            raise
        with web.answer(url, headers={"Range": "bytes=0-0"}) as found:
            facts = found.headers
    size = facts.get("Content-Range", "").rpartition("/")[2] or facts.get("Content-Length", "")
    marks = [f"{name}={facts[name]}" for name in ("ETag", "Last-Modified") if facts.get(name)]
    return Stat(int(size) if size.isdigit() else 0, (f"size={size}", *marks))


def fetch(uri: str, most: int, backoff: Backoff | None = None) -> bytes:
    """Return the content of a file, or one byte more than ``most`` of a larger one; repeated while its place is out.

    Raises:
        StoreError: no file system is installed for the scheme.
        OSError: or another of :func:`store_exceptions`: as of :func:`stat`.
    """

    def request() -> bytes:
        if web.is_web(uri):
            return web.fetch(uri, most)
        system, path = filesystem(uri)
        with system.open(path, "rb") as file:
            content = b""
            while len(content) <= most and (piece := file.read(most + 1 - len(content))):
                content += piece
            return content

    return retry_request(request, backoff)


def fetch_head(uri: str, size: int) -> bytes:
    """Return the first bytes of a file by one request, repeated while its place is out; all of a smaller one.

    Raises:
        StoreError: no file system is installed for the scheme.
        OSError: or another of :func:`store_exceptions`: as of :func:`stat`.
    """

    def request() -> bytes:
        try:
            if web.is_web(uri):
                # A server that knows no ranges sends the whole, of which no more is taken.
                return web.fetch(uri, size - 1, {"Range": f"bytes=0-{size - 1}"})
            system, path = filesystem(uri)
            content: bytes = system.cat_file(path, start=0, end=size)
            return content
        except OSError as error:
            # An empty file has no such range.
            if "416" in str(error) or "InvalidRange" in str(error):
                return b""
            raise

    return retry_request(request)


def options(scheme: str) -> dict[str, Any]:
    """Return the options of fsspec for a scheme; nothing secret is among them."""
    # A listing that is kept would hide the files that other processes write.
    chosen: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in ("s3", "s3a"):
        # Standard retries know all throttling answers and a shaky connection; the legacy ones a few.
        chosen |= {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": TRIES}}}
        if unsigned():
            chosen |= {"anon": True}
    return chosen


def retry_request(request: Callable[[], Result], backoff: Backoff | None = None) -> Result:
    """Return the result of a request, tried again with growing pauses while the store is out.

    Args:
        request: idempotent.
        backoff: attempts; by default :data:`STORE_BACKOFF`.

    Raises:
        OSError: of the last attempt, or of :func:`ussfc.web.store_exceptions` another; permanent answers at once.
    """
    begun = time.monotonic()
    for pause in (backoff or STORE_BACKOFF).pauses():
        try:
            return request()
        except store_exceptions() as error:
            late = pause is not None and time.monotonic() - begun + pause > LONGEST_OUTAGE
            if pause is None or late or is_permanent(error):
                raise
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def is_permanent(error: BaseException) -> bool:
    """Return whether the same request would get the same answer again."""
    return isinstance(error, PERMANENT) or type(error).__name__ in (
        "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError",
        "InvalidRegionError", "ClientAuthenticationError", "ResourceNotFoundError", "DefaultCredentialsError",
    )  # fmt: skip


def describe_error(error: BaseException) -> tuple[str, str]:
    """Return the reason of an error, in one line without secrets, and its remedy."""
    name = type(error).__name__
    text = without_secrets(" ".join(str(error).split())) or name
    if isinstance(error, PermissionError) or name == "ClientAuthenticationError":
        return f"no permission: {text}", "check the credentials and what they may do there"
    if name in ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"):
        return "no credentials found", "set the store's environment variables or name a profile (AWS_PROFILE)"
    if name == "ProfileNotFound":
        return text, "check AWS_PROFILE"
    if isinstance(error, FileNotFoundError) or name == "ResourceNotFoundError":
        return f"not found: {text}", "check the name of the bucket or container"
    if isinstance(error, web.UnusableAddress):
        return text, "check the address"
    if "endpoint" in text.lower() or "connect" in text.lower():
        return text, "check the address, for S3 the endpoint (AWS_ENDPOINT_URL), and the network"
    return text, "the store may be out for a while: the same command continues"
