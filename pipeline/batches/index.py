"""The index of a batch: a table and a STAC collection over the pairs that have ended."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ussfc.addresses import shown_address
from ussfc.pipeline.batches.collection import collection, pair_item
from ussfc.pipeline.batches.pair_lists import PairEntry
from ussfc.pipeline.dates import iso_time
from ussfc.pipeline.errors import DamagedRecord
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
                self._items[pair.name], _ = _item_of(folder, pair.name, record)

    def add(self, result: PairResult) -> None:
        """Add a pair that has ended."""
        self._results[result.name] = result
        self._items.pop(result.name, None)
        if result.manifest is None:
            return
        self._items[result.name] = renew_item(self._out / result.name, result.name, result.manifest)

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


def renew_item(folder: Folder, name: str, manifest: RunRecord) -> dict[str, Any]:
    """Write the STAC item of a pair, unless it differs in the time of its writing alone; return the one there is.

    Args:
        folder: of the pair.
        name: of the pair.
        manifest: its ``run.json``.
    """
    item, is_new = _item_of(folder, name, manifest)
    if is_new:
        folder.write_json(layout.ITEM, item)
    return item


def _item_of(folder: Folder, name: str, record: RunRecord) -> tuple[dict[str, Any], bool]:
    """Return the item of a pair, and whether it differs from that in its folder in more than the time."""
    made = pair_item(name, record, datetime.now(UTC).replace(microsecond=0))
    # As it comes back from its file: coordinates are tuples, which JSON does not know.
    item: dict[str, Any] = json.loads(json.dumps(made))
    with suppress(DamagedRecord):
        earlier = folder.find_json(layout.ITEM)
        if earlier is not None and _without_time(earlier) == _without_time(item):
            return earlier, False
    return item, True


def _without_time(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item without the moment of its writing."""
    found = item.get("properties")
    properties = (
        {key: value for key, value in found.items() if key != "datetime"} if isinstance(found, dict) else {}
    )
    return {**item, "properties": properties}


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
