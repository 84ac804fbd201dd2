"""Engines of the CPU against PyTorch's own answer, and which engine computes what where."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch

from tests.support.networks import GOLDEN, GOLDEN_CASES, MODELS, PACKAGED, drawn_network, eager, noise
from tests.support.scenes import DEMO
from ussfc import detector
from ussfc import engine_selection as choice
from ussfc.detector import DetectorSpec, detector_choices, detector_spec, engine_version
from ussfc.engine_selection import ANYWHERE, anywhere
from ussfc.engines import DEVICES, PRECISIONS, openvino_engine
from ussfc.engines.openvino_engine import OpenVINOEngine, precisions_here
from ussfc.errors import ModelError
from ussfc.network import USSFCNet
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.evaluation.evaluate import Selection, evaluate
from ussfc.spec import ModelSpec, find_model
from ussfc.weights import load_weights

FloatArray = npt.NDArray[np.float32]

REDUCED = ("bfloat16", "float16")
VALIDATION = ("beirut", "saclay_e", "cupertino", "nantes")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Intra-op threads that wait for each other on busy cores cost ten times what they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine_of(network: USSFCNet, count: int, rows: int, cols: int, **options: Any) -> OpenVINOEngine:
    return OpenVINOEngine(network, (count, network.bands, rows, cols), **options)


def demo(spec: ModelSpec) -> tuple[FloatArray, FloatArray]:
    """The demo pair in the model's range, ``(bands, rows, cols)`` float32 in [0, 1]."""
    images = []
    for date in ("before", "after"):
        with rasterio.open(DEMO / f"beirut_{date}.tif") as source:
            high = np.broadcast_to(np.asarray(spec.radiometry.high, np.float32), (len(spec.bands),))
            values = source.read(list(range(1, len(spec.bands) + 1))).astype(np.float32)
            images.append(np.clip(values / high[:, None, None], 0, 1))
    return images[0], images[1]


def cut(image: FloatArray, side: int, most: int | None = None) -> FloatArray:
    """Patches side by side, ``(N, bands, side, side)``."""
    corners = itertools.product(*(range(0, length - side + 1, side) for length in image.shape[1:]))
    patches = [image[:, y : y + side, x : x + side] for y, x in itertools.islice(corners, most)]
    return np.stack(patches)


@pytest.fixture(scope="module")
def trained() -> USSFCNet:
    return load_weights(MODELS / f"{PACKAGED[0]}.safetensors")


@pytest.fixture(scope="module")
def patches() -> tuple[FloatArray, FloatArray]:
    """Four real patches of 128 px of each date."""
    before, after = (cut(image, 128, 4) for image in demo(find_model(PACKAGED[0])))
    return before, after


def test_the_golden_cases() -> None:
    with np.load(GOLDEN_CASES) as golden:
        before, after = (golden[f"{date}_0"].astype(np.float32) / 255 for date in ("before", "after"))
        engine = engine_of(load_weights(GOLDEN), *before.shape[:1], *before.shape[2:])
        found = engine.run(before, after)
        assert found.dtype == np.float32
        assert found.shape == before[:, 0].shape
        assert np.abs(found - golden["probability_0"][:, 0]).max() < 1e-4


@pytest.mark.parametrize("window", [None, 64])
def test_real_patches_of_a_trained_network(
    patches: tuple[FloatArray, FloatArray], window: int | None
) -> None:
    network = load_weights(MODELS / f"{PACKAGED[0]}.safetensors")
    if window is not None:
        network.use_local_statistics(window)
    wanted = eager(network, *patches)
    assert wanted.max() > 0.05
    assert np.abs(engine_of(network, 4, 128, 128).run(*patches) - wanted).max() < 1e-4


@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
@pytest.mark.parametrize(("bands", "ratio"), [(1, 0.125), (4, 0.375)])
def test_any_widths_and_sizes(bands: int, ratio: float, size: tuple[int, int]) -> None:
    network = drawn_network(7, bands, ratio)
    pair = noise(7, 2, bands, *size)
    found = engine_of(network, 2, *size).run(*pair)
    assert np.abs(found - eager(network, *pair)).max() < 1e-5


@pytest.mark.parametrize(
    ("size", "window"), [((16, 16), 16), ((32, 48), 16), ((32, 48), 32), ((32, 48), 48), ((64, 16), 32)]
)
def test_local_statistics(size: tuple[int, int], window: int) -> None:
    """Windows narrower than a side, as wide, wider than one side and wider than both, at every level."""
    network = drawn_network(8)
    whole = eager(network, *noise(8, 1, 3, *size))
    network.use_local_statistics(window)
    pair = noise(8, 1, 3, *size)
    wanted = eager(network, *pair)
    assert (np.abs(wanted - whole).max() > 1e-4) == (window < max(size))
    assert np.abs(engine_of(network, 1, *size).run(*pair) - wanted).max() < 1e-5


