"""Cost of a network: the paper's numbers, plain formulas, another counter, and an unchanged network."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ussfc.efficiency import Efficiency, efficiency, latency
from ussfc.network import USSFCNet


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Several threads on busy cores cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_counts_of_the_papers_network() -> None:
    # thop 0.1.1.post2209072238 and fvcore 0.1.5.post20221221 gave these integers for this network.
    found = efficiency(USSFCNet(3, 0.5))
    assert found == Efficiency(
        parameters=1_518_977,
        patch_size=256,
        macs=3_090_153_472,
        macs_by_thop=4_860_149_760,
        macs_by_fvcore=3_169_845_248,
    )
    published = [f"{macs / 1e9:.2f}" for macs in (found.macs, found.macs_by_thop, found.macs_by_fvcore)]
    assert published == ["3.09", "4.86", "3.17"]


def double_conv(pixels: int, wide_in: int, wide_out: int) -> int:
    """Count the MACs of two MSDConvs: a 1x1 to half the width, then two depthwise 3x3 and one over groups of four."""
    half = wide_out // 2
    return pixels * ((wide_in + wide_out) * half + 2 * half * (9 + 9 + 4 * 9))


def test_macs_are_those_of_a_plain_formula() -> None:
    # By hand, the first layer: 256 * 256 pixels * 32 channels out * 3 channels in * 9 taps = 56,623,104.
    pixels, width = [256 * 256 // 4**level for level in range(5)], [32 * 2**level for level in range(5)]
    assert pixels[0] * width[0] * 3 * 9 == 56_623_104
    encoder = pixels[0] * width[0] * (3 + width[0]) * 9
    encoder += sum(double_conv(pixels[level], width[level - 1], width[level]) for level in range(1, 5))
    # A transposed 2x2 of stride 2 gives every input pixel four output pixels, from level 5 for one:
    # 16 * 16 pixels * 512 channels in * 256 out * 4 taps = 134,217,728, and at every other level as many.
    up = sum(pixels[level] * width[level] * width[level - 1] * 4 for level in range(1, 5))
    assert up == 4 * 134_217_728
    decoder = up + sum(double_conv(pixels[level], width[level + 1], width[level]) for level in range(4))
    macs = 2 * encoder + decoder + pixels[0] * width[0]
    # Batch norms: two a FirstConv over its width; in a DoubleConv six, four of them over half the width.
    normalised = 2 * (2 * pixels[0] * width[0] + sum(4 * pixels[i] * width[i] for i in range(1, 5)))
    normalised += sum(4 * pixels[i] * width[i] for i in range(4))

    found = efficiency(USSFCNet(3, 0.5))
    assert found.macs == macs
    assert found.macs_by_fvcore == macs + 2 * normalised
    assert found.macs_by_thop == macs + 3 * up + 4 * normalised


@pytest.mark.parametrize(("bands", "ratio"), [(3, 0.5), (5, 0.25)])
def test_macs_are_half_of_pytorchs_flops(bands: int, ratio: float) -> None:
    network = USSFCNet(bands, ratio).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.rand(1, bands, 32, 32), torch.rand(1, bands, 32, 32))
    assert counter.get_total_flops() == 2 * efficiency(network, 32).macs


def test_counts_scale_with_area() -> None:
    network = USSFCNet(4, 0.25)
    small, large = efficiency(network, 32), efficiency(network, 96)
    assert large == Efficiency(
        parameters=small.parameters,
        patch_size=96,
        macs=9 * small.macs,
        macs_by_thop=9 * small.macs_by_thop,
        macs_by_fvcore=9 * small.macs_by_fvcore,
    )


def state(network: USSFCNet) -> list[object]:
    """Return everything about a network and its surroundings that counting might change."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return [
        [(name, tensor.data_ptr(), tensor._version, tensor.device) for name, tensor in tensors.items()],
        [(name, tensor.dtype, tensor.stride(), tensor.grad) for name, tensor in tensors.items()],
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()],
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_default_device(),
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("training", [True, False])
def test_the_network_stays_as_it_is(training: bool) -> None:
    network = USSFCNet(2, 0.125).train(training)
    network.Conv_1x1.eval()
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    before = state(network)
    efficiency(network, 32)
    latency(network, 32, repeats=1)
    assert state(network) == before
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[name])


def test_counting_runs_no_hooks_of_the_network() -> None:
    network = USSFCNet(1, 0.125)
    network.Conv_1x1.register_forward_hook(lambda *_: pytest.fail("the given network was run"))
    efficiency(network, 16)


def test_latency_is_the_median_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0, 15.0, 20.0, 22.0])  # three pairs of 1, 5 and 2 seconds
    monkeypatch.setattr("ussfc.efficiency.perf_counter", lambda: next(clock))
    forwards = []
    run = USSFCNet.forward

    def forward(self: USSFCNet, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        forwards.append((before.shape, after.shape, self.training, torch.get_num_threads()))
        return run(self, before, after)

    monkeypatch.setattr(USSFCNet, "forward", forward)
    assert latency(USSFCNet(2, 0.125), 32, repeats=3) == 2.0
    shape = torch.Size([1, 2, 32, 32])
    assert forwards == 4 * [(shape, shape, False, 1)]


def test_latency_of_a_real_clock() -> None:
    seconds = latency(USSFCNet(1, 0.125), 16, repeats=2)
    assert math.isfinite(seconds)
    assert seconds > 0


@pytest.mark.parametrize("size", [-16, 0, 8, 100])
def test_impossible_sizes_are_refused(size: int) -> None:
    network = USSFCNet(1, 0.125)
    with pytest.raises(ValueError, match=f"multiple of 16, got {size}"):
        efficiency(network, size)
    with pytest.raises(ValueError, match=f"multiple of 16, got {size}"):
        latency(network, size)


def test_no_repeats_are_refused() -> None:
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        latency(USSFCNet(1, 0.125), 16, repeats=0)
