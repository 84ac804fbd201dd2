"""Free ports of this machine."""

from __future__ import annotations

import contextlib
import random
import socket

_given: set[int] = set()


def free_port() -> int:
    """Return a port that is free, as is the one 10000 above it, which SeaweedFS takes for gRPC.

    Both lie below Linux's ephemeral ports: no outgoing connection takes them while a server is down. Nor is a port
    given twice.
    """
    for port in random.SystemRandom().sample(range(12000, 22000), 1000):
        if port in _given:
            continue
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10000))
            _given.add(port)
            return port
    raise RuntimeError("no free pair of ports between 12000 and 32000")
