"""References for the speed of a detector: the plain network, the machine's limits, MONAI's sliding window.

Every function measures once; callers repeat, alternate and take medians.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from time import perf_counter
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ussfc.cores import cores
from ussfc.detector import DetectorSpec, TileDetector
from ussfc.efficiency import efficiency
from ussfc.engines import FloatArray, Pending
from ussfc.network import LEVELS, STRIDE, USSFCNet
from ussfc.preprocessing import to_network_range
from ussfc.weights import load_weights

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices whose product measures the rate of arithmetic."""

TRIAL_SIDE = 256
"""Side of the matrices that show arithmetic of a narrow type: without it, a processor is slower still."""

TRIALS = 3
"""Number of products of these; the fastest counts."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a value in each type whose rate is measured."""

BATCHES_OF_TILE = 8
"""Least number of batches of a tile on a device."""


class Predictor(Protocol):
    """A detector or the plain network, as :func:`speed` measures it."""

    @property
    def batch_size(self) -> int:
        """Patches of one call."""

    @property
    def streams(self) -> int:
        """Calls that may run at the same time, each from a thread of its own."""

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Map ``(batch_size, bands, patch, patch)`` in [0, 1] to ``(batch_size, patch, patch)`` in [0, 1]."""


class PlainNetwork:
    """The network as a user of PyTorch runs it: eager, float32, a patch at a time, nothing folded or compiled.

    On the CPU every operator has all cores that the process may use; on CUDA TF32 is off.

    Args:
        recipe: gives weights, SSFC means and device; engine, precision, batch size and streams are ignored.

    Raises:
        ModelError: the weights cannot be used.
    """

    batch_size = 1
    streams = 1

    def __init__(self, recipe: DetectorSpec) -> None:
        network = load_weights(recipe.weights_uri, sha256=recipe.weights_sha256)
        if recipe.ssfc_window is not None:
            network.use_local_statistics(recipe.ssfc_window)
        self._device = torch.device(recipe.device)
        self._network: USSFCNet = network.to(self._device)

    @property
    def network(self) -> USSFCNet:
        """The network in eval mode, on the recipe's device."""
        return self._network

    @torch.inference_mode()
    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Compute change probability, ``(N, bands, H, W)`` float32 in [0, 1] to ``(N, H, W)`` float32 in [0, 1]."""
        with _threads(cores()), _without_tf32():
            pair = (to_network_range(torch.from_numpy(image).to(self._device)) for image in (before, after))
            probability: FloatArray = self._network(*pair)[:, 0].cpu().numpy()
        return probability

    @torch.inference_mode()
    def slide(
        self, before: FloatArray, after: FloatArray, patch_size: int, overlap: float, mode: str, at_once: int
    ) -> FloatArray:
        """Compute a whole scene by MONAI's ``sliding_window_inference``: the scene in memory, windows on the device.

        Args:
            before: ``(bands, rows, cols)`` float32 in [0, 1].
            after: the same shape.
            patch_size: side of a window, pixels, a multiple of 16.
            overlap: overlap of neighbouring windows, share of their side.
            mode: MONAI's blend: ``gaussian`` or ``constant``.
            at_once: windows that go through the network together.

        Returns:
            ``(rows, cols)`` float32 in [0, 1].

        Raises:
            ImportError: MONAI is not installed.
        """
        from monai.inferers import sliding_window_inference

        bands = before.shape[0]

        def predictor(window_NBHW: Tensor) -> Tensor:
            pair = to_network_range(window_NBHW)
            probability: Tensor = self._network(pair[:, :bands], pair[:, bands:])
            return probability

        scene = torch.from_numpy(np.concatenate((before, after)))[None]
        with _threads(cores()), _without_tf32():
            answer = sliding_window_inference(
                scene, (patch_size, patch_size), at_once, predictor, overlap, mode,
                sw_device=self._device, device=torch.device("cpu"),
            )  # fmt: skip
        assert isinstance(answer, Tensor)
        probability: FloatArray = answer[0, 0].numpy()
        return probability


def gpu_name() -> str:
    """Return the name of the CUDA device."""
    return str(torch.cuda.get_device_name())


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set the number of threads that operators called from this thread share."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_tf32() -> Iterator[None]:
    matrices = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matrices


def batches(images: FloatArray, size: int) -> list[FloatArray]:
    """Return patches ``(n, bands, patch, patch)`` as batches of ``size``, each patch at least once."""
    count = -(-len(images) // size)
    index = np.arange(count * size) % len(images)
    return [np.ascontiguousarray(images[part]) for part in index.reshape(count, size)]


def answers(predictor: Predictor, before: FloatArray, after: FloatArray) -> FloatArray:
    """Return the change probability of patches, whatever the batch size.

    Args:
        predictor: detector or plain network.
        before: ``(n, bands, patch, patch)`` float32 in [0, 1].
        after: the same shape.

    Returns:
        ``(n, patch, patch)`` float32 in [0, 1].
    """
    size = predictor.batch_size
    predicted = [
        predictor.predict(*pair) for pair in zip(batches(before, size), batches(after, size), strict=True)
    ]
    return np.concatenate(predicted)[: len(before)]


def speed(predictor: Predictor, before: FloatArray, after: FloatArray, seconds: float) -> float:
    """Return pixels a second over patches, with as many callers as the predictor takes side by side.

    Callers start together, and each goes on until the time is over and its last call has ended. Its speed is over its
    own calls and time; the speeds of all are added. A detector that blends tiles on its device has the patches there
    and is given the next tile before it has ended one, as a run does; results come back to the host.

    Args:
        predictor: warm: work that is done once only has been done.
        before: ``(n, bands, patch, patch)`` float32 in [0, 1].
        after: the same shape.
        seconds: wall time of the measurement.

    Returns:
        Pixels of patches a second.
    """
    if isinstance(predictor, TileDetector):
        return _speed_on_device(predictor, before, after, seconds)
    size, streams = predictor.batch_size, predictor.streams
    pairs = list(zip(batches(before, size), batches(after, size), strict=True))
    pixels = size * int(before.shape[-2] * before.shape[-1])
    start = perf_counter()

    def call(first: int) -> float:
        done = 0
        while True:
            predictor.predict(*pairs[(first + done) % len(pairs)])
            done += 1
            elapsed = perf_counter() - start
            if elapsed >= seconds:
                return done * pixels / elapsed

    if streams == 1:
        # In this thread: a new one would not be what a caller of the plain network has.
        return call(0)
    with ThreadPoolExecutor(streams, "ussfc-bench") as pool:
        return sum(pool.map(call, range(streams)))


def _speed_on_device(detector: TileDetector, before: FloatArray, after: FloatArray, seconds: float) -> float:
    count, _, patch, _ = before.shape
    # Whole batches, several to a tile, as a tile of 2048 px has them.
    total = detector.batch_size * max(BATCHES_OF_TILE, -(-count // detector.batch_size))
    corners = [(patch * (number % count), 0) for number in range(total)]
    # The patches one above the other are a tile.
    dates = [np.concatenate(list(image), axis=1) for image in (before, after)]
    uploaded = detector.upload(dates[0], dates[1])
    weights = np.ones((patch, patch), np.float32)

    def begun() -> Pending:
        return detector.blend(uploaded, corners, (0, 0, count * patch, patch), weights)

    start = perf_counter()
    done, under_way = 0, begun()
    while True:
        following = begun()
        under_way.result()
        done, under_way = done + 1, following
        if perf_counter() - start >= seconds:
            under_way.result()
            return float((done + 1) * total * patch * patch / (perf_counter() - start))


def copy_rate(device: str, size: int, seconds: float) -> float:
    """Return the bytes a second that memory gives and takes while a buffer is copied, each counted; all cores.

    Args:
        device: ``cpu`` or ``cuda``.
        size: bytes of the buffer, many times the cache.
        seconds: wall time of the measurement; one copy at least.
    """
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * size / _seconds_of(lambda: target.copy_(source), device, seconds, cores())


def has_arithmetic(device: str, precision: str) -> bool:
    """Return True if a processor computes in a precision itself; without, PyTorch is slower in it than in float32.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: one of :data:`BYTES`.
    """
    if device == "cuda" or precision == "float32":
        return True
    # On one thread: several on a busy machine wait for each other, now and then for long.
    narrow, plain = (
        max(_product_rate(device, kind, TRIAL_SIDE, 0.0, 1) for _ in range(TRIALS))
        for kind in (precision, "float32")
    )
    return narrow > plain


def matrix_rate(device: str, precision: str, seconds: float) -> float:
    """Return floating point operations a second of a large matrix product; all cores, on CUDA without TF32.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: one of :data:`BYTES`.
        seconds: wall time of the measurement; one product at least.
    """
    return _product_rate(device, precision, MATRIX_SIDE[device], seconds, cores())


def _product_rate(device: str, precision: str, side: int, seconds: float, threads: int) -> float:
    matrix = torch.rand(side, side, device=device).to(getattr(torch, precision))
    target = torch.empty_like(matrix)
    operations: int = 2 * side**3
    return operations / _seconds_of(lambda: torch.mm(matrix, matrix, out=target), device, seconds, threads)


def _seconds_of(work: Callable[[], object], device: str, seconds: float, threads: int) -> float:
    """Return the seconds of one piece of work, on CUDA by the device's own clock."""
    with _threads(threads), _without_tf32():
        work()
        done, start = 0, perf_counter()
        if device == "cpu":
            while True:
                work()
                done += 1
                elapsed = perf_counter() - start
                if elapsed >= seconds:
                    return elapsed / done
        total = 0.0
        while True:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            total += float(begin.elapsed_time(end)) / 1000
            done += 1
            if perf_counter() - start >= seconds:
                return total / done


