"""Results of the commands as lines for people."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ussfc.addresses import shown_address
from ussfc.pipeline.progress import format_duration
from ussfc.pipeline.storage import layout
from ussfc.pipeline.terminal.advice import with_flags
from ussfc.pipeline.terminal.aligned import Row, aligned, aligned_paths

if TYPE_CHECKING:
    from pathlib import Path

    from ussfc.efficiency import Efficiency
    from ussfc.pipeline.batches.folder_checks import PairStatus
    from ussfc.pipeline.batches.index import PairResult
    from ussfc.pipeline.runs.manifest import Counts, InferenceRecord, RegistrationRecord, RunRecord, RunStatus
    from ussfc.pipeline.runs.prepare import PreparedScene
    from ussfc.pipeline.runs.validate import Check
    from ussfc.training.data import SplitReport
    from ussfc.training.synthesis.check import PlaceReport

MENTIONED = 0.01
"""Share of cloud-like change that is printed."""

RADIOMETRY = {
    "auto": "auto: as they are; those of AFTER are matched to BEFORE's if a sample shows all bands shifted",
    "model": "model: as they are",
    "match": "match: those of AFTER matched to BEFORE's",
}
"""Modes of the radiometry in words."""

MOST_SIZES = 4
"""Sizes of pairs up to which each is named."""

MOST_ROWS = 40
"""Scenes up to which the table has a row each."""

SCORES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "iou": "IoU",
    "overall_accuracy": "OA",
    "kappa": "kappa",
    "area_ratio": "area",
}
"""Columns of the table of scores: field and heading; the last is the area claimed over the area labelled."""

CALIBRATION = {"expected_error": "error", "temperature": "T", "tempered_error": "at T"}
"""Columns of the table of calibration: field and heading."""


def run_lines(
    record: RunRecord, out: str, seconds: float, has_report: bool = False, width: int | None = None
) -> Iterator[str]:
    """Yield the summary of a run: change, area, warnings, the full paths of its products, the next command.

    Args:
        record: of the run.
        out: its folder.
        seconds: duration of this call, which may have found most of it done.
        has_report: True: its page was made.
        width: characters of a line; None: lines are not broken.
    """
    counts = record.counts
    if (changed := _changed(counts, record.thresholds)) is not None:
        yield changed
    yield from aligned(_run_rows(record, seconds), width)
    folder = shown_address(out).rstrip("/")
    names = (*record.products, *((layout.REPORT,) if has_report else ()))
    yield from aligned_paths("files", (f"{folder}/{name}" for name in names))
    if not record.complete:
        yield from aligned([("next", "the same command again, for the tiles that failed")], width)
    elif layout.PROBABILITY in record.products:
        yield from aligned_paths("next", [f"ussfc view {shlex.quote(folder)}"])


def _run_rows(record: RunRecord, seconds: float) -> Iterator[Row]:
    counts = record.counts
    if counts.polygon_area_m2 is not None:
        # Of the polygons; what is too small for one is no part of their area.
        left_out = counts.left_out_share(record.thresholds)
        share = f"{counts.changed_share - left_out:.2%} of what has data"
        rest = f", without smaller regions ({left_out:.2%})" if left_out else ""
        yield "area", f"{format_area(counts.polygon_area_m2)}, {share}{rest}"
    if counts.polygons is not None:
        largest = counts.largest_polygon_m2
        yield "polygons", f"{counts.polygons}" + (f", the largest {format_area(largest)}" if largest else "")
    if record.registration is not None and record.registration.matrix is not None:
        moved = record.registration
        yield (
            "moved",
            f"{moved.typical_px:.2f} px, the later date ({moved.dx:+.2f} in x, {moved.dy:+.2f} in y; "
            f"{moved.agreeing} of {moved.windows} windows agree)",
        )
    if record.masks is not None:
        given = {"before": record.masks.before, "after": record.masks.after}
        hidden = (
            f"{mask.masked_pixels} px ({mask.masked_pixels / counts.pixels:.1%}) of {date}"
            for date, mask in given.items()
            if mask is not None
        )
        yield "masked", ", ".join(hidden)
    if record.cloud_like is not None and record.cloud_like.share >= MENTIONED:
        yield (
            "clouds",
            f"about {record.cloud_like.share:.0%} of the change is bright in one date alone, as clouds are",
        )
    warnings = len(dict.fromkeys(record.warnings))
    yield "warnings", f"{warnings}, in run.json" if warnings else "none"
    yield "time", f"{counts.pixels / 1e6:.2f} Mpx in {format_duration(seconds)}"


def _changed(counts: Counts, thresholds: Mapping[str, float]) -> str | None:
    """Return changed pixels with their threshold; None before they are made. Scripts read the first words."""
    if counts.changed_pixels is None:
        return None
    distinct = sorted(set(thresholds.values()))
    stated = f" at threshold {' and '.join(f'{value:g}' for value in distinct)}" if distinct else ""
    share = f"{counts.changed_share:.2%}"
    return f"{counts.changed_pixels} of {counts.classified_pixels} pixels changed ({share}){stated}"


def _outcome(counts: Counts, thresholds: Mapping[str, float]) -> Iterator[str]:
    """Yield changed pixels with their threshold, and polygons with their area, as far as they are made."""
    if (changed := _changed(counts, thresholds)) is not None:
        yield changed
    if counts.polygons is not None:
        area = counts.polygon_area_m2
        yield f"{counts.polygons} polygons" + ("" if area is None else f", {format_area(area)}")


def format_area(square_metres: float) -> str:
    """Return an area with its unit: square kilometres, of less than a hectare square metres."""
    if square_metres < 10_000:
        return f"{square_metres:.0f} m2"
    area = square_metres / 1e6
    return f"{area:.2f} km2" if area >= 10 else f"{area:.4g} km2"


def _places(out: str, names: Iterator[str] | Mapping[str, Any] | Sequence[str]) -> Iterator[str]:
    folder = shown_address(out).rstrip("/")
    for name in names:
        yield f"  {folder}/{name}"


def prepared_lines(scene: PreparedScene) -> Iterator[str]:
    """Yield what was written of a date."""
    rows, cols = scene.shape
    date = f", {scene.acquired}" if scene.acquired else ""
    yield f"{', '.join(scene.bands)}: {cols} x {rows} px, {scene.crs or 'no CRS'}{date}"
    yield f"{scene.bytes / 1e6:.1f} MB in {format_duration(scene.seconds)}"
    if scene.mask is not None:
        yield f"{scene.mask}: its mask of clouds"
    yield str(scene.path)


def registration_lines(record: RegistrationRecord, written: Sequence[Path]) -> Iterator[str]:
    """Yield the shift between two scenes, and the paths of the files written."""
    if record.dy is not None and record.dx is not None:
        shift = f"{record.dx:+.2f} px in x, {record.dy:+.2f} px in y"
        yield f"{record.state}: {shift} ({record.typical_px:.2f} px, {record.kind})"
        yield f"{record.agreeing} of {record.windows} windows agree"
        if record.scatter_px is not None:
            yield f"{record.scatter_px:.2f} px from the consensus in the typical window"
        if record.left_px is not None:
            yield f"{record.left_px:.2f} px left with the correction"
    else:
        yield f"{record.state}: the common grid is {record.state} to be measured"
    if record.warning:
        yield f"warning  {record.warning}"
    for path in written:
        yield f"  {path.absolute()}"


def incomplete_line(record: InferenceRecord) -> str:
    """Return the line about tiles that kept failing."""
    failed = record.failed_tiles
    return (
        f"incomplete: {len(failed)} of {record.counts.tiles} tiles kept failing, the first with: {failed[0].error}; "
        "the same command tries them again"
    )


def batch_lines(results: Sequence[PairResult], out: str) -> Iterator[str]:
    """Yield the numbers of pairs by outcome, and the paths of the index."""
    failed = sum(result.manifest is None for result in results)
    incomplete = sum(result.manifest is not None and not result.manifest.complete for result in results)
    done = len(results) - failed - incomplete
    yield f"{done} of {len(results)} pairs complete, {incomplete} incomplete, {failed} failed"
    yield from _places(out, ("results.csv", "collection.json"))


def batch_status_lines(pairs: Sequence[PairStatus]) -> Iterator[str]:
    """Yield the numbers of pairs by state, and each pair with its share of change, its warnings and its error."""
    states = [pair.state for pair in pairs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    yield f"{len(pairs)} pairs: {counts}"
    for pair in pairs:
        share = "" if pair.changed_share is None else f", {pair.changed_share:.2%} changed"
        error = "" if pair.error is None or pair.state != "failed" else f": {pair.error}"
        yield f"  {pair.state:<10} {pair.name}{share}{error}"
        for warning in pair.warnings:
            yield f"    warning  {warning}"


def plan_lines(
    summary: Mapping[str, Any], pair: tuple[str, str] | None = None, width: int | None = None
) -> Iterator[str]:
    """Yield the summary of a plan, in the layout of that of a run.

    Args:
        summary: of the plan.
        pair: both dates as they were given, for the next command.
        width: characters of a line; None: lines are not broken.
    """
    yield from aligned(_plan_rows(summary), width)
    if pair is not None:
        dates = " ".join(shlex.quote(shown_address(date)) for date in pair)
        yield from aligned_paths("next", [f"ussfc run {dates} --out DIR (and the options of this plan)"])


def _plan_rows(summary: Mapping[str, Any]) -> Iterator[Row]:
    grid = summary["grid"]
    workers = summary["workers"] or "any number of"
    time = "unknown"
    if summary.get("seconds_range"):
        least, most = map(format_duration, summary["seconds_range"])
        time = f"between {least} and {most}, network {summary['seconds_source']}"
    bands = {date: ", ".join(map(str, numbers)) for date, numbers in summary["bands"].items()}
    beside = "" if summary["beside"] == "none" else f" and {summary['beside']}"
    yield from (
        ("model", f"{summary['model']}{beside}, threshold {summary['threshold']:g}"),
        ("scored", summary["scored"] or "no"),
        *((("better", with_flags(summary["advice"])),) if summary["advice"] else ()),
        ("weights", summary["terms"] or "licence not known"),
        ("bands", f"{bands['before']} of before, {bands['after']} of after"),
        ("grid", f"{grid['rows']} x {grid['cols']} px ({summary['megapixels']} Mpx), {grid['crs'] or 'no CRS'}"),
        ("tiles", f"{summary['tiles']}"),
        (
            "patches",
            f"{summary['patches']} ({summary['redundant_share']:.1%} computed by several tiles)"
            f"{', each in four turns' if summary['quality'] == 'best' else ''}",
        ),
        ("to read", f"{summary['bytes_to_read'] / 1e6:.1f} MB"),
        ("to write", f"{summary['bytes_to_write_at_most'] / 1e6:.1f} MB at most, seldom more than a third of that"),
        ("memory", f"{summary['memory_bytes'] / 1e9:.2f} GB peak, all processes"),
        ("executor", f"{summary['executor']}, {workers} process(es) x {summary['threads']}"),
        ("time", time),
        ("numbers", RADIOMETRY[summary["radiometry"]]),
    )  # fmt: skip
    for date, mask in summary["masks"].items():
        yield "mask", f"{date}: {mask}"
    for warning in summary["warnings"]:
        yield "warning", with_flags(warning)
    if not summary["warnings"]:
        yield "warnings", "none"


def check_lines(checks: Sequence[Check]) -> Iterator[str]:
    """Yield the checks of a folder's products."""
    for check in checks:
        yield f"{'ok    ' if check.ok else 'FAILED'}  {check.name}: {check.detail}"


