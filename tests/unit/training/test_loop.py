"""The loop of a training: it learns, resumes, stops early, and refuses what cannot be done."""

from __future__ import annotations

import itertools
import math
import os
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import ussfc
from tests.support.training import (
    RESULTS,
    TOWNS,
    VILLAGES,
    Listed,
    Stop,
    digests,
    log_of,
    refusal,
    small_recipe,
    steps_by_hand,
    stop_at,
    trained,
)
from ussfc.errors import DataError, TrainingError
from ussfc.training.crops import Batch
from ussfc.training.data import LabelledPair, TrainingData
from ussfc.training.events import Event, TrainingNotice, Validated
from ussfc.training.loop import train
from ussfc.training.recipe import StartSection
from ussfc.training.trainer import Trainer
from ussfc.weights import load_weights


@pytest.mark.parametrize("average", [None, 0.5])
def test_training_equals_its_steps_in_order(tmp_path: Path, average: float | None, one_thread: None) -> None:
    """Neither the prefetching thread nor the validations between change anything; the kept network is saved."""
    recipe = small_recipe(optimiser={"average": average}, steps=5, validate_every=2)
    trained(recipe, tmp_path)
    trainer, losses = steps_by_hand(recipe, 5)
    expected = trainer.kept.state_dict()
    for name, tensor in load_weights(tmp_path / "last.safetensors").state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert (trainer.kept is trainer.network) is (average is None)
    log = log_of(tmp_path)
    assert [row["step"] for row in log] == [2, 4, 5]
    means = [np.mean(losses[:2]), np.mean(losses[2:4]), losses[4]]
    assert [row["loss"] for row in log] == pytest.approx(means, rel=1e-12)


def test_training_without_validation_keeps_its_last_weights(tmp_path: Path, one_thread: None) -> None:
    recipe = small_recipe(steps=5, save_every=2, validate_every=1, patience=1)
    result = trained(recipe, tmp_path, validation=None, facts={"threshold": 0.15})
    trainer, losses = steps_by_hand(recipe, 5)
    expected = trainer.kept.state_dict()
    for name, tensor in load_weights(tmp_path / "last.safetensors").state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    card_text = result.card.read_bytes()
    assert trained(recipe, tmp_path, validation=None, facts={"threshold": 0.15}) == result
    assert result.card.read_bytes() == card_text
    assert (result.steps, result.best_step, result.best_f1, result.stopped_early) == (5, 5, None, False)
    assert result.card == tmp_path / "last.yaml"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "last.safetensors", "last.yaml", "log.csv", "recipe.yaml", "state.pt",
    ]  # fmt: skip
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2, 3, 4, 5]
    assert [row["loss"] for row in log_of(tmp_path)] == pytest.approx(losses, rel=1e-12)
    card = ussfc.find_model(str(result.card))
    assert (card.threshold, card.scores, card.training.held_out) == (0.15, (), "nothing")
    ussfc.load_weights(card.weights_path(), sha256=card.weights.sha256)


def test_pairs_read_in_another_way_are_another_training(tmp_path: Path) -> None:
    """A state of a version that did not register scenes must not go on with registered ones."""
    trained(small_recipe(), tmp_path, facts={"reading": ""})
    assert "reading of pairs differ" in refusal(small_recipe(), tmp_path, facts={"reading": "registered"})


def test_seed_decides_the_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        # The state of torch's own generator is no part of a training.
        torch.manual_seed(ord(name))
        trained(small_recipe(seed=seed), tmp_path / name)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert all(a[name] != c[name] for name in RESULTS)


