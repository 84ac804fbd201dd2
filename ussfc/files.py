"""Weights files as bytes: local paths, and URIs that fsspec opens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from ussfc.addresses import shown_address, without_secrets
from ussfc.errors import ModelError
from ussfc.local_files import open_regular

_CHUNK = 1 << 20
"""Bytes read at a time."""


def is_uri(path_or_uri: str | Path) -> bool:
    """Return True for ``scheme://...``, False for a local path."""
    return "://" in str(path_or_uri)


@contextmanager
def opened(path_or_uri: str | Path, what: str = "weights") -> Iterator[BinaryIO]:
    """Open the file for reading bytes.

    Args:
        path_or_uri: a local path, or a URI of any scheme that fsspec knows (its driver installed).
        what: kind of file, for messages.

    Raises:
        ModelError: it cannot be opened, or reading fails inside the block.
    """
    where = f"{what} {shown_address(path_or_uri)}"
    if not is_uri(path_or_uri):
        try:
            with open_regular(path_or_uri) as local:
                yield local
        except FileNotFoundError as error:
            raise ModelError(f"{where}: no such file; check the path") from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ModelError(f"{where}: cannot be read ({reason})") from error
        return
    # A local file, the common case, must not pay for these imports.
    from ussfc.web import UnusableAddress, store_exceptions

    try:
        with _opened_remote(str(path_or_uri)) as remote:
            yield remote
    except FileNotFoundError as error:
        raise ModelError(f"{where}: no such file; check the address") from error
    except (ImportError, ValueError) as error:
        # fsspec raises these for a scheme that it does not know or whose driver is not installed.
        reason = without_secrets(str(error), str(path_or_uri))
        raise ModelError(
            f"{where}: cannot be opened ({reason}); install the driver or use a local copy"
        ) from error
    except store_exceptions() as error:
        reason = without_secrets(" ".join(str(error).split()), str(path_or_uri)) or type(error).__name__
        fault = ModelError(
            f"{where}: cannot be read ({reason}); check the address, its signature and the credentials"
        )
        fault.permanent = isinstance(error, PermissionError | UnusableAddress)
        raise fault from error


@contextmanager
def _opened_remote(uri: str) -> Iterator[BinaryIO]:
    from ussfc import web

    if web.is_web(uri):
        with web.opened(uri) as answer:
            yield answer
        return
    import fsspec

    with fsspec.open(uri, "rb") as remote:
        yield cast(BinaryIO, remote)


def sha256_of(path_or_uri: str | Path) -> str:
    """Compute the SHA-256 of the file, 64 lower-case hex digits, read a megabyte at a time.

    Raises:
        ModelError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with opened(path_or_uri) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_digest(path_or_uri: str | Path, sha256: str) -> None:
    """Refuse a file of weights with another digest than the model card's.

    Raises:
        ModelError: it has another one, or cannot be read.
    """
    found = sha256_of(path_or_uri)
    if found != sha256:
        raise ModelError(
            f"weights {shown_address(path_or_uri)}: sha256 is {found}, expected {sha256}; get the file again or "
            "correct the model card"
        )
