"""Training: the loss, the loop, and above all that an interruption leaves no trace in the result."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

import ussfc
from tests.support.paths import DEMO, ROOT
from ussfc.errors import DataError, TrainingError
from ussfc.layers import CyclicMultiScaleConv, cyclic_kernel_mask
from ussfc.network import USSFCNet
from ussfc.preprocessing import to_network_range
from ussfc.training.crops import Batch, make_batches
from ussfc.training.data import LabelledPair
from ussfc.training.loop import (
    Event,
    Result,
    StepCompleted,
    Trainer,
    TrainingNotice,
    Validated,
    learning_rate,
    loss_of,
    most_changed_crop,
    predict,
    tally,
    train,
)
from ussfc.training.recipe import LossSection, OptimiserSection, TrainingRecipe, load_recipe
from ussfc.weights import load_weights

SIZE = 32
WIDTH_8 = 0.125


@dataclass
class Listed:
    """Pairs in memory."""

    pairs: Sequence[LabelledPair]

    @property
    def names(self) -> Sequence[str]:
        return [pair.name for pair in self.pairs]

    def pair(self, index: int) -> LabelledPair:
        return self.pairs[index]


def squares(count: int, prefix: str = "town", size: int = SIZE) -> Listed:
    """Grey noise in which a bright square appears: easy to learn. Band 3 is the prefix's length in both dates."""
    rng = np.random.default_rng([ord(letter) for letter in prefix])
    pairs = []
    for number in range(count):
        before = rng.integers(60, 120, (3, size, size), dtype=np.uint8)
        after = before + rng.integers(0, 20, before.shape, dtype=np.uint8)
        row, col = rng.integers(0, size - 12, 2)
        label = np.zeros((size, size), bool)
        label[row : row + 12, col : col + 12] = True
        after[:, label] = 230
        before[2] = after[2] = len(prefix)
        pairs.append(LabelledPair(f"{prefix}{number}", before, after, label))
    return Listed(pairs)


TOWNS, VILLAGES = squares(6), squares(2, "village")
"""To learn from, and to validate on."""


def recipe(**changes: Any) -> TrainingRecipe:
    """A recipe of seconds; sections given are merged."""
    content: dict[str, Any] = {
        "network": {"ratio": WIDTH_8},
        "sampling": {"kind": "random", "crop_size": SIZE, "batch_size": 2},
        "optimiser": {"name": "adam", "learning_rate": 3e-3, "weight_decay": 0, "schedule": "constant"},
        "steps": 4,
        "validate_every": 2,
        "save_every": 3,
    }
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return TrainingRecipe.model_validate(content)


def trained(how: TrainingRecipe, out: Path, **options: Any) -> Result:
    """A training on one thread, of towns, validated on villages, unless told otherwise."""
    options = {"data": TOWNS, "validation": VILLAGES, "device": "cpu", "threads": 1, **options}
    return train(how, out=out, **options)


def refusal(how: TrainingRecipe, out: Path, **options: Any) -> str:
    """The message of a training that cannot be: one line."""
    with pytest.raises(TrainingError) as caught:
        trained(how, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


RESULTS = ("last.safetensors", "best.safetensors", "log.csv")
"""What is the same byte by byte; best.yaml and state.pt tell of seconds as well."""


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in RESULTS}


def log_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


class Stop(Exception):
    """Stands for whatever ends a process."""


def stop_at(kind: type[Event], step: int) -> Callable[[Event], None]:
    def hear(event: Event) -> None:
        if isinstance(event, kind) and event.step == step:  # type: ignore[union-attr]
            raise Stop

    return hear


def both(*hearers: Callable[[Event], None]) -> Callable[[Event], None]:
    def hear(event: Event) -> None:
        for hearer in hearers:
            hearer(event)

    return hear


# --- the rate and the loss


def test_constant_rate() -> None:
    how = OptimiserSection(learning_rate=0.1, schedule="constant")
    assert {learning_rate(how, step, 100) for step in range(100)} == {0.1}


