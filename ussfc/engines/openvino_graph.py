"""The network as a graph of OpenVINO's operations."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ussfc.engines import FloatArray
from ussfc.engines.openvino_runtime import op, openvino
from ussfc.folded import FoldedConv, FoldedCooperation, FoldedDoubleConv, FoldedUpNative, FoldedUSSFCNet
from ussfc.layers import SSFC_EPS
from ussfc.network import USSFCNet

GROUPED_CHANNELS = 8
"""Channels of a group of the grouped convolutions: their four and four zeros fill the registers of AVX2, which is
faster than fewer products."""

Node = Any
"""A node of OpenVINO's graph; its package has no types."""


def network_graph(network: USSFCNet, shape: tuple[int, int, int, int]) -> openvino.Model:
    """Fold a network and build its graph; see :func:`graph`."""
    return graph(FoldedUSSFCNet(network), shape)


def graph(network: FoldedUSSFCNet, shape: tuple[int, int, int, int]) -> Any:
    """Build the network of OpenVINO's operations, by hand, since converting it takes half a minute.

    Args:
        network: the folded network; its weights are copied.
        shape: ``(N, bands, H, W)`` of both inputs, which are in [0, 1].

    Returns:
        An ``openvino.Model`` with the inputs before and after and ``(N, 1, H, W)`` probabilities.
    """
    inputs = [op.parameter(shape, np.float32, name=name) for name in ("before", "after")]
    features = [
        _features(cast("nn.ModuleList", encoder), _in_network_range(image))
        for encoder, image in zip(network.encoders, inputs, strict=True)
    ]
    skips = [op.abs(op.subtract(before, after)) for before, after in zip(*features, strict=True)]
    x = skips.pop()
    for decoder in network.decoders:
        x = _double(cast("FoldedDoubleConv", decoder), skips.pop(), x)
    logits = op.add(_convolution(x, network.head.weight), _of_channels(cast("Tensor", network.head.bias)))
    return openvino.Model([op.result(op.sigmoid(logits))], inputs, "ussfc")


def _number(value: float) -> Node:
    return op.constant(np.float32(value))


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.detach().float().contiguous().numpy()
    return array


def _of_channels(tensor: Tensor) -> Node:
    return op.constant(_array(tensor).reshape(1, -1, 1, 1))


def _in_network_range(image: Node) -> Node:
    return op.subtract(op.multiply(image, _number(2)), _number(1))


def _convolution(x: Node, weight: Tensor, padding: int = 0) -> Node:
    return op.convolution(x, op.constant(_array(weight)), [1, 1], [padding] * 2, [padding] * 2, [1, 1])


