"""A map of a run in the browser: its layers opened, and what the page asks of them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyproj
import shapely

import ussfc
from ussfc.pipeline.errors import ConfigError, GridError, ReadError, StoreError
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.report import facts
from ussfc.pipeline.report.overviews import ChangeOverview, read_dates, read_level
from ussfc.pipeline.report.page import view_numbers
from ussfc.pipeline.report.pictures import stretch_ends
from ussfc.pipeline.report.reviews import ReviewTable
from ussfc.pipeline.report.thumbnails import Presentation, unchecked
from ussfc.pipeline.report.view_polygons import Filter, PolygonIndex, rings
from ussfc.pipeline.report.view_tiles import SIDE, TileSource, levels
from ussfc.pipeline.report.write import color_places, mappings_of
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.runs.pair import ScenePair
from ussfc.pipeline.runs.recorded_pair import recorded_pair
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.grid import crs_name

OVERVIEW = 512
"""Side of the overview that colours and the histogram are taken from, pixels."""

MOST_QUEUED = 5000
"""Polygons of a queue that the page gets at a time."""

MOST_COPIED = 1_000_000_000
"""Largest layer of an object store that is copied here for a map, bytes: some five million polygons."""

MENTIONED = 20_000_000
"""Size of a layer from which its copying is a notice, bytes."""

REVIEW = "review.parquet"
"""Verdicts, beside the products of a local OUT."""


class LabelStore(Protocol):
    """Points of a sample that people label on a map."""

    def facts(self) -> dict[str, Any]:
        """Return file, side of a unit, points and labels as JSON values."""

    def set(self, number: int, label: str | None) -> None:
        """Set the label of a point, or take it back with None.

        Raises:
            ValueError: there is no such label or point.
            StoreError: it cannot be kept.
        """


@dataclass(frozen=True)
class RunView:
    """A run as a map shows it."""

    record: RunRecord
    tiles: TileSource
    overview: ChangeOverview
    polygons: PolygonIndex | None
    reviews: ReviewTable | None
    absent: tuple[str, ...]
    """Reasons why a part cannot be shown."""
    labels: LabelStore | None = None
    """Sample to be labelled; None without one."""

    def facts(self) -> dict[str, Any]:
        """Return everything that the page needs at its start, as JSON values."""
        record, grid = self.record, self.record.grid.geobox
        polygons = self.polygons
        return {
            **view_numbers(record, self.overview),
            "title": facts.title_of(record),
            "place": facts.place_of(record),
            "crs": crs_name(grid),
            "transform": list(grid.affine)[:6],
            "shape": list(record.grid.shape),
            "levels": levels(record.grid.shape),
            "side": SIDE,
            "dates": self.tiles.pair is not None,
            "absent": list(self.absent),
            "warnings": facts.warnings_of(record),
            "licence": record.model.licence,
            "polygons": None
            if polygons is None
            else {
                "count": len(polygons),
                "in_metres": polygons.in_metres,
                "largest": float(polygons.sizes.max()) if len(polygons) else 0.0,
            },
            "review": self.review(),
            "sample": self.labels is not None,
        }

    def review(self) -> dict[str, Any] | None:
        """Return the verdicts by id, and where they are kept."""
        if self.reviews is None:
            return None
        # Another view may have given some since.
        self.reviews.refresh()
        return {
            "file": str(self.reviews.path),
            "verdicts": {str(number): found[0] for number, found in self.reviews.verdicts.items()},
        }

    def within(self, view: tuple[float, float, float, float], chosen: Filter) -> dict[str, Any]:
        """Return outlines and attributes of the polygons in a part of the grid, the largest ones where many are."""
        if self.polygons is None:
            return {"polygons": [], "count": 0}
        rows, count = self.polygons.within(view, chosen)
        outlines = self.polygons.outlines(rows)
        found = [
            {**self.polygons.describe(row), "rings": rings(outline)}
            for row, outline in zip(rows.tolist(), outlines, strict=True)
        ]
        return {"polygons": found, "count": count}

    def polygon(self, row: int | None) -> dict[str, Any] | None:
        """Return outline and attributes of one polygon; None without one."""
        if self.polygons is None or row is None:
            return None
        return {
            **self.polygons.describe(row),
            "bands": self.polygons.bands(row),
            "rings": rings(self.polygons.outline(row)),
        }

    def queue(self, order: str, chosen: Filter, state: str) -> dict[str, Any]:
        """Return ids in the order of a review.

        Args:
            order: ``size``, ``probability`` or ``doubt``.
            chosen: filter.
            state: ``open`` (without a verdict), a verdict, or ``all``.
        """
        if self.polygons is None:
            return {"ids": [], "count": 0}
        ids = self.polygons.ids[self.polygons.queue(order, chosen)]
        given = {} if self.reviews is None else self.reviews.verdicts
        if state != "all":
            known = np.fromiter(given, np.int64, len(given))
            ids = (
                ids[~np.isin(ids, known)]
                if state == "open"
                else ids[[given.get(int(number), ("",))[0] == state for number in ids]]
            )
        return {"ids": ids[:MOST_QUEUED].tolist(), "count": len(ids)}

    def export(self) -> str:
        """Return the verdicts as GeoJSON in longitude and latitude; without a CRS in pixels of the grid."""
        assert self.reviews is not None
        features: dict[int, dict[str, Any]] = {}
        grid = self.record.grid.geobox
        for number in self.reviews.verdicts:
            row = None if self.polygons is None else self.polygons.row(number)
            if self.polygons is None or row is None:
                continue
            outline = shapely.transform(
                self.polygons.outline(row),
                lambda points: np.stack(grid.affine * (points[:, 0], points[:, 1]), axis=1),
            )
            if grid.crs is not None:
                project = pyproj.Transformer.from_crs(grid.crs.to_wkt(), "OGC:CRS84", always_xy=True)
                outline = shapely.transform(
                    outline,
                    lambda points, to=project: np.stack(to.transform(points[:, 0], points[:, 1]), axis=1),
                )
            properties = self.polygons.describe(row)
            properties.pop("bounds")
            features[number] = {"geometry": json.loads(shapely.to_geojson(outline)), "properties": properties}
        return self.reviews.as_geojson(features)


def open_view(
    out: Folder | str,
    stack: ExitStack,
    review: Path | None = None,
    labels: LabelStore | None = None,
    subscriber: Subscriber = ignore,
) -> RunView:
    """Open a finished run for a map.

    What cannot be read besides the probabilities is left out with a reason.

    Args:
        out: output folder, path or URI.
        stack: closes copies of files of an object store at its end.
        review: file of verdicts; by default ``review.parquet`` in a local OUT, else in the working directory.
        labels: sample to be labelled.
        subscriber: receives notices.

    Raises:
        StoreError: no finished run in OUT, or verdicts of another one.
        ReadError: the rasters cannot be read.
    """
    out = Folder.of(out)
    out.ping()
    record = RunRecord.read(out, layout.MANIFEST)
    missing = [name for name in (layout.CHANGE, layout.PROBABILITY) if not out.exists(name)]
    if missing:
        raise StoreError(f"{out / missing[0]}: missing; run `ussfc mosaic` on the folder")
    overview = read_level(out, record.grid.shape).overview(OVERVIEW)
    absent: list[str] = []
    pair, presentation = _dates(record, overview, absent)
    tiles = TileSource(out, record.grid.shape, pair, presentation)
    polygons, reviews = _polygons(out, record, stack, absent, subscriber), None
    if polygons is not None:
        path = review or (out.local / REVIEW if out.local is not None else Path(REVIEW))
        layer = record.products[layout.LAYERS["parquet"]].sha256
        reviews = ReviewTable.open(path, layer, polygons.digest(record.run))
    return RunView(record, tiles, overview, polygons, reviews, tuple(absent), labels)


def _polygons(
    out: Folder, record: RunRecord, stack: ExitStack, absent: list[str], subscriber: Subscriber
) -> PolygonIndex | None:
    import pyarrow as pa

    layer = layout.LAYERS["parquet"]
    if layer not in record.products or not out.exists(layer):
        absent.append(
            "polygons: the run has none as GeoParquet; `ussfc vectorise` with vector.format=geoparquet makes them"
        )
        return None
    size = out.size(layer) or 0
    if out.local is None and size > MOST_COPIED:
        absent.append(
            f"polygons: {out / layer}: {size / 1e9:.1f} GB, and up to {MOST_COPIED / 1e9:.1f} GB are copied from a "
            "store for a map; copy the folder to a disk and view it there, or make fewer with a larger "
            "vector.min_area_m2"
        )
        return None
    if out.local is None and size > MENTIONED:
        subscriber(Notice(f"copying {size / 1e6:.0f} MB of polygons from {out / layer}", warning=False))
    folder = stack.enter_context(out.local_copies([layer]))
    try:
        return PolygonIndex(folder / layer, record.grid.geobox)
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        line = " ".join(str(error).split())
        absent.append(f"polygons: {out / layer}: cannot be read ({line}); run `ussfc validate` on the folder")
        return None


def _dates(
    record: RunRecord, overview: ChangeOverview, absent: list[str]
) -> tuple[ScenePair | None, Presentation | None]:
    try:
        pair = recorded_pair(record)
        pair = replace(pair, recipes=unchecked(pair.recipes))
        shape = (overview.probability.shape[0], overview.probability.shape[1])
        views = read_dates(pair.recipes, mappings_of(record), shape, overview.shrink)
    except (ReadError, GridError, ConfigError, ussfc.ModelError) as error:
        absent.append(f"both dates: {error}")
        return None, None
    bands = color_places(pair)
    if views is None:
        # Far out they stay empty; closer they are read.
        absent.append("both dates, seen from afar: large images without overviews; `gdaladdo` adds them")
        ends = np.zeros(3, np.float32), np.ones(3, np.float32)
    else:
        ends = stretch_ends(views, bands)
    return pair, Presentation(mappings_of(record), bands, ends)
