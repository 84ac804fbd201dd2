"""Networks as programs: ONNX files, which are data, in the place of the weights of USSFC-Net.

A program has two inputs, before and after, ``(N, bands, H, W)`` float32 in [0, 1], and one output, the probability of
change, ``(N, 1, H, W)``: what :mod:`ussfc.export` writes, or any network of that form, with H and W fixed or free.
OpenVINO runs it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ussfc.addresses import shown_address
from ussfc.errors import ModelError
from ussfc.files import is_uri, opened

SUFFIX = ".onnx"

MOST_BYTES = 1 << 30
"""Largest program that is read; the format itself ends at 2 GiB."""

EXPECTED = "expected two inputs (N, bands, H, W) float32 and one output (N, 1, H, W)"


@dataclass(frozen=True, slots=True)
class Program:
    """The content of an ONNX file, checked."""

    data: bytes
    """The file."""
    bands: int
    """Bands of each date."""
    facts: dict[str, Any]
    """Facts of the model that :func:`ussfc.export.export_model` wrote; empty: another program wrote the file."""


def is_program(uri: str) -> bool:
    """Return whether a card's weights are a program, by the suffix of their address."""
    return Path(urlsplit(uri).path if is_uri(uri) else uri).suffix.lower() == SUFFIX


def read_program(uri: str, *, sha256: str | None = None) -> Program:
    """Read and check a program; nothing of it is run.

    Args:
        uri: local path or address.
        sha256: digest that the file must have; None accepts any.

    Raises:
        ModelError: it cannot be read, has another digest, is no ONNX, keeps tensors in other files, has operators that
            are not ONNX's own, or other inputs and outputs than a program of change has.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ModelError(
            f"model {shown_address(uri)}: onnx is not installed here; pip install 'ussfc[onnx]'"
        ) from error
    where = f"model {shown_address(uri)}"
    with opened(uri, "model") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ModelError(f"{where}: larger than {MOST_BYTES >> 30} GiB; give a smaller program")
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ModelError(
            f"{where}: sha256 is {found}, expected {sha256}; get the file again or correct the model card"
        )
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{where}: no ONNX, damaged or cut short; get the file again") from error
    _check(model, where)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    return Program(data, _bands(model, where), _facts(facts.get("ussfc", "{}")))


def _check(model: Any, where: str) -> None:
    if model.functions or model.training_info:
        raise ModelError(
            f"{where}: has functions or training graphs of its own; export it for inference, with functions inlined"
        )
    graphs, tensors, domains = [model.graph], [], set()
    while graphs:
        graph = graphs.pop()
        tensors += [*graph.initializer]
        for sparse in graph.sparse_initializer:
            tensors += [sparse.values, sparse.indices]
        for node in graph.node:
            domains.add(node.domain)
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    tensors += [sparse.values, sparse.indices]
                graphs += (
                    [attribute.g, *attribute.graphs] if attribute.HasField("g") or attribute.graphs else []
                )
    # Their addresses lead anywhere on this machine.
    if any(tensor.data_location or tensor.external_data for tensor in tensors):
        raise ModelError(f"{where}: keeps tensors outside the file, which is refused; save it as one file")
    if odd := sorted(domains - {"", "ai.onnx"}):
        raise ModelError(f"{where}: has operators of {', '.join(odd)}; expected those of ONNX alone")


def _bands(model: Any, where: str) -> int:
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
    shapes = [_shape(value) for value in inputs]
    outputs = [_shape(value) for value in model.graph.output]
    bands = shapes[0][1] if shapes and len(shapes[0]) == 4 else None
    float32 = all(value.type.tensor_type.elem_type == 1 for value in inputs)
    fits = len(shapes) == 2 and len(outputs) == 1 and float32 and bands and all(
        len(shape) == 4 and shape[1] == channels
        for shape, channels in ((shapes[0], bands), (shapes[1], bands), (outputs[0], 1))
    )  # fmt: skip
    if not fits:
        raise ModelError(
            f"{where}: has inputs of shapes {_listed(shapes)} and outputs of {_listed(outputs)}; {EXPECTED}"
        )
    assert bands is not None
    return bands


def _shape(value: Any) -> list[int | None]:
    return [
        size.dim_value if size.HasField("dim_value") else None for size in value.type.tensor_type.shape.dim
    ]


def _listed(shapes: list[list[int | None]]) -> str:
    texts = ["(" + ", ".join("?" if size is None else str(size) for size in shape) + ")" for shape in shapes]
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "") or "none"


def _facts(text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
