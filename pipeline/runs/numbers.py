"""Numbers of both dates as the network gets them: each by the model's range, or the later date's matched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from ussfc.pipeline.errors import DamagedRecord
from ussfc.pipeline.pixels.sample_checks import DateSample, Finding, check_samples, describe_match
from ussfc.pipeline.runs.alteration import measure_pair
from ussfc.pipeline.runs.manifest import MappingRecord, NormalisationRecord, RadiometryRecord
from ussfc.pipeline.runs.normalisation import matched_mappings, normalise_pair
from ussfc.pipeline.runs.pair import refuse_fatal, sample_pair, scene_mappings
from ussfc.pipeline.runs.resolve import alteration_terms
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.run_name import STARTING
from ussfc.pipeline.types import RadiometricMapping

if TYPE_CHECKING:
    from ussfc.pipeline.config.schema import Radiometry
    from ussfc.pipeline.runs.plan import RunPlan

Mappings = tuple[RadiometricMapping, RadiometricMapping]
Samples = tuple[DateSample, DateSample]

LEAST_CONTRAST = 0.1
"""Least contrast of the later date once it is matched, share of its own, from which auto matches. An earlier date with
less holds reflectances against numbers, and the network would see little in either."""


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Radiometric constants of both dates, and what a sample shows of them."""

    mappings: Mappings
    findings: tuple[Finding, ...]
    lines: NormalisationRecord | None = None
    """Lines of a matched pair; None: the later date keeps its numbers."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings to show before the run."""
        unmatched = () if self.lines is None or self.lines.warning is None else (self.lines.warning,)
        return (*unmatched, *(found.text for found in self.findings))


def find_numbers(
    mode: Radiometry,
    mappings: Mappings,
    samples: Samples | None,
    measure: Callable[[], NormalisationRecord],
) -> Numbers:
    """Return the constants of both dates as a mode asks for them.

    Args:
        mode: ``auto`` matches where the only finding is a shift of all bands, and where matched numbers have none.
        mappings: constants of before and after, each by itself.
        samples: of both dates with these constants; None where there is nothing to check.
        measure: finds the lines that bring the later date to the numbers of the earlier one.
    """
    findings = _findings(mappings, samples)
    # Dark ground of one date is no reason against bringing the other to it.
    apart = [found for found in findings if not found.dark]
    if mode == "model" or (mode == "auto" and not (len(apart) == 1 and apart[0].shift)):
        return Numbers(mappings, findings)
    lines = measure()
    matched = matched_mappings(mappings, lines)
    left = _findings(matched, samples)
    if mode == "match":
        return Numbers(matched, left, lines)
    if (
        not all(found.dark for found in left)
        or lines.gain is None
        or _contrast(mappings, matched) < LEAST_CONTRAST
    ):
        return Numbers(mappings, findings)
    still = (found for found in left if found in findings)
    return Numbers(matched, (Finding(describe_match(apart[0].shift)), *still), lines)


def _contrast(own: Mappings, matched: Mappings) -> float:
    """Return the contrast of the later date in its flattest band once it is matched, share of its own."""
    spans = (
        [high - low for low, high in zip(both[1].low, both[1].high, strict=True)] for both in (own, matched)
    )
    return float(min(one / other for one, other in zip(*spans, strict=True)))


def _findings(mappings: Mappings, samples: Samples | None) -> tuple[Finding, ...]:
    if samples is None:
        return ()
    before, after = (
        dataclasses.replace(sample, mapping=mapping)
        for sample, mapping in zip(samples, mappings, strict=True)
    )
    return tuple(check_samples(before, after))


def measure_radiometry(plan: RunPlan) -> RadiometryRecord:
    """Measure the constants of a registered plan.

    Raises:
        ReadError: the numbers of a scene are none that the model takes, and the run is not forced.
    """
    pair, mode = plan.pair, plan.config.radiometry
    # A run that began with its own numbers keeps them.
    taken: Radiometry = "model" if plan.chosen == "model" else mode
    mappings = scene_mappings(pair)
    found = find_numbers(
        taken, mappings, sample_pair(pair, mappings), lambda: normalise_pair(pair, plan.threads)
    )
    refuse_fatal(found.findings, plan.config.force)
    before, after = found.mappings
    lines, warnings = found.lines, found.warnings
    terms, alteration = alteration_terms(plan.config, pair.model), None
    if terms is not None:
        alteration = measure_pair(pair, found.mappings, terms, plan.threads)
        warnings = (*warnings, alteration.warning) if alteration.warning else warnings
    choice: Literal["model", "match"] = "model" if lines is None else "match"
    return RadiometryRecord(
        before=MappingRecord.of(before),
        after=MappingRecord.of(after),
        **({} if lines is None else {"normalisation": lines}),
        **({"chosen": choice} if mode == "auto" else {}),
        **({} if alteration is None else {"alteration": alteration}),
        **({"warnings": warnings} if warnings else {}),
    )


def recorded_choice(plan: RunPlan, out: Folder) -> RunPlan:
    """Return a plan with the choice of ``radiometry: auto`` that a folder holds; the plan itself where there is none.

    One whose records are damaged holds none: it follows from the inputs and is made again.

    Raises:
        StoreError: the folder cannot be read.
    """
    if plan.config.radiometry != "auto" or plan.chosen is not None:
        return plan
    with suppress(DamagedRecord):
        # What another run has left beside a key that is not written yet is not of this one.
        if (out / layout.WORK).find_json(layout.RUN_KEY) == STARTING:
            return plan
    for record in _records(out):
        # A record without lines and without a choice is of a run that knew none but the model's range.
        chosen = record.chosen or (None if record.normalisation is not None else "model")
        return dataclasses.replace(plan, chosen=chosen)
    return plan


def _records(out: Folder) -> Iterator[RadiometryRecord]:
    """Yield the constants that a folder holds, as far as they are what was written."""
    with suppress(DamagedRecord):
        record = RadiometryRecord.find(out / layout.WORK, layout.RADIOMETRY, sealed=True)
        if record is not None:
            yield record
    with suppress(DamagedRecord):
        manifest = out.find_json(layout.MANIFEST, sealed=True)
        if manifest and manifest.get("radiometry"):
            yield RadiometryRecord.parse(manifest["radiometry"], f"{out / layout.MANIFEST}")
