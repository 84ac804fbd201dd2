"""OpenVINO without its telemetry: take it from here, ``from ussfc.engines.openvino_runtime import openvino``.

Importing OpenVINO reports the import to its makers from a process of its own, and leaves an identifier of the user in
``~/intel``, unless ``openvino_telemetry`` cannot be imported. Nothing that we do is reported to anybody.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["op", "openvino"]

TELEMETRY = "openvino_telemetry"
"""Package that reports."""


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Let the package be absent for a while; a program that has loaded it has chosen so."""
    absent = TELEMETRY not in sys.modules
    if absent:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[TELEMETRY]


with _without_telemetry():
    import openvino
    from openvino import opset13 as op
