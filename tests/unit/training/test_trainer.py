"""One optimiser step: rate, loss, masked kernels, decay, average and clipping."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.training import TOWNS, small_recipe, steps_by_hand
from ussfc.layers import CyclicMultiScaleConv, cyclic_kernel_mask
from ussfc.network import LEVELS, USSFCNet
from ussfc.preprocessing import to_network_range
from ussfc.training.batches import make_batches
from ussfc.training.recipe import LossSection, OptimiserSection
from ussfc.training.trainer import Trainer, learning_rate, loss_of
from ussfc.weights import load_weights, save_weights


def test_constant_rate() -> None:
    section = OptimiserSection(learning_rate=0.1, schedule="constant")
    assert {learning_rate(section, step, 100) for step in range(100)} == {0.1}


def test_cosine_rate_falls_from_full_to_nothing() -> None:
    section = OptimiserSection(learning_rate=0.1, schedule="cosine")
    rates = [learning_rate(section, step, 100) for step in range(101)]
    assert (rates[0], rates[50], rates[100]) == pytest.approx((0.1, 0.05, 0))
    assert rates[25] == pytest.approx(0.1 * (2 + math.sqrt(2)) / 4)
    assert all(later < earlier for earlier, later in pairwise(rates))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_rises_in_equal_steps(schedule: Any) -> None:
    section = OptimiserSection(learning_rate=0.1, schedule=schedule, warmup_steps=10)
    rates = [learning_rate(section, step, 1000) for step in range(30)]
    assert rates[:9] == pytest.approx([0.01 * (step + 1) for step in range(9)])
    plain = section.model_copy(update={"warmup_steps": 0})
    assert rates[10:] == [learning_rate(plain, step, 1000) for step in range(10, 30)]


def test_optimiser_follows_the_schedule() -> None:
    """A constant gradient moves every weight by the rate itself under Adam, so the rate can be read off."""
    recipe = small_recipe(optimiser={"schedule": "cosine", "learning_rate": 1e-3, "warmup_steps": 2})
    trainer = Trainer(recipe, "cpu")
    batches = make_batches(recipe, TOWNS)
    seen = []
    for step in range(4):
        trainer.step(batches.batch(step), step, 4)
        seen.append(trainer.optimiser.param_groups[0]["lr"])
    assert seen == [learning_rate(recipe.optimiser, step, 4) for step in range(4)]
    assert seen[0] == 0.5e-3


# Four pixels: probabilities 1/2, 3/4, 1/4 and one that does not count.
LOGITS = torch.tensor([[[0.0, math.log(3), -math.log(3), 9.0]]])
LABEL = torch.tensor([[[True, True, False, False]]])
VALID = torch.tensor([[[True, True, True, False]]])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, (math.log(2) + 2 * math.log(4 / 3)) / 3),
        # Changed pixels count three times: weights 3, 3 and 1.
        ({"change_weight": 3}, (3 * math.log(2) + 4 * math.log(4 / 3)) / 7),
        # 2 (1/2 + 3/4) + 1 over 3/2 + 2 + 1.
        ({"cross_entropy": 0, "dice": 1}, 1 - 3.5 / 4.5),
        ({"cross_entropy": 2, "dice": 0.5}, 2 * (math.log(2) + 2 * math.log(4 / 3)) / 3 + 0.5 * (1 - 3.5 / 4.5)),
    ],
)  # fmt: skip
def test_loss_by_hand(weights: dict[str, float], expected: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = loss_of(logits, LABEL, VALID, LossSection(**weights))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    moved = (logits.grad != 0)[0, 0].tolist()  # type: ignore[union-attr]
    assert moved == [True, True, True, False]
    # The label of pixels that do not count does not matter.
    assert loss_of(LOGITS, LABEL ^ ~VALID, VALID, LossSection(**weights)).item() == loss.item()


def test_loss_without_valid_pixels_is_zero() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = loss_of(logits, LABEL, torch.zeros_like(VALID), LossSection(dice=1))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()  # type: ignore[union-attr]


def test_dice_is_of_the_whole_batch() -> None:
    """A crop without change would else have a Dice of its own that nothing can improve."""
    section = LossSection(cross_entropy=0, dice=1)
    halves = [loss_of(LOGITS, LABEL, VALID, section), loss_of(LOGITS, ~LABEL, VALID, section)]
    whole = loss_of(
        torch.cat([LOGITS, LOGITS]), torch.cat([LABEL, ~LABEL]), torch.cat([VALID, VALID]), section
    )
    assert whole.item() == pytest.approx(1 - (2 * (1.25 + 0.25) + 1) / (3 + 3 + 1))
    assert whole.item() != pytest.approx(sum(half.item() for half in halves) / 2)


def test_seed_decides_the_first_weights() -> None:
    first = [Trainer(small_recipe(seed=seed), "cpu").network.state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])
    name = "Conv3_1.Conv.0.native.0.weight"
    assert not torch.equal(first[0][name], first[2][name])


def test_infinite_loss_moves_no_weight() -> None:
    trainer, _ = steps_by_hand(small_recipe(optimiser={"average": 0.9, "weight_decay": 0.1}), 2)
    # The running statistics of batch norm follow the forward pass, hence parameters alone.
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    batch = make_batches(small_recipe(), TOWNS).batch(2)
    bad = replace(batch, before=batch.before * np.float32(np.nan))
    assert math.isnan(trainer.step(bad, 2, 4))
    for parameter, kept in zip(trainer.network.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)
    assert all(torch.isfinite(tensor).all() for tensor in trainer.kept.state_dict().values())


def masked_kernels(network: USSFCNet) -> Tensor:
    """Return all kernels that the mask names, one after the other."""
    return torch.cat([
        module.conv.weight[~cyclic_kernel_mask(module.conv.weight.shape[0])].flatten()
        for module in network.modules()
        if isinstance(module, CyclicMultiScaleConv)
    ])  # fmt: skip


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_masked_kernels_stay_at_zero(name: str) -> None:
    """The optimiser's moments and decay do not move them; their neighbours move."""
    recipe = small_recipe(optimiser={"name": name, "weight_decay": 0.1, "average": 0.5, "clip": 1.0})
    first = Trainer(recipe, "cpu").network
    trainer, _ = steps_by_hand(recipe, 3)
    for network in (trainer.network, trainer.kept):
        assert masked_kernels(network).numel() > 0
        assert not masked_kernels(network).any()
    moved = trainer.network.state_dict()["Conv2_1.Conv.0.aux.0.conv.weight"]
    assert not torch.equal(moved, first.state_dict()["Conv2_1.Conv.0.aux.0.conv.weight"])


