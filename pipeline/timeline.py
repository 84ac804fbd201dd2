"""Moments of a tile's steps, for a trace of a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TileTimeline:
    """Moments of a tile's steps, and where they were taken."""

    process: str
    """Host and process id."""
    thread: int
    """Identifier of the thread on its host."""
    steps: tuple[tuple[str, float, float], ...]
    """Name, start (seconds since 1970) and seconds of each step: read, wait, network, write."""
