"""Samples and assessments as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ussfc.addresses import shown_address
from ussfc.pipeline.storage import layout
from ussfc.pipeline.terminal.tables import format_area

if TYPE_CHECKING:
    from pathlib import Path

    from ussfc.pipeline.assessment.assess import AssessmentRecord
    from ussfc.pipeline.assessment.sample import DrawnSample
    from ussfc.pipeline.runs.manifest import DistrictsRecord

ACCURACIES = {"users_accuracy": "user's", "producers_accuracy": "producer's", "f1": "F1"}
"""Columns of the table of accuracies: field and heading."""

MOST_DISTRICTS = 40
"""Districts that are listed."""


def district_lines(record: DistrictsRecord, out: str) -> Iterator[str]:
    """Yield the changed area of each district, the largest first, and the paths of the tables."""
    found = sorted(record.districts, key=lambda district: -district.changed)
    shown = found[:MOST_DISTRICTS]
    width = max(len(district.name) for district in shown)
    for district in shown:
        size = format_area(district.changed) if record.unit == "m2" else f"{district.changed:.0f} px"
        yield f"{district.name:{width}}  {size:>12}  {district.share:7.2%} of what was classified there"
    if len(found) > len(shown):
        yield f"... and {len(found) - len(shown)} more"
    for name in layout.DISTRICT_FILES:
        yield f"  {shown_address(out).rstrip('/')}/{name}"


def sample_lines(sample: DrawnSample) -> Iterator[str]:
    """Yield the strata of a sample, its files and the next step."""
    record = sample.record
    units = "pixels" if record.unit == "pixel" else f"blocks of {record.side} x {record.side} px"
    yield f"{record.drawn} {units} of run {record.map.run} at threshold {record.map.threshold:g}, seed {record.seed}"
    whole = sum(stratum.units for stratum in record.strata)
    yield f"{'stratum':<10}{'units':>16}{'share':>10}{'points':>9}"
    for stratum in record.strata:
        yield f"{stratum.name:<10}{stratum.units:>16,}{stratum.units / whole:>10.2%}{stratum.points:>9}"
    if any(stratum.name == "buffer" for stratum in record.strata):
        metres = "" if record.buffer_m is None else f" ({record.buffer_m:g} m)"
        yield f"buffer: {record.buffer_px} px{metres} around change"
    for name in sample.files:
        yield f"  {sample.folder / name}"
    yield (
        "next: label the points in `ussfc view OUT`, or open sample.qgs in QGIS and fill in reference (change, no "
        "change or unclear); then `ussfc assess`"
    )


def assessment_lines(result: AssessmentRecord, path: Path) -> Iterator[str]:
    """Yield the accuracies of a map and its area of change, and the path of the result."""
    yield f"{result.points} {result.unit}s of run {result.run}, map at threshold {result.threshold:g}"
    found = result.poststratified or result.estimates
    if result.poststratified is not None:
        yield (
            f"drawn at threshold {result.sampled_threshold:g}; post-stratified by the map at {result.threshold:g}"
        )
    yield f"{'95 % intervals':<16}" + "".join(f"{heading:>26}" for heading in ACCURACIES.values())
    for name in ("change", "no change"):
        cells = "".join(f"{_share(found['classes'][name][field]):>26}" for field in ACCURACIES)
        yield f"{name:<16}{cells}"
    yield f"{'overall':<16}{_share(found['overall_accuracy']):>26}"
    yield f"{'stratum':<16}{'units':>16}{'points':>9}{'change':>9}"
    for stratum in result.strata:
        yield f"{stratum['name']:<16}{stratum['units']:>16,}{stratum['points']:>9}{stratum['change']:>9}"
    yield from _areas(result, found)
    if result.poststratified is not None:
        yield f"without post-stratification: {_area(result.estimates['classes']['change'])}"
    for note in result.notes:
        yield f"note: {note}"
    yield f"  {path}"


def _areas(result: AssessmentRecord, found: Mapping[str, Any]) -> Iterator[str]:
    mapped = "" if result.mapped_area_m2 is None else f"{format_area(result.mapped_area_m2)}, "
    yield f"{'change, mapped':<22}{mapped}{result.mapped_share:.2%} of the map"
    yield f"{'change, estimated':<22}{_area(found['classes']['change'])}"


def _area(change: Mapping[str, Any]) -> str:
    share = change["share"]
    shares = f"{share['value']:.2%} ({share['low']:.2%} to {share['high']:.2%})"
    area = change["area_m2"]
    if area is None:
        return shares
    km2, ha = ({end: area[end] / unit for end in ("value", "low", "high")} for unit in (1e6, 1e4))
    return (
        f"{km2['value']:.4g} km2 ({km2['low']:.4g} to {km2['high']:.4g}), "
        f"{ha['value']:.4g} ha ({ha['low']:.4g} to {ha['high']:.4g}), {shares}"
    )


def _share(found: Mapping[str, float | None]) -> str:
    if found["value"] is None:
        return "-"
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
