"""The contract that every engine for CPUs passes; those for CUDA pass it in tests/system/test_cuda.py."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import numpy as np
import pytest

from tests.support.networks import GOLDEN, GOLDEN_CASES, FloatArray
from ussfc.detector import DetectorSpec, engine_version
from ussfc.engines import CPU_ENGINES, DEVICES, Engine
from ussfc.engines.int8_graph import measure_activations, round_convolutions
from ussfc.engines.openvino_engine import OpenVINOEngine
from ussfc.engines.openvino_graph import network_graph
from ussfc.engines.turned_engine import TurnedEngine
from ussfc.errors import ModelError
from ussfc.weights import load_weights

KINDS = [kind for kind, devices in DEVICES.items() if "cpu" in devices]
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.02, "int8": 0.1}
"""Largest difference of a probability from the float64 golden outputs, by precision."""


def build(kind: tuple[str, str], count: int, streams: int = 1, cols: int = 48) -> Engine:
    """Build an engine for batches of golden patches; skip what this processor does not compute in."""
    name, precision = kind
    shape = count, 4, 32, cols
    try:
        if precision == "int8":
            return int8_engine(shape, streams)
        engine: Engine = import_module(CPU_ENGINES[name]).build_engine(
            load_weights(GOLDEN), shape, precision, streams
        )
    except ModelError as error:
        pytest.skip(str(error))
    return engine


def int8_engine(shape: tuple[int, int, int, int], streams: int) -> Engine:
    """Build an engine of integers with the ranges of the golden patches."""
    graph = network_graph(load_weights(GOLDEN), shape)
    before, after, _ = golden()
    cols = shape[-1]
    round_convolutions(graph, measure_activations(graph, [(before[..., :cols], after[..., :cols])]))
    return OpenVINOEngine(graph, "int8", streams)


def golden() -> tuple[FloatArray, FloatArray, FloatArray]:
    with np.load(GOLDEN_CASES) as cases:
        before, after = (cases[f"{date}_0"].astype(np.float32) / 255 for date in ("before", "after"))
        return before, after, cases["probability_0"][:, 0]


def test_every_cpu_engine_has_a_module() -> None:
    assert {name for name, _ in KINDS} == set(CPU_ENGINES)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_engine_agrees_with_the_golden_outputs(kind: tuple[str, str]) -> None:
    before, after, expected = golden()
    found = build(kind, len(before)).run(before, after)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert 0 <= found.min() <= found.max() <= 1
    assert np.abs(found - expected).max() < TOLERANCES[kind[1]]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_callers_at_once_change_no_byte(kind: tuple[str, str]) -> None:
    before, after, _ = golden()
    engine = build(kind, len(before), streams=2)
    assert engine.streams == 2
    alone = engine.run(before, after)
    with ThreadPoolExecutor(4) as callers:
        for found in callers.map(lambda _: engine.run(before, after), range(8)):
            np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_neighbours_in_a_batch_change_no_byte(kind: tuple[str, str]) -> None:
    before, after, _ = golden()
    engine = build(kind, len(before))
    whole = engine.run(before, after)
    for number in range(len(before)):
        others = [np.roll(images, number + 1, axis=0) for images in (before, after)]
        moved = engine.run(*others)
        np.testing.assert_array_equal(np.roll(moved, -number - 1, axis=0), whole)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_turned_patches_give_the_turned_mean(kind: tuple[str, str]) -> None:
    before, after = (np.ascontiguousarray(images[..., :32]) for images in golden()[:2])
    plain = build(kind, len(before), streams=2, cols=32)
    engine: Engine = TurnedEngine(plain, 4)
    assert engine.streams == 2
    found = engine.run(before, after)
    assert found.dtype == np.float32
    turned = [np.rot90(plain.run(*_turned(before, after, turns)), -turns, (1, 2)) for turns in range(4)]
    np.testing.assert_array_equal(found, np.mean(turned, axis=0, dtype=np.float64).astype(np.float32))
    assert (found != turned[0]).any()
    for turns in range(1, 4):
        moved = engine.run(*_turned(before, after, turns))
        np.testing.assert_array_equal(moved, np.rot90(found, turns, (1, 2)))
    with ThreadPoolExecutor(3) as callers:
        for again in callers.map(lambda _: engine.run(before, after), range(3)):
            np.testing.assert_array_equal(again, found)


def _turned(before: FloatArray, after: FloatArray, turns: int) -> list[FloatArray]:
    return [np.ascontiguousarray(np.rot90(images, turns, (-2, -1))) for images in (before, after)]


@pytest.mark.parametrize("name", sorted(CPU_ENGINES))
def test_missing_library_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DetectorSpec(
        str(GOLDEN), "", 4, 0.25, 32, None, name, "float32", "cpu", 1, None, engine_version(name)
    )
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(
        ModelError, match=f"^engine {name}: not installed here; choose another inference.engine$"
    ):
        spec.build()
