"""Events of a run, sent to a subscriber while it goes on; the subscriber decides how to show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ussfc.pipeline.timeline import TileTimeline


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage began."""

    stage: str
    """Name of the stage: infer, mosaic or vectorise."""
    total: int
    """Number of units of work: tiles, or blocks of rows."""
    pixels: int
    """Number of pixels that the stage processes."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """Some units of a stage are done, or a part of one."""

    stage: str
    """Name of the stage."""
    done: int
    """Number of units done since the last such event; 0 for a part of one."""
    pixels: int
    """Number of pixels done since. Those of a unit's parts are taken back, as a negative number, when it ends."""
    timeline: TileTimeline | None = None
    """Moments of the tile that is done; None: the unit is no tile, or a part of one."""


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended well."""

    stage: str
    """Name of the stage."""
    seconds: float
    """Duration of the stage, seconds."""
    pixels: int
    """Number of pixels that the stage processed."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A remark for the user; the run goes on."""

    message: str
    """Remark, one line."""
    warning: bool = True
    """False for mere information."""


Event = StageStarted | Advanced | StageFinished | Notice
Subscriber = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignore an event: the subscriber of a silent run."""