def test_cosine_rate_falls_from_full_to_nothing() -> None:
    how = OptimiserSection(learning_rate=0.1, schedule="cosine")
    rates = [learning_rate(how, step, 100) for step in range(101)]
    assert (rates[0], rates[50], rates[100]) == pytest.approx((0.1, 0.05, 0))
    assert rates[25] == pytest.approx(0.1 * (2 + math.sqrt(2)) / 4)
    assert all(later < earlier for earlier, later in pairwise(rates))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_rises_in_equal_steps_and_then_lets_go(schedule: Any) -> None:
    how = OptimiserSection(learning_rate=0.1, schedule=schedule, warmup_steps=10)
    rates = [learning_rate(how, step, 1000) for step in range(30)]
    assert rates[:9] == pytest.approx([0.01 * (step + 1) for step in range(9)])
    plain = how.model_copy(update={"warmup_steps": 0})
    assert rates[10:] == [learning_rate(plain, step, 1000) for step in range(10, 30)]


def test_the_optimiser_steps_at_the_rate_of_the_schedule() -> None:
    """A constant gradient moves every weight by the rate itself under Adam, so the rate can be read off."""
    how = recipe(optimiser={"schedule": "cosine", "learning_rate": 1e-3, "warmup_steps": 2})
    trainer = Trainer(how, "cpu")
    batches = make_batches(how, TOWNS)
    seen = []
    for step in range(4):
        trainer.step(batches.batch(step), step, 4)
        seen.append(trainer.optimiser.param_groups[0]["lr"])
    assert seen == [learning_rate(how.optimiser, step, 4) for step in range(4)]
    assert seen[0] == 0.5e-3


