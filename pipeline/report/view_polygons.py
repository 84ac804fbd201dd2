"""The polygons of a run for a map: which ones lie in a part of it, and their outlines in pixels of the grid."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.polygons.geoparquet import CHANGES, KIND

COLUMNS = ("id", "area_m2", "pixels", "mean_probability", "max_probability")

MOST_SHOWN = 1500
"""Polygons of a view that are outlined; of more the largest are."""

BANDS = ("before_", "after_")
"""Beginnings of the names of columns with values of bands."""

GROUPS = 4
"""Row groups whose outlines are kept."""


def rings(outline: Any) -> list[list[list[float]]]:
    """Return the rings of a polygon as lists of [column, row], pixels, rounded to a hundredth."""
    parts = outline.geoms if outline.geom_type == "MultiPolygon" else [outline]
    return [
        np.round(shapely.get_coordinates(ring), 2).tolist()
        for part in parts
        for ring in (part.exterior, *part.interiors)
    ]


@dataclass(frozen=True)
class Filter:
    """Polygons that count."""

    least_size: float = 0.0
    """m2, or pixels on a grid without CRS."""
    least_probability: float = 0.0
    """Mean of a polygon."""


class PolygonIndex:
    """All polygons of a GeoParquet layer by their bounds; outlines stay in the file.

    Takes 73 bytes of memory a polygon.
    """

    def __init__(self, path: Path, grid: GeoBox) -> None:
        """Read everything but the outlines.

        Args:
            path: a layer in GeoParquet, written by a run.
            grid: of the run.

        Raises:
            OSError, ValueError, KeyError, pyarrow.ArrowException: it cannot be read.
        """
        import pyarrow.parquet as pq

        self._path, self._grid = path, grid
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            hints = [name for name in (KIND, *CHANGES) if name in names]
            self._bands = [name for name in names if name.startswith(BANDS)]
            table = file.read([*COLUMNS, *hints, "bbox"])
            self._starts = np.cumsum(
                [0] + [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            )
        columns = {
            name: table.column(name).to_numpy(zero_copy_only=False).astype(np.float64) for name in COLUMNS[1:]
        }
        self.ids: npt.NDArray[np.int64] = table.column("id").to_numpy(zero_copy_only=False)
        self.columns = columns
        self._kinds = table.column(KIND).combine_chunks().dictionary_encode() if KIND in hints else None
        self._changes = {
            name: table.column(name).to_numpy(zero_copy_only=False) for name in CHANGES if name in hints
        }
        self.in_metres = bool(np.isfinite(columns["area_m2"]).all())
        self.sizes = columns["area_m2"] if self.in_metres else columns["pixels"]
        box = table.column("bbox").combine_chunks()
        corners = np.stack(
            [box.field(side).to_numpy(zero_copy_only=False) for side in ("xmin", "ymax", "xmax", "ymin")]
        )
        to_pixels = ~grid.affine
        # Rows go with y on a grid without CRS, against it on others.
        (left, top), (right, bottom) = (
            to_pixels * (corners[0], corners[1]),
            to_pixels * (corners[2], corners[3]),
        )
        edges = (
            *map(np.minimum, (top, left), (bottom, right)),
            *map(np.maximum, (top, left), (bottom, right)),
        )
        self.bounds = np.stack(edges, axis=1).astype(np.float32)
        self._place = {int(number): row for row, number in enumerate(self.ids)}
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self, run: str) -> str:
        """Return a digest of the regions of a run: the same whatever else the layer holds of them."""
        found = hashlib.sha256(run.encode())
        for values in (self.ids, self.columns["pixels"]):
            found.update(np.ascontiguousarray(values).data)
        return found.hexdigest()

    def row(self, number: int) -> int | None:
        """Return the row of a polygon by its id; None where there is none."""
        return self._place.get(number)

    def passing(self, chosen: Filter) -> npt.NDArray[np.bool_]:
        """Return which polygons pass a filter."""
        found: npt.NDArray[np.bool_] = (self.sizes >= chosen.least_size) & (
            self.columns["mean_probability"] >= chosen.least_probability
        )
        return found

    def within(self, view: Sequence[float], chosen: Filter) -> tuple[npt.NDArray[np.int64], int]:
        """Return the rows of polygons in a part of the grid, the largest first, and how many there are.

        Args:
            view: first row, first column, last row, last column, pixels.
            chosen: filter.
        """
        top, left, bottom, right = self.bounds.T
        # In float64: an address of the page may hold any number.
        first_row, first_column, last_row, last_column = np.array(view, np.float64)
        inside = (top <= last_row) & (bottom >= first_row) & (left <= last_column) & (right >= first_column)
        rows = np.flatnonzero(inside & self.passing(chosen))
        order = np.argsort(-self.sizes[rows], kind="stable")
        return rows[order[:MOST_SHOWN]], len(rows)

    def at(self, row: float, column: float) -> int | None:
        """Return the row of the smallest polygon at a place of the grid; None where there is none."""
        top, left, bottom, right = self.bounds.T
        row, column = np.float64(row), np.float64(column)
        candidates = np.flatnonzero((top <= row) & (bottom >= row) & (left <= column) & (right >= column))
        point = shapely.Point(column, row)
        outlines = self.outlines(candidates)
        hits = [
            place
            for place, outline in zip(candidates.tolist(), outlines, strict=True)
            if outline.intersects(point)
        ]
        return min(hits, key=lambda place: float(self.sizes[place]), default=None)

    def queue(self, order: str, chosen: Filter) -> npt.NDArray[np.int64]:
        """Return rows to be reviewed, in order.

        Args:
            order: ``size``, ``probability`` (the most likely first) or ``doubt`` (the nearest to 0.5 first).
            chosen: filter.
        """
        rows = np.flatnonzero(self.passing(chosen))
        mean = self.columns["mean_probability"][rows]
        key = {"size": -self.sizes[rows], "probability": -mean, "doubt": np.abs(mean - 0.5)}[order]
        return rows[np.argsort(key, kind="stable")]

    def outline(self, row: int) -> Any:
        """Return a polygon with (column, row) coordinates in pixels of the grid.

        Raises:
            ReadError: the file cannot be read.
        """
        return self.outlines(np.array([row]))[0]

    def outlines(self, rows: npt.NDArray[np.int64]) -> list[Any]:
        """Return the polygons of several rows; each part of the file is read once.

        Raises:
            ReadError: the file cannot be read.
        """
        found: list[Any] = [None] * len(rows)
        groups = np.searchsorted(self._starts, rows, side="right") - 1
        to_pixels = ~self._grid.affine
        for group in np.unique(groups).tolist():
            places = np.flatnonzero(groups == group)
            stored = self._outlines(group).take(rows[places] - self._starts[group])
            geometries = shapely.transform(
                shapely.from_wkb(stored.to_pylist()),
                lambda points: np.stack(to_pixels * (points[:, 0], points[:, 1]), axis=1),
            )
            for place, geometry in zip(places.tolist(), geometries, strict=True):
                found[place] = geometry
        return found

    def describe(self, row: int) -> dict[str, Any]:
        """Return the attributes of a polygon, as JSON values."""
        found: dict[str, Any] = {"id": int(self.ids[row])}
        if self._kinds is not None:
            found[KIND] = self._kinds[row].as_py()
        for name, values in (*self.columns.items(), *self._changes.items()):
            value = float(values[row])
            found[name] = round(value, 4) if np.isfinite(value) else None
        found["bounds"] = [round(float(value), 1) for value in self.bounds[row]]
        return found

    def bands(self, row: int) -> dict[str, float | None]:
        """Return the mean values of a polygon's bands, before and after; nothing where the layer has none.

        Raises:
            ReadError: the file cannot be read.
        """
        if not self._bands:
            return {}
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        (found,) = self._read(group, self._bands).slice(row - int(self._starts[group]), 1).to_pylist()
        return {name: None if value is None else float(f"{value:.6g}") for name, value in found.items()}

    def _read(self, group: int, columns: list[str]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self._path) as file:
                return file.read_row_group(group, columns)
        except (OSError, LookupError, ValueError, pa.ArrowException) as error:
            line = " ".join(str(error).split())
            raise ReadError(
                f"{self._path}: outlines cannot be read ({line}); run `ussfc validate` on the folder"
            ) from error

    def _outlines(self, group: int) -> Any:
        with self._lock:
            if group not in self._kept:
                self._kept[group] = self._read(group, ["geometry"]).column("geometry")
                while len(self._kept) > GROUPS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(group)
            return self._kept[group]
