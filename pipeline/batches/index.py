"""The index of a batch: a table and a STAC collection over the pairs that have ended."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pystac.utils import str_to_datetime

from ussfc.addresses import shown_address
from ussfc.pipeline.batches.collection import collection
from ussfc.pipeline.batches.pair_lists import PairEntry
from ussfc.pipeline.dates import iso_time
from ussfc.pipeline.errors import DamagedRecord
from ussfc.pipeline.report.item import run_item, write_item
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

COLUMNS = (
    "name", "state", "before", "after", "date_before", "date_after", "pixels", "changed_pixels", "changed_share",
    "changed_km2", "polygons", "tiles", "tiles_failed", "seconds", "warnings", "error",
)  # fmt: skip
"""Columns of the table: ``state`` is complete, incomplete (tiles kept failing), failed, or waiting; ``pixels`` are the
valid ones; ``changed_km2`` is the geodesic area of the polygons, empty without a CRS; ``seconds`` are those of the
stages of the run that computed last; ``warnings`` are joined by " | "."""


@dataclass(frozen=True, slots=True)
class PairResult:
    """The outcome of a pair."""

    name: str
    manifest: RunRecord | None
    """Content of its ``run.json``; None: it failed."""
    error: str | None
    """Cause of the failure, one line."""

    def dump(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        manifest = None if self.manifest is None else self.manifest.dump()
        return {"name": self.name, "manifest": manifest, "error": self.error}


class BatchIndex:
    """The table and the collection over the pairs that have ended so far, in this call or an earlier one.

    Args:
        out: folder of the batch.
        pairs: the list.
    """

    def __init__(self, out: Folder, pairs: Sequence[PairEntry]) -> None:
        self._out = out
        self._pairs = pairs
        self._results: dict[str, PairResult] = {}
        self._items: dict[str, dict[str, Any]] = {}
        for pair in pairs:
            record, folder = None, out / pair.name
            # Its run makes it again.
            with suppress(DamagedRecord):
                record = RunRecord.find(folder, layout.MANIFEST)
            if record is not None and record.products and folder.exists(layout.ITEM):
                self._results[pair.name] = PairResult(pair.name, record, None)
                self._items[pair.name] = _listed_item(folder, pair.name, record)

    def add(self, result: PairResult) -> None:
        """Add a pair that has ended."""
        self._results[result.name] = result
        self._items.pop(result.name, None)
        if result.manifest is None:
            return
        self._items[result.name] = write_item(self._out / result.name, result.manifest, result.name)

    def results(self) -> list[PairResult]:
        """Return the results in the order of the list."""
        return [self._results[pair.name] for pair in self._pairs]

    def write(self) -> None:
        """Write both files."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(_row(pair, self._results.get(pair.name)) for pair in self._pairs)
        self._out.write(layout.RESULTS_TABLE, text.getvalue().encode())
        items = [self._items[pair.name] for pair in self._pairs if pair.name in self._items]
        self._out.write_json(layout.COLLECTION, collection("Change between pairs of scenes", items))


def _listed_item(folder: Folder, name: str, record: RunRecord) -> dict[str, Any]:
    """Return what the collection takes of an item that is there: made from the record, with the time in its file."""
    made = datetime.now(UTC).replace(microsecond=0)
    with suppress(DamagedRecord, LookupError, TypeError, ValueError):
        made = str_to_datetime((folder.find_json(layout.ITEM) or {})["properties"]["datetime"])
    return run_item(name, record, made, folder=folder.local, in_batch=True)


def _row(pair: PairEntry, result: PairResult | None) -> dict[str, Any]:
    row: dict[str, Any] = {"name": pair.name, "state": "waiting"}
    row |= {"before": shown_address(pair.before), "after": shown_address(pair.after)}
    if result is None:
        return row
    if result.manifest is None:
        return row | {"state": "failed", "error": result.error}
    counts, inputs = result.manifest.counts, result.manifest.inputs
    area = counts.polygon_area_m2
    return row | {
        "date_before": iso_time(inputs.before.acquired),
        "date_after": iso_time(inputs.after.acquired),
        "changed_km2": None if area is None else round(area / 1e6, 6),
        "warnings": " | ".join(result.manifest.warnings),
        "state": "complete" if result.manifest.complete else "incomplete",
        "pixels": counts.classified_pixels,
        "changed_pixels": counts.changed_pixels,
        "changed_share": round(counts.changed_share, 6) if counts.classified_pixels else 0,
        "polygons": counts.polygons,
        "tiles": counts.tiles,
        "tiles_failed": counts.tiles_failed,
        "seconds": round(sum(stage.seconds for stage in result.manifest.stages.values()), 1),
    }
