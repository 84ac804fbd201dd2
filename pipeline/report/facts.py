"""The record of a run as tables of words and numbers for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

import ussfc
from ussfc.pipeline.runs.manifest import Counts, DistrictsRecord, InputRecord, RunRecord
from ussfc.pipeline.tiling.grid import crs_name, ground_steps
from ussfc.pipeline.types import PROBABILITY_STEPS

STATES = {
    "off": "not measured (registration is off)",
    "too small": "not measured: the scene is too small",
    "unknown": "could not be measured: see the warnings",
    "aligned": "both dates lie on each other",
    "displaced": "the later date lies beside the earlier one and was left so",
    "corrected": "the later date lay beside the earlier one and was moved",
}
"""Outcomes of a registration in words."""

STAGES = {"infer": "network", "mosaic": "rasters", "vectorise": "polygons"}

MOST_DISTRICTS = 40
"""Districts that are listed."""

Row = tuple[str, str]
"""Name and value."""


@dataclass(frozen=True)
class Figure:
    """A number that stands large."""

    label: str
    value: str
    note: str = ""


def format_ground(square_metres: float) -> str:
    """Return an area in the unit that fits it: m², ha or km²."""
    for unit, size in (("km²", 1e6), ("ha", 1e4)):
        if square_metres >= size:
            value = square_metres / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{square_metres:,.0f} m²"


def format_bytes(count: int) -> str:
    """Return a size in kB, MB or GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def pixel_area(record: RunRecord) -> float | None:
    """Return the area of a pixel at the centre of the grid, m²; None without a place on the earth."""
    steps = ground_steps(record.grid.geobox)
    return None if steps is None else steps[0] * steps[1]


def title_of(record: RunRecord) -> str:
    """Return a heading: the dates, or the names of the files."""
    inputs = record.inputs
    if inputs.before.acquired and inputs.after.acquired:
        return f"Change from {inputs.before.acquired[:10]} to {inputs.after.acquired[:10]}"
    return f"Change from {_name(inputs.before)} to {_name(inputs.after)}"


def _name(scene: InputRecord) -> str:
    return PurePosixPath(scene.uri.rstrip("/")).name or scene.uri


def place_of(record: RunRecord) -> str:
    """Return size and place of the grid, one line."""
    rows, cols = record.grid.shape
    geobox = record.grid.geobox
    steps = ground_steps(geobox)
    pixel = f", pixels of {np.sqrt(steps[0] * steps[1]):.3g} m" if steps else ""
    return f"{cols:,} x {rows:,} px{pixel}, {crs_name(geobox) or 'no CRS'}"


def _changed_area(counts: Counts, pixel: float) -> float:
    """Return the area of the polygons, or of the changed pixels where there are none to measure; m2."""
    return (counts.changed_pixels or 0) * pixel if counts.polygon_area_m2 is None else counts.polygon_area_m2


def figures(
    record: RunRecord, largest_m2: float | None, model: ussfc.ModelSpec | None = None
) -> list[Figure]:
    """Return the numbers that stand first."""
    counts, area = record.counts, pixel_area(record)
    left_out = 0.0 if area is None else counts.left_out_share(record.thresholds)
    share = f"{counts.changed_share - left_out:.2%} of what was classified"
    if left_out:
        share += f"; smaller regions, {left_out:.2%}, are left out"
    found = [
        Figure("changed", f"{counts.changed_pixels or 0:,} px", share)
        if area is None
        else Figure("changed", format_ground(_changed_area(counts, area)), share)
    ]
    if counts.polygons is not None:
        note = f"the largest {format_ground(largest_m2)}" if largest_m2 else ""
        found.append(Figure("polygons", f"{counts.polygons:,}", note))
    smoothed = record.config.get("output", {}).get("smoothing") == "median3"
    note = f"probability from which a pixel is change{', after a median of 3 x 3 pixels' if smoothed else ''}"
    found.append(Figure("threshold", f"{record.threshold:g}", note))
    nodata = counts.nodata_pixels or 0
    found.append(
        Figure("without data", f"{nodata / counts.pixels:.1%}", f"{nodata:,} of {counts.pixels:,} px")
    )
    # Not of other weights of its name, nor of the network without what it was scored with.
    if (
        model is not None
        and model.scores
        and record.model.sha256 == model.weights.sha256
        and record.combines == (model.alteration is not None)
    ):
        score = model.scores[-1]
        found.append(
            Figure(
                "F1 of the model",
                f"{score.f1:.2f}",
                f"on {score.scene}; areas here are as mapped, ussfc sample estimates one with its error",
            )
        )
    return found


