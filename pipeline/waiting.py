"""Waits for other machines, which are reported once they take long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ussfc.pipeline.events import Notice, Subscriber

WAIT_SECONDS = 5.0
"""Wait after which its cause is reported, seconds."""

AGAIN_SECONDS = 60.0
"""Time after which the same cause is reported again, seconds."""

_subscribers: list[Subscriber] = []
_reported: dict[str, float] = {}
_this_thread = threading.local()


@contextmanager
def report_waits(subscriber: Subscriber) -> Iterator[None]:
    """Send a notice of each long wait of this process to a subscriber, in the place of an outer one's.

    Args:
        subscriber: called from a thread of its own.
    """
    _subscribers.append(subscriber)
    try:
        yield
    finally:
        _subscribers.remove(subscriber)
        _reported.clear()


@contextmanager
def waiting_for(host: str) -> Iterator[None]:
    """Report ``host`` if the body of the context takes longer than :data:`WAIT_SECONDS`.

    Args:
        host: name of the other machine, without credentials; empty: nothing is waited for. A wait within another one
            of the same thread is that one.
    """
    if not host or not _subscribers or getattr(_this_thread, "waits", False):
        yield
        return
    timer = threading.Timer(WAIT_SECONDS, _report, (host,))
    timer.daemon = True
    timer.start()
    _this_thread.waits = True
    try:
        yield
    finally:
        _this_thread.waits = False
        timer.cancel()


def _report(host: str) -> None:
    now = time.monotonic()
    last = _reported.get(host)
    # Every thread of a run may wait for the same store.
    if not _subscribers or (last is not None and now - last < AGAIN_SECONDS):
        return
    _reported[host] = now
    _subscribers[-1](Notice(f"waiting for {host}", warning=False))
