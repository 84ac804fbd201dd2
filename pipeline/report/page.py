"""The page itself: facts and pictures put into the template."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import ussfc
from ussfc.pipeline.pixels.encoding import is_change
from ussfc.pipeline.polygons.kinds import KINDS
from ussfc.pipeline.report import charts, facts
from ussfc.pipeline.report.changes import PROBABILITY_BINS, SIZES, ChangeSummary
from ussfc.pipeline.report.overviews import ChangeOverview
from ussfc.pipeline.report.pictures import CHANGE_COLOR
from ussfc.pipeline.report.thumbnails import Thumbnail
from ussfc.pipeline.runs.manifest import DistrictsRecord, RunRecord
from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS, Box

MOST_FAILED = 500
"""Failed tiles that are drawn."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of a run as addresses of ``img`` elements."""

    before: str
    after: str


@dataclass(frozen=True)
class Report:
    """The content of a page."""

    record: RunRecord
    digest: str
    """State of the page, which a later call compares: SHA-256 of ``run.json``, more where something is missing."""
    model: ussfc.ModelSpec | None
    overview: ChangeOverview
    probability: str
    """Picture of the overview's probabilities, grey times 254."""
    dates: Pictures | None
    absent: str
    """Reason why both dates cannot be shown; empty where they are."""
    changes: ChangeSummary | None
    thumbnails: Sequence[Thumbnail]
    districts: DistrictsRecord | None = None
    """Change by district, where it was counted on this map."""
    assessment: Mapping[str, Any] | None = None
    """Content of ``assessment.json``, where it is of this run and threshold."""


