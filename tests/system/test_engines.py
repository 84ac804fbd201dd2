"""OpenVINO beside PyTorch on any shape and window, and its reduced precisions beside float32 on real scenes."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch

from tests.support.networks import MODELS, PACKAGED, drawn_network, eager, noise
from tests.support.paths import DEMO, ROOT
from ussfc.engines.openvino_engine import OpenVINOEngine, precisions_here
from ussfc.engines.openvino_graph import network_graph
from ussfc.network import USSFCNet
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.evaluation.evaluate import Selection, evaluate
from ussfc.spec import ModelSpec, find_model
from ussfc.weights import load_weights

FloatArray = npt.NDArray[np.float32]

REDUCED = ("bfloat16", "float16")
CITY = "nantes"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Several threads on busy cores cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def engine_of(network: USSFCNet, count: int, rows: int, cols: int, **options: Any) -> OpenVINOEngine:
    return OpenVINOEngine(network_graph(network, (count, network.bands, rows, cols)), **options)


def demo(spec: ModelSpec) -> tuple[FloatArray, FloatArray]:
    """Return the demo pair in the model's range, ``(bands, rows, cols)`` float32 in [0, 1]."""
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


@pytest.mark.parametrize("window", [None, 64])
def test_real_patches_agree_with_torch(patches: tuple[FloatArray, FloatArray], window: int | None) -> None:
    network = load_weights(MODELS / f"{PACKAGED[0]}.safetensors")
    if window is not None:
        network.use_local_statistics(window)
    expected = eager(network, *patches)
    assert expected.max() > 0.05
    assert np.abs(engine_of(network, 4, 128, 128).run(*patches) - expected).max() < 1e-4


def reduced(precision: str) -> None:
    if precision not in (here := precisions_here()):
        pytest.skip(f"this processor computes in {', '.join(here)} only")


@pytest.mark.parametrize("precision", REDUCED)
def test_reduced_precision_moves_little(precision: str, trained: USSFCNet) -> None:
    reduced(precision)
    spec = find_model(PACKAGED[0])
    before, after = (cut(image, 256) for image in demo(spec))
    count = len(before)
    expected = engine_of(trained, count, 256, 256).run(before, after)
    found = engine_of(trained, count, 256, 256, precision=precision).run(before, after)
    assert np.abs(found - expected).max() < 0.02
    assert np.mean((found >= spec.threshold) != (expected >= spec.threshold)) <= 1e-3
    assert not np.array_equal(found, expected), "it was computed in float32"


@pytest.fixture(scope="module")
def score(shared: Path) -> Callable[[str], float]:
    """Return F1 of the packaged model in a precision, on a labelled city; four took a minute a precision."""
    folder = shared / "data" / "oscd" / "train"
    if not folder.is_dir():
        pytest.skip(f"needs labelled scenes in {folder}")

    @functools.cache
    def f1(precision: str) -> float:
        flags = {"engine": "openvino", "precision": precision, "device": "cpu"}
        config = load_config(sets=[f"inference.{name}={value}" for name, value in flags.items()])
        found = evaluate([f"geotiff:{folder}"], config, Selection(scenes=(CITY,)))
        return float(found.summary()["scores"]["f1"])

    return f1


@pytest.mark.soak
@pytest.mark.parametrize("precision", [*REDUCED, "int8"])
def test_reduced_precision_scores_the_same(precision: str, score: Callable[[str], float]) -> None:
    reduced(precision)
    assert score("float32") > 0.3
    # A city has a small part of the change of four, on which no precision differed by 0.001.
    assert abs(score(precision) - score("float32")) < 0.003


@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
@pytest.mark.parametrize(("bands", "ratio"), [(1, 0.125), (4, 0.375)])
def test_widths_and_sizes_agree_with_torch(bands: int, ratio: float, size: tuple[int, int]) -> None:
    network = drawn_network(7, bands, ratio)
    pair = noise(7, 2, bands, *size)
    found = engine_of(network, 2, *size).run(*pair)
    assert np.abs(found - eager(network, *pair)).max() < 1e-5


@pytest.mark.parametrize(
    ("size", "window"), [((16, 16), 16), ((32, 48), 16), ((32, 48), 32), ((32, 48), 48), ((64, 16), 32)]
)
def test_local_statistics_agree_with_torch(size: tuple[int, int], window: int) -> None:
    """Windows narrower than a side, as wide, wider than one side and wider than both, at every level."""
    network = drawn_network(8)
    whole = eager(network, *noise(8, 1, 3, *size))
    network.use_local_statistics(window)
    pair = noise(8, 1, 3, *size)
    expected = eager(network, *pair)
    assert (np.abs(expected - whole).max() > 1e-4) == (window < max(size))
    assert np.abs(engine_of(network, 1, *size).run(*pair) - expected).max() < 1e-5


@pytest.mark.parametrize("window", [1, 3, 4, 7])
def test_windows_of_any_size_agree_with_torch(window: int) -> None:
    """Odd windows too, and those that leave one place."""
    network = drawn_network(9)
    for module in network.modules():
        if hasattr(module, "ssfc_window"):
            module.ssfc_window = window
    pair = noise(9, 1, 3, 48, 112)  # 3 x 7 at the deepest level
    found = engine_of(network, 1, 48, 112).run(*pair)
    assert np.abs(found - eager(network, *pair)).max() < 1e-5


@pytest.mark.parametrize("count", [1, 2])
def test_bytes_are_the_same_for_any_callers(count: int) -> None:
    network = drawn_network(10)
    pairs = [noise(seed, count, 3, 32, 48) for seed in range(4)]
    alone = engine_of(network, count, 32, 48)
    expected = [alone.run(*pair) for pair in pairs]
    assert len({answer.tobytes() for answer in expected}) == len(pairs)
    for streams, callers in ((1, 3), (2, 5), (3, 1)):
        engine = engine_of(network, count, 32, 48, streams=streams)
        assert engine.streams == streams
        with ThreadPoolExecutor(callers) as pool:
            found = list(pool.map(lambda pair: engine.run(*pair), pairs * 3))  # noqa: B023
        for answer, same in zip(found, expected * 3, strict=True):
            assert answer.tobytes() == same.tobytes()


def test_engine_ended_elsewhere_leaves_signals_alone() -> None:
    """Python's handlers run on the signal stack of their thread, which OpenVINO's plugin replaces."""
    program = """
import faulthandler, signal, threading
faulthandler.enable()
from ussfc.engines.openvino_engine import build_engine
from ussfc.network import USSFCNet
engines = [build_engine(USSFCNet(3, 0.5).eval(), (1, 3, 32, 32), "float32", 1)]
thread = threading.Thread(target=engines.clear)
thread.start()
thread.join()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n")


def test_batches_equal_their_patches() -> None:
    network = drawn_network(13)
    before, after = noise(13, 3, 3, 48, 32)
    together = engine_of(network, 3, 48, 32).run(before, after)
    alone = engine_of(network, 1, 48, 32)
    for number in range(3):
        one = slice(number, number + 1)
        np.testing.assert_allclose(together[one], alone.run(before[one], after[one]), rtol=0, atol=2e-6)
