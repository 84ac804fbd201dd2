"""Repeated attempts with growing pauses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The number of attempts and the growing pauses between them."""

    attempts: int = 4
    """Number of attempts; 1: nothing is tried again."""
    first: float = 2.0
    """Pause before the second attempt, seconds."""
    factor: float = 4.0
    """Ratio of each further pause to the one before it."""
    longest: float = 60.0
    """Upper limit of a pause, seconds."""

    def before(self, attempt: int) -> float:
        """Return the seconds to wait before an attempt; 0 before the first, which has the number 1."""
        if attempt < 2:
            return 0.0
        try:
            return min(self.longest, self.first * self.factor ** (attempt - 2))
        except OverflowError:
            return self.longest

    def pauses(self) -> Iterator[float | None]:
        """Yield for each attempt the seconds to wait after it failed; None for the last."""
        for attempt in range(1, self.attempts):
            yield self.before(attempt + 1)
        yield None


ONCE = Backoff(attempts=1)
"""A single attempt."""