@functools.cache
def _environment() -> Environment:
    """Return the environment of the templates, which keeps what it has compiled: for the pairs of a batch."""
    environment = Environment(
        loader=PackageLoader("ussfc.pipeline.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["ground"] = facts.format_ground
    return environment


def render(report: Report) -> str:
    """Return the page."""
    record, changes = report.record, report.changes
    largest = changes.largest[0].area_m2 if changes and changes.largest else None
    shape = report.overview.probability.shape
    template = _environment().get_template("report.html")
    return template.render(
        report=report,
        record=record,
        title=facts.title_of(record),
        place=facts.place_of(record),
        version=metadata.version("ussfc"),
        color="#{:02x}{:02x}{:02x}".format(*CHANGE_COLOR),
        style=_text("theme.css") + _text("report.css"),
        script=_text("report.js"),
        figures=facts.figures(record, largest, report.model),
        warnings=facts.warnings_of(record),
        view=view_numbers(record, report.overview),
        rows=shape[0],
        columns=shape[1],
        curve=_curve(report),
        sizes=_sizes(changes),
        probabilities=_probabilities(changes),
        kinds=_kinds(changes),
        registration=facts.registration_rows(record),
        vectors=_vectors(record),
        tiles=_tiles(record),
        radiometry=facts.radiometry_table(
            record, [band.name for band in report.model.bands] if report.model else []
        ),
        masks=facts.mask_rows(record),
        stages=facts.stage_table(record),
        machine=facts.machine_rows(record),
        card=facts.model_rows(record, report.model),
        scores=facts.score_table(report.model),
        inputs=facts.input_table(record),
        products=facts.product_table(record),
        districts=facts.district_rows(report.districts),
        assessment=facts.assessment_rows(report.assessment),
        configuration=facts.configuration_text(record),
        versions=sorted(record.versions.items()),
    )


def _text(name: str) -> Markup:
    """Return a part of the page that is written by us."""
    file = resources.files("ussfc.pipeline.report").joinpath("templates", name)
    return Markup(file.read_text(encoding="utf-8"))  # noqa: S704 - a file of this package


def view_numbers(record: RunRecord, overview: ChangeOverview) -> dict[str, object]:
    """Return the numbers that the scripts of a page and of a map count with, as JSON values."""
    area = facts.pixel_area(record)
    return {
        "least": _least_level(record.threshold),
        "histogram": overview.histogram.tolist(),
        "pixel_m2": None if area is None else area * overview.level**2,
        "steps": PROBABILITY_STEPS,
        "nodata": NODATA_BYTE,
        "color": list(CHANGE_COLOR),
        "exact": overview.level == 1,
    }


def _least_level(threshold: float) -> int:
    """Return the lowest byte that is change, as ``change.tif`` has it."""
    levels = np.arange(PROBABILITY_STEPS + 1, dtype=np.uint8)
    changed = np.flatnonzero(is_change(levels, threshold))
    return int(changed[0]) if len(changed) else PROBABILITY_STEPS


def _curve(report: Report) -> Markup:
    shares = facts.falling_shares(report.overview.histogram)
    area = facts.pixel_area(report.record)
    valid = int(report.overview.histogram.sum()) * report.overview.level**2
    unit, factor = ("%", 100.0) if area is None else ("km²", valid * area / 1e6)
    # From a twentieth on: below it every pixel counts, and the rest would lie flat.
    first = PROBABILITY_STEPS // 20
    points = [
        (step / PROBABILITY_STEPS, float(shares[step]) * factor)
        for step in range(first, PROBABILITY_STEPS + 1)
    ]
    axis = charts.Axis([(tenth / 5, f"{tenth / 5:g}") for tenth in range(6)], "threshold")
    what = "Area that is change at each threshold: it falls as the threshold rises."
    return charts.curve(points, axis, max(points[0][1], 1e-6), unit, report.record.threshold, what)


def _sizes(changes: ChangeSummary | None) -> Markup | None:
    if changes is None or not changes.sizes.any():
        return None
    used = changes.sizes.nonzero()[0]
    first, last = int(used[0]), int(used[-1]) + 1
    ends = SIZES[first : last + 1]
    in_metres = changes.in_metres

    def text(size: float) -> str:
        return facts.format_ground(size) if in_metres else f"{size:g} px"

    ticks = [(place / (len(ends) - 1), text(size)) for place, size in enumerate(ends)]
    names = [f"{text(low)} to {text(high)}" for low, high in itertools.pairwise(ends)]
    if len(ticks) > 7:
        ticks = ticks[:: math.ceil(len(ticks) / 7)]
    counts = changes.sizes[first:last].tolist()
    return charts.bars(counts, charts.Axis(ticks, "size of a polygon"), "Polygons by size.", names)


def _probabilities(changes: ChangeSummary | None) -> Markup | None:
    if changes is None or not changes.probabilities.any():
        return None
    axis = charts.Axis([(tenth / 5, f"{tenth / 5:g}") for tenth in range(6)], "mean probability of a polygon")
    names = [f"{low:.2f} to {high:.2f}" for low, high in itertools.pairwise(PROBABILITY_BINS)]
    return charts.bars(changes.probabilities.tolist(), axis, "Polygons by mean probability.", names)


def _kinds(changes: ChangeSummary | None) -> Markup | None:
    if changes is None or changes.kinds is None:
        return None
    order = np.argsort(-changes.kinds, kind="stable").tolist()
    unit, factor = _unit(float(changes.kinds.max())) if changes.in_metres else ("px", 1.0)
    return charts.rows(
        [(KINDS[place], float(changes.kinds[place]) * factor) for place in order if changes.kinds[place]],
        unit,
        "Area of change by kind, as the values of its bands suggest.",
    )


def _unit(square_metres: float) -> tuple[str, float]:
    """Return a unit of area in which a number is not small, and the factor to it from m2."""
    return ("km²", 1e-6) if square_metres >= 1e5 else ("ha", 1e-4) if square_metres >= 1e3 else ("m²", 1.0)


def _vectors(record: RunRecord) -> Markup | None:
    found = record.registration
    if found is None or not found.vectors:
        return None
    longest = max(0.5, *(math.hypot(each.dy, each.dx) for each in found.vectors))
    scale = 0.08 * max(record.grid.shape) / longest
    windows = [
        (each.row + each.size / 2, each.column + each.size / 2, each.dy, each.dx, each.agrees)
        for each in found.vectors
    ]
    return charts.arrows(
        windows,
        record.grid.shape,
        scale,
        f"Shift measured in {len(windows)} windows; the longest {longest:.2f} px.",
    )


def _tiles(record: RunRecord) -> Markup:
    boxes = [
        Box(failed.rows[0], failed.columns[0], failed.rows[1], failed.columns[1])
        for failed in record.failed_tiles[:MOST_FAILED]
    ]
    # Of a configuration of another version the grid is left out.
    tile = int(record.config.get("tiling", {}).get("tile_size") or max(record.grid.shape))
    what = f"Grid of {record.counts.tiles} tiles, {len(record.failed_tiles)} failed."
    return charts.tile_map(tile, boxes, record.grid.shape, what)
