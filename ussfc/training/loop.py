"""Training: the loop, its state on disk, its log.

A folder of a training holds ``recipe.yaml``, ``log.csv``, ``state.pt`` (to resume from), ``last.safetensors`` and
``best.safetensors`` (weights), ``best.yaml`` (a model card of them) and ``validation.png``.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from ussfc.errors import TrainingError
from ussfc.files import sha256_of
from ussfc.metrics import Tally
from ussfc.network import USSFCNet
from ussfc.preprocessing import to_network_range
from ussfc.spec import Licence, ModelSpec, Network, Score, Training, WeightsFile
from ussfc.training.crops import Batch, Batches, as_unit_range, make_batches
from ussfc.training.data import FloatArray, LabelledPair, LabelledPairs
from ussfc.training.recipe import InputSpec, LossSection, OptimiserSection, TrainingRecipe
from ussfc.weights import save_weights

PREFETCH = 2
"""Batches prepared ahead of the step."""

STATE_FORMAT = 1


@dataclass(frozen=True)
class StepCompleted:
    """Some steps are done."""

    step: int
    """Steps done so far."""
    steps: int
    """Steps planned."""
    loss: float
    """Mean since the last such event."""
    patches_per_s: float
    """Crops through the loop a second, since the last such event."""


@dataclass(frozen=True)
class Validated:
    """The validation set was gone through."""

    step: int
    f1: float
    """At the best threshold."""
    threshold: float
    best: bool
    """No earlier validation was better."""


@dataclass(frozen=True)
class TrainingNotice:
    """Something a user should know; training goes on."""

    message: str


Event = StepCompleted | Validated | TrainingNotice
Subscriber = Callable[[Event], None]

REPORT_EVERY = 10
"""Steps between :class:`StepCompleted` events."""


@dataclass
class Progress:
    """What is known of a training besides its tensors."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time spent in steps and validations, all attempts together."""
    best_f1: float = -1.0
    best_step: int = 0
    best_threshold: float = 0.5
    stale: int = 0
    """Validations since the best one."""
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last row of the log."""
    rows: list[dict[str, float | int]] = field(default_factory=list)
    """The log, one row a validation."""


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    folder: Path
    steps: int
    seconds: float
    best_step: int
    best_f1: float
    """On the validation set, at ``threshold``."""
    threshold: float
    stopped_early: bool


def train(
    recipe: TrainingRecipe,
    data: LabelledPairs,
    validation: LabelledPairs,
    out: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    description: str = "",
    licence: Licence | None = None,
    overwrite: bool = False,
    subscriber: Subscriber = lambda event: None,
) -> Result:
    """Train a network from scratch, or go on where an earlier call in the same folder stopped.

    On the CPU the result is the same, bit by bit, for the same recipe, data and number of threads, however often
    training was stopped in between.

    Args:
        recipe: what to do.
        data: pairs to learn from.
        validation: pairs that choose the checkpoint and the threshold; never learnt from.
        out: folder of this training.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: intra-op threads of the CPU; None: as many as the process may use, or as the interrupted training had.
        description: of the data, for the model card.
        licence: of the data and so of the weights, for the model card.
        overwrite: replace another training in the folder.
        subscriber: hears the events.

    Raises:
        TrainingError: the folder holds another training, the loss is not finite (the step is named, and the best
            weights are kept), or there is no such device.
        DataError: the data cannot be used.
    """
    if not validation.names:
        raise TrainingError(
            "validation: no pairs; name cities with --validate-on, or give a data set with a val split"
        )
    kind = _device(device)
    if recipe.precision == "bfloat16" and kind == "cpu":
        # Seen with PyTorch 2.13 on a CPU with AMX: gradients of the grouped convolutions not finite, and crashes.
        raise TrainingError(
            "precision bfloat16: only on CUDA, PyTorch's bfloat16 gradients on the CPU are not to be relied on; set "
            "precision=float32 or auto"
        )
    batches = make_batches(recipe, data)
    folder = _Folder(out, recipe, _fingerprint(recipe, data, validation, kind))
    if overwrite:
        folder.clear()
    state = folder.load_state()
    threads = threads or (state["threads"] if state else None) or len(os.sched_getaffinity(0))
    if state and state["threads"] != threads:
        subscriber(
            TrainingNotice(
                f"{state['threads']} threads before, {threads} now: the last bits of the weights will differ"
            )
        )
    with _intra_op_threads(threads):
        trainer = Trainer(recipe, kind)
        if state:
            trainer.load_state_dict(state["trainer"])
        progress = Progress(**state["progress"]) if state else Progress()
        if progress.step:
            subscriber(TrainingNotice(f"resuming after step {progress.step}"))
        folder.start(progress)
        return _loop(
            trainer, progress, recipe, batches, validation, folder, threads, description, licence, subscriber
        )


class Trainer:
    """The network, its moving average and its optimiser: what one step does.

    Args:
        recipe: what to do.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, recipe: TrainingRecipe, device: str) -> None:
        self._recipe = recipe
        self.device = torch.device(device)
        bands = len(recipe.input_spec.bands)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = USSFCNet(bands, recipe.network.ratio)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.network.masked_kernels:
            self.network.hold_masked_kernels()
        self.average: USSFCNet | None = None
        if recipe.optimiser.average is not None:
            self.average = USSFCNet(bands, recipe.network.ratio).to(self.device).eval()
            self.average.load_state_dict(self.network.state_dict())
        how = recipe.optimiser
        kind = torch.optim.Adam if how.name == "adam" else torch.optim.AdamW
        self.optimiser = kind(
            self.network.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay, fused=True
        )
        self.bfloat16 = recipe.precision == "bfloat16" or (recipe.precision == "auto" and device == "cuda")

    @property
    def kept(self) -> USSFCNet:
        """The network that is validated and saved."""
        return self.network if self.average is None else self.average

    def step(self, batch: Batch, number: int, steps: int) -> float:
        """One optimiser step.

        Args:
            batch: crops.
            number: of this step, from 0.
            steps: planned, for the schedule.

        Returns:
            The loss, before the step. If it is not finite, no weight has moved.
        """
        rate = learning_rate(self._recipe.optimiser, number, steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        before, after, label, valid = self._on_device(batch)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.network.logits(before, after)
        loss = loss_of(logits[:, 0].float(), label, valid, self._recipe.loss)
        value = loss.item()
        if not math.isfinite(value):
            return value
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self._recipe.optimiser.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.optimiser.clip)
        self.optimiser.step()
        self._follow(number + 1)
        return value

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images = (
            to_network_range(torch.from_numpy(image).to(self.device, non_blocking=True)).contiguous(
                memory_format=torch.channels_last
            )
            for image in (batch.before, batch.after)
        )
        before, after = images
        label, valid = (torch.from_numpy(mask).to(self.device) for mask in (batch.label, batch.valid))
        return before, after, label, valid

    @torch.no_grad()
    def _follow(self, steps_done: int) -> None:
        """Move the average towards the weights; the first steps count less, since they are far from anything."""
        if self.average is None:
            return
        decay = min(self._recipe.optimiser.average or 0.0, (1 + steps_done) / (10 + steps_done))
        for kept, now in zip(
            self.average.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if kept.dtype.is_floating_point:
                kept.lerp_(now, 1 - decay)
            else:
                kept.copy_(now)

    def state_dict(self) -> dict[str, Any]:
        """All tensors that the next step depends on."""
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])


