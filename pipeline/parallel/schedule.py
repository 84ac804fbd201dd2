"""The order in which tiles are handed out: fresh ones as they come, failed ones again once their pause is over."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterable

from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.types import Index


class Schedule:
    """The tiles of a run that are handed out, waiting, or yet to be drawn.

    Every index that :meth:`take` draws from the list ends exactly once: by :meth:`done`, or when
    :meth:`failed` or :meth:`crashed` returns that it was given up. Failed ones go before fresh ones once their
    pause is over, so that a permanent failure shows early. Crashed ones come last, each by itself. Not
    thread-safe.
    """

    def __init__(
        self, indices: Iterable[Index], backoff: Backoff, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Draw nothing from ``indices`` yet.

        Args:
            indices: the tiles, no index twice; drawn one by one as they are taken.
            backoff: attempts of every tile.
            clock: seconds, never going back.
        """
        self._fresh = iter(indices)
        self._exhausted = False
        self._backoff = backoff
        self._clock = clock
        self._out: set[Index] = set()
        self._waiting: list[tuple[float, Index]] = []  # a heap by the time when it is due
        self._crashed: list[Index] = []
        self._alone: set[Index] = set()
        self._failures: dict[Index, int] = {}

    @property
    def over(self) -> bool:
        """True if all have ended, as far as :meth:`take` has looked: it must have returned None once."""
        return not (self._out or self._waiting or self._crashed) and self._exhausted

    def take(self) -> Index | None:
        """Hand out the next index; None: none may be handed out now."""
        index = self._due() or self._drawn()
        if index is None and self._crashed and not (self._out or self._waiting):
            index = self._crashed.pop()
            self._alone.add(index)
        if index is not None:
            self._out.add(index)
        return index

    def _due(self) -> Index | None:
        if self._waiting and self._waiting[0][0] <= self._clock():
            return heapq.heappop(self._waiting)[1]
        return None

    def _drawn(self) -> Index | None:
        index = next(self._fresh, None)
        self._exhausted = index is None
        return index

    def due_in(self) -> float:
        """Return the seconds until a failed one is due; infinite if none waits."""
        return max(0.0, self._waiting[0][0] - self._clock()) if self._waiting else math.inf

    def done(self, index: Index) -> None:
        """End an index that was handed out: it has its result."""
        self._out.remove(index)
        self._failures.pop(index, None)

    def failed(self, index: Index) -> int | None:
        """Note that an index that was handed out failed.

        Returns:
            None if it will be handed out again, else the number of its attempts: it is given up.
        """
        self._out.remove(index)
        failures = self._failures.pop(index, 0) + 1
        if failures >= self._backoff.attempts:
            return failures
        self._failures[index] = failures
        heapq.heappush(self._waiting, (self._clock() + self._backoff.before(failures + 1), index))
        return None

    def back(self, index: Index) -> None:
        """Take back an index that was handed out and not tried; it is due at once."""
        self._out.remove(index)
        self._alone.discard(index)
        heapq.heappush(self._waiting, (self._clock(), index))

    def crashed(self, index: Index) -> int | None:
        """Note that the worker of an index was lost, because of it or of another one beside it.

        Tried once more by itself, after all others, it shows whether it is to blame; the first time does not
        count as its attempt. Where nothing is tried again, it is given up at once.

        Returns:
            As :meth:`failed`.
        """
        self._out.remove(index)
        if index in self._alone or self._backoff.attempts == 1:
            return self._failures.pop(index, 0) + 1
        self._crashed.append(index)
        return None

    def recall(self) -> None:
        """Take back all that are handed out, due now; it does not count as their failure."""
        now = self._clock()
        for index in self._out:
            heapq.heappush(self._waiting, (now, index))
        self._alone -= self._out
        self._out.clear()
