"""Changed area by district: polygons of a file, each summed for itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry

from ussfc.addresses import shown_address
from ussfc.pipeline.assessment.population import WINDOW, UnitDesign, open_map
from ussfc.pipeline.assessment.sample import read_manifest
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.events import Advanced, Subscriber, ignore
from ussfc.pipeline.reading.aoi import AreaOfInterest, on_grid, read_features
from ussfc.pipeline.reading.areas import holds_polygon, in_crs_of, polygons_of
from ussfc.pipeline.runs.manifest import DistrictRecord, DistrictsRecord, RunRecord
from ussfc.pipeline.runs.stages import stage_clock
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import Box, blocks

NAMES = ("name", "NAME", "Name", "district", "label", "id", "ID")
"""Columns that names are looked for in, before the first one of text."""


@dataclass
class _District:
    """A district on the grid, and what was counted of it."""

    name: str
    area: AreaOfInterest
    box: Box
    changed: float = 0.0
    classified: float = 0.0
    changed_pixels: int = 0


def sum_districts(
    out: Folder | Path | str, file: str, by: str | None = None, subscriber: Subscriber = ignore
) -> DistrictsRecord:
    """Sum the changed area of a run in each polygon of a file, and write the tables.

    A pixel counts where its centre lies inside, by its area on the ellipsoid; on a grid without a place on the earth
    as one pixel.

    Args:
        out: output folder of a run, path or URI.
        file: vector file, path or URI.
        by: column with the names; None: the first of :data:`NAMES` that is there, or the first one of text.
        subscriber: is sent the progress.

    Returns:
        Districts in the order of the file, those without a polygon left out.

    Raises:
        ReadError: the file cannot be read, holds no polygon, or has no such column.
        StoreError: the folder holds no finished run, or a table cannot be written.
    """
    out = Folder.of(out)
    manifest = read_manifest(out)
    shown = shown_address(file)
    frame = read_features(file)
    column = _name_column(frame, by, shown)
    grid = manifest.grid.geobox
    kept = [place for place, shape in enumerate(frame.geometry) if shape is not None and holds_polygon(shape)]
    if not kept:
        raise ReadError(f"{shown}: holds {len(frame)} feature(s) but no polygon; expected districts")
    frame = frame.iloc[kept]
    found = [
        _placed(_name(value, place), shape, frame.crs, grid, shown)
        for place, value, shape in zip(
            kept, frame[column] if column else [None] * len(frame), frame.geometry, strict=True
        )
    ]
    with out.local_copies([layout.CHANGE]) as folder:
        on_earth = _count(folder / layout.CHANGE, grid, found, subscriber)
    record = _record(found, manifest, shown, on_earth)
    record.write(out, layout.DISTRICTS)
    table, layer = layout.DISTRICT_FILES
    out.write(table, _csv(record).encode())
    out.write(layer, _parquet(record, frame))
    return record


def _name_column(frame: Any, by: str | None, shown: str) -> str | None:
    columns = [str(name) for name in frame.columns if name != frame.geometry.name]
    if by is not None:
        if by not in columns:
            raise ReadError(f"{shown}: has no column {by}; it has {', '.join(columns) or 'none'}")
        return by
    texts = [
        name for name in columns if frame[name].dtype == object or str(frame[name].dtype).startswith("str")
    ]
    return next((name for name in (*NAMES, *texts) if name in columns), None)


def _name(value: Any, place: int) -> str:
    """Return the name of a district; its place in the file, from 1, where it has none."""
    text = "" if value is None or value != value else str(value).strip()
    return text or str(place + 1)


def _placed(name: str, shape: Any, crs: Any, grid: GeoBox, shown: str) -> _District:
    known = None if crs is None else CRS(crs)
    whole = Geometry(polygons_of([shape], known, f"{shown} ({name})"), known)
    area = on_grid(in_crs_of(grid, whole), grid)
    inside = shapely.from_wkb(area.wkb)
    box = Box(0, 0, 0, 0)
    if not inside.is_empty:
        left, top, right, bottom = (float(value) for value in inside.bounds)
        hull = Box(int(np.floor(top)), int(np.floor(left)), int(np.ceil(bottom)), int(np.ceil(right)))
        box = hull.intersect(Box(0, 0, *grid.shape))
    return _District(name, area, box)


def _count(path: Path, grid: GeoBox, districts: Sequence[_District], subscriber: Subscriber) -> bool:
    """Count in windows of the map; return False where sizes are pixels."""
    shape = (grid.shape[0], grid.shape[1])
    with open_map(path, grid, UnitDesign()) as change:
        windows = list(blocks(shape, WINDOW))
        with stage_clock("districts", len(windows), shape[0] * shape[1], subscriber):
            for window in windows:
                _add(change, window, [each for each in districts if each.box.intersect(window).pixels])
                subscriber(Advanced("districts", 1, window.pixels))
        return change.on_earth


def _add(change: Any, window: Box, districts: Sequence[_District]) -> None:
    if not districts:
        return
    classes = change.classes(window)
    areas = change.pixel_areas(window)[:, None]
    changed = np.where(classes == 1, areas, 0.0)
    classified = np.where(classes <= 1, areas, 0.0)
    for district in districts:
        part = district.box.intersect(window)
        inside = district.area.mask(part)
        place = part.within(window).slices
        district.changed += float(changed[place][inside].sum())
        district.classified += float(classified[place][inside].sum())
        district.changed_pixels += int((classes[place][inside] == 1).sum())


def _record(found: Sequence[_District], manifest: RunRecord, shown: str, on_earth: bool) -> DistrictsRecord:
    return DistrictsRecord(
        run=manifest.run,
        change=manifest.products[layout.CHANGE].sha256,
        threshold=manifest.threshold,
        source=shown,
        unit="m2" if on_earth else "px",
        districts=tuple(
            DistrictRecord(
                name=each.name,
                changed=round(each.changed, 2),
                classified=round(each.classified, 2),
                changed_pixels=each.changed_pixels,
            )
            for each in found
        ),
    )


def _csv(record: DistrictsRecord) -> str:
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    unit = record.unit
    writer.writerow(("name", f"changed_{unit}", f"classified_{unit}", "share", "changed_pixels"))
    for each in record.districts:
        writer.writerow((each.name, each.changed, each.classified, f"{each.share:.6f}", each.changed_pixels))
    return target.getvalue()


def _parquet(record: DistrictsRecord, frame: Any) -> bytes:
    import geopandas

    columns = {
        "name": [each.name for each in record.districts],
        f"changed_{record.unit}": [each.changed for each in record.districts],
        f"classified_{record.unit}": [each.classified for each in record.districts],
        "share": [each.share for each in record.districts],
        "changed_pixels": [each.changed_pixels for each in record.districts],
    }
    target = io.BytesIO()
    geopandas.GeoDataFrame(columns, geometry=list(frame.geometry), crs=frame.crs).to_parquet(target)
    return target.getvalue()
