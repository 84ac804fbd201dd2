"""Errors of the network's part. Every message is one line: what, where, found, expected, what to do."""

from __future__ import annotations

from ussfc.addresses import without_addresses


class ModelError(Exception):
    """A model that cannot be used; addresses in its message are shown without secrets."""

    permanent = True
    """False where its file may be within reach again after a pause."""

    def __init__(self, message: str) -> None:
        super().__init__(without_addresses(message))


class DataError(Exception):
    """Labelled data that cannot be used; names the file.

    Args:
        message: the first fault, which is what is shown.
        others: further faults of the same pair, for a check that names them all.
    """

    def __init__(self, message: str, *others: str) -> None:
        super().__init__(message)
        self.messages = (message, *others)


class TrainingError(Exception):
    """A training that cannot start or go on; names the recipe's key, the checkpoint or the step."""
