"""Weights files as bytes: local paths, and URIs that fsspec opens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from ussfc.errors import ModelError
from ussfc.local_files import open_regular

_CHUNK = 1 << 20
"""Bytes read at a time."""


def is_uri(path_or_uri: str | Path) -> bool:
    """Return True for ``scheme://...``, False for a local path."""
    return "://" in str(path_or_uri)


def shown(path_or_uri: str | Path) -> str:
    """Return the file's name for messages: a URI without user, password and signed query."""
    if not is_uri(path_or_uri):
        return str(path_or_uri)
    parts = urlsplit(str(path_or_uri))
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


@contextmanager
def opened(path_or_uri: str | Path) -> Iterator[BinaryIO]:
    """Open the file for reading bytes.

    Args:
        path_or_uri: a local path, or a URI of any scheme that fsspec knows (its driver installed).

    Raises:
        ModelError: it cannot be opened, or reading fails inside the block.
    """
    try:
        if is_uri(path_or_uri):
            # Local weights, the common case, must not pay for the import.
            import fsspec

            with fsspec.open(str(path_or_uri), "rb") as remote:
                yield cast(BinaryIO, remote)
        else:
            with open_regular(path_or_uri) as local:
                yield local
    except FileNotFoundError as error:
        raise ModelError(f"weights {shown(path_or_uri)}: no such file; check the path") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        fault = ModelError(f"weights {shown(path_or_uri)}: cannot be read ({reason})")
        fault.permanent = not is_uri(path_or_uri)
        raise fault from error
    except (ImportError, ValueError) as error:
        # fsspec raises these for a scheme that it does not know or whose driver is not installed.
        raise ModelError(
            f"weights {shown(path_or_uri)}: cannot be opened ({error}); install the driver "
            "or use a local copy"
        ) from error


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
