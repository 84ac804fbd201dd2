"""The loop of a training: steps, validations and states, from the start or from where an earlier call stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ussfc.cores import cores
from ussfc.errors import TrainingError
from ussfc.network import USSFCNet
from ussfc.training.batches import make_batches
from ussfc.training.checkpoints import Progress, TrainingFolder, TrainingState, fingerprint_of
from ussfc.training.crops import Batch, Batches
from ussfc.training.data import LabelledPairs, TrainingData
from ussfc.training.events import StepCompleted, Subscriber, TrainingNotice, Validated
from ussfc.training.recipe import TrainingRecipe
from ussfc.training.trainer import Trainer, learning_rate
from ussfc.training.validation import scores_of, tally, validation_picture

PREFETCH = 2
"""Batches prepared ahead of the step."""

REPORT_EVERY = 10
"""Steps between :class:`StepCompleted` events."""

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Result:
    """Result of a training."""

    folder: Path
    steps: int
    """Steps done."""
    seconds: float
    """Time spent in steps and validations, all attempts together, seconds."""
    best_step: int
    """Steps done at the best validation; without validation all of them."""
    best_f1: float | None
    """F1 on the validation set, at ``threshold``; None without validation."""
    threshold: float
    """Threshold with the largest F1 on the validation set; without validation that of the data's."""
    card: Path
    """Model card of the weights to use."""
    stopped_early: bool
    """True if validations did not get better for as long as the recipe's patience."""


def train(
    recipe: TrainingRecipe,
    data: TrainingData,
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    subscriber: Subscriber = lambda event: None,
    start: USSFCNet | None = None,
) -> Result:
    """Train a network from scratch or from weights, or go on where an earlier call in the same folder stopped.

    On the CPU the result is the same, bit by bit, for the same recipe, data and number of threads, however often
    training was stopped in between.

    Args:
        recipe: every choice that decides the training, but its data.
        data: pairs or tiles to learn from, and pairs that choose the checkpoint and the threshold.
        out: folder of this training.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: intra-op threads of the CPU; None: as many as the process may use, or as the interrupted training had.
        overwrite: replace another training in the folder.
        subscriber: receives the events.
        start: weights to begin with, those of the recipe's ``start``; None: random ones.

    Raises:
        TrainingError: the folder holds another training, the loss is not finite (the step is named, and the best
            weights are kept), or the device is not available.
        DataError: the data cannot be used.
    """
    if data.validation is not None and not data.validation.names:
        raise TrainingError(
            "validation: no pairs; name scenes to validate on, or none to keep the last weights, or give a data set "
            "with a val split"
        )
    if (recipe.start is None) != (start is None):
        raise TrainingError(
            "start: weights to begin with are given beside the recipe, not in it; leave the key out"
        )
    device = _resolve_device(device)
    if recipe.precision == "bfloat16" and device == "cpu":
        # Seen with PyTorch 2.13 on a CPU with AMX: gradients of the grouped convolutions not finite, and crashes.
        raise TrainingError(
            "precision bfloat16: only on CUDA, PyTorch's bfloat16 gradients on the CPU are not to be relied on; set "
            "precision=float32 or auto"
        )
    batches = make_batches(recipe, data.pairs)
    folder = TrainingFolder(out, recipe, fingerprint_of(recipe, data, device))
    if overwrite:
        folder.clear()
    state = folder.load_state()
    threads = threads or (state.threads if state else None) or cores()
    if state and state.threads != threads:
        subscriber(
            TrainingNotice(
                f"{state.threads} threads before, {threads} now: the last bits of the weights will differ"
            )
        )
    if recipe.network.tied and start is not None and not start.encoders_are_equal:
        subscriber(
            TrainingNotice("network.tied: the weights to begin with have two encoders, which they keep")
        )
    with _intra_op_threads(threads):
        trainer = Trainer(recipe, device, start)
        if state:
            trainer.load_state_dict(state.trainer)
        progress = state.progress if state else Progress()
        if progress.step:
            subscriber(TrainingNotice(f"resuming after step {progress.step}"))
        training = _Training(trainer, data, batches, folder, progress, threads, subscriber)
        if not state:
            # Before any other file, so that a training stopped at any time goes on by the same command.
            training.save_state()
        folder.start(progress)
        return training.run()


