"""Assessment of a map by a labelled sample of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely

from ussfc.pipeline.assessment import sample_files
from ussfc.pipeline.assessment.estimators import Estimates, IntArray, Labels, RealArray, as_json, estimate
from ussfc.pipeline.assessment.labels import label_numbers
from ussfc.pipeline.assessment.population import ChangeMap, UnitDesign, centres, open_map
from ussfc.pipeline.assessment.sample import read_manifest
from ussfc.pipeline.assessment.sample_files import SampleRecord
from ussfc.pipeline.assessment.strata import CLASSES
from ussfc.pipeline.errors import SampleError
from ussfc.pipeline.events import Subscriber, ignore
from ussfc.pipeline.runs.manifest import Record, RunRecord
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

if TYPE_CHECKING:
    import geopandas

NEAR = 0.01
"""Distance from its place by which a point may lie beside it through rounding, pixels."""

RULE_OF_THREE = 3.0
"""Points without an error allow, with 95 % confidence, a share of errors up to this over their number."""


class AssessmentRecord(Record):
    """``assessment.json``: accuracy and area of a map."""

    run: str
    """Name of the run."""
    threshold: float
    """Probability from which a pixel of the map counts as changed."""
    sampled_threshold: float
    """The same of the map when the sample was drawn."""
    unit: Literal["pixel", "block"]
    """Unit that was drawn and labelled."""
    side: int
    """Side of a unit, pixels."""
    points: int
    """Points that were labelled with a class."""
    unclear: int
    """Points that were left out because they could not be judged."""
    strata: tuple[dict[str, Any], ...]
    """Units and labelled points of each stratum, and how many of these the reference has as change."""
    mapped_area_m2: float | None
    """Area of change in the map, pixel by pixel or block by block; None without a place on the earth."""
    mapped_share: float
    """Share of it in the map."""
    estimates: dict[str, Any]
    """Accuracies, areas and error matrix by the design alone: strata as they were drawn, classes of the map now."""
    poststratified: dict[str, Any] | None = None
    """The same, adjusted to the known area of the map's classes; absent where the map is the one that was sampled."""
    notes: tuple[str, ...] = ()
    """Remarks on what the intervals do not show."""


@dataclass(frozen=True, slots=True)
class _MapNow:
    """The map as it is, at the points and in sum."""

    mapped: IntArray
    """(points,) class."""
    sizes: RealArray
    """(classes,) area."""
    changed: bool
    """True where it differs from the map that was sampled."""


def assess(out: Folder | Path | str, path: Path, subscriber: Subscriber = ignore) -> AssessmentRecord:
    """Estimate accuracy and area of change of a map, and write them beside the sample and into the run's folder.

    Args:
        out: output folder of a run, path or URI.
        path: the labelled sample.
        subscriber: is sent the progress, where the map is read again.

    Raises:
        ReadError: the file is no sample.
        SampleError: the sample is of another run, was edited where it must not be, or lacks labels.
        StoreError: the folder holds no finished run, or the result cannot be written.
    """
    points, record = sample_files.read_points(path)
    out = Folder.of(out)
    manifest = read_manifest(out)
    _check_run(path, record, manifest, out)
    _check_points(path, points, record)
    points = points.sort_values("id")
    numbers = label_numbers(sample_files.as_text(points["reference"]), points["id"].tolist(), str(path))
    now = _map_now(out, manifest, record, points, subscriber)
    judged = numbers >= 0
    names = [stratum.name for stratum in record.strata]
    labels = Labels(
        np.array([names.index(name) for name in points["stratum"]], np.int64)[judged],
        now.mapped[judged],
        numbers[judged],
        points["size"].to_numpy(float)[judged],
    )
    result = _result(path, record, manifest, labels, now, int((~judged).sum()))
    result.write(Folder.of(path.absolute().parent), sample_files.ASSESSMENT)
    # The report of the run shows the last one.
    result.write(out, layout.ASSESSMENT)
    return result