def loss_of(logits: Tensor, label: Tensor, valid: Tensor, how: LossSection) -> Tensor:
    """The loss of a batch over its valid pixels.

    Args:
        logits: ``(N, H, W)`` float32.
        label: ``(N, H, W)`` bool.
        valid: ``(N, H, W)`` bool.
        how: weights of cross-entropy and Dice (Milletari et al. 2016, over the whole batch, smoothed by 1).
    """
    counted, target = valid.float(), label.float()
    loss = logits.new_zeros(())
    if how.cross_entropy:
        weight = counted * torch.where(label, how.change_weight, 1.0)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        loss = loss + how.cross_entropy * (each * weight).sum() / weight.sum().clamp_min(1)
    if how.dice:
        probability, target = torch.sigmoid(logits) * counted, target * counted
        overlap = 2 * (probability * target).sum() + 1
        loss = loss + how.dice * (1 - overlap / (probability.sum() + target.sum() + 1))
    return loss


def learning_rate(how: OptimiserSection, step: int, steps: int) -> float:
    """The rate of a step, counted from 0, of ``steps`` planned."""
    rate = how.learning_rate
    if how.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(rate, how.learning_rate * (step + 1) / how.warmup_steps) if how.warmup_steps else rate


@torch.inference_mode()
def predict(network: USSFCNet, pair: LabelledPair, patch_size: int) -> FloatArray:
    """Change probability of a pair by patches that do not overlap, the last ones shifted inward.

    This is how the data sets' scores are counted; scenes go through the pipeline instead.

    Args:
        network: in eval mode, on any device.
        pair: at least a patch large.
        patch_size: side of a patch, pixels.

    Returns:
        (rows, cols) float32 in [0, 1].
    """
    device = next(network.parameters()).device
    images = [
        to_network_range(torch.from_numpy(np.ascontiguousarray(as_unit_range(image)))).to(device)[None]
        for image in (pair.before, pair.after)
    ]
    rows, cols = pair.shape
    result = np.empty((rows, cols), np.float32)
    for y in _starts(rows, patch_size):
        for x in _starts(cols, patch_size):
            window = (..., slice(y, y + patch_size), slice(x, x + patch_size))
            before, after = (image[window].contiguous(memory_format=torch.channels_last) for image in images)
            result[window] = network(before, after)[0, 0].cpu().numpy()
    return result


