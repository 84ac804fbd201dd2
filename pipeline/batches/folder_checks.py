"""State and validity of a batch, pair by pair, from its folder alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ussfc.pipeline.errors import DamagedRecord, StoreError
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.runs.status import status
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

if TYPE_CHECKING:
    from ussfc.pipeline.runs.validate import Check

STATES = ("complete", "incomplete", "unfinished", "waiting", "failed")
"""States of a pair, each worse than the one before."""


@dataclass(frozen=True, slots=True)
class PairStatus:
    """The state of a pair."""

    name: str
    state: str
    """One of :data:`STATES`."""
    changed_share: float | None
    """Share of the classified pixels that changed; None before there are products."""
    warnings: tuple[str, ...]
    error: str | None
    """Cause of the failure, one line."""

    def dump(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "name": self.name,
            "state": self.state,
            "changed_share": self.changed_share,
            "warnings": list(self.warnings),
            "error": self.error,
        }


def is_batch(out: Folder | Path | str) -> bool:
    """Return whether OUT is the folder of a batch, and of no run.

    Raises:
        StoreError: it cannot be reached.
    """
    out = Folder.of(out)
    out.ping()
    return (
        out.exists(layout.RESULTS_TABLE)
        and not out.exists(layout.MANIFEST)
        and not out.exists(layout.in_work(layout.RUN_KEY))
    )


def batch_status(out: Folder | Path | str) -> list[PairStatus]:
    """Return the state of each pair, in the order of the list.

    Args:
        out: folder of a batch, path or URI.

    Raises:
        StoreError: the folder cannot be reached, or its table is damaged.
    """
    out = Folder.of(out)
    return [_pair_status(out / name, name, error) for name, error in _errors(out)]


def worst_state(pairs: list[PairStatus]) -> str:
    """Return the worst state of a batch's pairs."""
    return max((pair.state for pair in pairs), key=STATES.index, default="complete")


def validate_batch(out: Folder | Path | str) -> Iterator[tuple[str, list[Check] | str]]:
    """Yield the name of each pair with the checks of its products, or with the reason why there is nothing to check.

    Args:
        out: folder of a batch, path or URI.
    """
    from ussfc.pipeline.runs.validate import Check, validate

    out = Folder.of(out)
    for name, error in _errors(out):
        if not (out / name).exists(layout.MANIFEST):
            yield name, error or "not finished yet"
            continue
        try:
            yield name, validate(out / name)
        except StoreError as reason:
            yield name, [Check("products can be checked", False, str(reason))]


def _pair_status(folder: Folder, name: str, error: str | None) -> PairStatus:
    if error is not None and not folder.exists(layout.MANIFEST):
        return PairStatus(name, "failed", None, (), error)
    try:
        found = status(folder, waiting=True)
        record = RunRecord.find(folder, layout.MANIFEST)
    except DamagedRecord as damage:
        return PairStatus(name, "failed", None, (), str(damage))
    if record is None:
        return PairStatus(name, found.state, None, (), error)
    share = round(record.counts.changed_share, 6) if record.counts.classified_pixels else None
    return PairStatus(name, found.state, share, record.warnings, error)


def _errors(out: Folder) -> list[tuple[str, str | None]]:
    return [(row["name"], row["error"] or None) for row in read_table(out)]


def read_table(out: Folder) -> list[dict[str, str]]:
    """Return ``name``, ``before``, ``after`` and ``error``, empty without one, of each pair in the table of a batch.

    Raises:
        StoreError: it is no table of a batch.
    """
    try:
        text = out.read(layout.RESULTS_TABLE).decode("utf-8")
        columns = ("name", "before", "after", "error")
        rows = [{name: row[name] or "" for name in columns} for row in csv.DictReader(io.StringIO(text))]
        if not all(layout.PAIR_FOLDER.fullmatch(row["name"]) for row in rows):
            raise ValueError("a name cannot be a folder's")
    except (ValueError, KeyError, csv.Error) as error:
        raise StoreError(
            f"{out / layout.RESULTS_TABLE}: is no table of a batch ({error}); the same `ussfc batch` writes it again"
        ) from error
    return rows
