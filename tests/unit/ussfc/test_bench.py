"""References of `ussfc bench`: costs of a network, speeds of detectors, MONAI's sliding window."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ussfc
from tests.support.scenes import write_bare_weights
from ussfc import bench
from ussfc.detector import TileDetector
from ussfc.detector_options import DetectorOptions, detector_spec
from ussfc.engines import FloatArray
from ussfc.layers import CyclicMultiScaleConv
from ussfc.network import USSFCNet
from ussfc.pipeline.benchmark.demo_scene import demo_patches

PATCH = 32
PATCHES = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((1, 16, 16), np.float32)


def test_feature_values_are_the_convolutions() -> None:
    """Count by hooks on shapes, and add by hand what the formula takes for fused."""
    bands, ratio, size = 4, 0.25, 64
    with torch.device("meta"), torch.no_grad():
        network = USSFCNet(bands, ratio).eval()
        moved = 0

        def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            nonlocal moved
            moved += inputs[0].numel() + output.numel()

        mixed = [module for module in network.modules() if isinstance(module, CyclicMultiScaleConv)]
        inside = {part for module in mixed for part in module.children()}
        for module in network.modules():
            if (
                isinstance(module, (CyclicMultiScaleConv, nn.ConvTranspose2d, nn.Conv2d))
                and module not in inside
            ):
                module.register_forward_hook(count)
        image = torch.empty(1, bands, size, size)
        network(image, image)
    per_pixel = moved / size**2
    maps = [64 * ratio / 2**level for level in range(5)]
    # A pooled map is read before its pooling; of a difference both maps are read.
    per_pixel += 2 * sum(3 / 4 * above for above in maps[:-1]) + sum(maps)
    assert bench.pixel_values(network) == per_pixel


def test_costs_of_the_network_of_the_paper() -> None:
    network = USSFCNet(3, 0.5)
    assert bench.pixel_flop(network) == 94_304
    assert bench.pixel_bytes(network, "float16") == 2 * bench.pixel_values(network) == 2206
    assert bench.pixel_bytes(network, "float32") == 4412


def test_speed_counts_pixels_of_all_callers() -> None:
    @dataclasses.dataclass
    class Sleeper:
        batch_size: int
        streams: int

        def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
            assert before.shape == (self.batch_size, 1, 16, 16)
            np.testing.assert_array_equal(before, after)
            time.sleep(0.05)
            return before[:, 0]

    for batch, streams in ((1, 1), (2, 1), (2, 4)):
        expected = batch * streams * 256 / 0.05
        found = bench.speed(Sleeper(batch, streams), PATCHES, PATCHES, 0.5)
        assert 0.5 * expected < found <= expected
    assert [batch[:, 0, 0, 0].tolist() for batch in bench.batches(PATCHES, 2)] == [[0, 1], [2, 0]]
    np.testing.assert_array_equal(bench.answers(Sleeper(2, 1), PATCHES, PATCHES), PATCHES[:, 0])


class FakeDevice:
    """A device of one queue that takes 0.05 s a tile."""

    streams = 1

    def __init__(self) -> None:
        self.queue = ThreadPoolExecutor(1)
        self.waiting, self.most = 0, 0

    def run(self, before: FloatArray, after: FloatArray) -> FloatArray:
        raise AssertionError("tiles go to the device, not patches")

    def upload(self, before: FloatArray, after: FloatArray, mappings: None, seen: None) -> object:
        assert mappings is seen is None
        assert before.shape == (1, 48, 16)
        assert before[0, ::16, 0].tolist() == [0, 1, 2]
        np.testing.assert_array_equal(before, after)
        return self

    def blend(self, uploaded: object, corners: Any, core: Any, weights: FloatArray, batch: int) -> Any:
        assert uploaded is self
        assert core == (0, 0, 48, 16)
        assert corners == [(16 * (number % 3), 0) for number in range(16)]
        self.waiting += 1
        self.most = max(self.most, self.waiting)

        def compute() -> FloatArray:
            time.sleep(0.05)
            self.waiting -= 1
            return weights

        return self.queue.submit(compute)


def test_device_gets_the_next_tile_in_advance() -> None:
    device = FakeDevice()
    with device.queue:
        found = bench.speed(TileDetector(device, 1, 16, 2), PATCHES, PATCHES, 0.5)
    expected = 16 * 256 / 0.05
    assert 0.5 * expected < found <= expected
    assert device.most == 2


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_one_window_gives_the_plain_answer(mode: str, tmp_path: Path) -> None:
    pytest.importorskip("monai")
    spec = ussfc.find_model(str(write_bare_weights(tmp_path)))
    plain = bench.PlainNetwork(detector_spec(spec, DetectorOptions(patch_size=PATCH, device="cpu")))
    before, after = (np.concatenate(tuple(image[:2]), axis=-1) for image in demo_patches(spec, PATCH))
    slid = plain.slide(before, after, PATCH, 0.0, mode, 4)
    halves = [
        plain.predict(*(image[None, :, :, part] for image in (before, after)))[0]
        for part in (slice(0, PATCH), slice(PATCH, 2 * PATCH))
    ]
    assert slid.shape == (PATCH, 2 * PATCH)
    np.testing.assert_allclose(slid, np.concatenate(halves, axis=1), atol=1e-5)
    swapped = plain.slide(after, before, PATCH, 0.0, mode, 4)
    assert np.abs(slid - swapped).max() > 1e-4
