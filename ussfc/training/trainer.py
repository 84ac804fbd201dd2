"""One optimiser step: learning rate, forward pass, loss, gradient and moving average."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfc.network import USSFCNet
from ussfc.preprocessing import to_network_range
from ussfc.training.crops import Batch
from ussfc.training.recipe import LossSection, OptimiserSection, TrainingRecipe


class Trainer:
    """The network of a training, its moving average and its optimiser.

    Args:
        recipe: the training's recipe; its seed decides the first weights.
        device: ``cpu`` or ``cuda``.
        start: weights to begin with; copied. None: random ones.
    """

    def __init__(self, recipe: TrainingRecipe, device: str, start: USSFCNet | None = None) -> None:
        self.recipe = recipe
        self.device = torch.device(device)
        bands = len(recipe.input_spec.bands)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            network = USSFCNet(bands, recipe.network.ratio)
        if start is not None:
            network.load_state_dict(start.state_dict())
        # Weights to begin with may have been trained without.
        if recipe.network.tied and (start is None or start.encoders_are_equal):
            network.tie_encoders()
        # On CPUs PyTorch sums the statistics of batch norms of channels-last maps pixel after pixel in float32:
        # gradients then differ from those of float64 by 2 to 3 %, instead of 0.3 to 0.5 %.
        on_gpu = self.device.type == "cuda"
        self._layout = torch.channels_last if on_gpu else torch.contiguous_format
        self.network = network.to(self.device, memory_format=self._layout)  # type: ignore[call-overload]
        if recipe.network.masked_kernels and (start is None or start.masked_kernels_are_zero):
            self.network.hold_masked_kernels()
        self.average: USSFCNet | None = None
        if recipe.optimiser.average is not None:
            self.average = USSFCNet(bands, recipe.network.ratio).to(self.device).eval()
            self.average.load_state_dict(self.network.state_dict())
        section = recipe.optimiser
        kind = torch.optim.Adam if section.name == "adam" else torch.optim.AdamW
        self.optimiser = kind(
            self.network.parameters(), lr=section.learning_rate, weight_decay=section.weight_decay, fused=True
        )
        self.bfloat16 = recipe.precision == "bfloat16" or (recipe.precision == "auto" and device == "cuda")

    @property
    def kept(self) -> USSFCNet:
        """The network that is validated and saved."""
        return self.network if self.average is None else self.average

    def step(self, batch: Batch, number: int, steps: int) -> float:
        """Take one optimiser step.

        Args:
            batch: crops.
            number: number of this step, from 0.
            steps: steps planned, for the schedule.

        Returns:
            The loss before the step. If it is not finite, no weight has moved.
        """
        rate = learning_rate(self.recipe.optimiser, number, steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        before, after, label, valid = self._to_device(batch)
        self.network.train()
        if self.recipe.optimiser.freeze_statistics:
            for module in self.network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.network.logits(before, after)
        loss = loss_of(logits[:, 0].float(), label, valid, self.recipe.loss)
        value = loss.item()
        if not math.isfinite(value):
            return value
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.optimiser.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.optimiser.clip)
        self.optimiser.step()
        self._update_average(number + 1)
        return value

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        images = (
            to_network_range(torch.from_numpy(image).to(self.device, non_blocking=True)).contiguous(
                memory_format=self._layout
            )
            for image in (batch.before, batch.after)
        )
        before, after = images
        label, valid = (torch.from_numpy(mask).to(self.device) for mask in (batch.label, batch.valid))
        return before, after, label, valid

    @torch.no_grad()
    def _update_average(self, steps_done: int) -> None:
        """Move the average towards the weights; the first steps count less, since they are far from the result."""
        if self.average is None:
            return
        decay = min(self.recipe.optimiser.average or 0.0, (1 + steps_done) / (10 + steps_done))
        for kept, now in zip(
            self.average.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if kept.dtype.is_floating_point:
                kept.lerp_(now, 1 - decay)
            else:
                kept.copy_(now)

    def state_dict(self) -> dict[str, Any]:
        """Return all tensors that the next step depends on."""
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the result of :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        # A state of an earlier version may have another layout than the weights; the fused optimiser does not look.
        for weight, moments in self.optimiser.state.items():
            for name, kept in moments.items():
                if kept.shape == weight.shape:
                    moments[name] = torch.empty_like(weight).copy_(kept)


def loss_of(logits: Tensor, label: Tensor, valid: Tensor, section: LossSection) -> Tensor:
    """Compute the loss of a batch over its valid pixels.

    Args:
        logits: ``(N, H, W)`` float32.
        label: ``(N, H, W)`` bool.
        valid: ``(N, H, W)`` bool.
        section: weights of cross-entropy and Dice (Milletari et al. 2016, over the whole batch, smoothed by 1).
    """
    counted, target = valid.float(), label.float()
    loss = logits.new_zeros(())
    if section.cross_entropy:
        weight = counted * torch.where(label, section.change_weight, 1.0)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        loss = loss + section.cross_entropy * (each * weight).sum() / weight.sum().clamp_min(1)
    if section.dice:
        probability, target = torch.sigmoid(logits) * counted, target * counted
        overlap = 2 * (probability * target).sum() + 1
        loss = loss + section.dice * (1 - overlap / (probability.sum() + target.sum() + 1))
    return loss


def learning_rate(section: OptimiserSection, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, of ``steps`` planned."""
    rate = section.learning_rate
    if section.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * step / steps))
    if section.warmup_steps:
        rate = min(rate, section.learning_rate * (step + 1) / section.warmup_steps)
    return rate