def _check_run(path: Path, record: SampleRecord, manifest: RunRecord, out: Folder) -> None:
    if record.map.run != manifest.run or record.grid != manifest.grid:
        raise SampleError(
            f"{path}: is a sample of run {record.map.run}, and {out} holds run {manifest.run}; give the folder that "
            "was sampled, or draw a sample of this one with `ussfc sample`"
        )


def _check_points(path: Path, points: geopandas.GeoDataFrame, record: SampleRecord) -> None:
    """Refuse a sample whose points are not those that were drawn.

    Raises:
        SampleError: points are missing, added, moved, reprojected, or their fixed columns edited.
    """
    remedy = "take them from the file as it was drawn, and edit the field reference alone"
    if len(points) != record.drawn or points["id"].nunique() != record.drawn:
        raise SampleError(
            f"{path}: holds {len(points)} points ({points['id'].nunique()} ids), {record.drawn} were drawn; {remedy}"
        )
    grid = record.grid.geobox
    # Without a reference system GDAL's formats name one of their own.
    if grid.crs is not None and (points.crs is None or not _same_crs(points.crs, grid.crs.proj)):
        raise SampleError(
            f"{path}: is in {points.crs.name if points.crs else 'no CRS'}, the run in "
            f"{grid.crs.proj.name}; give the sample without reprojecting it"
        )
    for column in sample_files.WHOLE:
        if points[column].dtype.kind not in "iu":
            raise SampleError(f"{path}: the column {column} holds other than whole numbers; {remedy}")
    if sample_files.digest(points) != record.points:
        raise SampleError(f"{path}: {', '.join(sample_files.FIXED)} are not those that were drawn; {remedy}")
    places = centres(grid, points["row"].to_numpy(), points["col"].to_numpy(), record.side)
    # Editors may make points of one part of them; of nothing the centre is not a number.
    found = shapely.centroid(points.geometry.to_numpy())
    pixel = np.abs([grid.affine.a, grid.affine.e])
    distance = np.abs(np.stack([shapely.get_x(found), shapely.get_y(found)], axis=1) - places) / pixel
    moved = ~(distance <= NEAR).all(axis=1)
    if moved.any():
        ids = points["id"].to_numpy()[moved]
        raise SampleError(
            f"{path}: {int(moved.sum())} points do not lie where they were drawn (id {ids[0]} first); {remedy}"
        )


def _same_crs(found: Any, expected: Any) -> bool:
    # Files of GDAL's formats keep the system, and not every word of its description.
    return bool(found == expected or found.equals(expected, ignore_axis_order=True)) or (
        found.to_epsg() is not None and found.to_epsg() == expected.to_epsg()
    )


def _map_now(
    out: Folder,
    manifest: RunRecord,
    record: SampleRecord,
    points: geopandas.GeoDataFrame,
    subscriber: Subscriber,
) -> _MapNow:
    """Return the classes of the map as it is; where it is the one that was sampled, they are in the sample."""
    if manifest.products[layout.CHANGE].sha256 == record.map.sha256:
        mapped = np.array([CLASSES.index(name) for name in points["map_class"]], np.int64)
        return _MapNow(mapped, np.array([record.map.sizes[name] for name in CLASSES]), False)
    design = UnitDesign(record.side, record.buffer_px, tuple(stratum.name for stratum in record.strata))
    with ExitStack() as stack:
        folder = stack.enter_context(out.local_copies((layout.CHANGE,)))
        source: ChangeMap = stack.enter_context(
            open_map(folder / layout.CHANGE, manifest.grid.geobox, design)
        )
        totals = source.totals(subscriber)
        mapped = source.at(points["row"].to_numpy(), points["col"].to_numpy())
    if totals.class_units.sum() != sum(record.map.classes.values()) or (mapped < 0).any():
        raise SampleError(
            f"{out / layout.CHANGE}: has {totals.class_units.sum()} valid units, the map that was sampled "
            f"{sum(record.map.classes.values())}; draw a new sample with `ussfc sample`"
        )
    same = totals.class_units.tolist() == [record.map.classes[name] for name in CLASSES]
    changed = not same or manifest.thresholds["mosaic"] != record.map.threshold
    return _MapNow(mapped, totals.class_sizes, changed)