def warnings_of(record: RunRecord) -> list[str]:
    """Return everything that speaks against trusting the map, the gravest first."""
    found = []
    if not record.complete:
        count = len(record.failed_tiles)
        found.append(f"{count} tile(s) failed and are without data; the same command tries them again")
    return [*found, *dict.fromkeys(record.warnings)]


def registration_rows(record: RunRecord) -> list[Row]:
    """Return the outcome of the registration."""
    found = record.registration
    if found is None:
        return []
    rows = [("outcome", STATES[found.state])]
    if found.dx is not None and found.dy is not None:
        rows.append(("shift", f"{found.dx:+.2f} px in x, {found.dy:+.2f} px in y"))
    if found.windows:
        rows.append(("windows", f"{found.agreeing} of {found.windows} agree"))
    if found.scatter_px is not None:
        rows.append(("scatter of the windows", f"{found.scatter_px:.2f} px"))
    if found.kind is not None:
        rows.append(("model", found.kind))
    if found.left_px is not None:
        rows.append(("left after the correction", f"{found.left_px:.2f} px"))
    return rows


def radiometry_table(record: RunRecord, bands: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return band, range of the earlier date, range of the later one."""
    before, after = record.radiometry.before, record.radiometry.after
    names = (
        list(bands) if len(bands) == len(before.low) else [str(place + 1) for place in range(len(before.low))]
    )
    return [
        (
            name,
            f"{before.low[place]:g} to {before.high[place]:g}",
            f"{after.low[place]:g} to {after.high[place]:g}",
        )
        for place, name in enumerate(names)
    ]


def mask_rows(record: RunRecord) -> list[Row]:
    """Return what masks hide, and how much change looks like clouds."""
    rows = []
    given = {} if record.masks is None else {"earlier": record.masks.before, "later": record.masks.after}
    for date, mask in given.items():
        if mask is not None:
            share = mask.masked_pixels / record.counts.pixels
            rows.append((f"mask of the {date} date", f"{mask.uri}: {share:.1%} hidden ({mask.kind})"))
    if record.cloud_like is not None:
        rows.append(("change that is bright in one date alone", f"{record.cloud_like.share:.0%}"))
    return rows


def stage_table(record: RunRecord) -> list[tuple[str, str, str]]:
    """Return name, seconds and throughput of each stage."""
    return [
        (STAGES.get(name, name), f"{stage.seconds:,.1f} s", f"{stage.mpx_per_s:,.2f} Mpx/s")
        for name, stage in record.stages.items()
    ]


def machine_rows(record: RunRecord) -> list[Row]:
    """Return how the run was computed."""
    executor = record.executor
    rows = [
        (
            "executor",
            f"{executor.name}, {max(1, executor.processes)} process(es) of {executor.threads} thread(s)",
        ),
        ("network", record.detector),
    ]
    if record.combines:
        rows.append(("beside the network", "IR-MAD, whose distances are part of the probability"))
    if record.peak_memory_bytes:
        rows.append(("largest memory", format_bytes(record.peak_memory_bytes)))
    return rows


def district_rows(found: DistrictsRecord | None) -> list[tuple[str, str, str]]:
    """Return name, changed area and share of the districts with the most change."""
    if found is None:
        return []
    ordered = sorted(found.districts, key=lambda district: -district.changed)
    return [
        (
            district.name,
            format_ground(district.changed) if found.unit == "m2" else f"{district.changed:,.0f} px",
            f"{district.share:.2%}",
        )
        for district in ordered[:MOST_DISTRICTS]
    ]


def assessment_rows(found: Mapping[str, Any] | None) -> list[Row]:
    """Return accuracy and area with their 95 % intervals, as ``assessment.json`` has them."""
    if found is None:
        return []
    estimates = found.get("poststratified") or found["estimates"]
    change = estimates["classes"]["change"]
    area, share = change["area_m2"], change["share"]
    rows = [("points", f"{found['points']:,} {found['unit']}s")]
    if area is not None:
        ends = " to ".join(format_ground(max(0.0, area[end])) for end in ("low", "high"))
        rows.append(("area of change, adjusted for errors", f"{format_ground(area['value'])} ({ends})"))
    rows.append(("share of change, adjusted", _interval(share, "{:.2%}")))
    for field, name in (
        ("users_accuracy", "user's accuracy of change"),
        ("producers_accuracy", "producer's accuracy of change"),
        ("f1", "F1 of change"),
    ):
        rows.append((name, _interval(change[field], "{:.2f}")))
    rows.append(("overall accuracy", _interval(estimates["overall_accuracy"], "{:.3f}")))
    return [*rows, *(("note", str(note)) for note in found.get("notes", ()))]


def _interval(found: Mapping[str, float | None], form: str) -> str:
    if found["value"] is None:
        return "not known"
    value, low, high = (form.format(found[end]) for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def model_rows(record: RunRecord, model: ussfc.ModelSpec | None) -> list[Row]:
    """Return the content of the model's card; name and licence where the card is not at hand."""
    rows = [("name", record.model.name)]
    if model is not None:
        rows.append(("for", model.title))
        rows.append(("bands", ", ".join(band.name for band in model.bands)))
        if model.resolution_m:
            rows.append(("pixel size in training", f"{model.resolution_m:g} m"))
        if model.training is not None:
            rows += [("trained on", model.training.data), ("held out", model.training.held_out)]
    rows.append(("licence of the weights", record.model.licence or "not known"))
    if model is not None and model.licence is not None and model.licence.note:
        rows.append(("", model.licence.note))
    rows.append(("SHA-256 of the weights", record.model.sha256))
    return rows


def score_table(model: ussfc.ModelSpec | None) -> list[tuple[str, str, str, str]]:
    """Return scene, precision, recall and F1 as the card has them."""
    scores = () if model is None else model.scores
    return [
        (score.scene, f"{score.precision:.2f}", f"{score.recall:.2f}", f"{score.f1:.2f}") for score in scores
    ]


def input_table(record: RunRecord) -> list[tuple[str, str, str, str]]:
    """Return date, address, bands with their type, time of acquisition."""
    scenes = (("before", record.inputs.before), ("after", record.inputs.after))
    return [
        (
            name,
            scene.uri,
            f"{', '.join(map(str, scene.bands))} ({scene.dtype})",
            scene.acquired or "not known",
        )
        for name, scene in scenes
    ]


def product_table(record: RunRecord) -> list[tuple[str, str, str]]:
    """Return name, size and digest of each product."""
    return [
        (name, format_bytes(found.bytes), found.sha256) for name, found in sorted(record.products.items())
    ]


def configuration_text(record: RunRecord) -> str:
    """Return the configuration as YAML, without credentials."""
    return yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)


def falling_shares(histogram: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the share of valid pixels from each probability on.

    Args:
        histogram: (255,) pixels by probability times 254.
    """
    total = int(histogram.sum())
    at_least = histogram[::-1].cumsum()[::-1]
    return at_least / total if total else np.zeros(PROBABILITY_STEPS + 1)
