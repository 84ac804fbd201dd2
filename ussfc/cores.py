"""Cores and devices of this process, for the network and for the pipeline."""

from __future__ import annotations

import ctypes
import functools
import os


def cores() -> int:
    """Return the cores that this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@functools.cache
def has_cuda_driver() -> bool:
    """Return True if NVIDIA's driver can be loaded; without it there is no CUDA device, and torch need not be asked."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
