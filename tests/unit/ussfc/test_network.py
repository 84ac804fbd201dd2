"""The network against reference numbers, the paper's counts, and plain formulas."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.support.paths import GOLDEN, SHARED
from ussfc.layers import CyclicMultiScaleConv, cyclic_kernel_mask, spatial_spectral_cooperation
from ussfc.network import USSFCNet
from ussfc.weights import load_weights

SMALL = (GOLDEN / "ussfcnet_4band_r0.25.pth", GOLDEN / "ussfcnet_4band_r0.25_small.npz")
FULL = SHARED / "golden"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Several threads on busy cores cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def worst_difference(weights: Path, numbers: Path) -> float:
    """Return the largest difference in probability over every case of a golden file."""
    network = load_weights(weights)
    worst = 0.0
    with np.load(numbers) as golden, torch.inference_mode():
        for i in range(len(golden.files) // 3):
            before, after = (
                torch.from_numpy(golden[f"{date}_{i}"]).float() / 127.5 - 1 for date in ("before", "after")
            )
            found = network(before, after).numpy()
            assert found.shape == golden[f"probability_{i}"].shape
            worst = max(worst, float(np.abs(found - golden[f"probability_{i}"]).max()))
    return worst


def test_small_golden_case() -> None:
    assert worst_difference(*SMALL) < 2e-5


@pytest.mark.parametrize("name", ["ussfcnet_rgb_r0.5", "ussfcnet_4band_r0.25"])
def test_every_golden_case(name: str) -> None:
    if not FULL.is_dir():
        pytest.skip(f"{FULL} is not there")
    assert worst_difference(FULL / f"{name}.pth", FULL / f"{name}.npz") < 2e-5


def test_parameter_count_is_the_papers() -> None:
    assert sum(parameter.numel() for parameter in USSFCNet(3, 0.5).parameters()) == 1_518_977


def test_probabilities_have_the_input_shape() -> None:
    with torch.inference_mode():
        probability = USSFCNet(5, 0.125).eval()(torch.rand(2, 5, 32, 48), torch.rand(2, 5, 32, 48))
    assert probability.shape == (2, 1, 32, 48)
    assert probability.min() >= 0
    assert probability.max() <= 1


@pytest.mark.parametrize(("bands", "ratio"), [(0, 0.5), (3, 0.0), (3, 0.1), (3, 0.2)])
def test_impossible_sizes_are_refused(bands: int, ratio: float) -> None:
    with pytest.raises(ValueError, match="bands" if bands < 1 else "width"):
        USSFCNet(bands, ratio)


def test_before_and_after_cannot_be_swapped() -> None:
    network = load_weights(SMALL[0])
    generator = torch.Generator().manual_seed(0)
    before, after = torch.rand(2, 1, 4, 32, 32, generator=generator) * 2 - 1
    with torch.inference_mode():
        assert not torch.allclose(network(before, after), network(after, before), atol=1e-3)


@pytest.mark.soak  # test_export.py exports the network that a run computes
def test_torch_export() -> None:
    network = USSFCNet(3, 0.125).eval()
    pair = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    exported = torch.export.export(network, pair)
    with torch.inference_mode():
        torch.testing.assert_close(exported.module()(*pair), network(*pair))


def masked(channels: int) -> dict[int, set[int]]:
    """Return the masked input columns by output row."""
    rows: dict[int, set[int]] = {}
    for row, column in torch.argwhere(~cyclic_kernel_mask(channels)).tolist():
        rows.setdefault(row, set()).add(column)
    return rows


@pytest.mark.parametrize(
    ("channels", "rows"),
    [
        (16, list(range(16))),
        (32, [*range(4), *range(8, 12), *range(16, 20), *range(24, 28)]),
        (64, [*range(4), *range(16, 20), *range(32, 36), *range(48, 52)]),
    ],
)
def test_masked_kernels_are_the_references(channels: int, rows: list[int]) -> None:
    assert masked(channels) == {row: {0, 2} if row % 2 == 0 else {1, 3} for row in rows}


def test_masked_kernels_stay_zero_in_training() -> None:
    torch.manual_seed(0)
    network = USSFCNet(3, 0.25)
    network.hold_masked_kernels()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=5e-4)
    convs = [module for module in network.modules() if isinstance(module, CyclicMultiScaleConv)]
    start = [module.conv.weight.clone() for module in convs]
    for _ in range(2):
        loss = network(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for module, before in zip(convs, start, strict=True):
        mask = cyclic_kernel_mask(module.conv.weight.shape[0])
        assert not module.conv.weight[~mask].any()
        assert not torch.equal(module.conv.weight[mask], before[mask])


def ssfc_in_float64(x_NCHW: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Compute the paper's formula, without code that is under test."""
    out = np.empty_like(x_NCHW)
    for n, c in np.ndindex(*x_NCHW.shape[:2]):
        x = x_NCHW[n, c]
        d = (x - x.mean()) ** 2
        s = d / (2 * d.mean() + np.finfo(np.float32).eps) + 0.5
        out[n, c] = x / (1 + np.exp(-s))
    return out


def test_ssfc_is_the_papers_formula() -> None:
    x = np.random.default_rng(0).normal(2, 3, size=(2, 3, 17, 11))
    found = spatial_spectral_cooperation(torch.from_numpy(x).float()).numpy()
    np.testing.assert_allclose(found, ssfc_in_float64(x.astype(np.float32).astype(np.float64)), rtol=2e-6)


def test_ssfc_of_float64_is_float64_throughout() -> None:
    x = np.random.default_rng(0).normal(2, 3, size=(1, 2, 9, 7))
    found = spatial_spectral_cooperation(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, ssfc_in_float64(x), rtol=1e-12)


def test_ssfc_of_a_constant_is_finite() -> None:
    found = spatial_spectral_cooperation(torch.full((1, 1, 8, 8), 3.0))
    torch.testing.assert_close(found, torch.full((1, 1, 8, 8), 3.0) * torch.sigmoid(torch.tensor(0.5)))


def test_ssfc_keeps_its_means_in_float32() -> None:
    # The sum of squared deviations is 4e6 here, beyond float16.
    x = (torch.arange(256 * 256).reshape(1, 1, 256, 256) % 2 * 16).half()
    found = spatial_spectral_cooperation(x)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), spatial_spectral_cooperation(x.float()), rtol=1e-3, atol=1e-3)


def test_cyclic_conv_answers_in_the_layout_of_its_input() -> None:
    conv, x = CyclicMultiScaleConv(8), torch.rand(2, 8, 12, 12)
    plain, last = conv(x), conv(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, rtol=1e-4, atol=1e-5)
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_cyclic_conv_permutes_pairs_of_channels() -> None:
    torch.manual_seed(0)
    layer = CyclicMultiScaleConv(12)
    x_NCHW = torch.rand(2, 12, 20, 24)
    shifted = torch.tensor([group + c for group, c in product((0, 4, 8), (2, 3, 0, 1))])
    with torch.inference_mode():
        found = layer(x_NCHW)
        expected = layer.prim(x_NCHW) + layer.conv(x_NCHW) + layer.prim_shift(x_NCHW[:, shifted])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("channels", [0, 2, 6])
def test_cyclic_conv_takes_groups_of_four(channels: int) -> None:
    with pytest.raises(ValueError, match="groups of four"):
        CyclicMultiScaleConv(channels)
