"""Networks and patches for the tests of several engines; torch and NumPy are enough to import it."""

from __future__ import annotations

import weakref

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tests.support.paths import GOLDEN as GOLDEN_FOLDER
from tests.support.paths import MODELS as MODELS
from ussfc.network import USSFCNet
from ussfc.preprocessing import to_network_range

GOLDEN = GOLDEN_FOLDER / "ussfcnet_4band_r0.25.pth"
GOLDEN_CASES = GOLDEN.with_name("ussfcnet_4band_r0.25_small.npz")
PACKAGED = ("ussfc-s2-rgb", "ussfc-s2-rgbn")

FloatArray = npt.NDArray[np.float32]


def drawn_network(seed: int, bands: int = 3, ratio: float = 0.25) -> USSFCNet:
    """Draw weights, biases and statistics of the norms for which no folding is trivially right.

    Every norm has a mean, a variance, a scale (some negative) and a shift of its own, far from the 0 and 1 of a new
    network.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    network = USSFCNet(bands, ratio)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                fan = module.weight[0].numel()
                module.weight.copy_(
                    torch.randn(module.weight.shape, generator=generator) * (1.5 / fan) ** 0.5
                )
                if module.bias is not None:
                    module.bias.copy_(uniform(module.bias, -0.5, 0.5))
            elif isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(uniform(module.running_mean, -0.5, 0.5))
                module.running_var.copy_(uniform(module.running_var, 0.3, 3))
                sign = torch.where(torch.rand(module.weight.shape, generator=generator) < 0.2, -1.0, 1.0)
                module.weight.copy_(uniform(module.weight, 0.5, 1.5) * sign)
                module.bias.copy_(uniform(module.bias, -0.5, 0.5))
    return network.eval()


def noise(seed: int, count: int, bands: int, rows: int, cols: int) -> tuple[FloatArray, FloatArray]:
    """Draw patches of both dates, ``(count, bands, rows, cols)`` float32 in [0, 1]."""
    before, after = np.random.default_rng(seed).random((2, count, bands, rows, cols), np.float32)
    return before, after


def eager(network: nn.Module, before: FloatArray, after: FloatArray) -> FloatArray:
    """Return PyTorch's probabilities in float32 on the CPU, ``(N, H, W)``."""
    with torch.inference_mode():
        images = (
            to_network_range(torch.from_numpy(np.ascontiguousarray(image))) for image in (before, after)
        )
        probability: FloatArray = network(*images)[:, 0].numpy()
    return probability


class SmallDevice(torch.nn.Module):
    """A network on a device with room for so many patches."""

    def __init__(self, network: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.network = network
        self.room = room
        self.sizes: list[int] = []
        self.seen: list[weakref.ref[torch.Tensor]] = []

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(before))
        self.seen.append(weakref.ref(before))
        if len(before) > self.room:
            raise torch.cuda.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
                "1.00 GiB is free. Of the allocated memory 1 GiB\nis allocated by PyTorch. See the documentation."
            )
        return self.network(before, after)
