"""Return of freed memory to the system between stages: the C library keeps it, and that of the next would be added."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from contextlib import suppress


def return_free_memory() -> None:
    """Return the memory that is free within this process to the system; do nothing where its library cannot."""
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], int] | None:
    # Of glibc; other libraries, as on macOS, give it back by themselves.
    with suppress(OSError, AttributeError, TypeError):
        return ctypes.CDLL(None).malloc_trim
    return None
