"""Work that goes ahead on threads while its results are taken in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, name: str, ahead: int = 0
) -> Iterator[tuple[Item, Result]]:
    """Each item with what ``function`` makes of it, in their order.

    Args:
        function: runs on the threads; an error of it comes up when its item's turn has come.
        items: taken from one thread.
        threads: how many items are in work at the same time.
        name: of the threads.
        ahead: how many items, beside those, may wait for their turn: memory follows the sum.
    """
    with ThreadPoolExecutor(threads, name) as executor:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                if len(waiting) > threads + ahead:
                    first, made = waiting.popleft()
                    yield first, made.result()
                waiting.append((item, executor.submit(function, item)))
            while waiting:
                first, made = waiting.popleft()
                yield first, made.result()
        finally:
            for _, made in waiting:
                made.cancel()
