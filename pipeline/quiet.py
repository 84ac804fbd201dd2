"""Warnings of libraries left out, by any number of threads at a time."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_LOCK = threading.Lock()
_UNDER_WAY: list[ExitStack] = []
"""Filters as they were before the first of the bodies under way, once for each of them."""


@contextmanager
def ignored_warnings(category: type[Warning]) -> Iterator[None]:
    """Ignore warnings of a category in the body.

    Python's filters are those of the process: a thread that puts them back would end what others have begun. So the
    last body under way puts them back, and those that a library changes meanwhile lie within.

    Args:
        category: class of the warnings.
    """
    with _LOCK:
        if not _UNDER_WAY:
            filters = ExitStack()
            filters.enter_context(warnings.catch_warnings())
        else:
            filters = _UNDER_WAY[-1]
        warnings.simplefilter("ignore", category)
        _UNDER_WAY.append(filters)
    try:
        yield
    finally:
        with _LOCK:
            filters = _UNDER_WAY.pop()
            if not _UNDER_WAY:
                filters.close()
