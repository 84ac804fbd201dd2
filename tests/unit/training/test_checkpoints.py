"""The folder of a training: files, model card, log, and states of other trainings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import ussfc
from tests.support.training import (
    SIZE,
    VILLAGES,
    WIDTH_8,
    Stop,
    digests,
    log_of,
    refusal,
    small_recipe,
    squares,
    stop_at,
    trained,
)
from ussfc.spec import Licence
from ussfc.training.events import Validated
from ussfc.training.loop import Result
from ussfc.training.recipe import TrainingRecipe, load_recipe
from ussfc.training.validation import tally
from ussfc.weights import load_weights


@dataclass(frozen=True)
class Done:
    """A small training that is done."""

    folder: Path
    result: Result
    recipe: TrainingRecipe


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A training whose folder no test writes to."""
    folder = tmp_path_factory.mktemp("done")
    licence = Licence(weights="MIT", training_labels="CC0-1.0")
    result = trained(
        small_recipe(steps=12, validate_every=4), folder, facts={"description": "squares", "licence": licence}
    )
    return Done(folder, result, small_recipe(steps=12, validate_every=4))


@pytest.fixture
def copied(done: Done, tmp_path: Path) -> Path:
    """A copy of that training's folder, to spoil."""
    return Path(shutil.copytree(done.folder, tmp_path / "copy"))


def test_folder_holds_these_files(done: Done) -> None:
    assert {file.name for file in done.folder.iterdir()} == {
        "recipe.yaml", "log.csv", "state.pt", "last.safetensors", "best.safetensors", "best.yaml", "validation.png",
    }  # fmt: skip
    assert load_recipe(str(done.folder / "recipe.yaml")) == done.recipe
    with Image.open(done.folder / "validation.png") as picture:
        # Two villages below each other; before, after, label, probability; frames of 4.
        assert picture.size == (4 * (SIZE + 4), 2 * (SIZE + 4))


def test_best_card_is_a_model(done: Done) -> None:
    spec = ussfc.find_model(str(done.folder / "best.yaml"))
    network = load_weights(spec.weights_path(), sha256=spec.weights.sha256)
    assert (network.bands, network.ratio) == (len(spec.bands), spec.network.ratio) == (3, WIDTH_8)
    assert (spec.patch_size, spec.threshold) == (SIZE, done.result.threshold)
    assert spec.bands == done.recipe.input_spec.bands
    assert spec.radiometry == done.recipe.input_spec.radiometry
    assert spec.licence is not None
    assert spec.licence.weights == "MIT"
    assert "squares" in spec.title
    assert spec.training is not None
    assert (spec.training.data, spec.training.steps) == ("squares", done.result.best_step)
    # The weights are those of the best step, and score as on the card.
    found = tally(network, VILLAGES, SIZE).at(spec.threshold)
    assert found.f1 == done.result.best_f1 > 0
    (score,) = spec.scores
    assert (score.f1, score.precision, score.recall, score.iou) == pytest.approx(
        (found.f1, found.precision, found.recall, found.iou), abs=1e-4
    )


def test_log_and_weights_agree(done: Done) -> None:
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


@pytest.mark.parametrize(
    ("changes", "options", "differing"),
    [
        ({"seed": 1}, {}, "recipe"),
        ({"optimiser": {"learning_rate": 1e-3}}, {}, "recipe"),
        ({}, {"pairs": squares(5)}, "training pairs"),
        ({}, {"validation": squares(3, "village")}, "validation pairs"),
        ({"seed": 1}, {"validation": squares(3, "village")}, "recipe, validation pairs"),
    ],
)
def test_other_trainings_are_refused(
    done: Done, copied: Path, changes: dict[str, Any], options: dict[str, Any], differing: str
) -> None:
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    message = refusal(small_recipe(**{"steps": 12, "validate_every": 4, **changes}), copied, **options)
    assert all(part in message for part in (str(copied), f"({differing} differ)", "overwrite it")), message
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before


def test_save_interval_makes_no_other_training(done: Done, copied: Path) -> None:
    recipe = done.recipe.model_copy(update={"save_every": 1000})
    found = trained(recipe, copied)
    assert replace(found, folder=done.folder, card=done.result.card) == done.result


def test_overwrite_replaces(copied: Path, tmp_path: Path) -> None:
    assert (copied / "last.safetensors").exists()
    with pytest.raises(Stop):
        trained(small_recipe(seed=1), copied, overwrite=True, subscriber=stop_at(Validated, 2))
    # No file of the old training is left that could be taken for the new one's.
    assert not (copied / "last.safetensors").exists()
    assert torch.load(copied / "state.pt", weights_only=True)["progress"]["step"] == 0
    trained(small_recipe(seed=1), copied, overwrite=True)
    trained(small_recipe(seed=1), tmp_path / "fresh")
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
    message = refusal(done.recipe, copied)
    assert all(part in message for part in (str(state), "cannot be resumed from", "overwrite it")), message
    assert digests(copied) == digests(done.folder)


def test_foreign_states_are_refused(done: Done, copied: Path) -> None:
    for content in ([1, 2], {"step": 3}, torch.zeros(3), {"fingerprint": 3}):
        torch.save(content, copied / "state.pt")
        assert "cannot be resumed from" in refusal(done.recipe, copied)


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors", "best.yaml", "log.csv"])
def test_files_without_a_state_are_kept(tmp_path: Path, name: str) -> None:
    """They may be all that is left of a week's training."""
    (tmp_path / name).write_bytes(b"precious")
    message = refusal(small_recipe(), tmp_path)
    assert all(part in message for part in (str(tmp_path / name), "overwrite it")), message
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"precious"


def test_folders_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    message = refusal(small_recipe(), tmp_path / "file" / "out")
    assert all(part in message for part in (str(tmp_path / "file" / "out"), "cannot be made")), message
