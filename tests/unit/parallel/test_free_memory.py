"""Memory that a stage has freed is not counted to the next one."""

from __future__ import annotations

import ctypes
import threading

import psutil
import pytest

from ussfc.pipeline.events import ignore
from ussfc.pipeline.runs.stages import stage_clock

BLOCK = 60_000
"""Below the size from which the C library asks the system for each block, bytes."""


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_a_stage_leaves_no_free_memory() -> None:
    kept = []
    before = resident()

    def work() -> None:
        blocks = [b"x" * BLOCK for _ in range(3000)]
        # The last one keeps the C library from giving the others back by itself.
        kept.append(blocks[-1])

    with stage_clock("infer", 1, 0, ignore):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert resident() - before > 100_000_000
    assert resident() - before < 50_000_000
