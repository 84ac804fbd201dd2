"""Detectors: predictions of patches, a shortage of memory, and specs that are pickled and built elsewhere."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.support.networks import GOLDEN, SmallDevice
from ussfc.detector import DetectorSpec, PatchDetector, engine_version
from ussfc.detector_options import DetectorOptions, detector_spec
from ussfc.engines import OutOfMemory, cuda_engine
from ussfc.engines.torch_engine import TorchEngine
from ussfc.errors import ModelError
from ussfc.folded import FoldedUSSFCNet
from ussfc.network import USSFCNet
from ussfc.pipeline.types import Detector
from ussfc.pipeline.types import DetectorSpec as SpecProtocol
from ussfc.spec import ModelSpec, find_model
from ussfc.weights import load_weights, save_weights

FloatArray = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def model() -> ModelSpec:
    return find_model(str(GOLDEN)).model_copy(update={"patch_size": 48})


@pytest.fixture(scope="module")
def spec(model: ModelSpec) -> DetectorSpec:
    return detector_spec(model, DetectorOptions(engine="torch", device="cpu", batch_size=2, streams=2))


@pytest.fixture(scope="module")
def detector(spec: DetectorSpec) -> PatchDetector:
    return spec.build()


@pytest.fixture(scope="module")
def pairs() -> list[tuple[FloatArray, FloatArray]]:
    rng = np.random.default_rng(0)
    return [tuple(rng.random((2, 2, 4, 48, 48), dtype=np.float32)) for _ in range(6)]


def test_pipelines_protocols_are_met(spec: DetectorSpec, detector: PatchDetector) -> None:
    # A type checker holds the assignments; at run time only the values can be compared.
    as_spec: SpecProtocol = spec
    as_detector: Detector = detector
    assert as_spec.patch_size == as_detector.patch_size == 48
    assert (as_detector.bands, as_detector.batch_size, as_detector.streams) == (4, 2, 2)


def test_predictions_are_the_networks(
    detector: PatchDetector, pairs: list[tuple[FloatArray, FloatArray]]
) -> None:
    before, after = pairs[0]
    found = detector.predict(before, after)
    with torch.inference_mode():
        expected = load_weights(GOLDEN)(*(torch.from_numpy(x) * 2 - 1 for x in (before, after)))[:, 0].numpy()
    assert found.dtype == np.float32
    assert found.shape == (2, 48, 48)
    # Two layouts, so two kernels of oneDNN: their difference depends on the CPU.
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_memory_layout_does_not_matter(
    detector: PatchDetector, pairs: list[tuple[FloatArray, FloatArray]]
) -> None:
    before, after = pairs[0]
    expected = detector.predict(before, after)
    last = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for x in (before, after)]
    backwards = [np.ascontiguousarray(x[..., ::-1])[..., ::-1] for x in (before, after)]
    for pair in (last, backwards):
        pair[0].flags.writeable = False
        assert np.array_equal(detector.predict(*pair), expected)


def test_callers_autocast_does_not_matter(
    detector: PatchDetector, pairs: list[tuple[FloatArray, FloatArray]]
) -> None:
    expected = detector.predict(*pairs[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(detector.predict(*pairs[0]), expected)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            np.zeros((1, 4, 48, 48), np.float32),
            np.zeros((2, 4, 48, 48), np.float32),
            "before is float32 \\(1",
        ),
        (
            np.zeros((2, 4, 48, 48), np.float32),
            np.zeros((2, 3, 48, 48), np.float32),
            "after is float32 \\(2, 3",
        ),
        (np.zeros((2, 4, 48, 48)), np.zeros((2, 4, 48, 48), np.float32), "before is float64"),
        (
            np.zeros((4, 48, 48), np.float32),
            np.zeros((4, 48, 48), np.float32),
            "expected float32 \\(2, 4, 48, 48",
        ),
    ],
)
def test_other_shapes_are_refused(detector: PatchDetector, before: Any, after: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detector.predict(before, after)


def small_detector(room: int, batch_size: int, streams: int = 1) -> tuple[PatchDetector, SmallDevice]:
    network = SmallDevice(FoldedUSSFCNet(load_weights(GOLDEN)), room)
    engine = TorchEngine(network, streams=streams)
    return PatchDetector(engine, 4, 48, batch_size), network


@pytest.mark.parametrize(
    ("batch_size", "room", "sizes"),
    [
        pytest.param(1, 1, [1], marks=pytest.mark.soak),
        (2, 1, [2, 1, 1]),
        pytest.param(2, 2, [2], marks=pytest.mark.soak),
        (4, 1, [4, 2, 1, 1, 1, 1]),
        pytest.param(4, 2, [4, 2, 2], marks=pytest.mark.soak),
        (4, 3, [4, 2, 2]),
        pytest.param(5, 1, [5, 3, 2, 1, 1, 1, 1, 1], marks=pytest.mark.soak),
        (5, 2, [5, 3, 2, 2, 2]),
        (5, 4, [5, 3, 3]),
        (7, 2, [7, 4, 2, 2, 2, 2]),
    ],
)
def test_out_of_memory_halves_the_patches(
    model: ModelSpec, batch_size: int, room: int, sizes: list[int]
) -> None:
    rng = np.random.default_rng(1)
    pair = rng.random((2, batch_size, 4, 48, 48), dtype=np.float32)
    detector, network = small_detector(room, batch_size)
    assert detector.patches_at_once == batch_size
    found = detector.predict(*pair)
    assert network.sizes == sizes
    assert detector.patches_at_once == sizes[-1]
    assert detector.batch_size == batch_size
    # Each part has the bytes of a detector of its own batch size.
    at_once = sizes[-1]
    padded = np.pad(pair, ((0, 0), (0, -batch_size % at_once), *[(0, 0)] * 3))
    reference = detector_spec(
        model, DetectorOptions(engine="torch", device="cpu", batch_size=at_once, streams=1)
    ).build()
    parts = [
        reference.predict(*padded[:, start : start + at_once]) for start in range(0, batch_size, at_once)
    ]
    assert found.tobytes() == np.concatenate(parts)[:batch_size].tobytes()
    undisturbed = (
        detector_spec(model, DetectorOptions(engine="torch", device="cpu", batch_size=batch_size, streams=1))
        .build()
        .predict(*pair)
    )
    if at_once > 1 or batch_size == 1:
        assert found.tobytes() == undisturbed.tobytes()
    # A batch of one patch takes another way through PyTorch on the CPU.
    np.testing.assert_allclose(found, undisturbed, rtol=0, atol=5e-6)
    # The number is kept for the calls that follow.
    network.sizes.clear()
    assert detector.predict(*pair).tobytes() == found.tobytes()
    assert set(network.sizes) == {at_once}


def test_late_failures_do_not_raise_the_number() -> None:
    detector, network = small_detector(room=1, batch_size=4, streams=2)
    pair = np.random.default_rng(2).random((2, 4, 4, 48, 48), dtype=np.float32)
    started, go_on = threading.Event(), threading.Event()
    forward = network.forward

    def slow_at_first(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        if not started.is_set():
            started.set()
            assert go_on.wait(60)
        return forward(before, after)

    network.forward = slow_at_first  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(detector.predict, *pair)
        assert started.wait(60)
        found = detector.predict(*pair)
        assert detector.patches_at_once == 1
        go_on.set()
        assert late.result().tobytes() == found.tobytes()
    assert network.sizes == [4, 2, 1, 1, 1, 1, 4, 1, 1, 1, 1]
    assert detector.patches_at_once == 1


def test_patches_that_do_not_fit_are_errors() -> None:
    detector, network = small_detector(room=0, batch_size=2)
    for sizes in ([2, 1], [1]):
        with pytest.raises(ModelError) as caught:
            detector.predict(*np.zeros((2, 2, 4, 48, 48), np.float32))
        assert network.sizes == sizes
        network.sizes.clear()
    assert str(caught.value) == (
        "device cpu: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which "
        "1.00 GiB is free; not even batch size 1 fits, a patch of 48 px: take a smaller tiling.patch_size or another "
        "device"
    )


def test_specs_are_pickled(spec: DetectorSpec) -> None:
    copy = pickle.loads(pickle.dumps(spec))
    assert copy == spec
    assert hash(copy) == hash(spec)
    assert len(pickle.dumps(spec)) < 2000


def test_identity_names_what_moves_probabilities(spec: DetectorSpec) -> None:
    moving: dict[str, Any] = {
        "weights_sha256": "0" * 64,
        "patch_size": 256,
        "engine": "other",
        "precision": "bfloat16",
        "device": "cuda",
        "batch_size": 1,
        "engine_version": "1.0",
        "turns": 4,
    }
    for name, value in moving.items():
        assert replace(spec, **{name: value}).identity != spec.identity, name
    still: dict[str, Any] = {"streams": 1, "weights_uri": "/elsewhere/w.pth"}
    for name, value in still.items():
        assert replace(spec, **{name: value}).identity == spec.identity, name


def test_best_is_the_mean_over_four_turns(model: ModelSpec, spec: DetectorSpec) -> None:
    options = DetectorOptions(engine="torch", device="cpu", batch_size=2, streams=2, quality="best")
    best = detector_spec(model, options)
    assert best == replace(spec, turns=4)
    assert best.identity == f"{spec.identity} turns=4"
    assert best.speed_key == spec.speed_key
    shape = (2, best.bands, best.patch_size, best.patch_size)
    pair = np.random.default_rng(2).random((2, *shape), np.float32)
    turned = [
        np.rot90(
            spec.build().predict(*(np.ascontiguousarray(np.rot90(image, turns, (2, 3))) for image in pair)),
            -turns,
            (1, 2),
        )
        for turns in range(4)
    ]
    np.testing.assert_allclose(best.build().predict(*pair), np.mean(turned, axis=0), atol=1e-6)
    with pytest.raises(ModelError, match=r"^quality 'better': not known; known: fast, best$"):
        detector_spec(model, DetectorOptions(quality="better"))


def test_streams_default_to_the_cores(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2, 5})
    assert detector_spec(model, DetectorOptions(engine="torch", device="cpu")).build().streams == 3


def test_missing_cuda_is_an_error_of_build(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = detector_spec(model, DetectorOptions(engine="torch", precision="float32", device="cuda"))
    with pytest.raises(ModelError, match=r"device cuda: none found here .* or take device cpu"):
        spec.build()


@pytest.mark.parametrize("engine", ["triton", "torch"])
def test_full_gpus_are_an_error_of_build(
    spec: DetectorSpec, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffers of the kernels are made with the engine."""

    def full(*args: object) -> None:
        raise OutOfMemory("device cuda: CUDA out of memory")

    monkeypatch.setattr(cuda_engine, "CudaEngine", full)
    monkeypatch.setattr("ussfc.detector.engine_version", lambda engine: "1.0")
    changed = replace(spec, engine=engine, precision="float16", device="cuda", engine_version="1.0")
    with pytest.raises(ModelError) as caught:
        changed.build()
    assert str(caught.value) == (
        "device cuda: CUDA out of memory; take a smaller inference.batch_size or another device"
    )