# Four pixels: probabilities 1/2, 3/4, 1/4 and one that does not count.
LOGITS = torch.tensor([[[0.0, math.log(3), -math.log(3), 9.0]]])
LABEL = torch.tensor([[[True, True, False, False]]])
VALID = torch.tensor([[[True, True, True, False]]])


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({}, (math.log(2) + 2 * math.log(4 / 3)) / 3),
        # Changed pixels count three times: weights 3, 3 and 1.
        ({"change_weight": 3}, (3 * math.log(2) + 4 * math.log(4 / 3)) / 7),
        # 2 (1/2 + 3/4) + 1 over 3/2 + 2 + 1.
        ({"cross_entropy": 0, "dice": 1}, 1 - 3.5 / 4.5),
        ({"cross_entropy": 2, "dice": 0.5}, 2 * (math.log(2) + 2 * math.log(4 / 3)) / 3 + 0.5 * (1 - 3.5 / 4.5)),
    ],
)  # fmt: skip
def test_loss_by_hand(how: dict[str, float], wanted: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = loss_of(logits, LABEL, VALID, LossSection(**how))
    assert loss.item() == pytest.approx(wanted, rel=1e-6)
    loss.backward()
    moved = (logits.grad != 0)[0, 0].tolist()  # type: ignore[union-attr]
    assert moved == [True, True, True, False]
    # What pixels that do not count say is of no account.
    assert loss_of(LOGITS, LABEL ^ ~VALID, VALID, LossSection(**how)).item() == loss.item()


def test_loss_of_a_batch_without_valid_pixels_is_nothing() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = loss_of(logits, LABEL, torch.zeros_like(VALID), LossSection(dice=1))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()  # type: ignore[union-attr]


def test_dice_is_of_the_whole_batch() -> None:
    """A crop without change would else have a Dice of its own that nothing can improve."""
    how = LossSection(cross_entropy=0, dice=1)
    halves = [loss_of(LOGITS, LABEL, VALID, how), loss_of(LOGITS, ~LABEL, VALID, how)]
    whole = loss_of(torch.cat([LOGITS, LOGITS]), torch.cat([LABEL, ~LABEL]), torch.cat([VALID, VALID]), how)
    assert whole.item() == pytest.approx(1 - (2 * (1.25 + 0.25) + 1) / (3 + 3 + 1))
    assert whole.item() != pytest.approx(sum(half.item() for half in halves) / 2)


# --- it learns


def test_loss_falls_and_validation_rises(tmp_path: Path) -> None:
    result = trained(recipe(steps=40, validate_every=10), tmp_path)
    log = log_of(tmp_path)
    assert [row["step"] for row in log] == [10, 20, 30, 40]
    assert log[-1]["loss"] < 0.75 * log[0]["loss"]
    # Squares cover a seventh: to call everything change is worth an F1 of 0.25.
    assert result.best_f1 > 0.6
    assert result.best_f1 == max(row["f1"] for row in log)


def beirut() -> Listed:
    """Nine tiles of the demo scenes, in which the tenth of the pixels that differs most counts as changed.

    Pseudo labels, made here from the pixels: they say nothing about Beirut, but make a task on real ones.
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
    how = recipe(
        input="sentinel2-rgb", steps=40, validate_every=10, augmentation={"flip": True, "turn": True},
        sampling={"batch_size": 4},
    )  # fmt: skip
    trained(how, tmp_path, data=Listed(tiles.pairs[:7]), validation=Listed(tiles.pairs[7:]))
    log = log_of(tmp_path)
    assert log[-1]["loss"] < 0.85 * log[0]["loss"]
    assert log[-1]["average_precision"] > log[0]["average_precision"]


# --- one result, however it is come by

EVERYTHING = {
    "steps": 24,
    "validate_every": 12,
    "save_every": 7,
    "augmentation": {"flip": True, "turn": True, "swap": 0.5, "gain": 0.2, "noise": 0.02, "unchanged": 0.1},
    "loss": {"dice": 1.0},
    "optimiser": {
        "name": "adamw", "schedule": "cosine", "warmup_steps": 5, "clip": 1.0, "average": 0.9, "weight_decay": 0.01,
    },
}  # fmt: skip
# 6 towns and 4 crops of a larger one make 3 steps an epoch, the last of which is smaller.
EPOCHS = {
    "steps": None,
    "epochs": 8,
    "validate_every": 12,
    "save_every": 7,
    "sampling": {"kind": "fixed", "crops": 4, "batch_size": 4},
}
LARGER = Listed([*TOWNS.pairs, *squares(1, "city", 48).pairs])


@dataclass(frozen=True)
class Undisturbed:
    """A training that nobody interrupted."""

    how: TrainingRecipe
    data: Listed
    folder: Path


def nobody_interrupted(how: TrainingRecipe, folder: Path) -> Undisturbed:
    result = trained(how, folder, data=LARGER)
    assert result.steps == 24
    return Undisturbed(how, LARGER, folder)


@pytest.fixture(scope="module")
def random_crops(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return nobody_interrupted(recipe(**EVERYTHING), tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def fixed_crops(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return nobody_interrupted(recipe(**EPOCHS), tmp_path_factory.mktemp("fixed"))


@pytest.fixture(params=["random_crops", pytest.param("fixed_crops", marks=pytest.mark.soak)])
def undisturbed(request: pytest.FixtureRequest) -> Undisturbed:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Undisturbed)
    return found


def test_interruptions_leave_no_trace(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Stopped before the first validation, after one that no state tells of, amid a row of the log, at the end."""
    moments = [(StepCompleted, 10, None), (Validated, 12, 7), (StepCompleted, 20, 7), (Validated, 24, 14)]
    how, data = undisturbed.how, undisturbed.data
    for kind, step, resumed in moments:
        heard: list[Event] = []
        with pytest.raises(Stop):
            trained(how, tmp_path, data=data, subscriber=both(heard.append, stop_at(kind, step)))
        told = [event.message for event in heard if isinstance(event, TrainingNotice)]
        assert told == ([f"resuming after step {resumed}"] if resumed else [])
        assert not (tmp_path / "last.safetensors").exists()
    result = trained(how, tmp_path, data=data)
    assert digests(tmp_path) == digests(undisturbed.folder)
    assert (result.steps, result.stopped_early) == (24, False)
    # A training that is done is not done again.
    heard = []
    again = trained(how, tmp_path, data=data, subscriber=heard.append)
    assert again == result
    assert not any(isinstance(event, (StepCompleted, Validated)) for event in heard)
    assert digests(tmp_path) == digests(undisturbed.folder)


def child(out: str) -> None:
    """Train, but stop dead after 20 steps: what :func:`test_killed` kills is never done."""

    def wait(event: Event) -> None:
        if isinstance(event, StepCompleted) and event.step == 20:
            time.sleep(600)

    trained(recipe(**EVERYTHING), Path(out), data=LARGER, subscriber=wait)


def test_killed(tmp_path: Path, random_crops: Undisturbed) -> None:
    """``kill -9`` as soon as the log tells of a validation, wherever the process is by then."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from tests.unit.training import test_loop; test_loop.child(sys.argv[1])",
            str(tmp_path),
        ],
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
    heard: list[Event] = []
    trained(random_crops.how, tmp_path, data=LARGER, subscriber=heard.append)
    assert isinstance(heard[0], TrainingNotice)
    assert heard[0].message in {f"resuming after step {step}" for step in (7, 12, 14)}
    assert digests(tmp_path) == digests(random_crops.folder)


def by_hand(how: TrainingRecipe, steps: int) -> tuple[Trainer, list[float]]:
    """The steps of a training, without its loop."""
    trainer, batches = Trainer(how, "cpu"), make_batches(how, TOWNS)
    return trainer, [trainer.step(batches.batch(step), step, steps) for step in range(steps)]


def assert_same(found: USSFCNet, wanted: USSFCNet) -> None:
    state = wanted.state_dict()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("average", [None, 0.5])
def test_a_training_is_its_steps_in_order(tmp_path: Path, average: float | None, one_thread: None) -> None:
    """Neither the prefetching thread nor the validations between change anything; the kept network is saved."""
    how = recipe(optimiser={"average": average}, steps=5, validate_every=2)
    trained(how, tmp_path)
    trainer, losses = by_hand(how, 5)
    assert_same(load_weights(tmp_path / "last.safetensors"), trainer.kept)
    assert (trainer.kept is trainer.network) is (average is None)
    log = log_of(tmp_path)
    assert [row["step"] for row in log] == [2, 4, 5]
    means = [np.mean(losses[:2]), np.mean(losses[2:4]), losses[4]]
    assert [row["loss"] for row in log] == pytest.approx(means, rel=1e-12)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_same_seed_same_weights_other_seed_other_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        # What the caller did with torch's own generator is no part of a training.
        torch.manual_seed(ord(name))
        trained(recipe(seed=seed), tmp_path / name)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[name] != c[name] for name in RESULTS)


def test_the_seed_decides_the_first_weights() -> None:
    first = [Trainer(recipe(seed=seed), "cpu").network.state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])
    name = "Conv3_1.Conv.0.native.0.weight"
    assert not torch.equal(first[0][name], first[2][name])


def test_threads_are_those_of_the_interrupted_training(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    with pytest.raises(Stop):
        trained(recipe(), tmp_path, threads=1, subscriber=stop_at(Validated, 4))
    assert torch.get_num_threads() == before
    trained(recipe(), tmp_path, threads=None, subscriber=lambda event: seen.append(torch.get_num_threads()))
    assert set(seen) == {1}
    heard: list[Event] = []
    trained(recipe(), tmp_path, threads=2, subscriber=heard.append)
    assert any(
        isinstance(event, TrainingNotice) and "1 threads before, 2 now" in event.message for event in heard
    )


# --- what is in the folder


@dataclass(frozen=True)
class Done:
    """A small training that is done."""

    folder: Path
    result: Result
    how: TrainingRecipe = field(default_factory=recipe)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Nobody writes into its folder."""
    folder = tmp_path_factory.mktemp("done")
    licence = ussfc.spec.Licence(weights="MIT", training_labels="CC0-1.0")
    result = trained(recipe(steps=12, validate_every=4), folder, description="squares", licence=licence)
    return Done(folder, result, recipe(steps=12, validate_every=4))


@pytest.fixture
def copied(done: Done, tmp_path: Path) -> Path:
    """The folder of that training, to spoil."""
    return Path(shutil.copytree(done.folder, tmp_path / "copy"))


def test_the_folder_holds_these_files(done: Done) -> None:
    assert {file.name for file in done.folder.iterdir()} == {
        "recipe.yaml", "log.csv", "state.pt", "last.safetensors", "best.safetensors", "best.yaml", "validation.png",
    }  # fmt: skip
    assert load_recipe(str(done.folder / "recipe.yaml")) == done.how
    with Image.open(done.folder / "validation.png") as picture:
        # Two villages below each other; before, after, label, probability; frames of 4.
        assert picture.size == (4 * (SIZE + 4), 2 * (SIZE + 4))


def test_the_best_card_is_a_model(done: Done) -> None:
    spec = ussfc.find_model(str(done.folder / "best.yaml"))
    network = load_weights(spec.weights_path(), sha256=spec.weights.sha256)
    assert (network.bands, network.ratio) == (len(spec.bands), spec.network.ratio) == (3, WIDTH_8)
    assert (spec.patch_size, spec.threshold) == (SIZE, done.result.threshold)
    assert spec.bands == done.how.input_spec.bands
    assert spec.radiometry == done.how.input_spec.radiometry
    assert spec.licence is not None
    assert spec.licence.weights == "MIT"
    assert "squares" in spec.title
    assert spec.training is not None
    assert (spec.training.data, spec.training.steps) == ("squares", done.result.best_step)
    # The weights are those of the best step, and do as well as the card says.
    found = tally(network, VILLAGES, SIZE).at(spec.threshold)
    assert found.f1 == done.result.best_f1 > 0
    (score,) = spec.scores
    assert (score.f1, score.precision, score.recall, score.iou) == pytest.approx(
        (found.f1, found.precision, found.recall, found.iou), abs=1e-4
    )


def test_the_log_and_the_weights_agree(done: Done) -> None:
    log = log_of(done.folder)
    assert [row["step"] for row in log] == [4, 8, 12]
    best = max(log, key=lambda row: row["f1"])
    assert (best["step"], best["f1"], best["threshold"]) == (
        done.result.best_step, done.result.best_f1, done.result.threshold,
    )  # fmt: skip
    counted = tally(load_weights(done.folder / "last.safetensors"), VILLAGES, SIZE)
    assert log[-1]["f1_at_0.5"] == pytest.approx(counted.at(0.5).f1, nan_ok=True)
    assert log[-1]["average_precision"] == counted.average_precision()
    with safe_open(done.folder / "last.safetensors", "pt") as file:
        facts = file.metadata()
    assert facts["step"] == "12"
    assert [band["name"] for band in json.loads(facts["input"])["bands"]] == ["R", "G", "B"]


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"seed": 1}, {}, "recipe"),
        ({"optimiser": {"learning_rate": 1e-3}}, {}, "recipe"),
        ({}, {"data": squares(5)}, "training pairs"),
        ({}, {"validation": squares(3, "village")}, "validation pairs"),
        ({"seed": 1}, {"validation": squares(3, "village")}, "recipe, validation pairs"),
    ],
)
def test_another_training_in_the_folder_is_refused(
    done: Done, copied: Path, changes: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    message = refusal(recipe(**{"steps": 12, "validate_every": 4, **changes}), copied, **options)
    assert all(part in message for part in (str(copied), f"({said} differ)", "--overwrite")), message
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before


def test_how_often_states_are_saved_makes_no_other_training(done: Done, copied: Path) -> None:
    how = done.how.model_copy(update={"save_every": 1000})
    assert replace(trained(how, copied), folder=done.folder) == done.result


def test_overwrite_replaces(copied: Path, tmp_path: Path) -> None:
    assert (copied / "last.safetensors").exists()
    with pytest.raises(Stop):
        trained(recipe(seed=1), copied, overwrite=True, subscriber=stop_at(Validated, 2))
    # Nothing of the old training is left to be taken for the new one's.
    assert not (copied / "last.safetensors").exists()
    assert not (copied / "state.pt").exists()
    trained(recipe(seed=1), copied, overwrite=True)
    trained(recipe(seed=1), tmp_path / "fresh")
    assert digests(copied) == digests(tmp_path / "fresh")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"fingerprint: yes\n" * 9,
        lambda data: data.replace(b"fingerprint", b"fingerpaint"),
    ],
    ids=["half", "one byte short", "empty", "text", "without a fingerprint"],
)
def test_damaged_states_are_refused(done: Done, copied: Path, spoil: Callable[[bytes], bytes]) -> None:
    state = copied / "state.pt"
    state.write_bytes(spoil(state.read_bytes()))
    message = refusal(done.how, copied)
    assert all(part in message for part in (str(state), "cannot be resumed from", "--overwrite")), message
    assert digests(copied) == digests(done.folder)


