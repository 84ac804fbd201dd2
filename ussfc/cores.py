"""The number of cores of this process, for the network and for the pipeline."""

from __future__ import annotations

import os


def cores() -> int:
    """Return the cores that this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