def _starts(length: int, patch_size: int) -> list[int]:
    return [*range(0, length - patch_size, patch_size), length - patch_size]


def tally(network: USSFCNet, pairs: LabelledPairs, patch_size: int) -> Tally:
    """Pixels of a whole set by truth and probability."""
    network.eval()
    total = Tally.empty()
    for index in range(len(pairs.names)):
        pair = pairs.pair(index)
        total += Tally.of(predict(network, pair, patch_size), pair.label, pair.valid)
    return total


def _loop(
    trainer: Trainer,
    progress: Progress,
    recipe: TrainingRecipe,
    batches: Batches,
    validation: LabelledPairs,
    folder: _Folder,
    threads: int,
    description: str,
    licence: Licence | None,
    tell: Subscriber,
) -> Result:
    per_epoch = batches.steps_per_epoch or 0
    steps = recipe.steps or (recipe.epochs or 0) * per_epoch
    every = recipe.validate_every or per_epoch
    stopped_early = _is_stale(progress, recipe)
    since, reported = time.monotonic(), time.monotonic()

    def lap() -> None:
        nonlocal since
        now = time.monotonic()
        progress.seconds += now - since
        since = now

    def save() -> None:
        lap()
        folder.save_state({"trainer": trainer.state_dict(), "progress": vars(progress), "threads": threads})

    with _prefetched(batches, progress.step, steps) as ahead:
        while progress.step < steps and not stopped_early:
            loss = trainer.step(next(ahead), progress.step, steps)
            if not math.isfinite(loss):
                kept = (
                    f"; {folder.best} holds those of step {progress.best_step}" if progress.best_step else ""
                )
                raise TrainingError(
                    f"{folder.path}: the loss is {loss} at step {progress.step + 1}{kept}; lower "
                    "optimiser.learning_rate, set precision=float32, or look for odd values in the data"
                )
            progress.step += 1
            progress.losses.append(loss)
            if progress.step % REPORT_EVERY == 0:
                now = time.monotonic()
                speed = REPORT_EVERY * recipe.sampling.batch_size / max(now - reported, 1e-9)
                recent = float(np.mean(progress.losses[-REPORT_EVERY:]))
                tell(StepCompleted(progress.step, steps, recent, speed))
                reported = now
            last = progress.step == steps
            if progress.step % every == 0 or last:
                _validate(trainer, progress, recipe, validation, folder, steps, tell)
                stopped_early = _is_stale(progress, recipe)
                lap()
                if progress.stale == 0:
                    _write_card(folder, recipe, progress, trainer, description, licence)
                save()
                reported = time.monotonic()
            elif progress.step % recipe.save_every == 0:
                save()
    save_weights(
        trainer.kept, folder.last, {"step": str(progress.step), "input": _input_json(recipe.input_spec)}
    )
    return Result(
        folder.path, progress.step, progress.seconds, progress.best_step, progress.best_f1, progress.best_threshold,
        stopped_early and progress.step < steps,
    )  # fmt: skip


