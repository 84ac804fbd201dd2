"""The detector of a run: its engine and precision, where the configuration leaves them to the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

import ussfc
from ussfc.pipeline.clusters.scheduler import SchedulerAt
from ussfc.pipeline.clusters.select import REMOTE_KINDS
from ussfc.pipeline.runs.plan import RunPlan, chosen_device
from ussfc.pipeline.types import DetectorSpec

if TYPE_CHECKING:
    from ussfc.detector import DetectorSpec as NetworkSpec

Answer = TypeVar("Answer")


class Ask(Protocol):
    """Calls a function on every worker; see :meth:`ussfc.pipeline.execution.executor.Executor.ask`."""

    def __call__(self, function: Callable[..., Answer], *args: object) -> list[Answer]:
        """Return the answer of each."""


def resolve_detector(
    plan: RunPlan, detector: DetectorSpec | None, begun: str | None = None, ask: Ask | None = None
) -> DetectorSpec:
    """Return the detector that a plan means.

    Args:
        plan: of the run.
        detector: another detector than the model's network.
        begun: identity of the detector that the run in the output folder began with, if there is one: settings that
            the configuration leaves to the machine are then as they were there, unless a setting that it names
            disagrees: that is another run, whose choices are its own.
        ask: calls a function on the workers, where they are on other machines. They are asked for the engine and
            precision that they compute fastest where something is left to choose and their number is known: those of an
            adaptive cluster come and go. Where one is missing or of another opinion, the choice is the one that every
            machine can compute.
    """
    if detector is not None:
        return detector
    chosen = _configured(plan)
    recorded = ussfc.detector_choices(begun or "")
    if all(chosen[name] in ("auto", value) for name, value in recorded.items()):
        chosen |= recorded
    return ussfc.detector_spec(
        plan.model,
        _options(plan, chosen),
        choose=partial(_choose_for_workers, plan, ask) if plan.executor in REMOTE_KINDS else None,
    )


def possible_detectors(plan: RunPlan, detector: DetectorSpec | None) -> tuple[DetectorSpec, ...]:
    """Return every detector that a run of a plan may have begun with; nothing is measured.

    Args:
        plan: of the run.
        detector: another detector than the model's network.
    """
    if detector is not None:
        return (detector,)
    found: list[NetworkSpec] = []

    def keep(specs: Sequence[NetworkSpec]) -> NetworkSpec:
        found.extend(specs)
        return specs[0]

    only = ussfc.detector_spec(plan.model, _options(plan, _configured(plan)), choose=keep)
    return tuple(found) or (only,)


def _configured(plan: RunPlan) -> dict[str, str]:
    named = plan.config.inference.model_dump(include={"engine", "precision"})
    return named | {"device": chosen_device(plan.config)}


def _options(plan: RunPlan, chosen: Mapping[str, str]) -> ussfc.DetectorOptions:
    return ussfc.DetectorOptions(
        patch_size=plan.layout.patch_size,
        ssfc=plan.layout.ssfc,
        batch_size=plan.config.inference.batch_size,
        streams=plan.threads,
        quality=plan.config.inference.quality,
        **chosen,
    )


def _choose_for_workers(plan: RunPlan, ask: Ask | None, specs: Sequence[NetworkSpec]) -> NetworkSpec:
    assert plan.cluster is not None
    # A scheduler that was there before has the workers that are there now.
    expected = plan.cluster.worker_count or (1 if isinstance(plan.cluster, SchedulerAt) else 0)
    if ask is None or not expected:
        return ussfc.anywhere(specs)
    answers = ask(_fastest, specs)
    # A worker that can build none of them reports it when its tiles are to begin.
    found = {answer for answer in answers if answer is not None}
    return specs[found.pop()] if len(found) == 1 and len(answers) >= expected else ussfc.anywhere(specs)


def _fastest(specs: Sequence[NetworkSpec]) -> int | None:
    """Return the index of the spec that a worker computes fastest; None: it can build none."""
    try:
        return specs.index(ussfc.fastest(specs))
    except Exception:  # noqa: BLE001 - whatever a library raises is reported where tiles are to begin
        return None


def describe_detector(spec: DetectorSpec) -> str:
    """Return a detector's engine, precision and device for a notice; its identity where that names none."""
    choices = ussfc.detector_choices(spec.identity)
    return "{engine} in {precision} on {device}".format(**choices) if len(choices) == 3 else spec.identity
