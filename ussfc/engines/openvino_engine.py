"""The network run by OpenVINO on a CPU; torch is not loaded for it."""

from __future__ import annotations

import functools
import queue
from typing import TYPE_CHECKING, Any

import numpy as np

from ussfc.engines import PRECISIONS, FloatArray
from ussfc.engines.openvino_runtime import openvino
from ussfc.errors import ModelError

if TYPE_CHECKING:
    from ussfc.network import USSFCNet

CAPABILITY = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}
"""OpenVINO's name of the arithmetic that a processor must have for a precision."""

ROUNDING = 1e-3
"""Distance from [0, 1] that counts as rounding in a program; a step of a stored byte is four times that."""

HINT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "int8": "f32"}
"""OpenVINO's name of the arithmetic of a precision; with int8, that of operations without integers."""


@functools.cache
def core() -> Any:
    """Return OpenVINO's core, one for the life of the process.

    The CPU plugin gives the thread that loads it a signal stack, and takes the memory away with the last engine. Were
    that in another thread, the first one would crash at its next signal: Ctrl-C in the middle of a run.
    """
    # Its first use of NumPy's interface, by two threads at once, would have each wait for the other for ever: one has
    # the interpreter and wants the lock of the interface, the other the reverse.
    openvino.Type.f32.to_dtype()
    return openvino.Core()


def precisions_here() -> tuple[str, ...]:
    """Return the precisions that this processor computes in natively."""
    offered = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(precision for precision in PRECISIONS["openvino"] if CAPABILITY[precision] in offered)


class OpenVINOEngine:
    """Run a network by OpenVINO, as an :class:`ussfc.engines.Engine`.

    Each stream has one thread: the number of threads that share a sum would move its last bit, and one patch a core
    keeps the feature maps in the core's cache.

    Args:
        model: its graph, from before and after in [0, 1], of one shape, to probabilities.
        precision: ``float32``, ``bfloat16``, ``float16``, or ``int8`` for a graph of
            :func:`ussfc.engines.int8_graph.round_convolutions`.
        streams: batches at the same time.

    Raises:
        ModelError: an unknown precision, or one that this processor does not compute in.
    """

    def __init__(
        self,
        model: openvino.Model,
        precision: str = "float32",
        streams: int = 1,
    ) -> None:
        if precision not in PRECISIONS["openvino"]:
            known = ", ".join(PRECISIONS["openvino"])
            raise ModelError(f"precision {precision!r}: the openvino engine has {known}")
        if precision not in (here := precisions_here()):
            raise ModelError(
                f"precision {precision}: this processor does not compute in it (it has {', '.join(here)}); every "
                "worker of a run needs it, so choose another inference.precision or other machines"
            )
        if precision == "int8" and all(node.get_type_name() != "FakeQuantize" for node in model.get_ops()):
            # It would be float32 by another name.
            raise ModelError(
                "precision int8: this network has no ranges for it; choose another inference.precision"
            )
        if streams < 1:
            raise ModelError(f"streams {streams}: expected at least 1")
        options = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
            "INFERENCE_PRECISION_HINT": HINT[precision],
            "ENABLE_CPU_PINNING": False,
        }
        compiled = core().compile_model(model, "CPU", options)
        self._streams = streams
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(streams):
            self._free.put(compiled.create_infer_request())

    @property
    def streams(self) -> int:
        """Batches that may run at the same time; more callers wait."""
        return self._streams

    def run(self, before_NBHW: FloatArray, after_NBHW: FloatArray) -> FloatArray:
        """Compute the change probability of a batch, see :meth:`ussfc.engines.Engine.run`."""
        request = self._free.get()
        try:
            inputs = (np.ascontiguousarray(image) for image in (before_NBHW, after_NBHW))
            result = request.infer(dict(enumerate(inputs)), share_inputs=True)
            probability: FloatArray = result[0][:, 0].copy()
        finally:
            self._free.put(request)
        return probability


def build_engine(
    network: USSFCNet, shape: tuple[int, int, int, int], precision: str, streams: int
) -> OpenVINOEngine:
    """Return the engine for a network and batches of that shape; see :class:`OpenVINOEngine`."""
    # Graphs are mostly taken from the cache, and torch takes seconds to load.
    from ussfc.engines.openvino_graph import network_graph

    return OpenVINOEngine(network_graph(network, shape), precision, streams)


def program_engine(
    data: bytes, shape: tuple[int, int, int, int], precision: str, streams: int
) -> OpenVINOEngine:
    """Return the engine for a program, see :mod:`ussfc.programs`.

    Args:
        data: content of an ONNX file.
        shape: ``(N, bands, H, W)`` of every batch.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        streams: batches at the same time.

    Raises:
        ModelError: OpenVINO cannot run it, or not on batches of that shape, or its output is not float32. The engine's
            ``run`` raises it for results outside [0, 1].
    """
    try:
        model = core().read_model(data)
        model.reshape(dict.fromkeys(range(2), openvino.PartialShape(list(shape))))
        found = list(model.output(0).partial_shape.to_shape())
        kind = model.output(0).element_type.get_type_name()
        expected = [shape[0], 1, *shape[2:]]
        if found != expected:
            raise ModelError(f"returns {tuple(found)} for batches of {shape}, expected {tuple(expected)}")
        if kind != "f32":
            raise ModelError(f"returns numbers of type {kind}, expected f32; cast its output to float32")
        return _ProgramEngine(model, precision, streams)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot run it on batches of {shape} ({_reason(error)})") from error


class _ProgramEngine(OpenVINOEngine):
    """Refuse what is no probability: stored as a byte, a logit would become any class."""

    def run(self, before_NBHW: FloatArray, after_NBHW: FloatArray) -> FloatArray:
        try:
            probability = super().run(before_NBHW, after_NBHW)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot run the ONNX program ({_reason(error)})") from error
        low, high = float(probability.min()), float(probability.max())
        # Not so for NaN either.
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ModelError(
                f"the ONNX program returned numbers from {low:g} to {high:g}, expected probabilities in [0, 1]; end it "
                "with a sigmoid if they are logits"
            )
        return np.clip(probability, 0, 1, out=probability)


def _reason(error: RuntimeError) -> str:
    """Return what OpenVINO cannot convert, by operator, where it lists that; otherwise its last line."""
    # The first lines are places in OpenVINO's source, the last one may be advice for its developers.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    summary = lines[lines.index("Summary:") :] if "Summary:" in lines else []
    listed = [line.removeprefix("-- ") for line in summary if line.startswith("-- ")]
    reason = "; ".join(listed) or (lines[-1] if lines else "no reason given")
    # Names of operators are whatever the file has.
    return "".join(each if each.isprintable() else "?" for each in reason)
