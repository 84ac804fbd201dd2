"""Files on web servers: plain requests whose failures are errors of the operating system, without secrets."""

from __future__ import annotations

import base64
import functools
import http.client
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit, urlunsplit

ANSWER_SECONDS = 20
"""Time after which a silent web server is taken to be out, seconds; 3 times that for one that trickles."""

SLOWEST = 1000
"""Bytes per second below which a transfer is given up, after :data:`ANSWER_SECONDS`."""

PIECE = 1 << 16
"""Bytes read at a time."""

REFUSALS: dict[int, type[OSError]] = {
    401: PermissionError,
    403: PermissionError,
    404: FileNotFoundError,
    410: FileNotFoundError,
}
"""Errors of the answers that another request would get again."""


class UnusableAddress(OSError):
    """An address of which no request can be made; the message quotes nothing of it."""

    def __init__(self) -> None:
        super().__init__(
            "no proper address: special letters of user, password and path are written as %40 and so on"
        )


def is_web(address: str) -> bool:
    """Return whether an address is one of a web server."""
    return address.lower().startswith(("http://", "https://"))


@contextmanager
def answer(url: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Send one request and yield the answer.

    Args:
        url: of http or https; user and password in it are sent as such, to that server alone.
        method: of HTTP.
        headers: more of them.

    Raises:
        UnusableAddress: no request can be made of it.
        FileNotFoundError, PermissionError: the server refuses; :func:`status_of` gives its number.
        OSError: it is out, or sends no proper answer.
    """
    try:
        request = _request(url, method, headers or {})
    except ValueError as error:
        raise UnusableAddress from error
    try:
        with _opener().open(request, timeout=ANSWER_SECONDS) as found:
            yield found
    except urllib.error.HTTPError as error:
        error.close()
        raise REFUSALS.get(error.code, OSError)(f"HTTP {error.code} {error.reason}") from error
    except (http.client.InvalidURL, UnicodeError) as error:
        # Its message quotes a part of the address, which may be one of the password.
        raise UnusableAddress from error
    except http.client.HTTPException as error:
        raise OSError(f"no proper answer ({type(error).__name__})") from error


def status_of(error: OSError) -> int | None:
    """Return the number of the answer that an error of :func:`answer` stands for; None: there was none."""
    cause = error.__cause__
    return cause.code if isinstance(cause, urllib.error.HTTPError) else None


def fetch(url: str, most: int, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the content of a file, or one byte more than ``most`` of a larger one.

    Args:
        url: http or https.
        most: number of bytes.
        headers: of the request.

    Raises:
        OSError: as :func:`answer` does, or the server is too slow or stops before the end.
    """
    content, begun = bytearray(), time.monotonic()
    with answer(url, headers=headers) as found:
        while len(content) <= most and (piece := found.read1(min(PIECE, most + 1 - len(content)))):
            content += piece
            seconds = time.monotonic() - begun
            if seconds > ANSWER_SECONDS and len(content) < SLOWEST * seconds:
                raise TimeoutError(f"slower than {SLOWEST} bytes/s")
        size = found.headers.get("Content-Length", "")
    if len(content) <= most and size.isdigit() and len(content) < int(size):
        raise OSError(f"the answer ends after {len(content)} of {size} bytes")
    return bytes(content)


@contextmanager
def opened(url: str) -> Iterator[BinaryIO]:
    """Open a file for reading from its beginning; see :func:`answer`."""
    with answer(url) as found:
        yield cast(BinaryIO, found)


def store_exceptions() -> tuple[type[BaseException], ...]:
    """Return the errors of the loaded libraries for a store that cannot be reached or refuses."""
    kinds: list[type[BaseException]] = [OSError]
    for module, names in (
        ("botocore.exceptions", ("BotoCoreError", "ClientError")),
        ("aiohttp", ("ClientError",)),
        ("azure.core.exceptions", ("AzureError",)),
        ("gcsfs.retry", ("HttpError",)),
        ("google.auth.exceptions", ("GoogleAuthError",)),
    ):
        loaded = sys.modules.get(module)
        kinds += [getattr(loaded, name) for name in names if hasattr(loaded, name)]
    return tuple(kinds)


def _request(url: str, method: str, headers: Mapping[str, str]) -> urllib.request.Request:
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("no host")
    plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
    request = urllib.request.Request(plain, headers=dict(headers), method=method)  # noqa: S310 (web alone)
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(user).decode()}")
    return request


class _Patience:
    """A connection that gives up on a server whose answer does not begin."""

    sock: socket.socket | None
    late = False

    def getresponse(self) -> Any:
        cut = threading.Timer(3 * ANSWER_SECONDS, self._cut)
        cut.daemon = True
        cut.start()
        try:
            found = super().getresponse()  # type: ignore[misc]  # of the connection that this is mixed into
        except (OSError, http.client.HTTPException) as error:
            # What a connection that was shut down ends in depends on what its server was about to send.
            if self.late:
                raise TimeoutError("timed out") from error
            raise
        finally:
            cut.cancel()
        if self.late:
            # Headers that end with the connection look whole.
            found.close()
            raise TimeoutError("timed out")
        return found

    def _cut(self) -> None:
        self.late = True
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


class _Plain(_Patience, http.client.HTTPConnection):
    """Connection of http."""


class _Encrypted(_Patience, http.client.HTTPSConnection):
    """Connection of https."""


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, req)


class _EncryptedHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Encrypted, req)


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_PlainHandler, _EncryptedHandler)
