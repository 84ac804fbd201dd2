"""Events of a training, for progress lines and notebooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StepCompleted:
    """Some steps are done."""

    step: int
    """Steps done so far."""
    steps: int
    """Steps planned."""
    loss: float
    """Mean since the last such event."""
    patches_per_s: float
    """Crops per second since the last such event."""


@dataclass(frozen=True)
class Validated:
    """The validation set was scored."""

    step: int
    """Steps done so far."""
    f1: float
    """F1 at the best threshold."""
    threshold: float
    """Threshold with the largest F1."""
    best: bool
    """True if no earlier validation was better."""


@dataclass(frozen=True)
class TrainingNotice:
    """Something a user should know; training goes on."""

    message: str


Event = StepCompleted | Validated | TrainingNotice
Subscriber = Callable[[Event], None]
