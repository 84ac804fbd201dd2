"""The description of this machine and of its load."""

from __future__ import annotations

import time

import psutil

from ussfc.pipeline.benchmark.machine import LoadClock, describe_machine


def test_machine_is_described() -> None:
    found = describe_machine("cpu")
    assert found["processor"]
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert found["gpu"] is None
    assert {"ussfc", "torch", "gdal"} <= set(found["versions"])


def test_load_of_others_is_a_share() -> None:
    clock = LoadClock()
    time.sleep(0.05)
    assert 0 <= clock.others_share() <= 1