def test_states_that_are_other_objects_are_refused(done: Done, copied: Path) -> None:
    for content in ([1, 2], {"step": 3}, torch.zeros(3), {"fingerprint": 3}):
        torch.save(content, copied / "state.pt")
        assert "cannot be resumed from" in refusal(done.how, copied)


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors", "best.yaml", "log.csv"])
def test_files_without_a_state_are_not_written_over(tmp_path: Path, name: str) -> None:
    """They may be all that is left of somebody's week."""
    (tmp_path / name).write_bytes(b"precious")
    message = refusal(recipe(), tmp_path)
    assert all(part in message for part in (str(tmp_path / name), "--overwrite")), message
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"precious"


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    message = refusal(recipe(), tmp_path / "file" / "out")
    assert all(part in message for part in (str(tmp_path / "file" / "out"), "cannot be made")), message


def test_trainings_without_pairs_are_refused(tmp_path: Path) -> None:
    assert "validation: no pairs" in refusal(recipe(), tmp_path / "out", validation=Listed([]))
    with pytest.raises(DataError, match="no pairs"):
        trained(recipe(), tmp_path / "out", data=Listed([]))
    assert not (tmp_path / "out").exists()


def test_unknown_devices_are_refused(tmp_path: Path) -> None:
    assert "'tpu': not known; known: auto, cpu, cuda" in refusal(recipe(), tmp_path, device="tpu")


