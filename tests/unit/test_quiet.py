"""Warnings that are left out while other threads do the same."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

from ussfc.pipeline.quiet import ignored_warnings


def test_threads_do_not_end_each_others_filters() -> None:
    def warn(_: int) -> None:
        for _ in range(20):
            with ignored_warnings(RuntimeWarning):
                for _ in range(20):
                    warnings.warn("ignored", RuntimeWarning, stacklevel=1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(warn, range(40)))