@pytest.mark.parametrize("window", [1, 3, 4, 7])
def test_means_of_any_window(window: int) -> None:
    """Also of odd ones, and such as leave one place for the window."""
    network = drawn_network(9)
    for module in network.modules():
        if hasattr(module, "ssfc_window"):
            module.ssfc_window = window
    pair = noise(9, 1, 3, 48, 112)  # 3 x 7 at the deepest level
    found = engine_of(network, 1, 48, 112).run(*pair)
    assert np.abs(found - eager(network, *pair)).max() < 1e-5


@pytest.mark.parametrize("count", [1, 2])
def test_same_bytes_whatever_streams_and_however_many_callers(count: int) -> None:
    network = drawn_network(10)
    pairs = [noise(seed, count, 3, 32, 48) for seed in range(4)]
    alone = engine_of(network, count, 32, 48)
    wanted = [alone.run(*pair) for pair in pairs]
    assert len({answer.tobytes() for answer in wanted}) == len(pairs)
    for streams, callers in ((1, 3), (2, 5), (3, 1)):
        engine = engine_of(network, count, 32, 48, streams=streams)
        assert engine.streams == streams
        with ThreadPoolExecutor(callers) as pool:
            found = list(pool.map(lambda pair: engine.run(*pair), pairs * 3))  # noqa: B023
        for answer, same in zip(found, wanted * 3, strict=True):
            assert answer.tobytes() == same.tobytes()


def test_an_answer_is_the_callers_own() -> None:
    engine = engine_of(drawn_network(11), 1, 32, 32)
    first = engine.run(*noise(0, 1, 3, 32, 32))
    kept = first.copy()
    engine.run(*noise(1, 1, 3, 32, 32))
    assert np.array_equal(first, kept)
    first[:] = 9
    assert np.array_equal(engine.run(*noise(0, 1, 3, 32, 32)), kept)


def test_any_strides() -> None:
    engine = engine_of(drawn_network(12), 2, 32, 32)
    pair = noise(12, 2, 3, 32, 32)
    wanted = engine.run(*pair)
    last = [np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for x in pair]
    backwards = [np.ascontiguousarray(x[..., ::-1])[..., ::-1] for x in pair]
    within = [np.pad(x, ((0, 0), (0, 0), (3, 5), (1, 2)))[:, :, 3:-5, 1:-2] for x in pair]
    for before, after in (last, backwards, within):
        before.flags.writeable = after.flags.writeable = False
        assert np.array_equal(engine.run(before, after), wanted)
        assert np.array_equal(engine.run(before, pair[1]), wanted)


def test_a_batch_is_its_patches() -> None:
    network = drawn_network(13)
    before, after = noise(13, 3, 3, 48, 32)
    together = engine_of(network, 3, 48, 32).run(before, after)
    alone = engine_of(network, 1, 48, 32)
    for number in range(3):
        one = slice(number, number + 1)
        np.testing.assert_allclose(together[one], alone.run(before[one], after[one]), rtol=0, atol=2e-6)


def test_the_dates_are_not_swapped() -> None:
    network = drawn_network(14)
    before, after = noise(14, 1, 3, 32, 32)
    engine = engine_of(network, 1, 32, 32)
    assert np.abs(engine.run(before, after) - engine.run(after, before)).max() > 1e-3


def test_a_call_that_fails_gives_its_stream_back() -> None:
    engine = engine_of(drawn_network(15), 1, 32, 32, streams=1)
    pair = noise(15, 1, 3, 32, 32)
    wanted = engine.run(*pair)
    with pytest.raises(RuntimeError):
        engine.run(*noise(15, 1, 2, 32, 32))
    # Looked at rather than waited for: who lacks it waits for ever.
    assert engine._free.qsize() == 1
    assert np.array_equal(engine.run(*pair), wanted)


def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "precisions_here", lambda: ("float32",))
    for precision in REDUCED:
        with pytest.raises(ModelError) as caught:
            engine_of(drawn_network(0), 1, 16, 16, precision=precision)
        assert str(caught.value) == (
            f"precision {precision}: this processor does not compute in it (it has float32); every worker of a run "
            "needs it, so choose another --precision or other machines"
        )


