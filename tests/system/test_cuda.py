"""Engines of CUDA devices against PyTorch on the CPU. Needs NumPy, torch and a device; Triton for its engine."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.support.networks import GOLDEN, MODELS, PACKAGED, drawn_network, eager
from ussfc.engines import OutOfMemory
from ussfc.engines.cuda_engine import CudaEngine
from ussfc.errors import ModelError
from ussfc.network import USSFCNet
from ussfc.weights import load_weights

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # What compilers and drivers deprecate is no matter of these tests.
    pytest.mark.filterwarnings("default"),
]

FloatArray = npt.NDArray[np.float32]

KINDS = [("torch", "float32"), ("torch", "float16"), ("triton", "float16")]
HALF = [kind for kind in KINDS if kind[1] == "float16"]
LIMITS = {"float32": 5e-5, "float16": 0.02}
"""Largest difference in probability from float32 on the CPU."""

every_kind = pytest.mark.parametrize(("engine", "precision"), KINDS)
both_halves = pytest.mark.parametrize(("engine", "precision"), HALF)


def engine_of(
    network: USSFCNet, count: int, patch: int, engine: str = "torch", precision: str = "float32"
) -> CudaEngine:
    if engine == "triton":
        pytest.importorskip("triton")
    return CudaEngine(network, (count, network.bands, patch, patch), engine, precision)


def scene(seed: int, bands: int, rows: int, cols: int) -> tuple[FloatArray, FloatArray]:
    """Return both dates, ``(bands, rows, cols)`` in [0, 1]: fields of 16 px, some changed on the second date."""
    rng = np.random.default_rng(seed)
    shape = bands, -(-rows // 16), -(-cols // 16)
    before = rng.random(shape)
    after = np.where(rng.random(shape[1:]) < 0.3, rng.random(shape), before)
    images = []
    for fields in (before, after):
        image = np.kron(fields, np.ones((16, 16)))[:, :rows, :cols]
        image = 0.1 + 0.5 * image + 0.1 * rng.random(image.shape)
        images.append(image.astype(np.float32))
    return images[0], images[1]


def batch(seed: int, count: int, bands: int, patch: int) -> tuple[FloatArray, FloatArray]:
    """Patches of both dates, ``(count, bands, patch, patch)``."""
    pairs = [scene(seed + number, bands, patch, patch) for number in range(count)]
    return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def close(found: FloatArray, expected: FloatArray, precision: str) -> None:
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert expected.std() > 1e-3, "an answer that is the same everywhere shows nothing"
    difference = np.abs(found - expected)
    assert difference.max() < LIMITS[precision]
    assert difference.mean() < LIMITS[precision] / 5


@pytest.fixture(scope="module")
def trained() -> USSFCNet:
    return load_weights(MODELS / f"{PACKAGED[0]}.safetensors")


@every_kind
@pytest.mark.parametrize(("count", "patch"), [(1, 64), (3, 128), (2, 256)])
@pytest.mark.parametrize("name", PACKAGED)
def test_trained_networks(name: str, count: int, patch: int, engine: str, precision: str) -> None:
    network = load_weights(MODELS / f"{name}.safetensors")
    pair = batch(1, count, network.bands, patch)
    found = engine_of(network, count, patch, engine, precision).run(*pair)
    close(found, eager(network, *pair), precision)


@every_kind
@pytest.mark.parametrize(("bands", "patch"), [(1, 64), (2, 32), (7, 48), (13, 80)])
def test_any_bands_and_patches(bands: int, patch: int, engine: str, precision: str) -> None:
    network = drawn_network(bands, bands, 0.5)
    pair = batch(2, 2, bands, patch)
    found = engine_of(network, 2, patch, engine, precision).run(*pair)
    close(found, eager(network, *pair), precision)


@pytest.mark.parametrize("ratio", [0.125, 0.25, 0.375])
def test_any_width_of_library_kernels(ratio: float) -> None:
    network = drawn_network(3, 3, ratio)
    pair = batch(3, 2, 3, 48)
    close(engine_of(network, 2, 48).run(*pair), eager(network, *pair), "float32")


def test_golden_weights_in_float32() -> None:
    # They magnify rounding by thirty: TF32 would show.
    network = load_weights(GOLDEN)
    pair = batch(4, 2, 4, 64)
    close(engine_of(network, 2, 64).run(*pair), eager(network, *pair), "float32")


@pytest.mark.parametrize("window", [16, 32, 64])
def test_local_statistics(window: int) -> None:
    network = drawn_network(5, 3, 0.5)
    network.use_local_statistics(window)
    pair = batch(5, 2, 3, 64)
    for precision in ("float32", "float16"):
        found = engine_of(network, 2, 64, "torch", precision).run(*pair)
        close(found, eager(network, *pair), precision)


@pytest.mark.parametrize(
    ("ratio", "window", "found"),
    [
        (0.25, None, "8 channels in its narrowest convolution"),
        (1.5, None, "48 channels in its narrowest convolution"),
        (0.5, 32, "local SSFC means"),
    ],
)
def test_unsuitable_networks_are_refused(ratio: float, window: int | None, found: str) -> None:
    network = drawn_network(6, 3, ratio)
    if window is not None:
        network.use_local_statistics(window)
    with pytest.raises(
        ModelError, match=f"^engine triton: made for .* {found}; set inference.engine to torch$"
    ):
        engine_of(network, 1, 64, "triton", "float16")


@pytest.mark.parametrize(
    ("engine", "precision"),
    [("openvino", "float32"), ("triton", "float32"), ("triton", "bfloat16"), ("torch", "bfloat16")],
)
def test_unavailable_choices_are_refused(engine: str, precision: str) -> None:
    with pytest.raises(ModelError) as caught:
        CudaEngine(USSFCNet(3, 0.5).eval(), (1, 3, 64, 64), engine, precision)
    assert str(caught.value) == f"engine {engine}, precision {precision}: not available on a CUDA device"


@every_kind
def test_repeated_calls_give_the_same_bytes(trained: USSFCNet, engine: str, precision: str) -> None:
    made = engine_of(trained, 2, 64, engine, precision)
    assert made.streams == 1
    pairs = [batch(10 * seed, 2, 3, 64) for seed in range(4)]
    expected = [made.run(*pair).tobytes() for pair in pairs]
    assert len(set(expected)) == 4
    with ThreadPoolExecutor(4) as pool:
        assert [
            found.tobytes() for found in pool.map(lambda pair: made.run(*pair), pairs * 3)
        ] == expected * 3
    other = engine_of(trained, 2, 64, engine, precision)
    assert [other.run(*pair).tobytes() for pair in pairs] == expected


@every_kind
def test_any_strides(trained: USSFCNet, engine: str, precision: str) -> None:
    made = engine_of(trained, 2, 64, engine, precision)
    before, after = batch(7, 2, 3, 64)
    expected = made.run(before, after).tobytes()
    last, backwards = (
        before.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
        after[..., ::-1].copy()[..., ::-1],
    )
    last.flags.writeable = backwards.flags.writeable = False
    assert made.run(last, backwards).tobytes() == expected


def test_given_network_is_not_changed(trained: USSFCNet) -> None:
    network = copy.deepcopy(trained)
    for engine, precision in KINDS[:2]:
        engine_of(network, 1, 64, engine, precision).run(*batch(8, 1, 3, 64))
    for name, tensor in network.state_dict().items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, trained.state_dict()[name])


# Tiles that are cut and blended on the device.

PATCH = 64
ROWS, COLS = 160, 200
LATTICE = [(y, x) for y in (0, 48, 96) for x in (0, 48, 96, 136)]
"""Corners in the order of summation; the last row and column are shifted inward."""


def taper() -> FloatArray:
    profile = np.sin(np.pi * (np.arange(PATCH) + 0.5) / PATCH) ** 2
    weights: FloatArray = np.outer(profile, profile).astype(np.float32)
    return weights


def touching(core: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    y0, x0, y1, x1 = core
    return [(y, x) for y, x in LATTICE if y < y1 and y + PATCH > y0 and x < x1 and x + PATCH > x0]


def whole(made: CudaEngine, count: int) -> FloatArray:
    uploaded = made.upload(*scene(20, 3, ROWS, COLS))
    return made.blend(uploaded, LATTICE, (0, 0, ROWS, COLS), taper(), count).result()


@every_kind
def test_tile_is_the_weighted_mean_of_patches(trained: USSFCNet, engine: str, precision: str) -> None:
    made = engine_of(trained, 4, PATCH, engine, precision)
    before, after = scene(20, 3, ROWS, COLS)
    weights = taper().astype(np.float64)
    total, weight = np.zeros((2, ROWS, COLS))
    for y, x in LATTICE:
        at = (slice(None), slice(y, y + PATCH), slice(x, x + PATCH))
        four = [np.stack([image[at]] * 4) for image in (before, after)]
        total[at[1:]] += weights * made.run(*four)[0]
        weight[at[1:]] += weights
    found = whole(made, 4)
    assert found.dtype == np.float32
    # What is left of a batch's shape and of the sums' rounding.
    np.testing.assert_allclose(found, total / weight, rtol=0, atol=2e-6)


@every_kind
@pytest.mark.parametrize("halo", [False, True], ids=["one upload", "an upload for each core"])
def test_bytes_do_not_depend_on_tiles(trained: USSFCNet, engine: str, precision: str, halo: bool) -> None:
    made = engine_of(trained, 4, PATCH, engine, precision)
    before, after = scene(20, 3, ROWS, COLS)
    expected = whole(made, 4)
    for edges in (((0, 80, 160), (0, 100, 200)), ((0, 33, 97, 160), (0, 5, 200))):
        for y0, y1 in zip(edges[0], edges[0][1:], strict=False):
            for x0, x1 in zip(edges[1], edges[1][1:], strict=False):
                corners = touching((y0, x0, y1, x1))
                top, left = (min(corner[axis] for corner in corners) for axis in (0, 1)) if halo else (0, 0)
                bottom, right = (
                    (max(corner[axis] for corner in corners) + PATCH for axis in (0, 1))
                    if halo
                    else (ROWS, COLS)
                )
                window = (slice(None), slice(top, bottom), slice(left, right))
                uploaded = made.upload(before[window], after[window])
                moved = [(y - top, x - left) for y, x in corners]
                core = (y0 - top, x0 - left, y1 - top, x1 - left)
                found = made.blend(uploaded, moved, core, taper(), 4).result()
                assert found.tobytes() == expected[y0:y1, x0:x1].tobytes(), (y0, x0, y1, x1)


@every_kind
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("holes", [False, True])
def test_source_numbers_are_mapped_as_on_the_host(
    trained: USSFCNet, engine: str, precision: str, dtype: str, holes: bool
) -> None:
    pytest.importorskip("odc.geo")
    from ussfc.pipeline.pixels.radiometry import pair, range_mapping
    from ussfc.pipeline.types import Pixels

    made = engine_of(trained, 4, PATCH, engine, precision)
    high = {"uint8": 255, "int16": 32767, "uint16": 65535, "float32": 1e4}[dtype]
    before, after = ((image * high).astype(dtype) for image in scene(20, 3, ROWS, COLS))
    seen = np.random.default_rng(1).random((ROWS, COLS)) > (0.2 if holes else -1)
    mappings = range_mapping(0.05 * high, 0.9 * high, 3), range_mapping(0.1 * high, 0.6 * high, 3)
    there = made.upload(before, after, mappings, seen if holes else None)
    here = pair(Pixels(before, seen), Pixels(after, seen), mappings)
    core = (0, 0, ROWS, COLS)
    found, expected = (
        made.blend(uploaded, LATTICE, core, taper(), 4).result()
        for uploaded in (there, made.upload(here.before, here.after))
    )
    assert found.tobytes() == expected.tobytes()


@every_kind
def test_smaller_batch_moves_last_bits_alone(trained: USSFCNet, engine: str, precision: str) -> None:
    made = engine_of(trained, 8, PATCH, engine, precision)
    expected = whole(made, 8)
    for count in (1, 4, 5):
        atol = 1e-5 if precision == "float32" else 5e-3
        np.testing.assert_allclose(whole(made, count), expected, rtol=0, atol=atol)
    assert whole(made, 8).tobytes() == expected.tobytes()


@every_kind
def test_place_without_a_patch_is_no_change(trained: USSFCNet, engine: str, precision: str) -> None:
    made = engine_of(trained, 2, PATCH, engine, precision)
    uploaded = made.upload(*scene(20, 3, ROWS, COLS))
    found = made.blend(uploaded, [(48, 96)], (32, 80, 160, 200), taper(), 2).result()
    assert found.shape == (128, 120)
    inside = np.zeros(found.shape, bool)
    inside[16 : 16 + PATCH, 16 : 16 + PATCH] = True
    assert (found[~inside] == 0).all()
    assert (found[inside] > 0).all()


@every_kind
def test_weights_of_an_earlier_tile_are_not_kept(trained: USSFCNet, engine: str, precision: str) -> None:
    made = engine_of(trained, 4, PATCH, engine, precision)
    uploaded = made.upload(*scene(20, 3, ROWS, COLS))
    core = (0, 0, ROWS, COLS)
    tapered = made.blend(uploaded, LATTICE, core, taper(), 4).result()
    plain = made.blend(uploaded, LATTICE, core, np.ones((PATCH, PATCH), np.float32), 4).result()
    assert np.abs(plain - tapered).max() > 1e-4
    assert made.blend(uploaded, LATTICE, core, taper(), 4).result().tobytes() == tapered.tobytes()


@every_kind
def test_tiles_of_several_threads_queue_up(trained: USSFCNet, engine: str, precision: str) -> None:
    made = engine_of(trained, 4, PATCH, engine, precision)
    images = [scene(30 + seed, 3, ROWS, COLS) for seed in range(4)]
    weights = taper()

    def tile(number: int) -> bytes:
        before, after = (image.copy() for image in images[number])
        uploaded = made.upload(before, after)
        # What was uploaded is the device's: the host's arrays may be used again.
        before[:], after[:] = 0.5, 0.5
        pending = made.blend(uploaded, LATTICE, (0, 0, ROWS, COLS), weights, 4)
        del uploaded
        found = pending.result()
        assert pending.seconds > 0
        return found.tobytes()

    expected = [tile(number) for number in range(4)]
    assert len(set(expected)) == 4
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(tile, list(range(4)) * 6)) == expected * 6


class Slow:
    """An image that is not there yet."""

    def __init__(self, image: FloatArray) -> None:
        self.image, self.shape = image, image.shape
        self.asked, self.ready = threading.Event(), threading.Event()

    def __array__(self, *args: object, **options: object) -> FloatArray:
        self.asked.set()
        assert self.ready.wait(60)
        return self.image


class Instead:
    """A stand-in for an engine's forward, which it calls."""

    def __init__(self, forward: Any) -> None:
        self.forward = forward

    def accumulate(self, *args: Any) -> None:
        self.forward.accumulate(*args)