def _grouped(x: Node, weight: Tensor, groups: int, dilation: int) -> Node:
    """Add a grouped 3x3 convolution; ``weight`` is (out, in / groups, 3, 3)."""
    out, inner, rows, cols = weight.shape
    by_group = op.constant(_array(weight).reshape(groups, out // groups, inner, rows, cols))
    return op.group_convolution(x, by_group, [1, 1], [dilation] * 2, [dilation] * 2, [dilation] * 2)


def _conv(weight: Tensor, bias: Tensor, padding: int, x: Node) -> Node:
    return op.relu(op.add(_convolution(x, weight, padding), _of_channels(bias)))


def _swapped(tensor: Tensor, dim: int = 0) -> Tensor:
    """Reorder the channels of every group of four to [2, 3, 0, 1]."""
    return tensor.index_select(dim, torch.arange(tensor.shape[dim]) ^ 2)


def _up_native(skip_weight: Tensor, weight: Tensor, bias: Tensor, skip: Node, deep: Node) -> Node:
    up = op.convolution_backprop_data(deep, op.constant(_array(weight)), [2, 2])
    return op.relu(op.add(op.add(up, _convolution(skip, skip_weight)), _of_channels(bias)))


def _double(part: FoldedDoubleConv, *inputs: Node) -> Node:
    first = part.first
    if isinstance(first, FoldedUpNative):
        native = _up_native(first.skip, first.weight, first.bias, *inputs)
        swapped = _up_native(_swapped(first.skip), _swapped(first.weight, 1), _swapped(first.bias), *inputs)
    else:
        native, swapped = _natives(first, *inputs)
    return _cooperation(part.two, *_natives(part.native, _cooperation(part.one, native, swapped)))


def _natives(part: FoldedConv, x: Node) -> tuple[Node, Node]:
    """Add a 1x1 convolution, and the same with its channels swapped for ``prim_shift``.

    Computing it twice is cheaper than moving channels in memory, where they lie side by side.
    """
    return (
        _conv(part.weight, part.bias, part.padding, x),
        _conv(_swapped(part.weight), _swapped(part.bias), part.padding, x),
    )


def _cooperation(part: FoldedCooperation, native: Node, swapped: Node) -> Node:
    channels = part.bias.shape[0]
    block = math.gcd(channels, GROUPED_CHANNELS)
    aux = op.add(
        op.add(
            _grouped(native, _widened(part.conv, block), channels // block, 1),
            _grouped(native, part.prim, channels, 3),
        ),
        op.add(_grouped(swapped, part.prim_shift, channels, 6), _of_channels(part.bias)),
    )
    both = op.concat([native, _weighted(op.relu(aux), part.window)], 1)
    scaled = op.add(op.multiply(both, _of_channels(part.scale)), _of_channels(part.shift))
    return op.relu(scaled)


def _widened(weight: Tensor, block: int) -> Tensor:
    """Fill (C, 4, 3, 3) weights of groups of four with zeros to (C, block, 3, 3) weights of groups of ``block``."""
    out = torch.arange(weight.shape[0])
    wide = weight.new_zeros(weight.shape[0], block, *weight.shape[2:])
    for row in range(4):
        wide[out, out % block // 4 * 4 + row] = weight[:, row]
    return wide


def _weighted(x: Node, window: int | None) -> Node:
    """Add SSFC, see :func:`ussfc.layers.spatial_spectral_cooperation`."""
    deviation = op.subtract(x, _mean(x, window))
    square = op.multiply(deviation, deviation)
    spread = op.add(op.multiply(_mean(square, window), _number(2)), _number(SSFC_EPS))
    return op.multiply(x, op.sigmoid(op.add(op.divide(square, spread), _number(0.5))))


def _mean(x: Node, window: int | None) -> Node:
    rows, cols = list(x.get_output_shape(0))[2:]
    if window is None or window >= max(rows, cols):
        return op.reduce_mean(x, op.constant(np.array([2, 3], np.int64)), keep_dims=True)
    for axis, length in enumerate((rows, cols)):
        side = min(window, length)
        kernel, none = [side if axis == 0 else 1, side if axis == 1 else 1], [0, 0]
        x = op.avg_pool(x, [1, 1], none, none, kernel, exclude_pad=True)
        # At the border the window is shifted inward: its mean is that of the last window that fits.
        before = [0, 0, side // 2 if axis == 0 else 0, side // 2 if axis == 1 else 0]
        after = [0, 0] + [length - side - before[2 + at] if at == axis else 0 for at in (0, 1)]
        after[2 + axis] = side - 1 - side // 2
        x = op.pad(x, op.constant(np.array(before)), op.constant(np.array(after)), "edge")
    return x


def _features(encoder: nn.ModuleList, image: Node) -> list[Node]:
    stem, *levels = encoder
    x = image
    for part in cast("nn.Sequential", stem):
        conv = cast("FoldedConv", part)
        x = _conv(conv.weight, conv.bias, conv.padding, x)
    features = [x]
    for level in levels:
        pooled = op.max_pool(features[-1], [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
        features.append(_double(cast("FoldedDoubleConv", level), pooled))
    return features
