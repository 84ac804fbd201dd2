"""What a run does side by side."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.shown_runs import write_pair
from tests.support.stubs import StubDetector, StubRecipe
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ReadError, TileError
from ussfc.pipeline.events import Event, StageStarted
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run

SETS = ("tiling.tile_size=320", "tiling.patch_size=32", "output.report=false", "compute.retries=0")
BUILT: list[threading.Event] = []


@dataclass(frozen=True)
class BuiltRecipe(StubRecipe):
    """Says when its detector is built."""

    number: int = 0

    def build(self) -> StubDetector:
        """Return the detector."""
        BUILT[self.number].set()
        return super().build()


@dataclass(frozen=True)
class BrokenRecipe(StubRecipe):
    """Cannot be built."""

    def build(self) -> StubDetector:
        """Fail."""
        raise OSError("no such library")


def recipe() -> BuiltRecipe:
    BUILT.append(threading.Event())
    return BuiltRecipe(32, 4, 1, 3, number=len(BUILT) - 1)


def test_the_detector_is_built_while_the_scenes_are_looked_at(tmp_path: Path) -> None:
    spec, built = recipe(), []

    def wait(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "registration":
            built.append(BUILT[spec.number].wait(20))

    run(*write_pair(tmp_path), tmp_path / "out", load_config(sets=SETS), subscriber=wait,
        computation=Computation(spec))  # fmt: skip
    assert built == [True]


def test_a_run_that_has_its_tiles_builds_no_detector(tmp_path: Path) -> None:
    pair, spec, again = write_pair(tmp_path), recipe(), recipe()
    run(*pair, tmp_path / "out", load_config(sets=SETS), computation=Computation(spec))
    (tmp_path / "out" / "change.tif").unlink()
    record = run(*pair, tmp_path / "out", load_config(sets=SETS), computation=Computation(again))
    assert record.complete
    assert not BUILT[again.number].is_set()


def test_a_detector_that_cannot_be_built_is_reported_with_its_tiles(tmp_path: Path) -> None:
    with pytest.raises(TileError, match="no such library"):
        run(*write_pair(tmp_path), tmp_path / "out", load_config(sets=SETS),
            computation=Computation(BrokenRecipe(32, 4, 1, 3)))  # fmt: skip


def test_a_run_that_ends_before_its_tiles_waits_for_the_thread_that_builds(tmp_path: Path) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "registration":
            raise ReadError("gone")

    with pytest.raises(ReadError, match="gone"):
        run(*write_pair(tmp_path), tmp_path / "out", load_config(sets=SETS), subscriber=fail,
            computation=Computation(recipe()))  # fmt: skip
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ussfc-detector")]