def test_resumed_trainings_keep_their_threads(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    with pytest.raises(Stop):
        trained(small_recipe(), tmp_path, threads=1, subscriber=stop_at(Validated, 4))
    assert torch.get_num_threads() == before
    trained(
        small_recipe(), tmp_path, threads=None, subscriber=lambda event: seen.append(torch.get_num_threads())
    )
    assert set(seen) == {1}
    events: list[Event] = []
    trained(small_recipe(), tmp_path, threads=2, subscriber=events.append)
    assert any(
        isinstance(event, TrainingNotice) and "1 threads before, 2 now" in event.message for event in events
    )


def test_trainings_stopped_at_any_file_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command goes on wherever the first one stopped, before its first step as well."""
    recipe = small_recipe(steps=2, validate_every=2, save_every=1)
    real, left = os.replace, math.inf

    def replace_or_stop(source: Path, target: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stop
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_or_stop)
    trained(recipe, tmp_path / "whole", validation=None)
    for files in itertools.count():
        out, left = tmp_path / str(files), files
        with suppress(Stop):
            trained(recipe, out, validation=None)
        if left >= 0:
            break
        left = math.inf
        trained(recipe, out, validation=None)
        for name in ("last.safetensors", "log.csv"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), (files, name)
    # State, recipe, state of the first step, log, state of the second, weights, model card.
    assert files == 7


def test_trainings_without_pairs_are_refused(tmp_path: Path) -> None:
    assert "validation: no pairs" in refusal(small_recipe(), tmp_path / "out", validation=Listed([]))
    with pytest.raises(DataError, match="no pairs"):
        trained(small_recipe(), tmp_path / "out", pairs=Listed([]))
    assert not (tmp_path / "out").exists()


def test_unknown_devices_are_refused(tmp_path: Path) -> None:
    assert "'tpu': not known; known: auto, cpu, cuda" in refusal(small_recipe(), tmp_path, device="tpu")


def test_unknown_inputs_are_refused(tmp_path: Path) -> None:
    assert "'rgb16': not known" in refusal(small_recipe(input="rgb16"), tmp_path)


def test_patience_stops_a_training(tmp_path: Path) -> None:
    """Without any change no F1 is better than the first, 0."""
    still = Listed([replace(pair, label=np.zeros_like(pair.label)) for pair in VILLAGES.pairs])
    recipe = small_recipe(steps=6, validate_every=1, patience=2)
    events: list[Event] = []
    result = trained(recipe, tmp_path, validation=still, subscriber=events.append)
    assert (result.steps, result.best_step, result.best_f1, result.stopped_early) == (3, 1, 0, True)
    assert [event.best for event in events if isinstance(event, Validated)] == [True, False, False]
    with safe_open(tmp_path / "last.safetensors", "pt") as file:
        assert file.metadata()["step"] == "3"
    before = digests(tmp_path)
    assert trained(recipe, tmp_path, validation=still) == result
    assert digests(tmp_path) == before
    # With more patience it goes on, as if it had never stopped.
    more = small_recipe(steps=6, validate_every=1)
    longer = trained(more, tmp_path, validation=still)
    assert (longer.steps, longer.stopped_early) == (6, False)
    trained(more, tmp_path / "more", validation=still)
    assert digests(tmp_path) == digests(tmp_path / "more")


@dataclass
class Spoilt(Listed):
    """Pairs that turn to NaN after some readings."""

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


def test_infinite_loss_ends_training(tmp_path: Path) -> None:
    """The step is named, the best weights stay, and with sound data the result is as if it had not happened."""
    recipe = small_recipe(steps=4, validate_every=1, sampling={"kind": "fixed"})
    # Two pairs are read before the first step and two at each: the third step gets the first NaN.
    pairs = TOWNS.pairs[:2]
    events: list[Event] = []
    with pytest.raises(TrainingError) as caught:
        trained(recipe, tmp_path, pairs=Spoilt(pairs, 2 + 2 * 2), subscriber=events.append)
    best = [event.step for event in events if isinstance(event, Validated) and event.best][-1]
    message = str(caught.value)
    assert "\n" not in message
    expected = (str(tmp_path), "loss is nan at step 3", f"best.safetensors holds those of step {best}")
    assert all(part in message for part in expected), message
    spec = ussfc.find_model(str(tmp_path / "best.yaml"))
    load_weights(spec.weights_path(), sha256=spec.weights.sha256)
    assert not (tmp_path / "last.safetensors").exists()

    trained(recipe, tmp_path, pairs=Spoilt(pairs, 10**6))
    trained(recipe, tmp_path / "sound", pairs=Spoilt(pairs, 10**6))
    assert digests(tmp_path) == digests(tmp_path / "sound")


def test_too_high_a_rate_ends_training(tmp_path: Path) -> None:
    message = refusal(small_recipe(optimiser={"learning_rate": 1e30}, validate_every=4), tmp_path)
    assert all(part in message for part in ("at step 2", "optimiser.learning_rate")), message
    # There was no validation yet, so no weights are promised.
    assert "best.safetensors" not in message
    assert not (tmp_path / "best.safetensors").exists()


def test_validation_pairs_are_never_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Band 3 holds the set of a pixel: 4 for towns, 7 for villages."""
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
    trained(small_recipe(), tmp_path, validation=Watched(VILLAGES.pairs))
    assert learnt == {len("town")}
    # Batches are made on a thread of their own, which reads no such pair.
    assert readers == {threading.main_thread().name}
    assert {pair.after[2, 0, 0] for pair in VILLAGES.pairs} == {len("village")}


def test_bfloat16_on_the_cpu_is_refused(tmp_path: Path) -> None:
    # On a CPU with AMX, PyTorch 2.13 gave gradients that were not finite, and crashed.
    assert "only on CUDA" in refusal(small_recipe(precision="bfloat16"), tmp_path / "out")


def test_weights_and_recipe_agree_on_the_start(tmp_path: Path) -> None:
    start = StartSection(model="a", sha256="0" * 64)
    recipe = small_recipe().model_copy(update={"start": start})
    with pytest.raises(TrainingError, match="start: weights to begin with are given beside the recipe"):
        train(recipe, TrainingData(TOWNS, TOWNS), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_stay_untied_are_told(tied: bool, tmp_path: Path) -> None:
    section = StartSection(model="a", sha256="0" * 64)
    recipe = small_recipe(network={"tied": True}).model_copy(update={"start": section})
    start = ussfc.USSFCNet(3, recipe.network.ratio)
    if tied:
        start.tie_encoders()
    events: list[Event] = []
    trained(recipe, tmp_path, start=start, subscriber=events.append)
    told = [event.message for event in events if isinstance(event, TrainingNotice)]
    message = "network.tied: the weights to begin with have two encoders, which they keep"
    assert told == ([] if tied else [message])
