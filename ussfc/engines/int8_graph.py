"""Convolutions of 8-bit integers in a graph of the network, by OpenVINO's transformations for low precision.

Left in float32 are the first convolutions, which read the images; the last one, which has one channel; and the dilated
ones: the network is 10 % faster with those in float32, and a fifth fewer pixels change their class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ussfc.engines import FloatArray
from ussfc.engines.openvino_engine import core
from ussfc.engines.openvino_runtime import op, openvino
from ussfc.errors import ModelError

Node = Any
"""A node of OpenVINO's graph; its package has no types."""

OUTPUT_AXES = {"Convolution": (0,), "GroupConvolution": (0, 1), "ConvolutionBackpropData": (1,)}
"""Axes of the weights that count output channels, by kind of convolution."""

NEVER_NEGATIVE = ("Relu", "Abs", "MaxPool")
"""Operations that give no negative number: the 256 steps begin at 0."""

MOST_WEIGHT = 64
"""Largest integer of a weight, instead of 127. Processors without VNNI add two products in 16 bits, which hold
2 * 255 * 64 and not 2 * 255 * 127: with full weights 0.47 % of the pixels changed their class there, with these 0.11 %
as on every processor."""

PERCENTILE = 99.99
"""Percentile of a patch's activations that becomes the highest step: fewer pixels flip than by 99.9, 99.999 or 100."""


class RoundedInput(NamedTuple):
    """Numbers that one or several convolutions read as integers."""

    source: Node
    """Output of the operation that computes them."""
    convolutions: list[Node]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.source.get_partial_shape().to_shape()[1])


def rounded_inputs(model: openvino.Model) -> list[RoundedInput]:
    """Return what is rounded, in the order in which a walk from the result, first input first, leaves the convolutions.

    It does not depend on shapes, nor on the names that OpenVINO gives.
    """
    found: dict[str, RoundedInput] = {}
    # The last convolution is the head.
    for convolution in _convolutions(model)[:-1]:
        source = convolution.input(0).get_source_output()
        node = source.get_node()
        if node.get_type_name() in NEVER_NEGATIVE and set(convolution.get_attributes()["dilations"]) == {1}:
            name = node.get_friendly_name()
            found.setdefault(name, RoundedInput(source, [])).convolutions.append(convolution)
    return list(found.values())


def round_convolutions(model: openvino.Model, activations: Sequence[tuple[int, float]]) -> None:
    """Have a graph's convolutions compute in 8-bit integers.

    Args:
        model: graph of :func:`ussfc.engines.openvino_graph.graph`; changed in place.
        activations: channels and highest number of each of :func:`rounded_inputs`.

    Raises:
        ModelError: they are of another network.
    """
    inputs = rounded_inputs(model)
    expected, found = [each.channels for each in inputs], [channels for channels, _ in activations]
    if found != expected:
        raise ModelError(
            f"precision int8: the ranges are of another network ({len(found)} activations of {sum(found)} channels, "
            f"expected {len(expected)} of {sum(expected)}); choose another inference.precision"
        )
    for each, (_, high) in zip(inputs, activations, strict=True):
        rounded = _in_steps(each.source, np.zeros((1, 1, 1, 1)), np.full((1, 1, 1, 1), high), 256)
        for convolution in each.convolutions:
            convolution.input(0).replace_source_output(rounded.output(0))
            weights = convolution.input(1).get_source_output()
            values = weights.get_node().get_data()
            axes = OUTPUT_AXES[convolution.get_type_name()]
            others = tuple(axis for axis in range(values.ndim) if axis not in axes)
            largest = np.abs(values).max(axis=others, keepdims=True)
            # A channel without weights: any step will do.
            limit = np.where(largest > 0, largest, 1) * (127 / MOST_WEIGHT)
            convolution.input(1).replace_source_output(_in_steps(weights, -limit, limit, 255).output(0))
    model.validate_nodes_and_infer_types()


def measure_activations(
    model: openvino.Model, pairs: Iterable[tuple[FloatArray, FloatArray]]
) -> tuple[tuple[int, float], ...]:
    """Measure the ranges of :func:`rounded_inputs`, in float32.

    Args:
        model: graph of :func:`ussfc.engines.openvino_graph.graph`; left as it is.
        pairs: batches of both dates, ``(N, bands, H, W)`` float32 in [0, 1], of the graph's shape.

    Returns:
        Channels, and the largest that :data:`PERCENTILE` of an activation is in any batch.
    """
    observed = model.clone()
    inputs = rounded_inputs(observed)
    results = [op.result(each.source) for each in inputs]
    request = (
        core()
        .compile_model(
            openvino.Model(results, observed.get_parameters()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        .create_infer_request()
    )
    highs = np.zeros(len(inputs))
    for pair in pairs:
        answers = request.infer(dict(enumerate(pair)))
        highs = np.maximum(highs, [np.percentile(answers[at], PERCENTILE) for at in range(len(inputs))])
    return tuple((each.channels, float(high)) for each, high in zip(inputs, highs, strict=True))


def _in_steps(numbers: Node, low: Any, high: Any, levels: int) -> Node:
    ends = [op.constant(end.astype(np.float32)) for end in (low, high)]
    return op.fake_quantize(numbers, *ends, *ends, levels)


def _convolutions(model: openvino.Model) -> list[Node]:
    found = []
    seen: set[str] = set()
    (result,) = model.get_results()
    ahead = [(result, False)]
    while ahead:
        node, is_left = ahead.pop()
        if is_left:
            if node.get_type_name() in OUTPUT_AXES:
                found.append(node)
        elif (name := node.get_friendly_name()) not in seen:
            seen.add(name)
            ahead.append((node, True))
            sources = [each.get_source_output().get_node() for each in node.inputs()]
            ahead.extend((source, False) for source in reversed(sources))
    return found
