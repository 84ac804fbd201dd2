"""Labels of a sample as a map sets them: in its GeoPackage and its GeoParquet, one by one."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from ussfc.local_files import open_lock
from ussfc.pipeline.assessment import sample_files
from ussfc.pipeline.assessment.labels import NUMBERS, UNCLEAR
from ussfc.pipeline.assessment.sample import sample_folder
from ussfc.pipeline.errors import DamagedRecord, ReadError, SampleError, StoreError
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.polygons.files import sync
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

LABELS = ("change", "no change", UNCLEAR)
"""Labels that a map sets."""

WAITED = 10.0
"""Seconds that another program may hold the GeoPackage while a label is set."""


@dataclass
class LabelTable:
    """Points of a sample and their labels; a label is in the files as soon as it is set.

    The file that the table was opened from is what is shown. A label is set in both files and no other one is touched:
    several maps, and QGIS beside them, may label one sample.
    """

    path: Path
    """File that the labels are read from: the GeoPackage or the GeoParquet of a sample."""
    side: int
    """Side of a unit, pixels."""
    points: tuple[tuple[int, int, int], ...]
    """Id, row and column (in units) of each, in the order of the ids."""
    labels: dict[int, str] = field(default_factory=dict)
    """Label of each point that has one."""
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def open(cls, path: Path, run: RunRecord) -> LabelTable:
        """Read a sample.

        Args:
            path: its GeoPackage or GeoParquet.
            run: the run that is shown.

        Raises:
            ReadError, DamagedRecord: it is no sample.
            SampleError: it is one of another run, or neither of these files.
        """
        if path.name not in (sample_files.GPKG, sample_files.PARQUET):
            raise SampleError(
                f"{path}: labels are set in {sample_files.GPKG} and {sample_files.PARQUET} as `ussfc sample` wrote "
                "them; give one of these"
            )
        points, record = sample_files.read_points(path)
        if record.map.run != run.run or record.grid != run.grid:
            raise SampleError(
                f"{path}: is a sample of run {record.map.run}, and the map is of run {run.run}; give the folder that "
                "was sampled"
            )
        rows = sorted(zip(*(points[name].tolist() for name in sample_files.WHOLE), strict=True))
        found = cls(path, record.side, tuple((int(a), int(b), int(c)) for a, b, c in rows))
        found.labels = found._read(points)
        return found

    def refresh(self) -> None:
        """Read the labels again.

        Raises:
            ReadError: the file cannot be read.
        """
        with self._lock:
            self.labels = self._read(sample_files.read_points(self.path)[0])

    def set(self, number: int, label: str | None) -> None:
        """Set the label of a point, or take it back with None, in the files.

        Raises:
            ValueError: there is no such label or point.
            StoreError: a file cannot be written; the label is not kept.
        """
        if label is not None and label not in LABELS:
            raise ValueError(f"a label is one of {', '.join(LABELS)}, not {label}")
        if number not in {point[0] for point in self.points}:
            raise ValueError(f"no point {number}")
        folder = self.path.parent
        with self._lock, self._alone():
            try:
                if (folder / sample_files.GPKG).exists():
                    _set_in_geopackage(folder / sample_files.GPKG, number, label)
                if (folder / sample_files.PARQUET).exists():
                    _set_in_parquet(folder / sample_files.PARQUET, number, label)
            except (OSError, sqlite3.Error) as error:
                line = " ".join(str(error).split())
                raise StoreError(
                    f"{folder}: the label cannot be written ({line}); make room or a way there, and end edits in "
                    "other programs"
                ) from error
            if label is None:
                self.labels.pop(number, None)
            else:
                self.labels[number] = label

    def facts(self) -> dict[str, Any]:
        """Return points and labels as JSON values."""
        self.refresh()
        return {
            "file": str(self.path),
            "side": self.side,
            "points": [list(point) for point in self.points],
            "labels": {str(number): label for number, label in self.labels.items()},
        }

    def _read(self, points: Any) -> dict[int, str]:
        texts = sample_files.as_text(points["reference"])
        # Others may write 1 for change; what is no class is shown as no label, and `ussfc assess` names it.
        names = {1: LABELS[0], 0: LABELS[1], -1: UNCLEAR}
        return {
            int(number): names[NUMBERS[text]]
            for number, text in zip(points["id"], texts, strict=True)
            if text in NUMBERS
        }

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other map sets a label."""
        try:
            descriptor = open_lock(self.path.with_name(f".{sample_files.RECORD}.lock"))
        except OSError as error:
            raise StoreError(
                f"{self.path.parent}: no label can be written there ({error.strerror or error}); make it writable, or "
                "copy the sample to a folder that is"
            ) from error
        try:
            yield
        finally:
            os.close(descriptor)


def find_sample(out: Folder) -> Path | None:
    """Return the points of the sample in the usual folder beside OUT; None where there is none."""
    folder = sample_folder(out)
    for name in (sample_files.GPKG, sample_files.PARQUET):
        if (folder / name).is_file():
            return folder / name
    return None


def _set_in_geopackage(path: Path, number: int, label: str | None) -> None:
    # In its place and by SQLite's own transaction: QGIS may have the file open.
    with closing(sqlite3.connect(path, timeout=WAITED)) as database:
        # Triggers of its spatial index name functions of GDAL's, and call them for geometries alone.
        for name in ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY"):
            database.create_function(name, 1, lambda _: None)
        with database:
            database.execute(
                f'UPDATE "{sample_files.POINTS}" SET reference = ? WHERE id = ?',  # noqa: S608 - a constant
                (label, number),
            )
            time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            database.execute(
                "UPDATE gpkg_contents SET last_change = ? WHERE table_name = ?", (time, sample_files.POINTS)
            )


def _set_in_parquet(path: Path, number: int, label: str | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        table = file.read()
    column = table.schema.get_field_index("reference")
    texts = sample_files.as_text(table.column("reference").to_pylist())
    labels = [text or None for text in texts]
    labels[table.column("id").to_pylist().index(number)] = label
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        changed = table.set_column(column, "reference", pa.array(labels, pa.string()))
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), part)
        sync(part)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def open_labels(out: Folder | str, path: Path | None, subscriber: Subscriber = ignore) -> LabelTable | None:
    """Open the sample that a map is to label.

    Args:
        out: folder of the run.
        path: GeoPackage or GeoParquet of a sample, or its folder; None: that of the usual folder, if it is of this run.
        subscriber: receives a notice where that one cannot be read.

    Raises:
        ReadError, DamagedRecord, SampleError: the sample that was named cannot be used.
        StoreError: no finished run in OUT.
    """
    out = Folder.of(out)
    run = RunRecord.read(out, layout.MANIFEST)
    if path is not None:
        return LabelTable.open(path / sample_files.GPKG if path.is_dir() else path, run)
    found = find_sample(out)
    if found is None:
        return None
    try:
        return LabelTable.open(found, run)
    except SampleError:
        # It lies there by chance: of an earlier run.
        return None
    except (ReadError, DamagedRecord) as error:
        subscriber(Notice(f"{error}; the map is shown without a sample"))
        return None