def test_copies_leave_settings_of_arithmetic_alone(trained: USSFCNet) -> None:
    """CuDNN's are the process's, not a thread's: TF32 and algorithms of other sums would be back."""
    made = engine_of(trained, 4, PATCH)
    before, after = scene(20, 3, ROWS, COLS)
    settings = torch.backends.cudnn
    outside = settings.allow_tf32, settings.deterministic, settings.benchmark
    uploaded = made.upload(before, after)
    slow = Slow(before)
    seen: list[tuple[bool, bool, bool]] = []
    forward: Any = made._forward
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(made.upload, slow, after)
        assert slow.asked.wait(60)

        class Watched(Instead):
            def __call__(self, *args: Any) -> Any:
                slow.ready.set()
                copying.result(timeout=60)
                seen.append((settings.allow_tf32, settings.deterministic, settings.benchmark))
                return self.forward(*args)

        made._forward = Watched(forward)
        try:
            made.blend(uploaded, LATTICE[:1], (0, 0, PATCH, PATCH), taper(), 4).result()
        finally:
            slow.ready.set()
    assert seen == [(False, True, False)]
    assert (settings.allow_tf32, settings.deterministic, settings.benchmark) == outside


@every_kind
def test_settings_of_the_caller_have_no_effect(trained: USSFCNet, engine: str, precision: str) -> None:
    made = engine_of(trained, 4, PATCH, engine, precision)
    expected = whole(made, 4).tobytes()
    with (
        torch.autocast("cuda", torch.float16, enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True),
    ):
        assert whole(made, 4).tobytes() == expected
    with torch.cuda.stream(torch.cuda.Stream()):
        assert whole(made, 4).tobytes() == expected


