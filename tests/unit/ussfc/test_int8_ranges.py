"""Files of ranges for int8: whose they are, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.scenes import write_toy_model
from ussfc.detector_options import DetectorOptions, detector_spec
from ussfc.errors import ModelError
from ussfc.int8_ranges import has_ranges, ranges_path, read_ranges
from ussfc.spec import ModelSpec, find_model, list_models

REMEDY = "leave inference.precision to auto, or choose another one"


@pytest.fixture
def model(tmp_path: Path) -> ModelSpec:
    return find_model(str(write_toy_model(tmp_path)))


def write(model: ModelSpec, **changed: Any) -> Path:
    content = {
        "weights_sha256": model.weights.sha256, "images": "noise", "activations": [[8, 1.5], [16, 2]],
    }  # fmt: skip
    path = ranges_path(model.weights_path())
    path.write_text(json.dumps(content | changed))
    return path


@pytest.mark.parametrize("name", list_models())
def test_packaged_weights_have_ranges(name: str) -> None:
    """Fails for new weights: `python benchmarks/int8_ranges.py` measures theirs."""
    model = find_model(name)
    assert len(read_ranges(model)) == 54
    spec = detector_spec(model, DetectorOptions(device="cpu", precision="int8"))
    assert (spec.engine, spec.activations) == ("openvino", read_ranges(model))


def test_ranges_are_read(model: ModelSpec) -> None:
    write(model)
    assert read_ranges(model) == ((8, 1.5), (16, 2.0))
    assert has_ranges(model)


def test_models_without_ranges_are_refused(model: ModelSpec) -> None:
    message = (
        "precision int8: model toy has no ranges for it (no local file toy.int8.json beside its weights); "
        f"{REMEDY}"
    )
    for found in (
        model,
        model.model_copy(
            update={"weights": model.weights.model_copy(update={"uri": "s3://bucket/toy.safetensors"})}
        ),
    ):
        with pytest.raises(ModelError) as caught:
            detector_spec(found, DetectorOptions(device="cpu", precision="int8"))
        assert str(caught.value) == message
        assert not has_ranges(found)


def test_ranges_of_other_weights_are_refused(model: ModelSpec) -> None:
    path = write(model, weights_sha256="0" * 64)
    with pytest.raises(ModelError) as caught:
        read_ranges(model)
    assert str(caught.value) == (
        f"int8 ranges {path}: measured with weights of sha256 {'0' * 64}, the model card has {model.weights.sha256}; "
        f"{REMEDY}"
    )


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (
            {"activations": [[8, -1.5]]},
            "activations.0.1: Input should be greater than or equal to 0.000001",
        ),
        ({"activations": [[8, 1e30]]}, "activations.0.1: Input should be less than or equal to 1000000"),
        ({"activations": [[0, 1.5]]}, "activations.0.0: Input should be greater than 0"),
        ({"activations": [[8, "x\n"]]}, "activations.0.1: Input should be a valid number"),
        ({"activations": [8]}, "activations.0: "),
        ({"activations": [[8, 1.5]] * 1001}, "activations: Tuple should have at most 1000 items"),
        ({"activations": [[8, float("nan")]]}, "activations.0.1: "),
        ({"weights_sha256": "abc"}, "weights_sha256: String should match pattern"),
        ({"images": "\x1b[2J"}, "images: holds control characters; leave them out"),
        ({"code": "print()"}, "code: unknown key"),
    ],
)
def test_faulty_files_are_refused_in_one_line(model: ModelSpec, changed: dict[str, Any], fault: str) -> None:
    path = write(model, **changed)
    with pytest.raises(ModelError) as caught:
        read_ranges(model)
    message = str(caught.value)
    assert message.startswith(f"int8 ranges {path}: {fault}")
    assert message.endswith(f"; {REMEDY}")
    assert message.isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"[" * 100_000, b'{"images": ', b" " * (1 << 20) + b"{}"]
)
def test_files_that_are_no_json_are_refused(model: ModelSpec, content: bytes) -> None:
    ranges_path(model.weights_path()).write_bytes(content)
    with pytest.raises(ModelError, match=rf"^int8 ranges \S+: .*; {REMEDY}$") as caught:
        read_ranges(model)
    assert str(caught.value).isprintable()
