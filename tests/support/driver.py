"""A run of a process of its own, which dies at its n-th file operation where asked to.

The detector is a stand-in that needs no torch, so that a run takes a second and can be ended many times. It appends a
byte to a log for every call, so that a patch computed twice shows. The last line printed is the number of file
operations.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.stubs import StubDetector, StubRecipe
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import PipelineError
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run

OPERATIONS = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.scandir",
    "os.listdir",
    "os.truncate",
}


@dataclass
class LoggingDetector(StubDetector):
    """A detector that leaves a byte in the log for every call, takes its time, and spreads its answers."""

    log: Path = Path()
    seconds: float = 0

    def predict(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        with self.log.open("ab") as file:
            file.write(b".")
        # Real reflectances differ little: spread them over the classes, and make polygons of all sizes.
        return np.clip(6 * super().predict(before, after), 0, 1)


@dataclass(frozen=True)
class LoggingRecipe(StubRecipe):
    log: Path = Path()
    seconds: float = 0

    def build(self) -> LoggingDetector:
        return LoggingDetector(
            self.patch_size, self.batch_size, self.streams, self.bands, log=self.log, seconds=self.seconds
        )


def drive(task: dict[str, Any]) -> None:
    """Run, print the outcome, and exit.

    Args:
        task: ``before``, ``after``, ``out``, ``log`` and ``sets`` of the run. May be left out: ``seconds`` of a call of
            the detector, and ``die_at``, the number of the file operation to die at.
    """
    count = 0

    def on_event(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in OPERATIONS and str(arguments[0]).startswith(task["out"]):
            count += 1
            if count == task.get("die_at"):
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)
    recipe = LoggingRecipe(32, 4, 1, 3, log=Path(task["log"]), seconds=task.get("seconds", 0))
    config = load_config(sets=task["sets"])
    try:
        manifest = run(task["before"], task["after"], task["out"], config, computation=Computation(recipe))
    except PipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(4)
    print(json.dumps({"complete": manifest.complete, "operations": count}))
