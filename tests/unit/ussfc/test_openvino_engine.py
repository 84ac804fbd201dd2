"""OpenVINO on the CPU: PyTorch's answers, in any shape, by any number of callers."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.networks import GOLDEN, GOLDEN_CASES, drawn_network, noise
from ussfc.engines import openvino_engine
from ussfc.engines.openvino_engine import OpenVINOEngine, precisions_here
from ussfc.engines.openvino_graph import network_graph
from ussfc.errors import ModelError
from ussfc.network import USSFCNet
from ussfc.weights import load_weights

REDUCED = ("bfloat16", "float16")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Several threads on busy cores cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine_of(network: USSFCNet, count: int, rows: int, cols: int, **options: Any) -> OpenVINOEngine:
    return OpenVINOEngine(network_graph(network, (count, network.bands, rows, cols)), **options)


def test_golden_cases() -> None:
    with np.load(GOLDEN_CASES) as golden:
        before, after = (golden[f"{date}_0"].astype(np.float32) / 255 for date in ("before", "after"))
        engine = engine_of(load_weights(GOLDEN), *before.shape[:1], *before.shape[2:])
        found = engine.run(before, after)
        assert found.dtype == np.float32
        assert found.shape == before[:, 0].shape
        assert np.abs(found - golden["probability_0"][:, 0]).max() < 1e-4


@pytest.fixture(scope="module")
def engine() -> OpenVINOEngine:
    """An engine for batches of two patches of 32 px, one at a time."""
    return engine_of(drawn_network(12), 2, 32, 32)


def test_answers_belong_to_the_caller(engine: OpenVINOEngine) -> None:
    first = engine.run(*noise(0, 2, 3, 32, 32))
    kept = first.copy()
    engine.run(*noise(1, 2, 3, 32, 32))
    assert np.array_equal(first, kept)
    first[:] = 9
    assert np.array_equal(engine.run(*noise(0, 2, 3, 32, 32)), kept)


def test_strides_do_not_matter(engine: OpenVINOEngine) -> None:
    pair = noise(12, 2, 3, 32, 32)
    expected = engine.run(*pair)
    last = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for x in pair]
    backwards = [np.ascontiguousarray(x[..., ::-1])[..., ::-1] for x in pair]
    within = [np.pad(x, ((0, 0), (0, 0), (3, 5), (1, 2)))[:, :, 3:-5, 1:-2] for x in pair]
    for before, after in (last, backwards, within):
        before.flags.writeable = after.flags.writeable = False
        assert np.array_equal(engine.run(before, after), expected)
        assert np.array_equal(engine.run(before, pair[1]), expected)


def test_dates_are_not_swapped(engine: OpenVINOEngine) -> None:
    before, after = noise(14, 2, 3, 32, 32)
    assert np.abs(engine.run(before, after) - engine.run(after, before)).max() > 1e-3


def test_failed_calls_free_their_stream(engine: OpenVINOEngine) -> None:
    assert engine.streams == 1
    pair = noise(15, 2, 3, 32, 32)
    expected = engine.run(*pair)
    with pytest.raises(RuntimeError):
        engine.run(*noise(15, 2, 2, 32, 32))
    # On a thread that may be left behind: without a free stream a call waits for ever.
    found: list[object] = []
    caller = threading.Thread(target=lambda: found.append(engine.run(*pair)), daemon=True)
    caller.start()
    caller.join(60)
    assert len(found) == 1
    assert np.array_equal(found[0], expected)


def test_unsupported_precisions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "precisions_here", lambda: ("float32",))
    for precision in REDUCED:
        with pytest.raises(ModelError) as caught:
            engine_of(drawn_network(0), 1, 16, 16, precision=precision)
        assert str(caught.value) == (
            f"precision {precision}: this processor does not compute in it (it has float32); every worker of a run "
            "needs it, so choose another inference.precision or other machines"
        )


@pytest.mark.parametrize(
    ("capabilities", "precisions"),
    [
        (["FP32", "INT8", "BIN", "EXPORT_IMPORT"], ("float32", "int8")),
        (["FP32", "BF16", "INT8"], ("float32", "bfloat16", "int8")),
        (["FP32", "FP16", "BF16"], ("float32", "bfloat16", "float16")),
    ],
)
def test_precisions_are_those_openvino_lists(
    capabilities: list[str], precisions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return capabilities

    monkeypatch.setattr(openvino_engine, "core", Core)
    assert precisions_here() == precisions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision 'int4': the openvino engine has float32, bfloat16, float16, int8"),
        (
            {"precision": "int8"},
            "precision int8: this network has no ranges for it; choose another inference.precision",
        ),
        ({"streams": 0}, "streams 0: expected at least 1"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        engine_of(drawn_network(0), 1, 16, 16, **options)
    assert str(caught.value) == message


TELEMETRY = """
import sys
from ussfc.engines.openvino_runtime import openvino
from ussfc.engines import openvino_engine
openvino_engine.core()
assert "openvino_telemetry" not in sys.modules
# Programs around us find all of OpenVINO, and may load the package.
assert openvino.convert_model
import openvino_telemetry
"""


def test_nothing_is_reported_to_the_makers_of_openvino(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")
    }
    subprocess.run(
        [sys.executable, "-c", TELEMETRY], check=True, timeout=60, env=environment | {"HOME": str(tmp_path)}
    )
    # Where it has reported, it leaves an identifier of the user.
    assert list(tmp_path.iterdir()) == []


FIRST_USE = """
import faulthandler, sys, threading
from ussfc.engines import openvino_engine
openvino_engine.core()
faulthandler.dump_traceback_later(20, exit=True)
sys.setswitchinterval(1e-6)
together = threading.Barrier(4)
def convert():
    together.wait()
    openvino_engine.openvino.Type.f32.to_dtype()
threads = [threading.Thread(target=convert) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.soak  # without the preparation one process in four hangs
@pytest.mark.parametrize("attempt", range(12))
def test_streams_that_begin_together_do_not_hang(attempt: int) -> None:
    subprocess.run([sys.executable, "-c", FIRST_USE], check=True, timeout=60)