def test_unknown_inputs_are_refused(tmp_path: Path) -> None:
    assert "'rgb16': not known" in refusal(recipe(input="rgb16"), tmp_path)


# --- when it ends


def test_patience(tmp_path: Path) -> None:
    """Where nothing changes no F1 is ever better than the first, 0."""
    still = Listed([replace(pair, label=np.zeros_like(pair.label)) for pair in VILLAGES.pairs])
    how = recipe(steps=12, validate_every=2, patience=3)
    heard: list[Event] = []
    result = trained(how, tmp_path, validation=still, subscriber=heard.append)
    assert (result.steps, result.best_step, result.best_f1, result.stopped_early) == (8, 2, 0, True)
    assert [event.best for event in heard if isinstance(event, Validated)] == [True, False, False, False]
    with safe_open(tmp_path / "last.safetensors", "pt") as file:
        assert file.metadata()["step"] == "8"
    before = digests(tmp_path)
    assert trained(how, tmp_path, validation=still) == result
    assert digests(tmp_path) == before
    # With more patience it goes on, as if it had never stopped.
    more = recipe(steps=12, validate_every=2)
    longer = trained(more, tmp_path, validation=still)
    assert (longer.steps, longer.stopped_early) == (12, False)
    trained(more, tmp_path / "more", validation=still)
    assert digests(tmp_path) == digests(tmp_path / "more")


