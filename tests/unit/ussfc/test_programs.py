"""Networks of others as ONNX programs: what is run, and what is refused before it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.networks import FloatArray
from ussfc.detector_options import DetectorOptions, detector_spec
from ussfc.errors import ModelError
from ussfc.files import sha256_of
from ussfc.programs import read_program
from ussfc.spec import ModelSpec, find_model

SIDES: list[str | int] = ["N", 3, "H", "W"]


def difference(
    sides: list[str | int] = SIDES, out: tuple[Any, ...] = ("N", 1, "H", "W"), kind: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """Return a program whose probability is the mean difference of the bands, half of it."""
    values = [helper.make_tensor_value_info(name, kind, sides) for name in ("before", "after")]
    result = helper.make_tensor_value_info("probability", kind, out)
    half = helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5])
    nodes = [
        helper.make_node("Sub", ["before", "after"], ["d"]),
        helper.make_node("Abs", ["d"], ["a"]),
        helper.make_node("ReduceMean", ["a"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["m", "half"], ["probability"]),
    ]
    graph = helper.make_graph(nodes, "difference", values, [result], [half])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write(folder: Path, model: onnx.ModelProto, **card: Any) -> Path:
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    bands = [{"name": name} for name in ("B04", "B03", "B02")]
    content = {
        "name": "net", "title": "mean difference", "bands": bands, "patch_size": 32,
        "weights": {"uri": "net.onnx", "sha256": sha256_of(folder / "net.onnx")}, **card,
    }  # fmt: skip
    path = folder / "net.yaml"
    path.write_text(str(content))
    return path


def expected(before: FloatArray, after: FloatArray) -> FloatArray:
    return np.abs(before - after).mean(axis=1) / 2


@pytest.mark.parametrize("name", ["net.yaml", "net.onnx"])
@pytest.mark.parametrize("sides", [SIDES, [1, 3, 32, 32]], ids=["any size", "one size"])
def test_a_program_runs_by_card_and_by_itself(tmp_path: Path, name: str, sides: list[str | int]) -> None:
    write(tmp_path, difference(sides, (sides[0], 1, *sides[2:])))
    model = find_model(str(tmp_path / name))
    assert len(model.bands) == 3
    spec = detector_spec(model, DetectorOptions(patch_size=32, precision="float32", streams=2))
    assert (spec.engine, spec.device) == ("openvino", "cpu")
    before, after = np.random.default_rng(0).random((2, 1, 3, 32, 32), np.float32)
    np.testing.assert_allclose(spec.build().predict(before, after), expected(before, after), atol=1e-6)


def test_a_program_of_another_shape_is_one_line(tmp_path: Path) -> None:
    model = find_model(str(write(tmp_path, difference())))
    squeezed = difference()
    squeezed.graph.node[2].attribute[1].i = 0
    (tmp_path / "net.onnx").write_bytes(squeezed.SerializeToString())
    spec = detector_spec(model, DetectorOptions(patch_size=32, precision="float32"))
    with pytest.raises(ModelError, match="sha256 is"):
        spec.build()
    model = find_model(str(write(tmp_path, squeezed)))
    with pytest.raises(ModelError, match=r"returns \(1, 32, 32\) for batches of \(1, 3, 32, 32\)"):
        detector_spec(model, DetectorOptions(patch_size=32, precision="float32")).build()


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def outside_in_a_branch(model: onnx.ModelProto) -> None:
    hidden = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [0.5])
    entry = hidden.external_data.add()
    entry.key, entry.value = "location", "../secret"
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=hidden)], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["m"], ["i"], then_branch=branch, else_branch=branch))


def outside_in_a_sparse_one(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("values", TensorProto.FLOAT, [1], [0.5])
    entry = values.external_data.add()
    entry.key, entry.value = "location", "../secret"
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("at", TensorProto.INT64, [1], [0]), [1])
    model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def own_function(model: onnx.ModelProto) -> None:
    nodes = [helper.make_node("Abs", ["x"], ["y"])]
    model.functions.append(
        helper.make_function("com.example", "F", ["x"], ["y"], nodes, [helper.make_opsetid("", 17)])
    )


def one_input(model: onnx.ModelProto) -> None:
    del model.graph.input[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outside, "keeps tensors outside the file, which is refused"),
        (outside_in_a_branch, "keeps tensors outside the file, which is refused"),
        (outside_in_a_sparse_one, "keeps tensors outside the file, which is refused"),
        (foreign_operator, r"has operators of com\.example; expected those of ONNX alone"),
        (own_function, "has functions or training graphs of its own"),
        (one_input, r"has inputs of shapes \(\?, 3, \?, \?\) and outputs of .*expected two inputs"),
    ],
    ids=["external", "external in a branch", "external and sparse", "operator", "function", "one input"],
)
def test_unusable_programs_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    model = difference()
    change(model)
    write(tmp_path, model)
    with pytest.raises(ModelError, match=message):
        read_program(str(tmp_path / "net.onnx"))


def test_operators_that_openvino_lacks_are_named(tmp_path: Path) -> None:
    model = difference()
    model.graph.node[1].op_type = "Det"
    model.graph.node[3].op_type = "Frob\x1b[2J"
    spec = find_model(str(write(tmp_path, model)))
    with pytest.raises(
        ModelError, match=r"No conversion rule found for operations: .*Det-17.*Frob\?\[2J-17"
    ) as caught:
        detector_spec(spec, DetectorOptions(patch_size=32, device="cpu")).build()
    assert "docs.openvino.ai" not in str(caught.value)


@pytest.mark.parametrize("factor", [-4.0, 4.0, float("nan")])
def test_numbers_that_are_no_probabilities_are_refused(tmp_path: Path, factor: float) -> None:
    logits = difference()
    logits.graph.initializer[0].CopyFrom(helper.make_tensor("half", TensorProto.FLOAT, [1], [factor]))
    model = find_model(str(write(tmp_path, logits)))
    detector = detector_spec(model, DetectorOptions(patch_size=32, precision="float32")).build()
    before, after = np.random.default_rng(0).random((2, 1, 3, 32, 32), np.float32)
    with pytest.raises(
        ModelError, match=r"returned numbers from .*expected probabilities in \[0, 1\]; end it"
    ):
        detector.predict(before, after)


def test_an_output_of_another_type_is_refused(tmp_path: Path) -> None:
    cast = difference()
    cast.graph.node[-1].output[0] = "narrow"
    cast.graph.node.append(helper.make_node("Cast", ["narrow"], ["probability"], to=TensorProto.INT32))
    model = find_model(str(write(tmp_path, cast)))
    with pytest.raises(ModelError, match="returns numbers of type i32, expected f32"):
        detector_spec(model, DetectorOptions(patch_size=32, precision="float32")).build()


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.UINT8])
def test_programs_of_other_numbers_are_refused(tmp_path: Path, kind: int) -> None:
    write(tmp_path, difference(kind=kind))
    with pytest.raises(ModelError, match="expected two inputs"):
        read_program(str(tmp_path / "net.onnx"))


@pytest.mark.parametrize("content", [b"", b"not a program", b"\x08\x09\x12\xff\xff"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"no ONNX, damaged or cut short|has inputs of shapes none"):
        read_program(str(tmp_path / "net.onnx"))


def test_facts_in_a_program_do_not_have_to_be_ours(tmp_path: Path) -> None:
    model = difference()
    entry = model.metadata_props.add()
    entry.key, entry.value = "ussfc", '{"threshold": 7, "weights": {"uri": "/etc/passwd"}}'
    write(tmp_path, model)
    with pytest.raises(ModelError, match=r"its own facts do not fit: threshold: .*, found 7"):
        find_model(str(tmp_path / "net.onnx"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            DetectorOptions(engine="torch"),
            "engine 'torch': model net is an ONNX program, which has openvino alone",
        ),
        (DetectorOptions(device="cuda"), "device 'cuda': model net is an ONNX program"),
        (DetectorOptions(ssfc="local"), "ssfc 'local': model net is an ONNX program"),
    ],
)
def test_options_that_a_program_lacks_are_named(
    tmp_path: Path, options: DetectorOptions, message: str
) -> None:
    model = find_model(str(write(tmp_path, difference())))
    with pytest.raises(ModelError, match=message):
        detector_spec(model, options)


def test_code_in_a_card_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, difference(), network="os:system")
    with pytest.raises(ModelError, match="network: code is never run; export the network as ONNX") as caught:
        ModelSpec.load(path)
    assert "\n" not in str(caught.value)