@pytest.mark.parametrize("average", [None, 0.9])
def test_tied_encoders_stay_equal_and_are_stored_as_two(average: float | None, tmp_path: Path) -> None:
    recipe = small_recipe(network={"tied": True}, optimiser={"average": average})
    trainer, batches = Trainer(recipe, "cpu"), make_batches(recipe, TOWNS)
    first = copy.deepcopy(trainer.network.state_dict())
    for number in range(2):
        trainer.step(batches.batch(number), number, 4)
    save_weights(trainer.kept, tmp_path / "tied.safetensors", {})
    network = load_weights(tmp_path / "tied.safetensors")
    state = network.state_dict()
    assert state.keys() == USSFCNet(3, network.ratio).state_dict().keys()
    for level in range(1, LEVELS + 1):
        for name in [name for name in state if name.startswith(f"Conv{level}_1.")]:
            torch.testing.assert_close(
                state[name], state[name.replace(f"Conv{level}_1.", f"Conv{level}_2.")], rtol=0, atol=0
            )
    assert not torch.equal(state["Conv3_1.Conv.0.native.0.weight"], first["Conv3_1.Conv.0.native.0.weight"])
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        one, other, swapped = (network.eval()(images[[a]], images[[b]]) for a, b in ((0, 1), (2, 2), (1, 0)))
        same = network(images[[0]], images[[0]])
    torch.testing.assert_close(one, swapped)
    # No difference is the same answer whatever the image.
    torch.testing.assert_close(same, other)
    assert not torch.allclose(one, same)


def test_weights_whose_encoders_differ_keep_them() -> None:
    recipe = small_recipe(network={"tied": True})
    apart, tied = USSFCNet(3, recipe.network.ratio), USSFCNet(3, recipe.network.ratio)
    tied.tie_encoders()
    assert [apart.encoders_are_equal, tied.encoders_are_equal] == [False, True]
    for start in (apart, tied):
        trainer = Trainer(recipe, "cpu", start)
        first, second = (trainer.network.get_submodule(f"Conv2_{date}") for date in (1, 2))
        assert (first is second) == (start is tied)
        for name, value in start.state_dict().items():
            torch.testing.assert_close(trainer.network.state_dict()[name], value)


def test_tied_trainings_resume() -> None:
    recipe = small_recipe(network={"tied": True})
    batches = make_batches(recipe, TOWNS)
    first = Trainer(recipe, "cpu")
    first.step(batches.batch(0), 0, 4)
    second = Trainer(recipe, "cpu")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for trainer in (first, second):
        trainer.step(batches.batch(1), 1, 4)
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_masked_kernels_can_be_freed() -> None:
    recipe = small_recipe(network={"masked_kernels": False})
    first, (trainer, _) = Trainer(recipe, "cpu").network, steps_by_hand(recipe, 3)
    assert masked_kernels(first).all()
    assert (masked_kernels(trainer.network) != masked_kernels(first)).float().mean() > 0.9


def test_weight_decay_is_coupled_in_adam_only() -> None:
    """Adam divides a coupled decay by the gradient's size, so that the two part ways."""
    nets = {
        (name, decay): steps_by_hand(small_recipe(optimiser={"name": name, "weight_decay": decay}), 1)[
            0
        ].network
        for name in ("adam", "adamw")
        for decay in (0, 0.5)
    }
    first = Trainer(small_recipe(), "cpu").network
    weights = {key: net.Up5.weight for key, net in nets.items()}
    assert torch.equal(weights["adam", 0], weights["adamw", 0])
    # Uncoupled: the step without decay from weights shrunk by rate x decay.
    shrunk = weights["adamw", 0] - 3e-3 * 0.5 * first.Up5.weight
    assert torch.allclose(weights["adamw", 0.5], shrunk, atol=1e-7)
    assert not torch.allclose(weights["adam", 0.5], shrunk, atol=1e-4)