@pytest.mark.parametrize(
    ("capabilities", "precisions"),
    [
        (["FP32", "INT8", "BIN", "EXPORT_IMPORT"], ("float32",)),
        (["FP32", "BF16", "INT8"], ("float32", "bfloat16")),
        (["FP32", "FP16", "BF16"], ("float32", "bfloat16", "float16")),
    ],
)
def test_what_a_processor_has_is_what_openvino_says(
    capabilities: list[str], precisions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return capabilities

    monkeypatch.setattr(openvino_engine.openvino, "Core", Core)
    assert precisions_here() == precisions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "int8"}, "precision 'int8': the openvino engine has float32, bfloat16, float16"),
        ({"streams": 0}, "streams 0: wanted at least 1"),
    ],
)
def test_what_there_is_not_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        engine_of(drawn_network(0), 1, 16, 16, **options)
    assert str(caught.value) == said


def reduced(precision: str) -> None:
    if precision not in (here := precisions_here()):
        pytest.skip(f"this processor computes in {', '.join(here)} only")


@pytest.mark.parametrize("precision", REDUCED)
def test_a_reduced_precision_moves_little(precision: str, trained: USSFCNet) -> None:
    reduced(precision)
    spec = find_model(PACKAGED[0])
    before, after = (cut(image, 256) for image in demo(spec))
    count = len(before)
    wanted = engine_of(trained, count, 256, 256).run(before, after)
    found = engine_of(trained, count, 256, 256, precision=precision).run(before, after)
    assert np.abs(found - wanted).max() < 0.02
    assert np.mean((found >= spec.threshold) != (wanted >= spec.threshold)) <= 1e-3
    assert not np.array_equal(found, wanted), "it was computed in float32"


@pytest.mark.parametrize("precision", REDUCED)
def test_a_reduced_precision_scores_the_same(precision: str, shared: Path) -> None:
    folder = shared / "data" / "oscd" / "train"
    if not folder.is_dir():
        pytest.skip(f"needs labelled scenes in {folder}")
    reduced(precision)
    f1 = {}
    for numbers in ("float32", precision):
        flags = {"engine": "openvino", "precision": numbers, "device": "cpu"}
        config = load_config(sets=[f"inference.{name}={value}" for name, value in flags.items()])
        f1[numbers] = evaluate([f"geotiff:{folder}"], config, Selection(scenes=VALIDATION)).summary()[
            "scores"
        ]["f1"]
    assert f1["float32"] > 0.5
    assert abs(f1[precision] - f1["float32"]) < 0.002


# Which engine computes what where.


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return find_model(str(GOLDEN)).model_copy(update={"patch_size": 32})


EVERY = [
    (engine, precision, device)
    for engine in PRECISIONS
    for precision in ("float32", "bfloat16", "float16")
    for device in ("cpu", "cuda")
]


def test_the_two_tables_of_engines_agree() -> None:
    assert sorted(DEVICES) == sorted((name, numbers) for name, has in PRECISIONS.items() for numbers in has)
    for device, order in ANYWHERE.items():
        for kind in order:
            assert device in DEVICES[kind]
    for kind in choice.CUDA_ORDER:
        assert "cuda" in DEVICES[kind]


@pytest.mark.parametrize("choose", [None, lambda recipes: pytest.fail("there is nothing to choose")])
@pytest.mark.parametrize(("engine", "precision", "device"), EVERY)
def test_every_combination_is_a_recipe_or_refused(
    spec: ModelSpec,
    engine: str,
    precision: str,
    device: str,
    choose: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detector, "version", lambda name: "1.0")
    monkeypatch.setattr(choice, "fastest", lambda *args: pytest.fail("there is nothing to choose"))
    options: dict[str, Any] = {
        "engine": engine, "precision": precision, "device": device, "choose": choose,
    }  # fmt: skip
    if device in DEVICES.get((engine, precision), ()):
        made = detector_spec(spec, **options)
        assert (made.engine, made.precision, made.device) == (engine, precision, device)
        assert detector_choices(made.identity) == {
            "engine": engine, "precision": precision, "device": device,
        }  # fmt: skip
        return
    with pytest.raises(ModelError) as caught:
        detector_spec(spec, **options)
    if precision in PRECISIONS[engine]:
        said = f"engine {engine}, precision {precision}: there is no such thing on device {device}"
    else:
        said = f"precision '{precision}': not known; known: {', '.join(('auto', *PRECISIONS[engine]))}"
    assert str(caught.value) == said


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
def test_for_other_machines_auto_takes_what_any_has(
    spec: ModelSpec,
    device: str,
    options: dict[str, str],
    chosen: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detector, "version", lambda name: "1.0")
    monkeypatch.setattr(choice, "fastest", lambda *args: pytest.fail("this machine says nothing of others"))
    made = detector_spec(spec, device=device, choose=anywhere, **options)  # type: ignore[arg-type]
    assert (made.engine, made.precision) == chosen


