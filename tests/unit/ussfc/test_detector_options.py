"""Options of a detector: which combinations there are, and which choices are left to the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.networks import GOLDEN, eager, noise
from ussfc import detector, detector_options, engine_selection
from ussfc.detector import DetectorSpec
from ussfc.detector_options import DetectorOptions, detector_choices, detector_spec
from ussfc.engine_selection import anywhere
from ussfc.engines import DEVICES, PRECISIONS
from ussfc.errors import ModelError
from ussfc.spec import ModelSpec, find_model
from ussfc.weights import load_weights


@pytest.fixture(scope="module")
def model() -> ModelSpec:
    return find_model(str(GOLDEN)).model_copy(update={"patch_size": 32})


EVERY = [
    (engine, precision, device)
    for engine in PRECISIONS
    for precision in ("float32", "bfloat16", "float16", "int8")
    for device in ("cpu", "cuda")
]


OPENVINO_AUTO = {("openvino", numbers) for numbers in ("float32", "bfloat16", "float16")}
"""int8 is chosen by its name alone."""


def test_tables_of_engines_agree() -> None:
    assert sorted(DEVICES) == sorted((name, numbers) for name, has in PRECISIONS.items() for numbers in has)


@pytest.mark.parametrize("choose", [None, lambda specs: pytest.fail("there is nothing to choose")])
@pytest.mark.parametrize(("engine", "precision", "device"), EVERY)
def test_combinations_make_a_spec_or_are_refused(
    model: ModelSpec,
    engine: str,
    precision: str,
    device: str,
    choose: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detector, "version", lambda name: "1.0")
    monkeypatch.setattr(detector_options, "read_ranges", lambda model: ((8, 1.0),))
    monkeypatch.setattr(engine_selection, "fastest", lambda *args: pytest.fail("there is nothing to choose"))
    options: dict[str, Any] = {
        "engine": engine, "precision": precision, "device": device,
    }  # fmt: skip
    if device in DEVICES.get((engine, precision), ()):
        made = detector_spec(model, DetectorOptions(**options), choose=choose)
        assert (made.engine, made.precision, made.device) == (engine, precision, device)
        assert detector_choices(made.identity) == {
            "engine": engine, "precision": precision, "device": device,
        }  # fmt: skip
        return
    with pytest.raises(ModelError) as caught:
        detector_spec(model, DetectorOptions(**options), choose=choose)
    if precision in PRECISIONS[engine]:
        message = f"engine {engine}, precision {precision}: not available on device {device}; "
        message += f"it computes on {DEVICES[engine, precision][0]} alone; "
        message += "leave inference.engine and inference.precision to auto, or choose another device"
    else:
        message = f"precision '{precision}': not known; known: {', '.join(('auto', *PRECISIONS[engine]))}"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("device", "options", "chosen"),
    [
        ("cpu", {}, ("openvino", "float32")),
        ("cpu", {"engine": "torch"}, ("torch", "float32")),
        ("cpu", {"engine": "openvino"}, ("openvino", "float32")),
        ("cpu", {"precision": "float32"}, ("openvino", "float32")),
        ("cpu", {"precision": "bfloat16"}, ("openvino", "bfloat16")),
        ("cpu", {"precision": "float16"}, ("openvino", "float16")),
        ("cuda", {}, ("torch", "float16")),
        ("cuda", {"engine": "torch"}, ("torch", "float16")),
        ("cuda", {"engine": "triton"}, ("triton", "float16")),
        ("cuda", {"precision": "float16"}, ("torch", "float16")),
        ("cuda", {"precision": "float32"}, ("torch", "float32")),
    ],
)
def test_auto_for_other_machines(
    model: ModelSpec,
    device: str,
    options: dict[str, str],
    chosen: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detector, "version", lambda name: "1.0")
    monkeypatch.setattr(
        engine_selection, "fastest", lambda *args: pytest.fail("this machine was measured for others")
    )
    made = detector_spec(model, DetectorOptions(device=device, **options), choose=anywhere)  # type: ignore[arg-type]
    assert (made.engine, made.precision) == chosen


@pytest.mark.parametrize(
    ("device", "options", "candidates"),
    [
        ("cpu", {}, {("torch", "float32"), *OPENVINO_AUTO}),
        ("cpu", {"engine": "openvino"}, OPENVINO_AUTO),
        ("cpu", {"precision": "float32"}, {("openvino", "float32"), ("torch", "float32")}),
        ("cuda", {}, {("triton", "float16"), ("torch", "float16"), ("torch", "float32")}),
        ("cuda", {"precision": "float16"}, {("triton", "float16"), ("torch", "float16")}),
        ("cuda", {"engine": "torch"}, {("torch", "float16"), ("torch", "float32")}),
    ],
)
def test_auto_for_this_machine(
    model: ModelSpec,
    device: str,
    options: dict[str, str],
    candidates: set[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[set[tuple[str, str]]] = []

    def fastest(found: list[DetectorSpec]) -> DetectorSpec:
        asked.append({(spec.engine, spec.precision) for spec in found})
        return found[-1]

    monkeypatch.setattr(engine_selection, "fastest", fastest)
    monkeypatch.setattr(detector, "version", lambda name: "1.0")
    made = detector_spec(model, DetectorOptions(device=device, **options))  # type: ignore[arg-type]
    assert asked == [candidates]
    assert (made.engine, made.precision) in candidates


@pytest.mark.parametrize("missing", ["openvino", "triton"])
def test_missing_engines_are_errors(model: ModelSpec, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == missing:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(detector, "version", version)
    device = "cpu" if missing == "openvino" else "cuda"
    with pytest.raises(ModelError) as caught:
        detector_spec(model, DetectorOptions(engine=missing, precision="float16", device=device))
    assert str(caught.value) == f"engine {missing}: not installed here; choose another inference.engine"
    if missing == "openvino":
        # All of several.
        with pytest.raises(ModelError, match=r"^engine openvino: not installed here"):
            detector_spec(model, DetectorOptions(engine="openvino", device="cpu"))
    here = detector_spec(model, DetectorOptions(engine="torch", precision="float32", device="cpu"))
    with pytest.raises(ModelError, match=f"^engine {missing}: not installed here"):
        replace(here, engine=missing).build()


def test_missing_engines_are_no_choice(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "triton":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(detector, "version", version)
    asked: list[DetectorSpec] = []

    def first(specs: Sequence[DetectorSpec]) -> DetectorSpec:
        asked.extend(specs)
        return specs[0]

    assert detector_spec(model, DetectorOptions(device="cuda"), choose=first) == asked[0]
    assert {spec.engine for spec in asked} == {"torch"}


def test_options_reach_the_detector(model: ModelSpec) -> None:
    options = DetectorOptions(
        patch_size=48,
        ssfc="local",
        engine="openvino",
        precision="float32",
        device="cpu",
        batch_size=2,
        streams=1,
    )
    made = detector_spec(model, options)
    built = made.build()
    assert (built.patch_size, built.batch_size, built.streams, built.bands) == (48, 2, 1, 4)
    network = load_weights(GOLDEN)
    network.use_local_statistics(32)
    pair = noise(3, 2, 4, 48, 48)
    np.testing.assert_allclose(built.predict(*pair), eager(network, *pair), rtol=0, atol=1e-4)
    assert "engine=openvino precision=float32 device=cpu" in made.identity


def test_auto_device_is_resolved_here(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    for driver, there, device, batch_size in (
        (True, True, "cuda", 16),
        (True, False, "cpu", 1),
        # Torch is not asked.
        (False, True, "cpu", 1),
    ):
        monkeypatch.setattr(detector_options, "has_cuda_driver", lambda driver=driver: driver)
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        spec = detector_spec(model, DetectorOptions(engine="torch", precision="float32"))
        assert (spec.device, spec.batch_size) == (device, batch_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "onnx"}, "engine 'onnx': not known; known: auto, torch, openvino, triton"),
        ({"precision": "int4"}, "precision 'int4': not known; known: auto, float32"),
        (
            {"engine": "torch", "precision": "int8"},
            "precision 'int8': not known; known: auto, float32, float16",
        ),
        ({"device": "tpu"}, "device 'tpu': not known; known: auto, cpu, cuda"),
        ({"ssfc": "global"}, "ssfc 'global': not known; known: patch, local"),
        ({"patch_size": 40}, "patch_size 40: expected a positive multiple of 16"),
        ({"batch_size": 0}, "batch_size 0: expected at least 1"),
        ({"streams": 0}, "streams 0: expected at least 1"),
        ({"device": "cuda", "streams": 2}, "streams 2: expected 1 on cuda"),
    ],
)
def test_unknown_options_are_refused(model: ModelSpec, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        detector_spec(model, DetectorOptions(**options))


@pytest.mark.parametrize(
    ("identity", "choices"),
    [
        ("stub-16", {}),
        ("", {}),
        ("engine=torch precision=float32 device=cpu", {
            "engine": "torch", "precision": "float32", "device": "cpu",
        }),
        ("weights=engine=x device=cuda", {"device": "cuda"}),
    ],
)  # fmt: skip
def test_choices_are_read_from_an_identity(identity: str, choices: dict[str, str]) -> None:
    assert detector_choices(identity) == choices