class _Training:
    """A training under way.

    Args:
        trainer: takes the steps.
        data: pairs to validate on, and facts for the model card.
        batches: batches to learn from.
        folder: files of the training.
        progress: steps done so far; updated.
        threads: intra-op threads of the CPU.
        subscriber: receives the events.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: TrainingData,
        batches: Batches,
        folder: TrainingFolder,
        progress: Progress,
        threads: int,
        subscriber: Subscriber,
    ) -> None:
        self._trainer = trainer
        self._data = data
        self._batches = batches
        self._folder = folder
        self._progress = progress
        self._threads = threads
        self._notify = subscriber
        self._recipe = recipe = trainer.recipe
        per_epoch = batches.steps_per_epoch or 0
        self._steps = recipe.steps or (recipe.epochs or 0) * per_epoch
        self._validate_every = recipe.validate_every or per_epoch
        self._counted = self._reported = time.monotonic()

    def run(self) -> Result:
        """Take the steps that are left, with their validations and states; save the last weights."""
        progress = self._progress
        with _prefetched(self._batches, progress.step, self._steps) as batches:
            while progress.step < self._steps and not self._is_stale:
                self._step(next(batches))
                if progress.step % self._validate_every == 0 or progress.step == self._steps:
                    if self._data.validation is None:
                        progress.add_row(self._facts())
                        self._folder.write_log(progress)
                    else:
                        self._validate(self._data.validation)
                    self.save_state()
                    self._reported = time.monotonic()
                elif progress.step % self._recipe.save_every == 0:
                    self.save_state()
        self._folder.save_last(self._trainer.kept, progress)
        validated = self._data.validation is not None
        if not validated:
            self._folder.write_card(progress, self._data, self._trainer.device.type)
        return Result(
            folder=self._folder.path,
            steps=progress.step,
            seconds=progress.seconds,
            best_step=progress.best_step if validated else progress.step,
            best_f1=progress.best_f1 if validated else None,
            threshold=progress.best_threshold if validated else self._data.threshold,
            card=self._folder.card_of(self._data),
            stopped_early=self._is_stale and progress.step < self._steps,
        )

    @property
    def _is_stale(self) -> bool:
        patience = self._recipe.patience
        return patience is not None and self._progress.stale >= patience

    def _step(self, batch: Batch) -> None:
        progress = self._progress
        loss = self._trainer.step(batch, progress.step, self._steps)
        if not math.isfinite(loss):
            best = self._folder.best
            kept = f"; {best} holds those of step {progress.best_step}" if progress.best_step else ""
            raise TrainingError(
                f"{self._folder.path}: the loss is {loss} at step {progress.step + 1}{kept}; lower "
                "optimiser.learning_rate, set precision=float32, or look for odd values in the data"
            )
        progress.step += 1
        progress.losses.append(loss)
        if progress.step % REPORT_EVERY == 0:
            now = time.monotonic()
            speed = REPORT_EVERY * self._recipe.sampling.batch_size / max(now - self._reported, 1e-9)
            recent = float(np.mean(progress.losses[-REPORT_EVERY:]))
            self._notify(StepCompleted(progress.step, self._steps, recent, speed))
            self._reported = now

    def _validate(self, pairs: LabelledPairs) -> None:
        """Score the validation set; write log, picture and, if it is the best so far, weights and model card."""
        progress, network, size = self._progress, self._trainer.kept, self._recipe.sampling.crop_size
        scores = scores_of(tally(network, pairs, size))
        best = progress.add_validation({**self._facts(), **scores})
        if best:
            self._folder.save_best(network, progress)
        self._folder.write_log(progress)
        self._folder.save_picture(validation_picture(network, pairs, size))
        self._notify(Validated(progress.step, scores["f1"], scores["threshold"], best))
        if best:
            self._count_seconds()
            self._folder.write_card(progress, self._data, self._trainer.device.type)

    def _facts(self) -> dict[str, float | int]:
        """Return what a row of the log states without a validation."""
        progress = self._progress
        return {
            "step": progress.step,
            "loss": float(np.mean(progress.losses)),
            "learning_rate": learning_rate(self._recipe.optimiser, progress.step - 1, self._steps),
        }

    def save_state(self) -> None:
        """Write the state to resume from."""
        self._count_seconds()
        state = TrainingState(self._trainer.state_dict(), self._progress, self._threads)
        self._folder.save_state(state)

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self._progress.seconds += now - self._counted
        self._counted = now


def _resolve_device(device: str) -> str:
    if device not in DEVICES:
        raise TrainingError(f"device {device!r}: not known; known: {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "device cuda: none found here; install a CUDA build of PyTorch, or take device cpu"
        )
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


@contextmanager
def _intra_op_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _prefetched(batches: Batches, start: int, steps: int) -> Iterator[Iterator[Batch]]:
    """Prepare the batches in order, on a thread of their own while the network works."""
    with ThreadPoolExecutor(1, "ussfc-batches") as pool:
        waiting = [pool.submit(batches.batch, step) for step in range(start, min(start + PREFETCH, steps))]

        def each() -> Iterator[Batch]:
            for step in range(start, steps):
                batch = waiting.pop(0).result()
                if step + PREFETCH < steps:
                    waiting.append(pool.submit(batches.batch, step + PREFETCH))
                yield batch

        try:
            yield each()
        finally:
            for future in waiting:
                future.cancel()
