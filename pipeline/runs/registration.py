"""Registration of a run: the shift between both dates is measured, recorded, and taken out as the later one is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from ussfc.pipeline.errors import DamagedRecord
from ussfc.pipeline.runs.comparison import SIDES, Comparison, compare_pair, moved_masks, moved_recipe
from ussfc.pipeline.runs.manifest import RegistrationRecord, WindowRecord
from ussfc.pipeline.runs.run_key import mask_keys, scene_key
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.grid import grid_record

if TYPE_CHECKING:
    from ussfc.pipeline.config.schema import Registration
    from ussfc.pipeline.pixels.registration import RegistrationEstimate, Shift
    from ussfc.pipeline.runs.pair import ScenePair
    from ussfc.pipeline.runs.plan import RunPlan

VERSION = 1
"""Version of the measurement; a record of another one is measured again."""

FLOOR = 0.35
"""Shift from which the later date is moved, pixels; see docs/registration.md for the measurement."""

REPORTED = 0.5
"""Shift above which a pair that is only checked gets a warning, pixels."""

SCATTERED = 0.9
"""Share of the agreeing windows within the distance that is compared with REPORTED: on 11 real Sentinel-2 pairs that
distance is at most 0.42 px."""

LIMIT = 20.0
"""Largest shift that is taken out, pixels; beyond it the geolocation itself is wrong."""

NEAR_WHOLE = 0.1
"""Distance from a whole number of pixels within which a translation is rounded: no pixel is then interpolated."""

NOWHERE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
"""Matrix of a correction that moves nothing."""

CONTROL_WINDOWS = 36
"""Largest number of windows measured once more with a correction."""


def register(
    comparison: Comparison, mode: Registration, threads: int, inputs: str = ""
) -> RegistrationRecord:
    """Measure the shift between both dates, and decide whether the later one is moved.

    A correction is kept only if the pair is measured again with it and lies closer.

    Args:
        comparison: both dates.
        mode: ``off``, ``check`` or ``correct``.
        threads: windows that are read and measured at a time.
        inputs: digest of everything that decides the measurement, for the record.

    Raises:
        ReadError: a scene cannot be opened.
    """
    from ussfc.pipeline.pixels.registration import estimate_registration

    if mode == "off":
        return RegistrationRecord(mode=mode, state="off", inputs=inputs)
    shape = comparison.shape
    if min(shape) < SIDES[-1][0]:
        return RegistrationRecord(mode=mode, state="too small", inputs=inputs)
    windows = comparison.measure(threads)
    # A quadratic field is no affine grid to read on.
    found = estimate_registration(windows, shape, highest="affine")
    record = _decided(found, comparison, mode, threads, inputs)
    bend = _bend(found, estimate_registration(windows, shape))
    if bend <= REPORTED:
        return record
    # Windows of a field that bends much agree on no affine one; that they agree on the bend makes them one place.
    state = "displaced" if record.state == "unknown" else record.state
    warning = (
        f"a shift or rotation of the later date leaves up to {bend:.1f} px in places: it is bent against the earlier "
        "one, or terrain displaces it; mend its geolocation (orthorectify it again)"
    )
    if record.warning and record.state != "unknown":
        warning = f"{record.warning}; {warning}"
    return record.model_copy(update={"state": state, "warning": warning})


def _bend(found: RegistrationEstimate, bent: RegistrationEstimate) -> float:
    """Return the distance from a consensus that windows show which err together, pixels; 0 where none is seen.

    Args:
        found: the consensus, affine at most.
        bent: the same with a quadratic field where there is one, which the agreeing windows lie on.
    """
    if bent.sure and bent.shift.kind == "quadratic":
        rows, cols = np.array(_agreeing_places(bent)).T
        fields = [np.array(each.shift.shift_at(rows, cols)) for each in (found, bent)]
        return float(np.hypot(*(fields[0] - fields[1])).max())
    if not found.sure:
        return 0.0
    # Small grids have too few windows for a quadratic field.
    rows, cols = np.array(_agreeing_places(found)).T
    shifts = np.array(
        [(each.dy, each.dx) for each, agrees in zip(found.windows, found.inliers, strict=True) if agrees]
    )
    distances = np.hypot(*(np.array(found.shift.shift_at(rows, cols)) - shifts.T))
    return float(np.quantile(distances, SCATTERED))


def _agreeing_places(found: RegistrationEstimate) -> list[tuple[float, float]]:
    return [each.window.centre for each, agrees in zip(found.windows, found.inliers, strict=True) if agrees]


def _decided(
    found: RegistrationEstimate, comparison: Comparison, mode: Registration, threads: int, inputs: str
) -> RegistrationRecord:
    """Return the record of a consensus, with the correction where there is to be one."""
    from ussfc.pipeline.pixels.registration import estimate_registration

    shape = comparison.shape
    record = _record(found, mode, inputs)
    typical, largest = found.shift.length_over(shape)
    if not found.sure:
        return record.model_copy(update={"state": "unknown", "warning": _unknown(found)})
    if largest < FLOOR:
        return record.model_copy(update={"state": "aligned"})
    if typical > LIMIT:
        warning = f"{_described(found)}, more than the {LIMIT:g} px that are corrected; mend its geolocation"
        return record.model_copy(update={"state": "displaced", "warning": warning})
    matrix = _rounded(found.shift, comparison)
    if mode == "check" or matrix == NOWHERE:
        displaced = record.model_copy(update={"state": "displaced"})
        remedy = (
            "registration: correct would move it" if mode == "check" else "less than a pixel without a CRS"
        )
        warning = f"{_described(found)}; {remedy}"
        return displaced.model_copy(update={"warning": warning}) if largest > REPORTED else displaced
    control = comparison.moved(matrix).measure(threads, CONTROL_WINDOWS)
    left = estimate_registration(control, shape, highest="translation")
    rest = left.shift.length_over(shape)[0]
    if not left.sure or rest >= typical:
        warning = f"{_described(found)}, but the pair lies no closer once it is moved; it is left as it is"
        return record.model_copy(update={"state": "displaced", "warning": warning})
    moved = {"state": "corrected", "matrix": matrix, "left_px": round(rest, 3)}
    return record.model_copy(update=moved)


def _record(found: RegistrationEstimate, mode: Registration, inputs: str) -> RegistrationRecord:
    rows, cols = found.shift.centre
    dy, dx = (float(value) for value in found.shift.shift_at(rows, cols))
    typical, _ = found.shift.length_over(_shape(found))
    vectors = tuple(
        WindowRecord(
            row=shift.window.y, column=shift.window.x, size=shift.window.size, dy=round(shift.dy, 3),
            dx=round(shift.dx, 3), quality=round(shift.quality, 3), agrees=agrees,
        )
        for shift, agrees in zip(found.windows, found.inliers, strict=True)
    )  # fmt: skip
    return RegistrationRecord(
        mode=mode, state="unknown", inputs=inputs, kind=found.shift.kind, dy=round(dy, 3), dx=round(dx, 3),
        typical_px=round(typical, 3), windows=sum(found.used), agreeing=sum(found.inliers),
        scatter_px=_finite(found.spread_after), error_px=_finite(found.error), vectors=vectors,
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def _unknown(found: RegistrationEstimate) -> str:
    used = sum(found.used)
    if used >= 2 * sum(found.inliers) and used > 1:
        return (
            f"the dates may show different places, or ground that has changed all over: only {sum(found.inliers)} of "
            f"{used} windows agree on a shift between them; look at both images"
        )
    return (
        f"it could not be checked whether both dates lie on each other: {used} of {len(found.windows)} windows have "
        "texture in common; look at both images"
    )


def _described(found: RegistrationEstimate) -> str:
    return f"the later date lies {found.shift.length_over(_shape(found))[0]:.2f} px beside the earlier one"


def _shape(found: RegistrationEstimate) -> tuple[int, int]:
    rows, cols = found.shift.centre
    return round(2 * rows + 1), round(2 * cols + 1)


def _rounded(shift: Shift, comparison: Comparison) -> tuple[tuple[float, ...], ...]:
    """Return the matrix of a correction, with digits that do not depend on the machine; whole pixels without a CRS."""
    matrix = shift.matrix()
    centre = np.array(shift.shift_at(*shift.centre), np.float64)
    whole = np.rint(centre)
    if comparison.recipes[0].grid.crs is None or (
        shift.kind == "translation" and np.abs(centre - whole).max() <= NEAR_WHOLE
    ):
        # Plus zero: a rounded -0.2 is -0, which a record would show.
        matrix = np.column_stack([np.eye(2), whole + 0.0])
    return tuple(
        (round(float(row[0]), 9), round(float(row[1]), 9), round(float(row[2]), 3)) for row in matrix
    )


def moved_pair(pair: ScenePair, record: RegistrationRecord) -> ScenePair:
    """Return the pair whose later date is read where its content lies; the pair itself where nothing is moved."""
    if record.matrix is None:
        return pair
    before, after = pair.recipes
    masks = moved_masks(pair.masks, pair.grid, record.matrix)
    return dataclasses.replace(pair, recipes=(before, moved_recipe(after, record.matrix)), masks=masks)


def input_digest(pair: ScenePair, mode: Registration) -> str:
    """Return a digest of everything that decides a measurement."""
    keys = [
        scene_key(info, recipe.bands)
        for info, recipe in zip((pair.before, pair.after), pair.recipes, strict=True)
    ]
    decisive = [
        VERSION,
        mode,
        keys,
        grid_record(pair.grid),
        pair.recipes[0].resampling,
        *mask_keys(pair.masks),
    ]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def register_plan(plan: RunPlan) -> RunPlan:
    """Return a plan whose pair is registered as its configuration asks for."""
    mode = plan.config.registration
    inputs = input_digest(plan.pair, mode)
    return with_record(plan, register(compare_pair(plan.pair), mode, max(2, plan.threads), inputs))


def with_record(plan: RunPlan, record: RegistrationRecord) -> RunPlan:
    """Return a plan with a measurement, and the correction in the recipe of its later date."""
    return dataclasses.replace(plan, pair=moved_pair(plan.pair, record), registration=record)


def recorded_plan(plan: RunPlan, out: Folder) -> RunPlan:
    """Return a plan with the measurement that a folder holds; the plan itself where it has one, or the folder none.

    One whose records are damaged holds none: it follows from the inputs and is made again.

    Raises:
        StoreError: the folder cannot be read.
    """
    if plan.registration is not None:
        return plan
    digest = input_digest(plan.pair, plan.config.registration)
    record = None
    with suppress(DamagedRecord):
        record = RegistrationRecord.find(out / layout.WORK, layout.REGISTRATION, sealed=True)
    with suppress(DamagedRecord):
        if (
            record is None
            and (manifest := out.find_json(layout.MANIFEST, sealed=True))
            and manifest.get("registration")
        ):
            record = RegistrationRecord.parse(manifest["registration"], f"{out / layout.MANIFEST}")
    return plan if record is None or record.inputs != digest else with_record(plan, record)


def describe(record: RegistrationRecord) -> str | None:
    """Return the correction as a line for people; None where nothing was moved."""
    if record.state != "corrected":
        return None
    shift = f"{record.typical_px:.2f} px beside the earlier one ({record.dx:+.2f} in x, {record.dy:+.2f} in y"
    return (
        f"registration: the later date lies {shift}; {record.agreeing} of {record.windows} windows agree) and is "
        f"moved; {record.left_px:.2f} px are left"
    )