def pixel_flop(network: USSFCNet) -> float:
    """Return the floating point operations of a pixel of a pair: two for each true multiply-accumulate."""
    size: int = 16 * STRIDE
    return 2.0 * efficiency(network, size).macs / (size * size)


def pixel_values(network: USSFCNet) -> float:
    """Return the feature values a pixel of a pair that a well fused network reads from memory or writes to it.

    Every convolution reads its inputs and writes its output once, the three of a CMConv together; norms, SSFC,
    poolings, differences and concatenations happen on the way. A network that fuses convolutions as well, or has the
    maps of a patch in the cache, moves less and may be faster than this allows.
    """
    width = 64 * network.ratio
    # Values of a level's feature map over the pixels of level 1: half as many with every level.
    maps = [width * 0.5**level for level in range(LEVELS)]

    def double_conv(inputs: float, out: float) -> float:
        # Twice: a 1x1 convolution to one half of the output, a CMConv from there to the other half.
        return inputs + 1.5 * out + out + 1.5 * out

    encoder = network.bands + 3 * width
    encoder += sum(double_conv(above, here) for above, here in pairwise(maps))
    # Differences of the skips are taken where they are read, two maps each; so at the lowest level, which has no other.
    decoder = maps[-1]
    decoder += sum(deep + here + double_conv(2 * here + here, here) for here, deep in pairwise(maps))
    return 2 * encoder + decoder + width + 1


def pixel_bytes(network: USSFCNet, precision: str) -> float:
    """Return the bytes of :func:`pixel_values`; a precision that is not in :data:`BYTES` counts as float32."""
    return pixel_values(network) * BYTES.get(precision, BYTES["float32"])