@dataclass
class Spoilt(Listed):
    """Pairs that turn to NaN after so many readings."""

    left: int = 0

    def pair(self, index: int) -> LabelledPair:
        self.left -= 1
        pair = self.pairs[index]
        image = pair.before.astype(np.float32) / np.float32(255)
        return replace(
            pair,
            before=image if self.left >= 0 else image * np.nan,
            after=pair.after.astype(np.float32) / np.float32(255),
        )


def test_a_loss_that_is_not_finite_ends_training(tmp_path: Path) -> None:
    """The step is named, the best weights stay, and with sound data training goes on as if nothing had been."""
    how = recipe(steps=8, validate_every=2, sampling={"kind": "fixed"})
    # Two pairs are looked at before, two are read a step: the sixth step gets the first NaN.
    pairs = TOWNS.pairs[:2]
    heard: list[Event] = []
    with pytest.raises(TrainingError) as caught:
        trained(how, tmp_path, data=Spoilt(pairs, 2 + 2 * 5), subscriber=heard.append)
    best = [event.step for event in heard if isinstance(event, Validated) and event.best][-1]
    message = str(caught.value)
    assert "\n" not in message
    wanted = (str(tmp_path), "loss is nan at step 6", f"best.safetensors holds those of step {best}")
    assert all(part in message for part in wanted), message
    spec = ussfc.find_model(str(tmp_path / "best.yaml"))
    load_weights(spec.weights_path(), sha256=spec.weights.sha256)
    assert not (tmp_path / "last.safetensors").exists()

    trained(how, tmp_path, data=Spoilt(pairs, 10**6))
    trained(how, tmp_path / "sound", data=Spoilt(pairs, 10**6))
    assert digests(tmp_path) == digests(tmp_path / "sound")


