"""Errors of the network's own house."""

from __future__ import annotations


class ModelError(Exception):
    """A model that cannot be used; one line: what, where, found, wanted, what to do."""
