"""Files of a layer in the making, and one form of their errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ussfc.pipeline.errors import StoreError


def write_error(target: Path, error: Exception) -> StoreError:
    """Return the error of a layer that cannot be written."""
    found = " ".join(str(error).split())
    return StoreError(
        f"cannot write {target}: {found}; make sure that its folder is writable and has room,"
        " then run this stage again"
    )


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn errors of the disk in the body into one that names the product.

    Raises:
        ussfc.pipeline.errors.StoreError: the body raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise write_error(target, error) from error


def discard(*files: Path) -> None:
    """Remove files where they exist."""
    for file in files:
        file.unlink(missing_ok=True)


def sync(file: Path) -> None:
    """Put a file on the disk, before it gets the name of a complete one."""
    handle = os.open(file, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
