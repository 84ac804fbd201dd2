"""What commands import, and when: a command that reads a record must not wait for what computes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ussfc.pipeline.events import Advanced, Event, StageFinished, StageStarted
from ussfc.pipeline.terminal.imports import importing_meanwhile


def loaded_of(code: str, names: set[str]) -> set[str]:
    printed = f"{code}; import sys; print(*({names!r} & set(sys.modules)))"
    return set(
        subprocess.run(
            [sys.executable, "-c", printed], capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (
            "import ussfc.pipeline.batches.folder_checks, ussfc.pipeline.runs.status",
            {"rasterio", "zarr", "odc.geo", "pyproj", "pandas", "scipy"},
        ),
        (
            "import ussfc.pipeline.batches.upkeep, ussfc.pipeline.runs.run, ussfc.pipeline.runs.infer",
            {"pandas", "geopandas", "pyogrio", "pyarrow", "scipy.sparse.csgraph", "PIL", "pystac", "torch"},
        ),
    ],
    ids=["status", "run"],
)  # fmt: skip
def test_what_a_command_does_not_wait_for(code: str, absent: set[str]) -> None:
    assert loaded_of(code, absent) == set()


def test_modules_are_imported_once_the_network_computes() -> None:
    code = """
from ussfc.pipeline.events import StageStarted
from ussfc.pipeline.terminal.imports import importing_meanwhile
import sys, threading
subscriber = importing_meanwhile(lambda event: None, "no_such_module", "colorsys")
subscriber(StageStarted("registration", 0, 0))
assert "colorsys" not in sys.modules
for _ in range(2):
    subscriber(StageStarted("infer", 1, 1))
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
assert "colorsys" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_events_are_passed_on() -> None:
    seen: list[Event] = []
    subscriber = importing_meanwhile(seen.append)
    events = [StageStarted("infer", 1, 9), Advanced("infer", 1, 9), StageFinished("infer", 0.1, 9)]
    for event in events:
        subscriber(event)
    assert seen == events
