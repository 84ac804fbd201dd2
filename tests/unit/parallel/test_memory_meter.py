"""The memory meter: peaks of this process and its children, however short."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from ussfc.pipeline.parallel import memory_meter
from ussfc.pipeline.parallel.memory_meter import MemoryMeter

BYTES = 200 * 2**20


def test_a_run_of_a_moment_has_a_peak() -> None:
    with MemoryMeter() as meter:
        held = np.ones(BYTES, np.uint8)
        assert held[0] == 1
        resident = psutil.Process().memory_info().rss
        start = time.perf_counter()
    assert meter.peak >= 0.9 * resident
    assert time.perf_counter() - start < memory_meter.INTERVAL_SECONDS


def test_children_count() -> None:
    code = f"held = b'1' * {BYTES}; print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with MemoryMeter() as meter:
            alone = psutil.Process().memory_info().rss
        child.communicate("\n")
    assert meter.peak >= alone + 0.9 * BYTES


def test_the_largest_sample_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_meter, "INTERVAL_SECONDS", 0.01)
    with MemoryMeter() as meter:
        held = np.ones(BYTES, np.uint8)
        while meter.peak < BYTES:
            time.sleep(0.01)
        del held
    assert meter.peak >= BYTES