@pytest.mark.parametrize(
    ("device", "options", "candidates"),
    [
        ("cpu", {}, {kind for kind, devices in DEVICES.items() if "cpu" in devices}),
        ("cpu", {"engine": "openvino"}, {("openvino", numbers) for numbers in PRECISIONS["openvino"]}),
        ("cpu", {"precision": "float32"}, {("openvino", "float32"), ("torch", "float32")}),
        ("cuda", {}, {("triton", "float16"), ("torch", "float16"), ("torch", "float32")}),
        ("cuda", {"precision": "float16"}, {("triton", "float16"), ("torch", "float16")}),
        ("cuda", {"engine": "torch"}, {("torch", "float16"), ("torch", "float32")}),
    ],
)
def test_here_auto_asks_this_machine(
    spec: ModelSpec,
    device: str,
    options: dict[str, str],
    candidates: set[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[set[tuple[str, str]]] = []

    def fastest(found: list[DetectorSpec]) -> DetectorSpec:
        asked.append({(recipe.engine, recipe.precision) for recipe in found})
        return found[-1]

    monkeypatch.setattr(choice, "fastest", fastest)
    monkeypatch.setattr(detector, "version", lambda name: "1.0")
    made = detector_spec(spec, device=device, **options)  # type: ignore[arg-type]
    assert asked == [candidates]
    assert (made.engine, made.precision) in candidates


def test_a_worker_with_another_version_is_refused(spec: ModelSpec) -> None:
    made = detector_spec(spec, engine="openvino", precision="float32", device="cpu", streams=1)
    with pytest.raises(ModelError) as caught:
        replace(made, engine_version="2020.1").build()
    assert str(caught.value) == (
        f"engine openvino: version {made.engine_version} here, 2020.1 where the run began; every worker needs the same"
    )


def test_the_version_of_triton_is_also_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "version", lambda name: {"triton": "3.6", "torch": "2.11"}[name])
    assert engine_version("triton") == "3.6+2.11"
    assert engine_version("torch") == "2.11"


@pytest.mark.parametrize("missing", ["openvino", "triton"])
def test_an_engine_that_is_not_installed_is_said(
    spec: ModelSpec, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == missing:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(detector, "version", version)
    device = "cpu" if missing == "openvino" else "cuda"
    with pytest.raises(ModelError) as caught:
        detector_spec(spec, engine=missing, precision="float16", device=device)
    assert str(caught.value) == f"engine {missing}: not installed here; choose another --engine"
    if missing == "openvino":
        # All of several.
        with pytest.raises(ModelError, match=r"^engine openvino: not installed here"):
            detector_spec(spec, engine="openvino", device="cpu")
    here = detector_spec(spec, engine="torch", precision="float32", device="cpu")
    with pytest.raises(ModelError, match=f"^engine {missing}: not installed here"):
        replace(here, engine=missing).build()


def test_an_engine_that_is_not_installed_is_no_choice(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "triton":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(detector, "version", version)
    asked: list[DetectorSpec] = []

    def first(recipes: Sequence[DetectorSpec]) -> DetectorSpec:
        asked.extend(recipes)
        return recipes[0]

    assert detector_spec(spec, device="cuda", choose=first) == asked[0]
    assert {recipe.engine for recipe in asked} == {"torch"}


def test_the_recipes_detector_is_the_engines(spec: ModelSpec) -> None:
    made = detector_spec(
        spec, engine="openvino", precision="float32", device="cpu", batch_size=2, streams=1, ssfc="local",
        patch_size=48,
    )  # fmt: skip
    built = made.build()
    assert (built.patch_size, built.batch_size, built.streams, built.bands) == (48, 2, 1, 4)
    network = load_weights(GOLDEN)
    network.use_local_statistics(32)
    pair = noise(3, 2, 4, 48, 48)
    np.testing.assert_allclose(built.predict(*pair), eager(network, *pair), rtol=0, atol=1e-4)
    assert "engine=openvino precision=float32 device=cpu" in made.identity


@pytest.mark.parametrize(
    ("identity", "said"),
    [
        ("stub-16", {}),
        ("", {}),
        ("engine=torch precision=float32 device=cpu", {
            "engine": "torch", "precision": "float32", "device": "cpu",
        }),
        ("weights=engine=x device=cuda", {"device": "cuda"}),
    ],
)  # fmt: skip
def test_what_an_identity_says(identity: str, said: dict[str, str]) -> None:
    assert detector_choices(identity) == said
