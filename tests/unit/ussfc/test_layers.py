"""SSFC with means around each pixel instead of over the whole patch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfc.layers import (
    CyclicMultiScaleConv,
    DepthwiseConv,
    MultiScaleDecoupledConv,
    spatial_spectral_cooperation,
)
from ussfc.network import USSFCNet


def by_loops(x: np.ndarray, window: int) -> np.ndarray:
    """Compute the definition, pixel by pixel, in float64."""

    def mean(values: np.ndarray) -> np.ndarray:
        result = np.empty_like(values)
        rows, cols = values.shape
        tall, wide = min(window, rows), min(window, cols)
        for y in range(rows):
            for x_ in range(cols):
                top = min(max(y - window // 2, 0), rows - tall)
                left = min(max(x_ - window // 2, 0), cols - wide)
                result[y, x_] = values[top : top + tall, left : left + wide].mean()
        return result

    deviation = (x - mean(x)) ** 2
    saliency = deviation / (2 * mean(deviation) + np.finfo(np.float32).eps) + 0.5
    return x / (1 + np.exp(-saliency))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 16), st.integers(0, 2**31))
def test_local_means_are_those_of_the_definition(rows: int, cols: int, window: int, seed: int) -> None:
    x = np.random.default_rng(seed).gamma(1.0, size=(2, 3, rows, cols))
    got = spatial_spectral_cooperation(torch.from_numpy(x.astype(np.float32)), window)
    for sample in range(2):
        for channel in range(3):
            expected = by_loops(x[sample, channel], window)
            np.testing.assert_allclose(got[sample, channel], expected, rtol=2e-4, atol=2e-5)


def test_windows_of_a_patch_change_nothing() -> None:
    x = torch.rand(2, 4, 24, 32)
    assert torch.equal(spatial_spectral_cooperation(x, 32), spatial_spectral_cooperation(x))
    assert not torch.equal(spatial_spectral_cooperation(x, 16), spatial_spectral_cooperation(x))


def test_position_does_not_matter_inside() -> None:
    # Bit by bit: a window's sum has one order of additions at any position.
    x = torch.rand(1, 2, 80, 80) * 100
    moved = spatial_spectral_cooperation(x[..., 5:, 7:], 12)
    reach = 2 * 12
    here = spatial_spectral_cooperation(x, 12)[..., 5 + reach : -reach, 7 + reach : -reach]
    assert torch.equal(moved[..., reach:-reach, reach:-reach], here)


def test_windows_are_halved_at_every_level() -> None:
    network = USSFCNet(3, 0.125)
    network.use_local_statistics(128)
    windows = {
        name.split(".")[0]: module.ssfc_window
        for name, module in network.named_modules()
        if isinstance(module, MultiScaleDecoupledConv)
    }
    # Encoder level l has features of 1 / 2^(l-1); Up_conv l ends one level above l.
    for encoder in (1, 2):
        assert [windows[f"Conv{level}_{encoder}"] for level in (2, 3, 4, 5)] == [64, 32, 16, 8]
    assert [windows[f"Up_conv{level}"] for level in (2, 3, 4, 5)] == [128, 64, 32, 16]
    assert len(windows) == 12


@pytest.mark.parametrize("window", [0, 8, 100, -16])
def test_odd_windows_are_refused(window: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        USSFCNet(3, 0.125).use_local_statistics(window)


def test_local_means_equal_at_training_size() -> None:
    torch.manual_seed(3)
    network = USSFCNet(3, 0.125).eval()
    before, after = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        whole = network(before, after)
        network.use_local_statistics(64)
        assert torch.equal(network(before, after), whole)
        network.use_local_statistics(32)
        assert not torch.equal(network(before, after), whole)


def test_two_patches_agree_on_a_place() -> None:
    # Over the whole patch the two differ, since their statistics do; around each pixel they agree but for the
    # reach of the patches' borders.
    torch.manual_seed(0)
    network = USSFCNet(3, 0.125).eval()
    scene = torch.rand(2, 1, 3, 192, 256) * 2 - 1
    scene[..., 192:] *= 0.1

    def middle(window: int | None) -> float:
        if window:
            network.use_local_statistics(window)
        with torch.inference_mode():
            left = network(*scene[..., :192])[..., 64 + 32 : 128 + 16]
            right = network(*scene[..., 64:])[..., 32 : 64 + 16]
        return float((left - right).abs().mean())

    patch = middle(None)
    assert middle(32) < 0.5 * patch


def _random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.mark.parametrize("size", [(7, 9), (13, 14), (2, 5)])
@pytest.mark.parametrize("dilation", [3, 6])
def test_depthwise_convolution_and_its_gradients_are_those_of_pytorch(
    dilation: int, size: tuple[int, int]
) -> None:
    """On maps larger and smaller than the reach of the kernel."""
    x, weight = _random(2, 4, *size), _random(4, 1, 3, 3)
    plain = F.conv2d(x, weight, padding=dilation, dilation=dilation, groups=4)
    found = DepthwiseConv.apply(x, weight, dilation)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    push = torch.linspace(-1, 2, plain.numel(), dtype=torch.float64).view_as(plain)
    expected = torch.autograd.grad(plain, (x, weight), push)
    for one, other in zip(torch.autograd.grad(found, (x, weight), push), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_training_alone_takes_gradients_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def note(
        x: torch.Tensor, weight: torch.Tensor, dilation: int, apply: object = DepthwiseConv.apply
    ) -> object:
        taken.append(dilation)
        return apply(x, weight, dilation)  # type: ignore[operator]

    monkeypatch.setattr(DepthwiseConv, "apply", note)
    block, image = CyclicMultiScaleConv(8), torch.rand(1, 8, 32, 32)
    block(image.requires_grad_())
    assert taken == [3, 6]
    with torch.no_grad():
        block(image)
    assert taken == [3, 6]