def _is_stale(progress: Progress, recipe: TrainingRecipe) -> bool:
    return recipe.patience is not None and progress.stale >= recipe.patience


def _validate(
    trainer: Trainer,
    progress: Progress,
    recipe: TrainingRecipe,
    validation: LabelledPairs,
    folder: _Folder,
    steps: int,
    tell: Subscriber,
) -> None:
    counted = tally(trainer.kept, validation, recipe.sampling.crop_size)
    threshold = counted.best_threshold()
    found = counted.at(threshold)
    f1 = 0.0 if math.isnan(found.f1) else found.f1
    better = f1 > progress.best_f1
    if better:
        progress.best_f1, progress.best_step, progress.best_threshold = f1, progress.step, threshold
        facts = {
            "step": str(progress.step),
            "input": _input_json(recipe.input_spec),
            "validation_f1": repr(f1),
        }
        save_weights(trainer.kept, folder.best, facts)
    progress.stale = 0 if better else progress.stale + 1
    progress.rows.append({
        "step": progress.step,
        "loss": float(np.mean(progress.losses)),
        "learning_rate": learning_rate(recipe.optimiser, progress.step - 1, steps),
        "f1": f1,
        "threshold": threshold,
        "f1_at_0.5": counted.at(0.5).f1,
        "precision": found.precision,
        "recall": found.recall,
        "iou": found.iou,
        "average_precision": counted.average_precision(),
    })  # fmt: skip
    progress.losses = []
    folder.write_log(progress)
    _picture(trainer.kept, validation, recipe.sampling.crop_size, folder.path / "validation.png")
    tell(Validated(progress.step, f1, threshold, better))


def _picture(network: USSFCNet, validation: LabelledPairs, patch_size: int, path: Path) -> None:
    """Up to four validation crops: before, after, label, probability; around each pair's most changed patch."""
    from ussfc.training.pictures import grey, row, save, true_colour

    rows = []
    for index in range(min(4, len(validation.names))):
        crop = most_changed_crop(validation.pair(index), patch_size)
        probability = predict(network, crop, patch_size)
        rows.append(
            row([true_colour(crop.before), true_colour(crop.after), grey(crop.label), grey(probability)])
        )
    save(np.concatenate(rows), path)


def most_changed_crop(pair: LabelledPair, size: int) -> LabelledPair:
    """The patch of a pair, on the grid of patches, with the most changed pixels."""
    counts = {
        (y, x): np.count_nonzero(pair.label[y : y + size, x : x + size])
        for y in _starts(pair.shape[0], size)
        for x in _starts(pair.shape[1], size)
    }
    y, x = max(counts, key=lambda place: counts[place])
    window = (..., slice(y, y + size), slice(x, x + size))
    return LabelledPair(pair.name, pair.before[window], pair.after[window], pair.label[window])


def _write_card(
    folder: _Folder,
    recipe: TrainingRecipe,
    progress: Progress,
    trainer: Trainer,
    description: str,
    licence: Licence | None,
) -> None:
    """A card beside the best weights, so that every command takes them by its name."""
    spec = recipe.input_spec
    row = progress.rows[-1]
    card = ModelSpec(
        name=folder.path.name,
        title=f"USSFC-Net trained on {description or 'data of your own'}",
        weights=WeightsFile(uri=folder.best.name, sha256=sha256_of(folder.best)),
        network=Network(ratio=recipe.network.ratio),
        bands=spec.bands,
        resolution_m=spec.resolution_m,
        patch_size=recipe.sampling.crop_size,
        radiometry=spec.radiometry,
        threshold=progress.best_threshold,
        licence=licence,
        training=Training(
            data=description,
            held_out="the validation pairs",
            device=trainer.device.type,
            seconds=round(progress.seconds, 1),
            steps=progress.step,
            recipe="recipe.yaml",
        ),
        scores=(
            Score(
                scene="validation", precision=_share(row["precision"]), recall=_share(row["recall"]),
                f1=_share(row["f1"]), iou=_share(row["iou"]),
                note="chose this checkpoint and its threshold; patches without overlap",
            ),
        ),
    )  # fmt: skip
    text = yaml.safe_dump(card.model_dump(mode="json", exclude_none=True), sort_keys=False, width=110)
    _replace(folder.path / "best.yaml", text.encode())


