"""Repeated measurements of one quantity."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from statistics import median
from typing import Any


@dataclasses.dataclass(frozen=True)
class Samples:
    """One quantity, measured once a round."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, rounds: int, measure: Callable[[], float]) -> Samples:
        """Measure a quantity now."""
        return cls(tuple(measure() for _ in range(rounds)))

    @property
    def median(self) -> float:
        """The middle value, or the mean of the two in the middle."""
        return median(self.values)

    def over(self, others: Samples) -> Samples:
        """Return the ratios round by round: the two of a round were measured next to each other."""
        return Samples(tuple(a / b for a, b in zip(self.values, others.values, strict=True)))

    def record(self) -> dict[str, Any]:
        """Return the samples as the result of ``ussfc bench`` holds them."""
        return {
            "median": self.median,
            "least": min(self.values),
            "largest": max(self.values),
            "samples": list(self.values),
        }
