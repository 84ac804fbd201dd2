"""Errors of the network's own house. Every message is one line: what, where, found, wanted, what to do."""

from __future__ import annotations


class ModelError(Exception):
    """A model that cannot be used."""


class DataError(Exception):
    """Labelled data that cannot be used; names the file."""


class TrainingError(Exception):
    """A training that cannot start or go on; names the recipe's key, the checkpoint or the step."""
