"""The folder of a training: its recipe, log, state, weights, model card and picture.

It holds ``recipe.yaml``, ``log.csv``, ``state.pt`` (to resume from), ``last.safetensors`` and ``best.safetensors``
(weights), ``best.yaml`` (a model card of the best) and ``validation.png``; without validation ``last.safetensors`` and
its card ``last.yaml`` instead of the best and the picture.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from ussfc.errors import TrainingError
from ussfc.files import sha256_of
from ussfc.local_files import replace_file
from ussfc.network import USSFCNet
from ussfc.spec import ModelSpec, Network, Score, Training, WeightsFile
from ussfc.training import pictures
from ussfc.training.data import LabelledPairs, TrainingData
from ussfc.training.recipe import TrainingRecipe
from ussfc.training.synthesis.batches import GeneratedPairs
from ussfc.training.synthesis.tiles import MaskTiles
from ussfc.weights import save_weights

MOST_NAMES = 200
"""Scenes whose names a card lists."""

STATE_FORMAT = 1


@dataclass
class Progress:
    """Progress of a training: everything about it besides its tensors."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time spent in steps and validations, all attempts together, seconds."""
    best_f1: float = -1.0
    """Largest F1 of a validation so far."""
    best_step: int = 0
    """Steps done at that validation."""
    best_threshold: float = 0.5
    """Threshold of that validation."""
    stale: int = 0
    """Validations since the best one."""
    losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last row of the log."""
    rows: list[dict[str, float | int]] = field(default_factory=list)
    """Rows of the log, one per validation; without validation as often."""

    def add_validation(self, row: dict[str, float | int]) -> bool:
        """Add a row of the log; return True if its F1 is the best so far."""
        best = row["f1"] > self.best_f1
        if best:
            self.best_f1, self.best_threshold = row["f1"], row["threshold"]
            self.best_step = self.step
        self.stale = 0 if best else self.stale + 1
        self.add_row(row)
        return best

    def add_row(self, row: dict[str, float | int]) -> None:
        """Add a row of the log, which counts the losses since the one before."""
        self.rows.append(row)
        self.losses = []


@dataclass
class TrainingState:
    """Everything that a training resumes from."""

    trainer: dict[str, Any]
    """Tensors, see :meth:`ussfc.training.trainer.Trainer.state_dict`."""
    progress: Progress
    threads: int
    """Intra-op threads of the CPU, which move the last bits of the weights."""


class TrainingFolder:
    """The files of one training; a file appears only when it is complete.

    Args:
        path: the folder; made if it does not exist.
        recipe: the training's recipe.
        fingerprint: facts that must agree for two trainings to be the same, see :func:`fingerprint_of`.

    Raises:
        TrainingError: the folder cannot be made.
    """

    def __init__(self, path: Path, recipe: TrainingRecipe, fingerprint: dict[str, Any]) -> None:
        self.path = path
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self._recipe = recipe
        self._fingerprint = fingerprint
        self._state = path / "state.pt"
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot be made ({error.strerror}); choose another output folder"
            ) from error

    @property
    def _files(self) -> list[Path]:
        names = ("recipe.yaml", "log.csv", "best.yaml", "last.yaml", "validation.png")
        return [self._state, self.best, self.last, *(self.path / name for name in names)]

    def clear(self) -> None:
        """Remove the files of another training."""
        for file in self._files:
            file.unlink(missing_ok=True)

    def load_state(self) -> TrainingState | None:
        """Return the state of the same training; None: the folder holds no training.

        Raises:
            TrainingError: the folder holds another training, or the state is damaged.
        """
        if not self._state.exists():
            if taken := [file for file in self._files if file.exists()]:
                raise TrainingError(
                    f"{taken[0]}: exists, but no state to resume from; choose another output folder, or overwrite it"
                )
            return None
        try:
            state = torch.load(self._state, map_location="cpu", weights_only=True)
            found = dict(state["fingerprint"])
        except (
            EOFError,
            LookupError,
            OSError,
            RuntimeError,
            TypeError,
            ValueError,
            pickle.UnpicklingError,
        ) as error:
            raise TrainingError(
                f"{self._state}: cannot be resumed from ({type(error).__name__}); overwrite it to start over"
            ) from error
        odd = [name for name, expected in self._fingerprint.items() if found.get(name) != expected]
        if odd:
            raise TrainingError(
                f"{self.path}: holds another training ({', '.join(odd)} differ); choose another output folder, or "
                "overwrite it"
            )
        return TrainingState(state["trainer"], Progress(**state["progress"]), state["threads"])

    def start(self, progress: Progress) -> None:
        """Write the recipe, and the log as far as it goes."""
        text = yaml.safe_dump(self._recipe.model_dump(mode="json"), sort_keys=False)
        replace_file(self.path / "recipe.yaml", text.encode())
        self.write_log(progress)

    def save_state(self, state: TrainingState) -> None:
        """Write the state to resume from."""
        content = {
            "trainer": state.trainer,
            "progress": vars(state.progress),
            "threads": state.threads,
            "fingerprint": self._fingerprint,
        }
        file = io.BytesIO()
        torch.save(content, file)
        replace_file(self._state, file.getvalue())

    def write_log(self, progress: Progress) -> None:
        """Write the whole log: after a resume the file may hold rows of steps that will be done again."""
        if not progress.rows:
            return
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(progress.rows[0]))
        writer.writeheader()
        writer.writerows(progress.rows)
        replace_file(self.path / "log.csv", text.getvalue().encode())

    def save_best(self, network: USSFCNet, progress: Progress) -> None:
        """Write the weights of the best validation so far, which is the last one."""
        facts = {**self._facts(progress), "validation_f1": repr(progress.best_f1)}
        save_weights(network, self.best, facts)

    def save_last(self, network: USSFCNet, progress: Progress) -> None:
        """Write the weights at the end."""
        save_weights(network, self.last, self._facts(progress))

    def _facts(self, progress: Progress) -> dict[str, str]:
        spec = self._recipe.input_spec.model_dump(mode="json", exclude_none=True)
        return {"step": str(progress.step), "input": json.dumps(spec, sort_keys=True)}

    def save_picture(self, picture: pictures.Picture) -> None:
        """Write the picture of a validation."""
        pictures.save(picture, self.path / "validation.png")

    def card_of(self, data: TrainingData) -> Path:
        """Return the path of the model card: of the best weights, without validation of the last ones."""
        return self.path / ("last.yaml" if data.validation is None else "best.yaml")

    def write_card(self, progress: Progress, data: TrainingData, device: str) -> None:
        """Write the model card beside its weights, so that every command takes them by its name."""
        card = self._card(progress, data, device)
        text = yaml.safe_dump(card.model_dump(mode="json", exclude_none=True), sort_keys=False, width=110)
        replace_file(self.card_of(data), text.encode())

    def _card(self, progress: Progress, data: TrainingData, device: str) -> ModelSpec:
        spec = self._recipe.input_spec
        weights = self.last if data.validation is None else self.best
        return ModelSpec(
            name=self.path.name,
            title=f"USSFC-Net trained on {data.description or 'data of your own'}",
            weights=WeightsFile(uri=weights.name, sha256=sha256_of(weights)),
            network=Network(ratio=self._recipe.network.ratio),
            bands=spec.bands,
            resolution_m=spec.resolution_m,
            patch_size=self._recipe.sampling.crop_size,
            radiometry=spec.radiometry,
            threshold=data.threshold if data.validation is None else progress.best_threshold,
            licence=data.licence,
            training=Training(
                data=data.description,
                held_out="nothing" if data.validation is None else "the validation pairs",
                scenes=() if isinstance(data.pairs, MaskTiles) else _few(data.pairs.names),
                device=device,
                seconds=round(progress.seconds, 1),
                steps=progress.step,
                recipe="recipe.yaml" + (f", begun with {start.model}" if (start := self._recipe.start) else ""),
            ),
            scores=() if data.validation is None else (_validation_score(progress.rows[-1], data.validation),),
        )  # fmt: skip


def _few(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of scenes; none of the many of pictures, of which each is one of a known data set."""
    return tuple(names) if len(names) <= MOST_NAMES else ()


