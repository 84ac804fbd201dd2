"""Memory that a stage has freed is not counted to the next one."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SCRIPT = """
import threading

import psutil

from ussfc.pipeline.events import ignore
from ussfc.pipeline.runs.stages import stage_clock


def resident():
    return psutil.Process().memory_info().rss


# Below the size from which the C library asks the system for each block.
BLOCK = 60_000
kept = []


def work():
    blocks = [b"x" * BLOCK for _ in range(3000)]
    # The last one keeps the C library from giving the others back by itself.
    kept.append(blocks[-1])


before = resident()
with stage_clock("infer", 1, 0, ignore):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    during = resident() - before
print(during, resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_a_stage_leaves_no_free_memory() -> None:
    """In a process of its own: what earlier tests have freed would be used again."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    during, after = map(int, done.stdout.split())
    assert during > 100_000_000
    assert after < 50_000_000