@both_halves
def test_features_beyond_float16_are_an_error(engine: str, precision: str) -> None:
    network = drawn_network(9, 3, 0.5)
    with torch.no_grad():
        for encoder in (1, 2):
            network.get_submodule(f"Conv1_{encoder}.conv.1").weight.fill_(1e7)  # type: ignore[union-attr, operator]
    pair = batch(9, 2, 3, PATCH)
    assert np.isfinite(eager(network, *pair)).all()
    made = engine_of(network, 2, PATCH, engine, precision)
    with pytest.raises(ModelError) as caught:
        made.run(*pair)
    assert str(caught.value) == (
        "the network's features left the range of float16; set inference.precision to float32 for these weights"
    )
    uploaded = made.upload(*scene(20, 3, ROWS, COLS))
    pending = made.blend(uploaded, LATTICE, (0, 0, ROWS, COLS), taper(), 2)
    with pytest.raises(ModelError, match="float16"):
        pending.result()


def test_batch_beyond_memory_is_reported(trained: USSFCNet) -> None:
    made = engine_of(trained, 1, 256)
    before, after = scene(40, 3, 256, 256)
    weights = np.ones((256, 256), np.float32)
    uploaded = made.upload(before, after)
    core = (0, 0, 256, 256)
    expected = made.blend(uploaded, [(0, 0)], core, weights, 1).result().tobytes()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    # A batch of 64 needs several GB of feature maps.
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1e9) / total)
    try:
        with pytest.raises(OutOfMemory, match=r"^device cuda: CUDA out of memory") as caught:
            made.blend(uploaded, [(0, 0)] * 64, core, weights, 64)
        assert "\n" not in str(caught.value)
        assert made.blend(uploaded, [(0, 0)], core, weights, 1).result().tobytes() == expected
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@every_kind
def test_detector_goes_on_with_half_a_batch(trained: USSFCNet, engine: str, precision: str) -> None:
    pytest.importorskip("pydantic")
    from ussfc.detector import TileDetector

    made = engine_of(trained, 8, PATCH, engine, precision)
    expected = whole(made, 2).tobytes()
    sizes: list[int] = []

    class Small(Instead):
        def __call__(self, tile: torch.Tensor, corners: torch.Tensor, patch: int) -> Any:
            sizes.append(len(corners))
            if len(corners) > 2:
                raise torch.cuda.OutOfMemoryError(
                    "CUDA out of memory. Tried to allocate 2.00 GiB. More\nof it."
                )
            return self.forward(tile, corners, patch)

    made._forward = Small(made._forward)
    detector = TileDetector(made, 3, PATCH, 8)
    uploaded = detector.upload(*scene(20, 3, ROWS, COLS))
    found = detector.blend(uploaded, LATTICE, (0, 0, ROWS, COLS), taper()).result()
    assert found.tobytes() == expected
    assert sizes == [8, 4, *[2] * 6]
    assert detector.patches_at_once == 2
    assert detector.predict(*batch(1, 8, 3, PATCH)).shape == (8, PATCH, PATCH)


