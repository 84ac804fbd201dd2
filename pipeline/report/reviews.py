"""Verdicts of people on single polygons, kept in ``review.parquet`` and exported by their ids."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from ussfc.pipeline.errors import StoreError

VERDICTS = ("accepted", "rejected", "unsure")

RUN = b"ussfc:run"
"""Key of the file's metadata that names the run."""


@dataclass
class ReviewTable:
    """Verdicts by the id of the polygon; the file has every one as soon as it is given."""

    path: Path
    """``review.parquet``."""
    run: str
    """State of the polygons that are reviewed: the digest of their layer."""
    verdicts: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    """Verdict, note and time (ISO 8601, UTC) by id."""
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def open(cls, path: Path, run: str) -> ReviewTable:
        """Read the verdicts that are there.

        Args:
            path: the file; it need not exist.
            run: digest of the layer that is reviewed.

        Raises:
            StoreError: it is no such file, or of polygons of another state.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = cls(path, run)
        if not path.exists():
            return table
        try:
            found = pq.read_table(path)
            rows = found.to_pylist()
            table.verdicts = {
                int(row["id"]): (str(row["verdict"]), str(row["note"]), str(row["time"])) for row in rows
            }
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise StoreError(
                f"{path}: is no file of verdicts ({' '.join(str(error).split())}); move it away, or "
                "name another file of verdicts"
            ) from error
        if (found.schema.metadata or {}).get(RUN, b"").decode() != run:
            raise StoreError(
                f"{path}: holds verdicts on polygons of another run or threshold, whose ids mean other places; move it "
                "away, or name another file of verdicts"
            )
        return table

    def set(self, number: int, verdict: str | None, note: str = "") -> None:
        """Keep a verdict, or take it back with None, and write the file.

        Raises:
            ValueError: the verdict is none of :data:`VERDICTS`.
            StoreError: the file cannot be written.
        """
        if verdict is not None and verdict not in VERDICTS:
            raise ValueError(f"a verdict is one of {', '.join(VERDICTS)}, not {verdict}")
        with self._lock:
            if verdict is None:
                self.verdicts.pop(number, None)
            else:
                time = datetime.now(UTC).isoformat(timespec="seconds")
                self.verdicts[number] = (verdict, note, time)
            self._write()

    def _write(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = sorted(self.verdicts.items())
        columns = {
            "id": pa.array([number for number, _ in rows], pa.int64()),
            "verdict": pa.array([found[0] for _, found in rows], pa.string()),
            "note": pa.array([found[1] for _, found in rows], pa.string()),
            "time": pa.array([found[2] for _, found in rows], pa.string()),
        }
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            pq.write_table(pa.table(columns).replace_schema_metadata({RUN: self.run.encode()}), part)
            part.replace(self.path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise StoreError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def counts(self) -> dict[str, int]:
        """Return the number of polygons by verdict."""
        given = [verdict for verdict, _, _ in self.verdicts.values()]
        return {verdict: given.count(verdict) for verdict in VERDICTS}

    def as_csv(self) -> str:
        """Return the table as CSV."""
        target = io.StringIO()
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(("id", "verdict", "note", "time"))
        writer.writerows((number, *found) for number, found in sorted(self.verdicts.items()))
        return target.getvalue()

    def as_geojson(self, features: dict[int, dict[str, Any]]) -> str:
        """Return the table as GeoJSON.

        Args:
            features: geometry (longitude and latitude) and attributes of each id.
        """
        listed = [
            {
                "type": "Feature",
                "id": number,
                "geometry": features[number]["geometry"],
                "properties": {
                    **features[number]["properties"], "verdict": verdict, "note": note, "time": time,
                },
            }
            for number, (verdict, note, time) in sorted(self.verdicts.items())
            if number in features
        ]  # fmt: skip
        return json.dumps({"type": "FeatureCollection", "features": listed})
