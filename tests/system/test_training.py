"""Trainings that are interrupted and killed end with the same bytes; trainings on real pixels learn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.support.paths import DEMO, ROOT
from tests.support.training import (
    FIXED_CROPS,
    LARGER,
    RANDOM_CROPS,
    SIZE,
    Listed,
    Stop,
    both,
    digests,
    log_of,
    small_recipe,
    stop_at,
    trained,
)
from ussfc.training.data import LabelledPair
from ussfc.training.events import Event, StepCompleted, TrainingNotice, Validated
from ussfc.training.recipe import TrainingRecipe


@dataclass(frozen=True)
class Undisturbed:
    """A training that was not interrupted."""

    recipe: TrainingRecipe
    folder: Path


def undisturbed_training(recipe: TrainingRecipe, folder: Path) -> Undisturbed:
    result = trained(recipe, folder, pairs=LARGER)
    assert result.steps == 12
    return Undisturbed(recipe, folder)


@pytest.fixture(scope="module")
def random_crops(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed_training(small_recipe(**RANDOM_CROPS), tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def fixed_crops(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return undisturbed_training(small_recipe(**FIXED_CROPS), tmp_path_factory.mktemp("fixed"))


@pytest.fixture(params=["random_crops", pytest.param("fixed_crops", marks=pytest.mark.soak)])
def undisturbed(request: pytest.FixtureRequest) -> Undisturbed:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Undisturbed)
    return found


def test_interruptions_leave_no_trace(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Stop after a validation that no state holds, amid a row of the log, and at the end."""
    moments = [(Validated, 6, None), (StepCompleted, 10, 4), (Validated, 12, 8)]
    recipe = undisturbed.recipe
    for kind, step, resumed in moments:
        events: list[Event] = []
        with pytest.raises(Stop):
            trained(recipe, tmp_path, pairs=LARGER, subscriber=both(events.append, stop_at(kind, step)))
        notices = [event.message for event in events if isinstance(event, TrainingNotice)]
        assert notices == ([f"resuming after step {resumed}"] if resumed else [])
        assert not (tmp_path / "last.safetensors").exists()
    result = trained(recipe, tmp_path, pairs=LARGER)
    assert digests(tmp_path) == digests(undisturbed.folder)
    assert (result.steps, result.stopped_early) == (12, False)
    # A training that is done is not done again.
    events = []
    again = trained(recipe, tmp_path, pairs=LARGER, subscriber=events.append)
    assert again == result
    assert not any(isinstance(event, (StepCompleted, Validated)) for event in events)
    assert digests(tmp_path) == digests(undisturbed.folder)


CHILD = """
import sys, time
from pathlib import Path
from tests.support.training import LARGER, RANDOM_CROPS, small_recipe, trained
from ussfc.training.events import StepCompleted

def wait(event):
    # So that the training is never done before it is killed.
    if isinstance(event, StepCompleted) and event.step == 10:
        time.sleep(600)

trained(small_recipe(**RANDOM_CROPS), Path(sys.argv[1]), pairs=LARGER, subscriber=wait)
"""


def test_killed_trainings_resume(tmp_path: Path, random_crops: Undisturbed) -> None:
    """``kill -9`` as soon as the log has a validation, at any point of the process."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    try:
        end = time.monotonic() + 300
        while not (tmp_path / "log.csv").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "last.safetensors").exists()
    events: list[Event] = []
    trained(random_crops.recipe, tmp_path, pairs=LARGER, subscriber=events.append)
    assert isinstance(events[0], TrainingNotice)
    assert events[0].message in {f"resuming after step {step}" for step in (4, 6, 8)}
    assert digests(tmp_path) == digests(random_crops.folder)


def test_loss_falls_and_validation_rises(tmp_path: Path) -> None:
    result = trained(small_recipe(steps=40, validate_every=10), tmp_path)
    log = log_of(tmp_path)
    assert [row["step"] for row in log] == [10, 20, 30, 40]
    assert log[-1]["loss"] < 0.75 * log[0]["loss"]
    # Squares cover a seventh: calling everything change is worth an F1 of 0.25.
    assert result.best_f1 > 0.6
    assert result.best_f1 == max(row["f1"] for row in log)


def beirut() -> Listed:
    """Cut nine tiles of the demo scenes, in which the tenth of the pixels that differs most counts as changed.

    The pseudo labels are no truth about Beirut, but make a task on real pixels.
    """
    images = []
    for date in ("before", "after"):
        with rasterio.open(DEMO / f"beirut_{date}.tif") as file:
            window = rasterio.windows.Window(300, 300, 3 * SIZE, 3 * SIZE)
            images.append(np.clip(file.read(window=window).astype(np.float32) / 3500, 0, 1))
    difference = np.abs(images[1] - images[0]).mean(axis=0)
    label = difference > np.quantile(difference, 0.9)
    pairs = []
    for row in range(0, 3 * SIZE, SIZE):
        for col in range(0, 3 * SIZE, SIZE):
            tile = (..., slice(row, row + SIZE), slice(col, col + SIZE))
            pairs.append(LabelledPair(f"{row}/{col}", images[0][tile], images[1][tile], label[tile]))
    return Listed(pairs)


@pytest.mark.soak
def test_loss_falls_on_real_pixels(tmp_path: Path) -> None:
    tiles = beirut()
    recipe = small_recipe(
        input="sentinel2-rgb", steps=40, validate_every=10, augmentation={"flip": True, "turn": True},
        sampling={"batch_size": 4},
    )  # fmt: skip
    trained(recipe, tmp_path, pairs=Listed(tiles.pairs[:7]), validation=Listed(tiles.pairs[7:]))
    log = log_of(tmp_path)
    assert log[-1]["loss"] < 0.85 * log[0]["loss"]
    assert log[-1]["average_precision"] > log[0]["average_precision"]