def test_a_rate_too_high_ends_training_by_name(tmp_path: Path) -> None:
    message = refusal(recipe(optimiser={"learning_rate": 1e30}, validate_every=4), tmp_path)
    assert all(part in message for part in ("at step 2", "optimiser.learning_rate")), message
    # There was no validation yet, so no weights are promised.
    assert "best.safetensors" not in message
    assert not (tmp_path / "best.safetensors").exists()


def test_a_step_with_a_loss_that_is_not_finite_moves_nothing() -> None:
    trainer, _ = by_hand(recipe(optimiser={"average": 0.9, "weight_decay": 0.1}), 2)
    # The running statistics of batch norm follow the forward pass, hence parameters alone.
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    batch = make_batches(recipe(), TOWNS).batch(2)
    bad = replace(batch, before=batch.before * np.float32(np.nan))
    assert math.isnan(trainer.step(bad, 2, 4))
    for parameter, kept in zip(trainer.network.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)
    assert all(torch.isfinite(tensor).all() for tensor in trainer.kept.state_dict().values())


# --- what one step does


def masked_kernels(network: USSFCNet) -> Tensor:
    """All kernels that the mask names, one after the other."""
    return torch.cat([
        module.conv.weight[~cyclic_kernel_mask(module.conv.weight.shape[0])].flatten()
        for module in network.modules()
        if isinstance(module, CyclicMultiScaleConv)
    ])  # fmt: skip


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_masked_kernels_stay_at_zero(name: str) -> None:
    """Whatever the optimiser remembers and decays; their neighbours move."""
    how = recipe(optimiser={"name": name, "weight_decay": 0.1, "average": 0.5, "clip": 1.0})
    first = Trainer(how, "cpu").network
    trainer, _ = by_hand(how, 3)
    for network in (trainer.network, trainer.kept):
        assert masked_kernels(network).numel() > 0
        assert not masked_kernels(network).any()
    moved = trainer.network.state_dict()["Conv2_1.Conv.0.aux.0.conv.weight"]
    assert not torch.equal(moved, first.state_dict()["Conv2_1.Conv.0.aux.0.conv.weight"])


def test_masked_kernels_are_free_if_asked_for() -> None:
    how = recipe(network={"masked_kernels": False})
    first, (trainer, _) = Trainer(how, "cpu").network, by_hand(how, 3)
    assert masked_kernels(first).all()
    assert (masked_kernels(trainer.network) != masked_kernels(first)).float().mean() > 0.9


def test_weight_decay_is_coupled_in_adam_alone() -> None:
    """Adam divides a coupled decay by the gradient's size, so that the two part ways."""
    nets = {
        (name, decay): by_hand(recipe(optimiser={"name": name, "weight_decay": decay}), 1)[0].network
        for name in ("adam", "adamw")
        for decay in (0, 0.5)
    }
    first = Trainer(recipe(), "cpu").network
    weights = {key: net.Up5.weight for key, net in nets.items()}
    assert torch.equal(weights["adam", 0], weights["adamw", 0])
    # Uncoupled: the step without decay from weights shrunk by rate x decay.
    shrunk = weights["adamw", 0] - 3e-3 * 0.5 * first.Up5.weight
    assert torch.allclose(weights["adamw", 0.5], shrunk, atol=1e-7)
    assert not torch.allclose(weights["adam", 0.5], shrunk, atol=1e-4)


