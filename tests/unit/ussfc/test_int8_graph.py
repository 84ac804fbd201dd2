"""Convolutions of integers: which they are, and what they compute."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.networks import PACKAGED, drawn_network, noise
from tests.support.paths import ROOT
from ussfc.detector import DetectorSpec
from ussfc.detector_options import DetectorOptions, detector_spec
from ussfc.engines.graph_cache import GraphCache
from ussfc.engines.int8_graph import measure_activations, round_convolutions, rounded_inputs
from ussfc.engines.openvino_engine import OpenVINOEngine
from ussfc.engines.openvino_graph import network_graph
from ussfc.errors import ModelError
from ussfc.network import USSFCNet
from ussfc.spec import find_model


@pytest.fixture(scope="module")
def network() -> USSFCNet:
    return drawn_network(3)


def test_rounded_inputs_do_not_depend_on_shapes(network: USSFCNet, tmp_path: Path) -> None:
    shapes = (1, 3, 32, 32), (2, 3, 48, 64)
    graphs = [network_graph(network, shape) for shape in shapes]
    local = drawn_network(3)
    local.use_local_statistics(16)
    graphs.append(network_graph(local, shapes[0]))
    cache = GraphCache(tmp_path)
    cache.put("facts", graphs[0])
    kept = cache.get("facts")
    assert kept is not None
    listed = [
        [(each.channels, [c.get_type_name() for c in each.convolutions]) for each in rounded_inputs(graph)]
        for graph in [*graphs, kept]
    ]
    assert all(other == listed[0] for other in listed)
    # Of an encoder the second convolution and four levels of four, of the decoder four levels of five.
    assert len(listed[0]) == 2 * (1 + 4 * 4) + 4 * 5
    assert listed[0][0] == (16, ["Convolution"])
    assert listed[0][1] == (16, ["Convolution"] * 2)
    assert listed[0][2] == (16, ["GroupConvolution"])


def test_first_last_and_dilated_convolutions_stay(network: USSFCNet) -> None:
    graph = network_graph(network, (1, 3, 32, 32))
    round_convolutions(graph, measure_activations(graph, [noise(0, 1, 3, 32, 32)]))
    stay = {}
    for node in graph.get_ops():
        if "Conv" in node.get_type_name() and node.get_type_name() != "Convert":
            inputs = {each.get_source_output().get_node().get_type_name() for each in node.inputs()}
            assert inputs == {"FakeQuantize"} or "FakeQuantize" not in inputs
            if inputs != {"FakeQuantize"}:
                key = max(node.get_attributes()["dilations"]), node.get_output_shape(0)[1]
                stay[key] = stay.get(key, 0) + 1
    assert stay.pop((1, 1)) == 1, "the head"
    assert stay.pop((1, 16)) == 2, "what reads the images"
    assert {dilation for dilation, _ in stay} == {3, 6}


def test_integers_come_near_float32(network: USSFCNet) -> None:
    graph = network_graph(network, (1, 3, 64, 64))
    pair = noise(4, 1, 3, 64, 64)
    plain = OpenVINOEngine(graph)
    ranges = measure_activations(graph, [noise(5, 1, 3, 64, 64), pair])
    assert np.array_equal(OpenVINOEngine(graph).run(*pair), plain.run(*pair)), "measuring changed the graph"
    round_convolutions(graph, ranges)
    found, expected = OpenVINOEngine(graph, "int8").run(*pair), plain.run(*pair)
    assert not np.array_equal(found, expected)
    assert np.abs(found - expected).max() < 0.1
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97


OTHER_PROCESSOR = """
import hashlib
import numpy as np, openvino, openvino.opset13 as op
from ussfc.engines.int8_graph import round_convolutions
from ussfc.engines.openvino_engine import core
random = np.random.default_rng(0)
x = op.parameter((1, 64, 32, 32), np.float32)
# The largest numbers that there are, of one sign: their products of pairs are the largest as well.
y = op.convolution(op.relu(x), np.full((64, 64, 1, 1), 0.7, np.float32), [1, 1], [0, 0], [0, 0], [1, 1])
head = op.convolution(op.relu(y), np.ones((1, 64, 1, 1), np.float32), [1, 1], [0, 0], [0, 0], [1, 1])
model = openvino.Model([op.result(head)], [x])
round_convolutions(model, [(64, 1.0)])
compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
print(float(compiled([np.full((1, 64, 32, 32), 2, np.float32)])[0].max()))
"""


@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE", "DEFAULT"])
def test_sums_fit_on_every_processor(isa: str) -> None:
    """Without VNNI two products are added in 16 bits; oneDNN takes the instructions that it is given."""
    ran = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESSOR],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "ONEDNN_MAX_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(ran.stdout) == pytest.approx(64 * 64 * 0.7, rel=1e-3)


def test_ranges_of_another_network_are_refused(network: USSFCNet) -> None:
    graph = network_graph(network, (1, 3, 32, 32))
    with pytest.raises(ModelError) as caught:
        round_convolutions(graph, ((16, 1.0),))
    assert str(caught.value) == (
        "precision int8: the ranges are of another network (1 activations of 16 channels, expected 54 of 3632); choose "
        "another inference.precision"
    )


def packaged(streams: int = 1) -> DetectorSpec:
    options = DetectorOptions(device="cpu", precision="int8", patch_size=32, streams=streams)
    return detector_spec(find_model(PACKAGED[0]), options)


def test_ranges_are_part_of_the_identity() -> None:
    spec = packaged()
    assert "precision=int8" in spec.identity
    assert spec.activations is not None
    (channels, high), *others = spec.activations
    other = replace(spec, activations=((channels, high * 1.01), *others))
    assert other.identity != spec.identity
    assert packaged(streams=2).identity == spec.identity
    copy = pickle.loads(pickle.dumps(spec))
    assert (copy, hash(copy), copy.identity) == (spec, hash(spec), spec.identity)


PROGRAM = """
import pickle, sys
import numpy as np
detector = pickle.loads(bytes.fromhex(sys.argv[1])).build()
before, after = np.random.default_rng(2).random((2, 1, 3, 32, 32), np.float32)
print("torch" in sys.modules, detector.predict(before, after).tobytes().hex())
"""


def test_int8_shares_the_graph_of_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker needs neither torch nor the file of ranges, and computes the bytes of the process that built it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = packaged()
    before, after = np.random.default_rng(2).random((2, 1, 3, 32, 32), np.float32)
    here = spec.build().predict(before, after)
    plain = replace(spec, precision="float32", activations=None).build().predict(before, after)
    assert not np.array_equal(plain, here)
    assert len(list((tmp_path / "ussfc" / "graphs").iterdir())) == 1
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, pickle.dumps(spec).hex()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["False", here.tobytes().hex()]
