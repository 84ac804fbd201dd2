"""A stratified random sample of a map, drawn in one pass and written to be labelled."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ussfc.pipeline.assessment import sample_files
from ussfc.pipeline.assessment.allocation import EXPECTED, allocate, optimal_size
from ussfc.pipeline.assessment.draw import ROW, Rows, SmallestKeys, keys
from ussfc.pipeline.assessment.estimators import IntArray
from ussfc.pipeline.assessment.population import (
    ChangeMap,
    Totals,
    TotalsCounter,
    UnitDesign,
    centres,
    open_map,
    outlines,
    probabilities,
)
from ussfc.pipeline.assessment.project import write_project
from ussfc.pipeline.assessment.sample_files import MapRecord, SampleRecord, StratumRecord
from ussfc.pipeline.assessment.strata import BUFFER, CLASSES, OUTSIDE, STRATA
from ussfc.pipeline.errors import ConfigError, SampleError, StoreError
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.polygons.measure import Ellipsoid
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.runs.stages import left_absent
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

if TYPE_CHECKING:
    import geopandas

POINTS = 300
"""Points of a sample unless a number or a standard error is given."""

MOST = 100_000
"""Most points of a sample; all may be held while the map is read."""

MOST_SIDE = 256
"""Largest side of a block, pixels."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A sample to be drawn."""

    points: int | None = None
    """Number of points; None: :data:`POINTS`, or as many as ``target_se`` needs."""
    target_se: float | None = None
    """Standard error of the overall accuracy that is wanted."""
    strata: tuple[str, ...] = STRATA
    buffer: int = BUFFER
    """Width of the buffer around change, pixels."""
    side: int = 1
    """Side of a unit, pixels."""
    seed: int = 1

    def check(self) -> None:
        """Check the request.

        Raises:
            ConfigError: it cannot be met.
        """
        unknown = [name for name in self.strata if name not in STRATA]
        if unknown or not {"change", "stable"} <= set(self.strata):
            raise ConfigError(
                f"strata {','.join(self.strata)}: expected change,buffer,stable or change,stable, which cover the map"
            )
        if self.points is not None and self.target_se is not None:
            raise ConfigError(
                "a number of points and a standard error: give one of them; the other follows from it"
            )
        if self.points is not None and not 0 < self.points <= MOST:
            raise ConfigError(f"{self.points} points: expected 1 to {MOST}")
        if self.target_se is not None and not 0 < self.target_se < 0.5:
            raise ConfigError(f"standard error {self.target_se:g}: expected more than 0 and less than 0.5")


@dataclass(frozen=True, slots=True)
class DrawnSample:
    """A sample that was written."""

    folder: Path
    record: SampleRecord
    files: tuple[str, ...]
    """Names in the folder."""


def sample_folder(out: Folder) -> Path:
    """Return the usual folder of a sample: beside a local OUT, for one in a store in the working directory."""
    parent = Path.cwd() if out.local is None else out.local.parent
    # The root of a disk has no name.
    return parent / f"{out.address.rstrip('/').rpartition('/')[2] or 'run'}-sample"


def read_manifest(out: Folder) -> RunRecord:
    """Return the record of a run whose rasters are there.

    Raises:
        StoreError: the folder holds no finished run, or a raster is missing or not of the run.
    """
    out.ping()
    manifest = RunRecord.read(out, layout.MANIFEST)
    for name in (layout.CHANGE, layout.PROBABILITY):
        size = out.size(name)
        if size is None or name not in manifest.products:
            raise StoreError(f"{out / name}: missing; run `ussfc mosaic` on the folder")
        if size != manifest.products[name].bytes:
            raise StoreError(
                f"{out / name}: is not what the run wrote ({size} bytes, {manifest.products[name].bytes} in "
                f"run.json); run `ussfc mosaic` on the folder"
            )
    return manifest


def draw_sample(
    out: Folder | Path | str, request: SampleRequest, to: Path | None = None, subscriber: Subscriber = ignore
) -> DrawnSample:
    """Draw a stratified random sample of a map and write it to be labelled.

    Args:
        out: output folder of a run, path or URI.
        request: the sample.
        to: folder to write to; None: the usual one.
        subscriber: is sent the progress.

    Raises:
        ConfigError: the request cannot be met.
        SampleError: the map has no valid pixel.
        StoreError: the folder holds no finished run, or the sample cannot be written or exists already.
        ReadError: a raster cannot be read.
    """
    request.check()
    out = Folder.of(out)
    folder = (to or sample_folder(out)).absolute()
    sample_files.refuse_existing(folder)
    manifest = read_manifest(out)
    if not manifest.complete:
        left = len(manifest.failed_tiles)
        subscriber(
            Notice(f"{out}: {left} tiles of the run failed; they are nodata, and no part of what is sampled")
        )
    design = UnitDesign(request.side, request.buffer, request.strata)
    with out.local_copies((layout.CHANGE, layout.PROBABILITY)) as rasters:
        with open_map(rasters / layout.CHANGE, manifest.grid.geobox, design) as source:
            totals, held = _pass_over(source, request, subscriber)
            if not totals.units.sum():
                raise SampleError(f"{out / layout.CHANGE}: has no valid pixel, so there is nothing to sample")
            counts = _counts(totals.units, request)
            for name, units in zip(
                request.strata, totals.units[[STRATA.index(s) for s in request.strata]], strict=True
            ):
                if not units:
                    subscriber(Notice(f"the stratum {name} is empty"))
            rows, stratum = _chosen(held, counts)
            record = _record(manifest, source, request, totals, counts)
        chance = probabilities(rasters / layout.PROBABILITY, rows["row"], rows["col"], request.side)
    points = _frame(rows, stratum, chance, record)
    record = record.model_copy(update={"points": sample_files.digest(points)})
    shapes = outlines(manifest.grid.geobox, rows["row"], rows["col"], request.side)
    target = Folder.of(folder)
    with left_absent(target):
        target.prepare()
        sample_files.write_sample(points, shapes, record, folder)
    write_project(folder, out, manifest, points.total_bounds, subscriber)
    files = (sample_files.GPKG, sample_files.PARQUET, sample_files.RECORD, sample_files.PROJECT)
    return DrawnSample(folder, record, files)