def test_the_average_follows() -> None:
    """Its decay grows from 2/11 to the recipe's; counters are copied."""
    how = recipe(optimiser={"average": 0.3})
    trainer, batches = Trainer(how, "cpu"), make_batches(how, TOWNS)
    assert trainer.average is not None
    assert_same(trainer.average, trainer.network)
    wanted = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    for step, decay in enumerate([2 / 11, 3 / 12, 0.3, 0.3]):
        trainer.step(batches.batch(step), step, 4)
        for name, tensor in trainer.network.state_dict().items():
            kept = decay * wanted[name] + (1 - decay) * tensor
            wanted[name] = kept if tensor.is_floating_point() else tensor.clone()
    for name, tensor in trainer.kept.state_dict().items():
        assert torch.allclose(tensor, wanted[name], atol=1e-6), name
    assert not torch.equal(trainer.kept.Up5.weight, trainer.network.Up5.weight)


def test_gradients_are_clipped_to_the_norm() -> None:
    trainer, _ = by_hand(recipe(optimiser={"clip": 1e-3}), 1)
    norm = torch.stack([parameter.grad.norm() for parameter in trainer.network.parameters()]).norm()  # type: ignore[union-attr]
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_bfloat16_is_for_cuda(tmp_path: Path) -> None:
    # On a CPU with AMX, PyTorch 2.13 gave gradients that were not finite, and crashed.
    assert "only on CUDA" in refusal(recipe(precision="bfloat16"), tmp_path / "out")
    assert not Trainer(recipe(precision="auto"), "cpu").bfloat16


# --- validation


def test_validation_pairs_are_never_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Band 3 says which set a pixel is of: 4 for towns, 7 for villages."""
    learnt: set[float] = set()
    readers: set[str] = set()
    step = Trainer.step

    def spied(self: Trainer, batch: Batch, number: int, steps: int) -> float:
        for image in (batch.before, batch.after):
            learnt.update(np.unique(np.rint(image[:, 2] * 255)))
        return step(self, batch, number, steps)

    class Watched(Listed):
        def pair(self, index: int) -> LabelledPair:
            readers.add(threading.current_thread().name)
            return super().pair(index)

    monkeypatch.setattr(Trainer, "step", spied)
    trained(recipe(), tmp_path, validation=Watched(VILLAGES.pairs))
    assert learnt == {len("town")}
    # Batches are made on a thread of their own, which asks for no such pair.
    assert readers == {threading.main_thread().name}
    assert {pair.after[2, 0, 0] for pair in VILLAGES.pairs} == {len("village")}


def test_large_pairs_are_predicted_by_patches_shifted_inward(one_thread: None) -> None:
    network = Trainer(recipe(), "cpu").network.eval()
    (pair,) = squares(1, "city", 80).pairs
    found = predict(network, pair, SIZE)

    def alone(row: int, col: int) -> Any:
        before, after = (
            to_network_range(
                torch.from_numpy(image[:, row : row + SIZE, col : col + SIZE] / np.float32(255))
            )[None]
            for image in (pair.before, pair.after)
        )
        with torch.inference_mode():
            return network(before, after)[0, 0].numpy()

    # Starts at 0, 32 and 48; the last one is written last.
    for row, rows in ((0, 32), (32, 16), (48, 32)):
        for col, cols in ((0, 32), (32, 16), (48, 32)):
            np.testing.assert_allclose(
                found[row : row + rows, col : col + cols], alone(row, col)[:rows, :cols], atol=1e-6
            )


def test_pixels_that_do_not_count_are_not_validated() -> None:
    network = Trainer(recipe(), "cpu").network
    valid = np.zeros((SIZE, SIZE), bool)
    valid[:5] = True
    pairs = Listed([replace(pair, valid=valid) for pair in VILLAGES.pairs])
    assert tally(network, pairs, SIZE).at(0.5).total == 2 * 5 * SIZE


def test_the_picture_shows_the_most_changed_patch() -> None:
    pair = replace(squares(1, "city", 80).pairs[0], label=np.zeros((80, 80), bool))
    pair.label[70:, 40:44] = True
    crop = most_changed_crop(pair, SIZE)
    assert np.array_equal(crop.after, pair.after[:, 48:, 32:64])
    assert crop.label.sum() == 40