def _validation_score(row: dict[str, float | int], pairs: LabelledPairs) -> Score:
    generated = (
        "pairs generated from places held out, not real changes; "
        if isinstance(pairs, GeneratedPairs)
        else ""
    )
    return Score(
        scene="validation", precision=_share(row["precision"]), recall=_share(row["recall"]),
        f1=_share(row["f1"]), iou=_share(row["iou"]),
        note=f"{generated}chose this checkpoint and its threshold; patches without overlap",
    )  # fmt: skip


def _share(value: float) -> float:
    return 0.0 if math.isnan(value) else round(value, 4)


def fingerprint_of(recipe: TrainingRecipe, data: TrainingData, device: str) -> dict[str, Any]:
    """Return the facts that must agree for two trainings to be the same, by the names that messages give them."""
    # Intervals of saving and patience move no weight: a stopped training may go on with more patience.
    irrelevant = {"save_every", "patience"}
    if not isinstance(data.pairs, MaskTiles):
        irrelevant.add("synthesis")
    decisive = recipe.model_dump(mode="json", exclude=irrelevant)
    # Left out where they decide nothing, so that trainings of earlier versions go on.
    if recipe.start is None:
        del decisive["start"], decisive["optimiser"]["finetuning_rate"]
    if not recipe.optimiser.freeze_statistics:
        del decisive["optimiser"]["freeze_statistics"]
    held_out = data.validation
    source = held_out.source if isinstance(held_out, GeneratedPairs) else held_out
    facts = {
        "format": STATE_FORMAT,
        "recipe": hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest(),
        "training pairs": _names_hash(data.pairs.names),
        "validation pairs": _names_hash([] if source is None else source.names),
        "device": device,
    }
    # Left out where there is one way, so that trainings of earlier versions go on.
    return {**facts, "reading of pairs": data.reading} if data.reading else facts


def _names_hash(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
