"""A stand-in for ukis-csmask: a network that takes bright pixels for clouds and dark ones for shadows."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from ussfc.clouds import SIDE

BRIGHT, DARK = 0.5, 0.01
"""Reflectances of blue from which on a pixel is a cloud, and below which it is a shadow."""


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _field(number: int, value: int | bytes | str) -> bytes:
    """Return one field of a message of Protocol Buffers."""
    if isinstance(value, int):
        return _number(number << 3) + _number(value)
    content = value.encode() if isinstance(value, str) else value
    return _number(number << 3 | 2) + _number(len(content)) + content


def _image(name: str, bands: int) -> bytes:
    shape = b"".join(_field(1, _field(1, length)) for length in (1, bands, SIDE, SIDE))
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))


def _tensor(name: str, shape: tuple[int, ...], values: list[float]) -> bytes:
    lengths = b"".join(_field(1, length) for length in shape)
    return lengths + _field(2, 1) + _field(8, name) + _field(9, struct.pack(f"<{len(values)}f", *values))


def onnx_network() -> bytes:
    """Return a network of one convolution of a pixel as ONNX has it."""
    weights = [0.0] * 4 + [1000.0, 0, 0, 0] + [-1000.0, 0, 0, 0]
    node = b"".join(_field(1, name) for name in ("image", "weights", "bias")) + _field(2, "classes")
    graph = (
        _field(1, node + _field(4, "Conv"))
        + _field(2, "stand-in")
        + _field(5, _tensor("weights", (3, 4, 1, 1), weights))
        + _field(5, _tensor("bias", (3,), [0, -1000 * BRIGHT, 1000 * DARK]))
        + _field(11, _image("image", 4))
        + _field(12, _image("classes", 3))
    )
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))


def write_package(folder: Path, version: str = "1.0.0-stand-in") -> Path:
    """Write the package, and return the folder that has to be on Python's path."""
    package = folder / "ukis_csmask"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    facts = {
        "data": {
            "dataset_statistics": {"img": [[0.0] * 4, [1.0] * 4], "band_names": ["blue", "green", "red", "nir"]},
            "target_size": [SIDE, SIDE],
        },
        "model": {"version": version},
    }  # fmt: skip
    for level in ("l1c", "l2a"):
        (package / f"model_4b_{level}.json").write_text(json.dumps(facts))
        (package / f"model_4b_{level}.onnx").write_bytes(onnx_network())
    return folder