def pair_check_lines(name: str, found: Sequence[Check] | str) -> Iterator[str]:
    """Yield the checks that a pair of a batch failed, or their number where it passed all."""
    if isinstance(found, str):
        yield f"none    {name}: {found}"
        return
    failed = [check for check in found if not check.ok]
    if not failed:
        yield f"ok      {name}: {len(found)} checks"
    for check in failed:
        yield f"FAILED  {name}: {check.name}: {check.detail}"


def status_lines(found: RunStatus) -> Iterator[str]:
    """Yield the state of a folder."""
    tiles = found.tiles
    yield (
        f"{found.state}: {tiles.done} of {tiles.total} tiles done, {tiles.left} left, {tiles.failed} failed"
    )
    if found.counts is not None:
        for line in _outcome(found.counts, found.thresholds):
            yield f"  {line}"
    for failure in found.failed_tiles:
        yield f"  failed   {failure.error} (tried {failure.attempts} times)"
    for name, size in found.products.items():
        yield f"  product  {name}, {size / 1e6:.1f} MB"
    for name in found.uploads:
        yield f"  unfinished upload of {name}; if no run is going on, `ussfc clean` removes it"


def clean_lines(found: Mapping[str, Sequence[str]], dry_run: bool) -> Iterator[str]:
    """Yield what was removed from a folder, or would be."""
    verb = "would remove" if dry_run else "removed"
    for kind, names in found.items():
        for name in names:
            yield f"{verb} {kind.removesuffix('s')} {name}"
    if not any(found.values()):
        yield "nothing to clean"


