"""Verdicts of people on single polygons, kept in ``review.parquet`` and exported by their ids."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from ussfc.local_files import open_lock
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.polygons.files import sync

VERDICTS = ("accepted", "rejected", "unsure")

RUN = b"ussfc:run"
"""Key of the file's metadata that names the layer."""

REGIONS = b"ussfc:regions"
"""Key of the file's metadata that names the regions; earlier versions did not write it."""


Verdicts = dict[int, tuple[str, str, str]]


@dataclass
class ReviewTable:
    """Verdicts by the id of the polygon; the file has every one as soon as it is given.

    Several views may review the same polygons: each verdict is put into the file as it is then.
    """

    path: Path
    """``review.parquet``."""
    run: str
    """State of the polygons that are reviewed: the digest of their layer."""
    regions: str = ""
    """Digest of their run, ids and pixels, which stays when the layer gets other columns; empty: not known."""
    verdicts: Verdicts = field(default_factory=dict)
    """Verdict, note and time (ISO 8601, UTC) by id."""
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def open(cls, path: Path, run: str, regions: str = "") -> ReviewTable:
        """Read the verdicts that are there.

        Args:
            path: the file; it need not exist.
            run: digest of the layer that is reviewed.
            regions: digest of its regions; verdicts on the same ones hold in another layer too.

        Raises:
            StoreError: it is no such file, or of polygons of another state.
        """
        table = cls(path, run, regions)
        table.refresh()
        return table

    def refresh(self) -> None:
        """Read the file again.

        Raises:
            StoreError: it is no such file, or of polygons of another state.
        """
        with self._lock:
            self.verdicts = self._read()

    def set(self, number: int, verdict: str | None, note: str = "") -> None:
        """Keep a verdict, or take it back with None, and write the file.

        Raises:
            ValueError: the verdict is none of :data:`VERDICTS`, or the note no text.
            StoreError: the file cannot be read or written; the verdict is not kept.
        """
        if verdict is not None and verdict not in VERDICTS:
            raise ValueError(f"a verdict is one of {', '.join(VERDICTS)}, not {verdict}")
        # Half of a character that takes two is text for JSON, and for no file.
        note.encode()
        with self._lock, self._alone():
            verdicts = self._read()
            if verdict is None:
                verdicts.pop(number, None)
            else:
                time = datetime.now(UTC).isoformat(timespec="seconds")
                verdicts[number] = (verdict, note, time)
            self._write(verdicts)
            self.verdicts = verdicts

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other process changes the file."""
        try:
            # The file itself is replaced, and the folder's own lock is that of a run. Without locks in the file system
            # two views may lose a verdict given in the same instant.
            descriptor = open_lock(self.path.with_name(f".{self.path.name}.lock"))
        except OSError as error:
            raise self._not_written(error) from error
        try:
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> Verdicts:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.path.exists():
            return {}
        try:
            with pq.ParquetFile(self.path) as file:
                found = file.read(["id", "verdict", "note", "time"])
            columns = [found.column(name).to_pylist() for name in ("id", "verdict", "note", "time")]
            verdicts = {
                int(number): (str(a), str(b), str(c)) for number, a, b, c in zip(*columns, strict=True)
            }
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self.path}: is no file of verdicts ({' '.join(str(error).split())}); move it away, or name another "
                "file of verdicts"
            ) from error
        metadata = found.schema.metadata or {}
        same = bool(self.regions) and metadata.get(REGIONS) == self.regions.encode()
        if not same and metadata.get(RUN, b"") != self.run.encode():
            raise StoreError(
                f"{self.path}: holds verdicts on polygons of another run or threshold, whose ids mean other places; "
                "move it away, or name another file of verdicts"
            )
        return verdicts

    def _write(self, verdicts: Verdicts) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = sorted(verdicts.items())
        columns = {
            "id": pa.array([number for number, _ in rows], pa.int64()),
            "verdict": pa.array([found[0] for _, found in rows], pa.string()),
            "note": pa.array([found[1] for _, found in rows], pa.string()),
            "time": pa.array([found[2] for _, found in rows], pa.string()),
        }
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            # A link under this name is not followed.
            part.unlink(missing_ok=True)
            state = {RUN: self.run.encode(), **({REGIONS: self.regions.encode()} if self.regions else {})}
            pq.write_table(pa.table(columns).replace_schema_metadata(state), part)
            sync(part)
            part.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self.path}: cannot be written ({error.strerror or error}); make room or a way there, or name another "
            "file of verdicts"
        )

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