def test_weights_must_match_the_card(spec: DetectorSpec) -> None:
    for changed, message in (
        (replace(spec, weights_sha256="0" * 64), "sha256"),
        (replace(spec, bands=3), "for 4 bands, the model card lists 3"),
        (replace(spec, ratio=0.5), "ratio 0.25, the model card lists 0.5"),
    ):
        with pytest.raises(ModelError, match=message):
            changed.build()


def test_one_band(tmp_path: Path) -> None:
    # With one band, channels-last and contiguous are the same strides.
    save_weights(USSFCNet(1, 0.125), tmp_path / "w.safetensors", {})
    model = find_model(str(tmp_path / "w.safetensors")).model_copy(update={"patch_size": 32})
    detector = detector_spec(model, DetectorOptions(engine="torch", device="cpu", streams=1)).build()
    assert detector.predict(*np.full((2, 1, 1, 32, 32), 0.5, np.float32)).shape == (1, 32, 32)


def test_versions_must_match(model: ModelSpec) -> None:
    made = detector_spec(
        model, DetectorOptions(engine="openvino", precision="float32", device="cpu", streams=1)
    )
    with pytest.raises(ModelError) as caught:
        replace(made, engine_version="2020.1").build()
    assert str(caught.value) == (
        f"engine openvino: version {made.engine_version} here, 2020.1 where the run began; every worker needs the same"
    )


def test_version_of_triton_includes_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ussfc.detector.version", lambda name: {"triton": "3.6", "torch": "2.11"}[name])
    assert engine_version("triton") == "3.6+2.11"
    assert engine_version("torch") == "2.11"


def test_streams_of_a_build_replace_the_specs(spec: DetectorSpec) -> None:
    assert spec.build(streams=1).streams == 1
    assert (spec.build().streams, spec.streams) == (2, 2)