@every_kind
@pytest.mark.parametrize("shape", [(150, 210), (40, 130)], ids=["scene", "smaller than a patch"])
def test_tiles_of_the_pipeline(
    trained: USSFCNet, shape: tuple[int, int], engine: str, precision: str
) -> None:
    """Cut the scene in several ways: the same bytes, close to those of the CPU."""
    for package in ("odc.geo", "fsspec", "pydantic", "zarr"):
        pytest.importorskip(package)
    from ussfc.detector import PatchDetector, TileDetector
    from ussfc.engines.torch_engine import TorchEngine
    from ussfc.folded import FoldedUSSFCNet
    from ussfc.pipeline.execution.computers import open_computer
    from ussfc.pipeline.tiling.blending import taper_weights
    from ussfc.pipeline.tiling.lattice import TilePlan
    from ussfc.pipeline.types import PixelPair
    from ussfc.pipeline.types import TileDetector as Protocol

    before, after = scene(50, 3, *shape)
    valid = np.ones(shape, np.bool_)
    valid[:70, :100] = False
    weights = taper_weights(PATCH, "hann")
    detector = TileDetector(engine_of(trained, 4, PATCH, engine, precision), 3, PATCH, 4)
    assert isinstance(detector, Protocol)
    here = PatchDetector(TorchEngine(FoldedUSSFCNet(trained), 2), 3, PATCH, 1)

    def assembled(tile_size: int, detector: Any) -> FloatArray:
        plan = TilePlan.of(shape, tile_size, PATCH, 0.25)
        result = np.full(shape, -1, np.float32)
        for index in plan.indices():
            tile = plan.tile(index)
            box = (slice(None), *tile.halo.slices)
            images = PixelPair(before[box], after[box], valid[tile.halo.slices])
            result[tile.core.slices] = open_computer(detector, weights).blend(tile, images)[0]
        result[~valid] = 0
        return result

    expected = assembled(1000, detector)
    for tile_size in (64, 100):
        assert assembled(tile_size, detector).tobytes() == expected.tobytes()
    close(expected, assembled(1000, here), precision)