def test_average_follows_the_weights() -> None:
    """Its decay grows from 2/11 to the recipe's; counters are copied."""
    recipe = small_recipe(optimiser={"average": 0.3})
    trainer, batches = Trainer(recipe, "cpu"), make_batches(recipe, TOWNS)
    assert trainer.average is not None
    first = trainer.network.state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in trainer.average.state_dict().items())
    expected = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    for step, decay in enumerate([2 / 11, 3 / 12, 0.3, 0.3]):
        trainer.step(batches.batch(step), step, 4)
        for name, tensor in trainer.network.state_dict().items():
            kept = decay * expected[name] + (1 - decay) * tensor
            expected[name] = kept if tensor.is_floating_point() else tensor.clone()
    for name, tensor in trainer.kept.state_dict().items():
        assert torch.allclose(tensor, expected[name], atol=1e-6), name
    assert not torch.equal(trainer.kept.Up5.weight, trainer.network.Up5.weight)


def test_gradients_are_clipped_to_the_norm() -> None:
    trainer, _ = steps_by_hand(small_recipe(optimiser={"clip": 1e-3}), 1)
    norm = torch.stack([parameter.grad.norm() for parameter in trainer.network.parameters()]).norm()  # type: ignore[union-attr]
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_bfloat16_is_for_cuda() -> None:
    assert not Trainer(small_recipe(precision="auto"), "cpu").bfloat16


def test_training_begins_with_given_weights() -> None:
    torch.manual_seed(5)
    start = USSFCNet(3, 0.125)
    start.hold_masked_kernels()
    recipe = small_recipe(network={"ratio": 0.125}, optimiser={"learning_rate": 1e-30, "average": 0.9})
    trainer = Trainer(recipe, "cpu", start)
    for kept in (trainer.network, trainer.kept):
        for name, tensor in kept.state_dict().items():
            torch.testing.assert_close(tensor, start.state_dict()[name], rtol=0, atol=0)
    trainer.step(make_batches(recipe, TOWNS).batch(0), 0, 4)
    # The given network is a copy's source, and stays as it is.
    assert int(start.state_dict()["Conv1_1.conv.1.num_batches_tracked"]) == 0


@pytest.mark.parametrize("held", [True, False])
def test_kernels_are_held_at_zero_where_the_given_ones_are(held: bool) -> None:
    start = USSFCNet(3, 0.125)
    if held:
        start.hold_masked_kernels()
    assert start.masked_kernels_are_zero == held
    recipe = small_recipe(network={"ratio": 0.125, "masked_kernels": True})
    trainer = Trainer(recipe, "cpu", start)
    trainer.step(make_batches(recipe, TOWNS).batch(0), 0, 4)
    assert trainer.network.masked_kernels_are_zero == held


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_move_unless_they_are_frozen(frozen: bool) -> None:
    recipe = small_recipe(optimiser={"freeze_statistics": frozen})
    trainer = Trainer(recipe, "cpu")
    before = {name: each.clone() for name, each in trainer.network.state_dict().items() if "running" in name}
    trainer.step(make_batches(recipe, TOWNS).batch(0), 0, 4)
    now = trainer.network.state_dict()
    assert all(torch.equal(now[name], each) for name, each in before.items()) == frozen


def test_statistics_of_batch_norms_are_those_of_float64() -> None:
    """PyTorch's sums over channels-last maps are ten times as far off, and gradients with them."""
    recipe = small_recipe()
    trainer = Trainer(recipe, "cpu")
    batch = make_batches(recipe, TOWNS).batch(0)
    exact = copy.deepcopy(trainer.network).double().train()
    exact.logits(
        *(to_network_range(torch.from_numpy(image).double()) for image in (batch.before, batch.after))
    )
    trainer.step(batch, 0, 10)
    for found, expected in zip(trainer.network.modules(), exact.modules(), strict=True):
        if isinstance(found, torch.nn.BatchNorm2d):
            difference = (found.running_mean.double() - expected.running_mean).norm()  # type: ignore[operator, union-attr]
            assert difference < 2e-5 * expected.running_mean.norm()  # type: ignore[operator, union-attr]


def test_state_of_another_memory_layout_goes_on_alike() -> None:
    recipe = small_recipe()
    batches = make_batches(recipe, TOWNS)
    first = Trainer(recipe, "cpu")
    first.step(batches.batch(0), 0, 4)
    state = copy.deepcopy(first.state_dict())
    for moments in state["optimiser"]["state"].values():
        for name, kept in moments.items():
            if kept.dim() == 4:
                moments[name] = kept.to(memory_format=torch.channels_last)
    second = Trainer(recipe, "cpu")
    second.load_state_dict(state)
    for trainer in (first, second):
        trainer.step(batches.batch(1), 1, 4)
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
