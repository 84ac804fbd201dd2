"""Warnings of libraries left out, by any number of threads."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_FILTERS = threading.RLock()
"""Python's filters are those of the process: a thread that puts them back would end what another one has begun."""


@contextmanager
def ignored_warnings(category: type[Warning]) -> Iterator[None]:
    """Ignore warnings of a category in the body; other threads that ask for the same wait for its end.

    Args:
        category: class of the warnings.
    """
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", category)
        yield