def _result(
    path: Path, record: SampleRecord, manifest: RunRecord, labels: Labels, now: _MapNow, unclear: int
) -> AssessmentRecord:
    counts = np.bincount(labels.stratum, minlength=len(record.strata))
    _check_strata(path, record, counts)
    units = np.array([stratum.units for stratum in record.strata], np.int64)
    total = float(now.sizes.sum())
    area = total if record.map.on_earth else None
    notes = [*_notes(record, labels, area), *_unclear_notes(unclear, len(labels.stratum))]
    adjusted = None
    if now.changed:
        here = np.bincount(labels.mapped, minlength=len(CLASSES)) > 0
        absent = [
            name for name, found, size in zip(CLASSES, here, now.sizes, strict=True) if size and not found
        ]
        if absent:
            notes.append(
                f"no point lies in the map's present class '{absent[0]}', so there is no post-stratified estimate; "
                "draw a sample at this threshold"
            )
        else:
            adjusted = _described(estimate(units, labels, len(CLASSES), now.sizes), area)
    change = [int((labels.reference[labels.stratum == number] == 1).sum()) for number in range(len(units))]
    return AssessmentRecord(
        run=record.map.run,
        threshold=manifest.thresholds["mosaic"],
        sampled_threshold=record.map.threshold,
        unit=record.unit,
        side=record.side,
        points=len(labels.stratum),
        unclear=unclear,
        strata=tuple(
            {"name": stratum.name, "units": stratum.units, "points": int(count), "change": found}
            for stratum, count, found in zip(record.strata, counts, change, strict=True)
        ),
        mapped_area_m2=float(now.sizes[1]) if record.map.on_earth else None,
        mapped_share=float(now.sizes[1] / total),
        estimates=_described(estimate(units, labels, len(CLASSES)), area),
        poststratified=adjusted,
        notes=tuple(notes),
    )


def _check_strata(path: Path, record: SampleRecord, counts: IntArray) -> None:
    for stratum, count in zip(record.strata, counts, strict=True):
        if count < min(2, stratum.units):
            raise SampleError(
                f"{path}: {count} of {stratum.points} points of the stratum {stratum.name} have a class, and its share "
                "of change and its error need 2 or more; label more, or draw a larger sample with `ussfc sample`"
            )


def _described(estimates: Estimates, area: float | None) -> dict[str, Any]:
    """Return estimates as JSON values, with the area of each class in square metres where it is known."""
    described = as_json(estimates, CLASSES, lambda number: round(number, 6))
    for name, found in zip(CLASSES, estimates.classes, strict=True):
        metres = None if area is None else found.share.times(area)
        described["classes"][name]["area_m2"] = metres and {
            "value": metres.value, "se": metres.se, "low": metres.low, "high": metres.high,
        }  # fmt: skip
    return described


def _notes(record: SampleRecord, labels: Labels, area: float | None) -> list[str]:
    """Return remarks on strata whose points show no change, or nothing else: their variance is taken for 0."""
    notes = []
    units = sum(stratum.units for stratum in record.strata)
    for number, stratum in enumerate(record.strata):
        found = labels.reference[labels.stratum == number]
        if not len(found) or len(found) == stratum.units or 0 < (found == 1).sum() < len(found):
            continue
        other = CLASSES[0] if (found == 1).all() else CLASSES[1]
        share = min(1.0, RULE_OF_THREE / len(found))
        amount = "" if area is None else f" (at most {share * stratum.units / units * area / 1e6:.3g} km2)"
        notes.append(
            f"none of the {len(found)} points of the stratum {stratum.name} is {other}; up to {share:.1%} of it may be"
            f"{amount}, which the intervals do not show"
        )
    return notes


def _unclear_notes(unclear: int, judged: int) -> Sequence[str]:
    if not unclear:
        return ()
    share = unclear / (unclear + judged)
    return (f"{unclear} points ({share:.1%}) are unclear and left out, as if they were like the others",)
