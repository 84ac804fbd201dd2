"""The time that a run will take, from the speed of this machine or of the model's card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import ussfc
from ussfc.cores import cores
from ussfc.detector_options import QUALITIES
from ussfc.pipeline.clusters.select import LOCAL_KINDS, REMOTE_KINDS
from ussfc.pipeline.runs.detector import describe_detector, resolve_detector
from ussfc.pipeline.runs.plan import RunPlan

if TYPE_CHECKING:
    from ussfc.detector import DetectorSpec

START_SECONDS, WORKER_SECONDS = 4.0, 8.0
"""Least seconds until the first tile is computed: libraries, headers, the shift between both dates; and those of worker
processes beside them."""

START_FACTOR = 1.3
"""Start of a run over that of a plan, which does not measure the shift: how long the libraries take to load on a busy
machine, the plan has just seen."""

FINISHING_SPEED = 20e6
"""Pixels a second of radiometry, rasters and polygons, a half of what two cores were measured to do."""

ALTERATION_SPEED = 14e6
"""Pixels a second of one core in the distances of IR-MAD and their combination with the network's answer."""

MEASURED_SPREAD = (0.7, 2.0)
"""Shortest and longest time over its estimate, where the network's speed was measured here: other programs come and
go, and all of a machine at work is slower than a moment of it."""

CARD_SPREAD = (0.15, 2.0)
"""Likewise for the network where only a card names its speed: processors that compute bfloat16 are several times as
fast."""


@dataclass(frozen=True, slots=True)
class TimeEstimate:
    """Seconds from the command to the products."""

    seconds: float
    least: float
    most: float
    source: str
    """Source of the network's speed, in words."""


def estimate_time(plan: RunPlan, elapsed: Callable[[], float]) -> TimeEstimate | None:
    """Estimate how long a run takes; the network computes some patches for it where it is to compute on this machine.

    Args:
        plan: of the run. What an area of interest, masks, or an earlier run leave out is counted all the same.
        elapsed: returns the seconds that this process has needed so far; a run begins in the same way.

    Returns:
        None where nothing is known: on GPUs, and for workers whose number is not.
    """
    workers = plan.cluster.worker_count if plan.cluster is not None else 1
    card = plan.model.cpu_mpx_per_s
    if plan.on_gpu or not workers:
        return None
    if plan.executor not in REMOTE_KINDS and plan.executor in ("serial", *LOCAL_KINDS):
        try:
            return _estimate(plan, *_measured(plan, workers), elapsed(), MEASURED_SPREAD)
        except ussfc.ModelError:
            # The run reports it; a plan can still be made.
            pass
    if card is None:
        return None
    turns = QUALITIES[plan.config.inference.quality]
    speed = card * 1e6 / plan.tiles.patch_size**2 / turns * workers * plan.threads
    return _estimate(plan, speed, "the model's card, for other processors", elapsed(), CARD_SPREAD)


def _measured(plan: RunPlan, workers: int) -> tuple[float, str]:
    """Return patches a second of all workers on this machine, and by what."""
    spec = cast("DetectorSpec", resolve_detector(plan, None))
    calls = min(workers * plan.threads, cores())
    return ussfc.patches_per_second(spec, calls), f"measured now, {describe_detector(spec)}"


def _estimate(
    plan: RunPlan, speed: float, source: str, elapsed: float, spread: tuple[float, float]
) -> TimeEstimate:
    network = plan.tiles.computed_patches / speed
    threads = plan.threads * (1 if plan.cluster is None else plan.cluster.worker_count or 1)
    rest = max(START_SECONDS, START_FACTOR * elapsed) + plan.pixels / FINISHING_SPEED
    if plan.config.inference.alteration != "off":
        rest += plan.pixels / (ALTERATION_SPEED * threads)
    if plan.cluster is not None:
        rest += max(WORKER_SECONDS, elapsed)
    least, most = (
        round(of_network * network + of_rest * rest, 1)
        for of_network, of_rest in zip(spread, MEASURED_SPREAD, strict=True)
    )
    return TimeEstimate(round(network + rest, 1), least, most, source)
