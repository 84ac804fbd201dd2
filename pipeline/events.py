"""What a run tells while it goes on. Drawing is a subscriber's business."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage began."""

    stage: str
    """infer, mosaic or vectorise."""
    total: int
    """Units of work: tiles, or blocks of rows."""
    pixels: int
    """Pixels that this stage goes over."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """Some units of a stage are done."""

    stage: str
    done: int
    """Units done since the last such event."""
    pixels: int
    """Pixels in those units."""


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended well."""

    stage: str
    seconds: float
    pixels: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a user should know; the run goes on."""

    message: str
    warning: bool = True


Event = StageStarted | Advanced | StageFinished | Notice
Subscriber = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A subscriber that hears nothing."""