def _share(value: float) -> float:
    return 0.0 if math.isnan(value) else round(value, 4)


def _input_json(spec: InputSpec) -> str:
    return json.dumps(spec.model_dump(mode="json", exclude_none=True), sort_keys=True)


class _Folder:
    """The files of one training."""

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
            raise TrainingError(f"{path}: cannot be made ({error.strerror}); choose another --out") from error

    @property
    def _ours(self) -> list[Path]:
        names = ("recipe.yaml", "log.csv", "best.yaml", "validation.png")
        return [self._state, self.best, self.last, *(self.path / name for name in names)]

    def clear(self) -> None:
        for file in self._ours:
            file.unlink(missing_ok=True)

    def load_state(self) -> dict[str, Any] | None:
        """The state of the same training, None where there is none.

        Raises:
            TrainingError: another training is here, or the state is damaged.
        """
        if not self._state.exists():
            if taken := [file for file in self._ours if file.exists()]:
                raise TrainingError(
                    f"{taken[0]}: exists, but no state to resume from; choose another --out or give --overwrite"
                )
            return None
        try:
            state = torch.load(self._state, map_location="cpu", weights_only=True)
            found = dict(state["fingerprint"])
        except (
            OSError,
            RuntimeError,
            EOFError,
            ValueError,
            LookupError,
            TypeError,
            _unpickling_error(),
        ) as error:
            raise TrainingError(
                f"{self._state}: cannot be resumed from ({type(error).__name__}); give --overwrite to start anew"
            ) from error
        odd = [name for name, wanted in self._fingerprint.items() if found.get(name) != wanted]
        if odd:
            raise TrainingError(
                f"{self.path}: holds another training ({', '.join(odd)} differ); choose another --out, or replace it "
                "with --overwrite"
            )
        return dict(state)

    def start(self, progress: Progress) -> None:
        text = yaml.safe_dump(self._recipe.model_dump(mode="json"), sort_keys=False)
        _replace(self.path / "recipe.yaml", text.encode())
        self.write_log(progress)

    def save_state(self, state: dict[str, Any]) -> None:
        aside = self._state.with_name(".state.pt.part")
        torch.save({**state, "fingerprint": self._fingerprint}, aside)
        os.replace(aside, self._state)

    def write_log(self, progress: Progress) -> None:
        """The whole log anew: after a resume it may hold rows of steps that will be done again."""
        if not progress.rows:
            return
        aside = self.path / ".log.csv.part"
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(progress.rows[0]))
            writer.writeheader()
            writer.writerows(progress.rows)
        os.replace(aside, self.path / "log.csv")


def _unpickling_error() -> type[Exception]:
    import pickle

    return pickle.UnpicklingError


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_bytes(data)
    os.replace(aside, path)


def _fingerprint(
    recipe: TrainingRecipe, data: LabelledPairs, validation: LabelledPairs, device: str
) -> dict[str, Any]:
    """What must agree for a training to be the same one, by the name a message calls it."""
    # How often states are saved, and when to give up, move no weight: a stopped training may go on with more patience.
    decisive = recipe.model_dump(mode="json", exclude={"save_every", "patience"})
    return {
        "format": STATE_FORMAT,
        "recipe": hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest(),
        "training pairs": _names_hash(data.names),
        "validation pairs": _names_hash(validation.names),
        "device": device,
    }


def _names_hash(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _device(device: str) -> str:
    if device not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"device {device!r}: not known; known: auto, cpu, cuda")
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
    """Batches in order, prepared on a thread of their own while the network works."""
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
