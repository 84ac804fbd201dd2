"""A map over threads whose results come in the order of the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, name: str, ahead: int = 0
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the result of ``function``, in the order of the items.

    Args:
        function: runs on the threads; its error is raised when its item's turn has come.
        items: taken from one thread.
        threads: number of items in work at the same time.
        name: of the threads.
        ahead: number of items, beside those, that may wait for their turn: memory follows the sum.
    """
    with ThreadPoolExecutor(threads, name) as executor:
        pending: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                if len(pending) > threads + ahead:
                    first, future = pending.popleft()
                    yield first, future.result()
                pending.append((item, executor.submit(function, item)))
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()
