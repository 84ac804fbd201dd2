"""Small trainings: pairs that are easy to learn, recipes of seconds, and comparisons of their folders."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ussfc.errors import TrainingError
from ussfc.training.batches import make_batches
from ussfc.training.data import LabelledPair, TrainingData
from ussfc.training.events import Event
from ussfc.training.loop import Result, train
from ussfc.training.recipe import TrainingRecipe
from ussfc.training.trainer import Trainer

SIZE = 32
"""Side of a crop, pixels."""
WIDTH_8 = 0.125
"""Ratio of the narrowest network."""


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
    """Draw grey noise in which a bright square appears: easy to learn. Band 3 is the prefix's length in both dates."""
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
"""Pairs to learn from, and to validate on."""
LARGER = Listed([*TOWNS.pairs, *squares(1, "city", 48).pairs])
"""Towns and a pair larger than a crop."""


def small_recipe(**changes: Any) -> TrainingRecipe:
    """Return a recipe of seconds; sections given are merged."""
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


RANDOM_CROPS = {
    "steps": 12,
    "validate_every": 6,
    "save_every": 4,
    "augmentation": {"flip": True, "turn": True, "swap": 0.5, "gain": 0.2, "noise": 0.02, "unchanged": 0.1},
    "loss": {"dice": 1.0},
    "optimiser": {
        "name": "adamw", "schedule": "cosine", "warmup_steps": 3, "clip": 1.0, "average": 0.9, "weight_decay": 0.01,
    },
}  # fmt: skip
"""Changes that make a recipe use everything, on random crops."""

FIXED_CROPS = {
    "steps": None,
    "epochs": 4,
    "validate_every": 6,
    "save_every": 4,
    "sampling": {"kind": "fixed", "crops": 4, "batch_size": 4},
}
"""Changes for fixed crops: of LARGER, 6 towns and 4 crops of the city make 3 steps per epoch, the last one smaller."""


def trained(
    recipe: TrainingRecipe,
    out: Path,
    pairs: Listed = TOWNS,
    validation: Listed | None = VILLAGES,
    facts: dict[str, Any] | None = None,
    **options: Any,
) -> Result:
    """Train on the CPU with one thread; by default on towns, validated on villages."""
    data = TrainingData(pairs, validation, **(facts or {}))
    return train(recipe, data, out, **{"device": "cpu", "threads": 1, **options})


def refusal(recipe: TrainingRecipe, out: Path, **options: Any) -> str:
    """Return the message of a training that is refused: one line."""
    with pytest.raises(TrainingError) as caught:
        trained(recipe, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def steps_by_hand(recipe: TrainingRecipe, steps: int) -> tuple[Trainer, list[float]]:
    """Take the steps of a training without its loop; return the trainer and the losses."""
    trainer, batches = Trainer(recipe, "cpu"), make_batches(recipe, TOWNS)
    return trainer, [trainer.step(batches.batch(step), step, steps) for step in range(steps)]


RESULTS = ("last.safetensors", "best.safetensors", "log.csv")
"""Files that are the same byte by byte; best.yaml and state.pt hold seconds as well."""


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of every result in a folder, by name."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in RESULTS}


def log_of(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a folder's log."""
    with (folder / "log.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


class Stop(Exception):
    """The end of a process."""


def stop_at(kind: type[Event], step: int) -> Callable[[Event], None]:
    """Return a subscriber that raises :class:`Stop` at an event of a step."""

    def receive(event: Event) -> None:
        if isinstance(event, kind) and event.step == step:  # type: ignore[union-attr]
            raise Stop

    return receive


def both(*subscribers: Callable[[Event], None]) -> Callable[[Event], None]:
    """Return a subscriber that hands its events to several, in order."""

    def receive(event: Event) -> None:
        for subscriber in subscribers:
            subscriber(event)

    return receive
