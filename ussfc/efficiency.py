"""Cost of a network: parameters, multiply-accumulates (MACs), seconds on a CPU.

Published counts of one network depend on the counter. Two counters are reproduced beside the true count; they give
the published numbers of USSFC-Net (3 bands, ratio 0.5, a pair of 256 x 256), 4.86 G and 3.17 G, where the true count
is 3.09 G.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from ussfc.engines.torch_engine import TorchEngine
from ussfc.network import STRIDE, USSFCNet


@dataclass(frozen=True)
class Efficiency:
    """Cost of one pair of ``patch_size``; the three counts differ in their rules alone."""

    parameters: int
    """Parameters that training sets, without the statistics of batch norms."""
    patch_size: int
    """Side of the pair, pixels."""
    macs: int
    """True MACs of convolutions and transposed convolutions, groups respected, biases and all else left out."""
    macs_by_thop: int
    """MACs by thop (0.1.0.post2207010342 and later; published: 4.86 G).

    It counts a transposed convolution as a convolution that reads all its input channels and all its kernel at every
    output pixel (with 2x2 and stride 2: four times too many) and adds four per input element of a batch norm.
    """
    macs_by_fvcore: int
    """MACs by fvcore (0.1.5, in eval mode; published: 3.17 G).

    It adds two per input element of a batch norm, though inference folds batch norms into convolutions.
    """


def efficiency(network: USSFCNet, size: int = 256) -> Efficiency:
    """Count the cost of one pair.

    A network of the same bands and ratio is run on shapes alone; the given one is not run.

    Args:
        network: any device, dtype and mode.
        size: side of the pair, pixels.

    Raises:
        ValueError: ``size`` is not a positive multiple of 16.
    """
    _check(size)
    # On the meta device tensors have shapes and no numbers: no arithmetic, no memory.
    with torch.device("meta"), torch.no_grad():
        skeleton = USSFCNet(network.bands, network.ratio).eval()
        image_NBHW = torch.empty(1, network.bands, size, size)
        counts: Counter[str] = Counter()

        def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            counts.update(_counts(layer, inputs[0], output))

        for layer in skeleton.modules():
            layer.register_forward_hook(count)
        skeleton(image_NBHW, image_NBHW)
    return Efficiency(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        patch_size=size,
        macs=counts["convolutions"],
        macs_by_thop=counts["convolutions by output"] + 4 * counts["normalised elements"],
        macs_by_fvcore=counts["convolutions"] + 2 * counts["normalised elements"],
    )


def latency(network: USSFCNet, size: int, repeats: int = 5) -> float:
    """Measure the median time of one pair on this machine's CPU, by :class:`TorchEngine` with one intra-op thread.

    Args:
        network: any device and mode; a copy is run.
        size: side of the pair, pixels.
        repeats: pairs to time, after one that warms up.

    Returns:
        Seconds per pair.

    Raises:
        ValueError: ``size`` is not a positive multiple of 16, or ``repeats`` < 1.
    """
    _check(size)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    engine = TorchEngine(copy.deepcopy(network))
    images = np.random.default_rng(0).random((2, 1, network.bands, size, size), np.float32)
    engine.run(images[0], images[1])
    seconds = []
    for _ in range(repeats):
        start = perf_counter()
        engine.run(images[0], images[1])
        seconds.append(perf_counter() - start)
    return median(seconds)


def _check(size: int) -> None:
    if size < STRIDE or size % STRIDE:
        raise ValueError(f"size must be a positive multiple of {STRIDE}, got {size}")


def _counts(layer: nn.Module, x_NCHW: Tensor, y_NCHW: Tensor) -> dict[str, int]:
    """Return the amounts that one run of a layer adds to each count."""
    if isinstance(layer, nn.Conv2d):
        # weight: (out, in / groups, rows, columns); every output element sums over one such block.
        macs = y_NCHW.numel() * layer.weight[0].numel()
        return {"convolutions": macs, "convolutions by output": macs}
    if isinstance(layer, nn.ConvTranspose2d):
        # weight: (in, out / groups, rows, columns); every input element is spread over one such block.
        return {
            "convolutions": x_NCHW.numel() * layer.weight[0].numel(),
            "convolutions by output": (
                y_NCHW.numel() * (layer.in_channels // layer.groups) * layer.weight[0, 0].numel()
            ),
        }
    if isinstance(layer, nn.BatchNorm2d):
        return {"normalised elements": x_NCHW.numel()}
    return {}