def _pass_over(
    source: ChangeMap, request: SampleRequest, subscriber: Subscriber
) -> tuple[Totals, list[SmallestKeys]]:
    """Count the units of every stratum, and hold the units of the smallest keys of each."""
    most = MOST if request.target_se is not None else request.points or POINTS
    held = [SmallestKeys(most) for _ in STRATA]
    counter = TotalsCounter()
    for box, units in source.windows(subscriber):
        counter.add(units)
        if (units.stratum == OUTSIDE).all():
            continue
        key = keys(request.seed, box.y0, box.x0, box.shape)
        for number in range(len(STRATA)):
            chosen = units.stratum == number
            held[number].offer(key, chosen, (box.y0, box.x0), mapped=units.mapped, size=units.size)
    return counter.totals(), held


def _counts(units: IntArray, request: SampleRequest) -> IntArray:
    """Return the points of each stratum, (strata,)."""
    if request.target_se is None:
        return allocate(request.points or POINTS, units.astype(float), units)
    expected = np.array([EXPECTED[name] for name in STRATA])
    points, wanted = optimal_size(units, expected, request.target_se)
    if points > MOST:
        raise ConfigError(
            f"standard error {request.target_se:g}: needs {points} points, and a sample has {MOST} at most; give a "
            "larger one"
        )
    # A common class that is mapped well would else leave too few points for the rare ones.
    least = 2 * int((units > 0).sum())
    return allocate(max(points, least), wanted, units)


def _chosen(held: list[SmallestKeys], counts: IntArray) -> tuple[Rows, IntArray]:
    """Return the points in the order of their keys, which gives no hint of their strata, and the strata."""
    drawn = [found.smallest(int(count)) for found, count in zip(held, counts, strict=True)]
    rows = np.concatenate(drawn) if drawn else np.empty(0, ROW)
    stratum = np.repeat(np.arange(len(STRATA)), [len(found) for found in drawn])
    # Keys of a small stratum are larger: their last digits are as random as the first, and know nothing of it.
    order = np.lexsort((rows["row"], rows["key"] & np.uint64(0xFFFFFFFF)))
    return rows[order], stratum[order]


def _record(
    manifest: RunRecord, source: ChangeMap, request: SampleRequest, totals: Totals, counts: IntArray
) -> SampleRecord:
    ellipsoid = Ellipsoid.of_grid(source.grid)
    metres = None if ellipsoid is None else float(ellipsoid.pixel_size(*source.grid.shape).mean())
    change = manifest.products[layout.CHANGE]
    return SampleRecord(
        version=metadata.version("ussfc"),
        map=MapRecord(
            run=manifest.run,
            sha256=change.sha256,
            threshold=manifest.thresholds["mosaic"],
            classes=dict(zip(CLASSES, totals.class_units.tolist(), strict=True)),
            sizes=dict(zip(CLASSES, totals.class_sizes.tolist(), strict=True)),
            on_earth=source.on_earth,
        ),
        grid=manifest.grid,
        unit="pixel" if request.side == 1 else "block",
        side=request.side,
        buffer_px=request.buffer,
        buffer_m=None if metres is None else round(request.buffer * metres, 3),
        seed=request.seed,
        target_se=request.target_se,
        strata=tuple(
            StratumRecord(name=name, units=int(units), points=int(points))
            for name, units, points in zip(STRATA, totals.units, counts, strict=True)
            if name in request.strata
        ),
        points="",
    )


def _frame(rows: Rows, stratum: IntArray, chance: np.ndarray, record: SampleRecord) -> geopandas.GeoDataFrame:
    """Return the points as a table."""
    import geopandas
    import pandas as pd

    grid = record.grid.geobox
    place = centres(grid, rows["row"], rows["col"], record.side)
    share = {entry.name: entry.points / max(entry.units, 1) for entry in record.strata}
    names = [STRATA[number] for number in stratum]
    columns = {
        "id": np.arange(1, len(rows) + 1),
        "reference": pd.Series([None] * len(rows), dtype="string"),
        "stratum": names,
        "map_class": [CLASSES[number] for number in rows["mapped"]],
        "probability": chance.round(4),
        "x": place[:, 0],
        "y": place[:, 1],
        "row": rows["row"],
        "col": rows["col"],
        "size": rows["size"],
        "inclusion_probability": [share[name] for name in names],
    }
    crs = None if grid.crs is None else grid.crs.to_wkt()
    return geopandas.GeoDataFrame(columns, geometry=geopandas.points_from_xy(*place.T), crs=crs)
