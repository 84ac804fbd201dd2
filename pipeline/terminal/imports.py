"""Imports of a run's last steps, while its network computes: they take as long as the network of a small scene."""

from __future__ import annotations

import importlib
import threading
from contextlib import suppress

from ussfc.pipeline.events import Event, StageStarted, Subscriber


def importing_meanwhile(subscriber: Subscriber, *modules: str) -> Subscriber:
    """Return a subscriber that passes everything on, and imports modules on a thread once the network computes.

    An import that fails is left to the code that needs the module, which reports it.

    Args:
        subscriber: of the run.
        modules: their full names, in order.
    """

    def load() -> None:
        for module in modules:
            with suppress(ImportError):
                importlib.import_module(module)

    # No daemon: an import that the end of the program cuts short may crash it.
    thread = threading.Thread(target=load, name="ussfc-imports")

    def notified(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "infer" and thread.ident is None:
            thread.start()
        subscriber(event)

    return notified
