"""The network rewritten for inference is the same function of the same weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.networks import GOLDEN, GOLDEN_CASES, MODELS, PACKAGED, drawn_network
from ussfc.folded import Affine, FoldedCooperation, FoldedUSSFCNet, composed, folded, scale_and_shift
from ussfc.layers import spatial_spectral_cooperation
from ussfc.network import USSFCNet
from ussfc.weights import load_weights

SIZES = [(16, 16), (32, 48), (80, 16), (64, 64)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Several threads on busy cores cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pair(network: USSFCNet, size: tuple[int, int], count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    before, after = torch.rand((2, count, network.bands, *size), generator=generator) * 2 - 1
    return before, after


def difference(network: USSFCNet, images: tuple[Tensor, Tensor]) -> float:
    """Return the largest difference of both networks' probabilities."""
    with torch.inference_mode():
        found, expected = FoldedUSSFCNet(network).to(images[0].dtype)(*images), network(*images)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert expected.std() > 3e-4, "an answer that is the same everywhere shows nothing"
    return float((found - expected).abs().max())


def answer_in_float64(network: USSFCNet, images: tuple[Tensor, Tensor]) -> Tensor:
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(Tensor, "float", Tensor.double)  # the statistics of SSFC, which are float32 else
        answer: Tensor = copy.deepcopy(network).double()(*(image.double() for image in images))
    return answer


@pytest.mark.parametrize("window", [None, 32])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PACKAGED)
def test_answer_is_the_trained_networks(name: str, size: tuple[int, int], window: int | None) -> None:
    network = load_weights(MODELS / f"{name}.safetensors")
    if window is not None:
        network.use_local_statistics(window)
    assert difference(network, pair(network, size)) < 2e-6


@pytest.mark.parametrize("window", [None, 32])
@pytest.mark.parametrize("size", SIZES)
def test_rounding_is_no_larger_than_before(size: tuple[int, int], window: int | None) -> None:
    # Random weights magnify rounding: PyTorch's own answer is 2e-6 from that of float64.
    network = load_weights(GOLDEN)
    if window is not None:
        network.use_local_statistics(window)
    images = pair(network, size)
    exact = answer_in_float64(network, images)
    with torch.inference_mode():
        own, found = (
            float((answer(*images) - exact).abs().max()) for answer in (network, FoldedUSSFCNet(network))
        )
    assert found < 2 * own < 1e-5


def test_the_golden_numbers() -> None:
    network = FoldedUSSFCNet(load_weights(GOLDEN))
    with np.load(GOLDEN_CASES) as golden, torch.inference_mode():
        before, after = (
            torch.from_numpy(golden[f"{date}_0"]).float() / 127.5 - 1 for date in ("before", "after")
        )
        found = network(before, after).numpy()
        assert np.abs(found - golden["probability_0"]).max() < 2e-5


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize(("bands", "ratio"), [(1, 0.125), (3, 0.25), (4, 0.375)])
@pytest.mark.parametrize("seed", range(4))
def test_any_statistics_of_a_norm_are_folded(seed: int, bands: int, ratio: float, window: int | None) -> None:
    network = drawn_network(seed, bands, ratio)
    if window is not None:
        network.use_local_statistics(window)
    assert difference(network, pair(network, (32, 48), seed=seed)) < 2e-6


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("seed", range(4))
def test_folding_differs_by_rounding_alone(
    seed: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In float64 throughout, with the rounding of folding to float32, a wrong term would still show.
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    network = drawn_network(seed).double()
    if window is not None:
        network.use_local_statistics(window)
    images = pair(network, (32, 48), seed=seed)
    assert difference(network, (images[0].double(), images[1].double())) < 1e-12


def test_weights_are_copied_and_do_not_learn() -> None:
    network = drawn_network(0)
    rewritten = FoldedUSSFCNet(network)
    images = pair(network, (16, 16))
    before = rewritten(*images)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(rewritten(*images), before)
    assert not before.requires_grad
    assert not rewritten.training


def drawn_norm(channels: int, seed: int) -> nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels).eval()
    with torch.no_grad():
        for tensor, low, high in (
            (norm.running_mean, -1, 1), (norm.running_var, 0.01, 4), (norm.weight, -2, 2), (norm.bias, -1, 1),
        ):  # fmt: skip
            assert tensor is not None
            tensor.copy_(torch.rand(channels, generator=generator) * (high - low) + low)
    return norm


@pytest.mark.parametrize("seed", range(3))
def test_scale_and_shift_are_the_norms(seed: int) -> None:
    norm = drawn_norm(6, seed).double()
    x = torch.randn((2, 6, 5, 7), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    scale, shift = scale_and_shift(norm)
    assert scale.dtype == shift.dtype == torch.float64
    torch.testing.assert_close(
        x * scale[:, None, None] + shift[:, None, None], norm(x), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_norm_folded_into_its_convolution(groups: int, bias: bool) -> None:
    torch.manual_seed(groups)
    conv, norm = nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=bias), drawn_norm(8, groups)
    weight, offset = folded(conv, norm)
    assert weight.dtype == offset.dtype == torch.float32
    x = torch.randn(2, 8, 9, 11)
    with torch.no_grad():
        found = nn.functional.conv2d(x, weight, offset, padding=1, groups=groups)
        torch.testing.assert_close(found, norm(conv(x)), rtol=1e-5, atol=1e-5)


def test_tiny_variances_keep_the_digits() -> None:
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1).eval()
    with torch.no_grad():
        norm.running_var.fill_(0)  # type: ignore[union-attr]
        norm.running_mean.fill_(3)  # type: ignore[union-attr]
        conv.weight.fill_(2)
        conv.bias.fill_(3.0001)  # type: ignore[union-attr]
    weight, bias = folded(conv, norm)
    scale = 1 / np.sqrt(norm.eps)
    exact = (np.float64(np.float32(3.0001)) - 3) * scale
    assert weight.item() == pytest.approx(2 * scale, rel=1e-7)
    assert bias.item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_an_upsampling_and_its_reader_are_one(seed: int) -> None:
    torch.manual_seed(seed)
    deep, shallow, skips, out = 12, 6, 5, 7
    up = nn.ConvTranspose2d(deep, shallow, 2, stride=2)
    reader = Affine(torch.randn(out, skips + shallow, 1, 1), torch.randn(out))
    skip, (weight, bias) = composed(up, reader, skips)
    assert skip.shape == (out, skips, 1, 1)
    assert weight.shape == (deep, out, 2, 2)
    below, beside = torch.randn(2, deep, 3, 4), torch.randn(2, skips, 6, 8)
    with torch.no_grad():
        expected = nn.functional.conv2d(torch.cat((beside, up(below)), 1), reader.weight, reader.bias)
        found = nn.functional.conv2d(beside, skip) + nn.functional.conv_transpose2d(
            below, weight, bias, stride=2
        )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("window", [None, 3, 5])
def test_single_cooperations_agree(window: int | None) -> None:
    network = drawn_network(5, ratio=0.25)
    double = network.get_submodule("Conv2_1").Conv  # type: ignore[union-attr]
    source, norm = double[0], double[1]  # type: ignore[index]
    source.ssfc_window = window
    native = torch.rand(2, 16, 9, 13)
    with torch.no_grad():
        aux = spatial_spectral_cooperation(source.aux(native), window)
        expected = torch.relu(norm(torch.cat((native, aux), 1)))
        found = FoldedCooperation(source, norm)(native)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