def score_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the scores of an evaluation, a scene a row, and F1 by threshold."""
    yield f"{summary['model']} at threshold {summary['threshold']:g} ({summary['threshold_from']})"
    scenes = summary["scenes"] if len(summary["scenes"]) <= MOST_ROWS else ()
    yield _heading_line("", SCORES)
    for scene in scenes:
        yield _score_line(scene["name"], scene, SCORES)
    every = f"all {len(summary['scenes'])}"
    yield _score_line(every, summary["scores"], SCORES)
    for plain in summary.get("baselines", ()):
        yield _score_line("", plain["scores"], SCORES) + f"  {plain['method']}"
    averages = (summary["average_precision"], summary["mean_average_precision"])
    total, mean = ("-" if value is None else format(value, ".4f") for value in averages)
    yield f"average precision {total}, mean over scenes {mean}; F1 by threshold:"
    scored = [(row["threshold"], row["f1"]) for row in summary["sweep"]]
    yield "  ".join(f"{t:.2f} {'-' if f1 is None else format(f1, '.3f')}" for t, f1 in scored)
    calibration = summary["calibration"]
    if calibration["expected_error"] is not None:
        yield _heading_line("calibration", CALIBRATION)
        for scene in scenes:
            yield _score_line(scene["name"], scene["calibration"], CALIBRATION)
        yield _score_line(every, calibration, CALIBRATION)
        yield "share of change by probability:"
        rows = calibration["reliability"]
        yield "  ".join(f"{row['probability']:.2f} {row['change']:.3f}" for row in rows)


def _heading_line(name: str, columns: Mapping[str, str]) -> str:
    return f"{name:<24}" + "".join(f"{heading:>9}" for heading in columns.values())


def _score_line(name: str, scores: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    numbers = ("     -   " if scores[key] is None else f"{scores[key]:9.4f}" for key in columns)
    return (f"{name:<24}" + "".join(numbers)).rstrip()


def data_lines(reports: Sequence[SplitReport | PlaceReport]) -> Iterator[str]:
    """Yield the counts of a data set, a split or a place a line."""
    from ussfc.training.synthesis.check import PlaceReport

    for report in reports:
        sizes = ", ".join(f"{count} of {size}" for size, count in report.sizes.items())
        if len(report.sizes) > MOST_SIZES:
            sizes = f"{len(report.sizes)} sizes"
        sizes = sizes or "none whole"
        counted = report.covered if isinstance(report, PlaceReport) else report.changed
        share = f"{counted / report.pixels if report.pixels else 0.0:.2%} of {report.pixels / 1e6:.1f} Mpx"
        if not isinstance(report, PlaceReport):
            yield f"{report.split}: {report.pairs} pairs ({sizes}), {share} changed"
        elif report.masked or not report.tiles:
            yield f"{report.place}: {report.tiles} tiles ({sizes}), {report.instances} whole instances, {share} masked"
        else:
            yield f"{report.place}: {report.tiles} backgrounds ({sizes})"


def cost_lines(counts: Efficiency, seconds: float, has_int8: bool) -> Iterator[str]:
    """Yield the costs of a network.

    Args:
        counts: parameters and operations.
        seconds: time of one patch on one core of this machine.
        has_int8: there are ranges for ``--precision int8``.
    """
    size = counts.patch_size
    yield ""
    yield f"network, one pair of {size} x {size} px:"
    for label, value in (
        ("parameters", f"{counts.parameters:,}"),
        ("multiply-accumulates", f"{counts.macs / 1e9:.2f} G"),
        ("  as thop counts", f"{counts.macs_by_thop / 1e9:.2f} G (transposed convolutions fourfold, batch norm)"),
        ("  as fvcore counts", f"{counts.macs_by_fvcore / 1e9:.2f} G (batch norm)"),
        ("latency here", f"{1000 * seconds:.0f} ms on one CPU core, {size**2 / seconds / 1e6:.2f} Mpx/s"),
        ("in integers", "by --precision int8" if has_int8 else "no: there are no ranges for int8 beside the weights"),
    ):  # fmt: skip
        yield f"  {label:<22} {value}"


def key_lines() -> Iterator[str]:
    """Yield every configuration key with its default and its meaning."""
    from ussfc.pipeline.config.load import documented_keys

    for key, default, description in documented_keys():
        yield f"{key:<30} {json.dumps(default):<16} {description}"
