"""A small city for the fault tests: runs of it as processes, and the comparison of their files."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.driver import drive
from tests.support.paths import DEMO, ROOT
from tests.support.warm_process import WarmProcess, preload
from ussfc.cli import LAST_MODULES
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.lattice import TilePlan

PAIR = str(DEMO / "beirut_before.tif"), str(DEMO / "beirut_after.tif")
PRODUCTS = ("change.tif", "probability.tif", "changes.parquet")

TILES = 36
SETS = ("tiling.tile_size=128", "tiling.patch_size=32", "threshold=0.5", "compute.retries=1")
"""768 x 768 px in 36 tiles; one tile is about 30 patches, eight calls of the detector."""

CALLS_OF_A_TILE = 9
"""Largest number of calls of the stand-in detector for a tile, with its four patches a call."""

preload("tests.support.driver", *LAST_MODULES)

_PLAN = TilePlan.of((768, 768), 128, 32, 0.125)
MOST_CALLS = sum(-(-len(_PLAN.tile(index).patches) // 4) for index in _PLAN.indices())
"""Calls of a run whose tiles share no patch: the patches that a process keeps for neighbours end with it."""


@dataclass
class Tally:
    """Faults and runs of the whole suite, for its summary."""

    faults: int = 0
    runs: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    def injected(self, kind: str, count: int = 1) -> None:
        self.faults += count
        self.kinds[kind] = self.kinds.get(kind, 0) + count


TALLY = Tally()


@dataclass
class City:
    """Runs of the demo pair into one folder."""

    out: str
    log: Path
    sets: tuple[str, ...] = ("cluster.kind=serial",)
    environment: Mapping[str, str] = field(default_factory=dict)
    pair: tuple[str, str] = PAIR

    def start(self, **task: Any) -> WarmProcess:
        """Start a run in a process group of its own."""
        task |= {
            "before": self.pair[0],
            "after": self.pair[1],
            "out": self.out,
            "log": str(self.log),
            "sets": [*SETS, *self.sets],
        }
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **self.environment}
        return WarmProcess(drive, task, environment=environment)

    def run(self, **task: Any) -> dict[str, Any]:
        """Run to the end.

        Returns:
            The driver's last line, `{}` where it was killed; `status` and `error` beside.
        """
        with self.start(**task) as process:
            try:
                output, error = process.communicate(timeout=300)
            finally:
                kill_group(process)
        printed = json.loads(output.splitlines()[-1]) if process.returncode == 0 else {}
        return {**printed, "status": process.returncode, "error": error}

    @property
    def calls(self) -> int:
        """Number of calls of the detector so far."""
        return self.log.stat().st_size if self.log.exists() else 0

    def content(self) -> dict[str, bytes]:
        """Return products and chunks, by name."""
        folder = Folder.of(self.out)
        chunks = [f"work/probability.zarr/{name}" for name in folder.sizes("work/probability.zarr")]
        TALLY.runs += 1
        return {name: folder.read(name) for name in (*PRODUCTS, *chunks)}


def kill_group(process: WarmProcess) -> None:
    """End a run and all that it started, at once."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def assert_same(found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> None:
    """Compare byte for byte; the error names the files that differ and does not print them."""
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def assert_clean(out: Path) -> None:
    """Check that no partial file and no scratch folder is left."""
    assert [path for path in out.rglob("*") if "part" in path.name.split(".")] == []
    assert not (out / "work" / "scratch").exists()
    assert not (out / "work" / "dask").exists()
