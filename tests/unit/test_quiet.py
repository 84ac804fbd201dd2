"""Warnings that are left out by bodies that end in any order, as those of threads do."""

from __future__ import annotations

import warnings

import pytest

from ussfc.pipeline.quiet import ignored_warnings


def test_the_last_body_puts_the_filters_back() -> None:
    before = list(warnings.filters)
    first, second = ignored_warnings(RuntimeWarning), ignored_warnings(RuntimeWarning)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    warnings.warn("ignored", RuntimeWarning, stacklevel=1)
    second.__exit__(None, None, None)
    assert warnings.filters == before
    with pytest.raises(RuntimeWarning):
        warnings.warn("an error again", RuntimeWarning, stacklevel=1)
