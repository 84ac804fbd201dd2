"""Tiles on the host: the calls of the network, and the patches that are kept for neighbours."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.assembly import assemble
from tests.support.stubs import StubDetector, local_and_mean, window
from tests.support.tile_runs import PLAN
from ussfc.pipeline.execution.errors import TileCancelled
from ussfc.pipeline.execution.host_computer import HostComputer, PatchCache
from ussfc.pipeline.pixels.radiometry import MIDDLE
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, PixelPair


def computer(detector: StubDetector) -> HostComputer:
    """Without a cache."""
    return HostComputer(detector, taper_weights(16, "hann"))


def test_failure_in_a_stream_is_raised() -> None:
    class Failing(StubDetector):
        def predict(
            self, before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]
        ) -> npt.NDArray[np.float32]:
            raise RuntimeError("no memory")

    images = PixelPair(*np.zeros((2, 1, 70, 100), np.float32), np.ones((70, 100), np.bool_))
    tile = PLAN.tile((0, 0))
    with pytest.raises(RuntimeError, match="no memory"):
        computer(Failing(16, 1, 2)).blend(tile, window(images, tile))


def test_tile_without_valid_pixels_costs_no_call() -> None:
    images = PixelPair(*np.full((2, 1, 70, 100), MIDDLE, np.float32), np.zeros((70, 100), np.bool_))
    images.valid[:, 32:] = True  # in the halo, not in the core
    detector = StubDetector()
    tile = PLAN.tile((0, 0))
    assert tile.halo.x1 > tile.core.x1 == 32
    probability, patches = computer(detector).blend(tile, window(images, tile))
    assert detector.calls == []
    assert patches == 0
    assert probability.shape == (32, 32)


def test_one_valid_pixel_costs_its_patches() -> None:
    images = PixelPair(*np.full((2, 1, 70, 100), MIDDLE, np.float32), np.zeros((70, 100), np.bool_))
    images.valid[14, 14] = True
    detector = StubDetector(16, 1)
    tile = PLAN.tile((0, 0))
    _, patches = computer(detector).blend(tile, window(images, tile))
    assert patches == len(detector.calls) == 4


def test_last_batch_is_padded() -> None:
    images = PixelPair(*np.zeros((2, 1, 16, 16), np.float32), np.ones((16, 16), np.bool_))
    images.after[:] = 1
    plan = TilePlan.of((16, 16), 64, 16, 0.25)
    detector = StubDetector(16, 8)
    probability, patches = computer(detector).blend(plan.tile((0, 0)), images)
    assert (patches, len(detector.calls)) == (1, 1)
    np.testing.assert_allclose(probability, 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 3), (5, 7), (15, 16)])
def test_small_scene_is_mirrored(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    images = PixelPair(*rng.random((2, 2, *shape), dtype=np.float32), np.ones(shape, np.bool_))
    found = assemble(images, 100, 0, "box", StubDetector(16, 2, bands=2))
    assert np.isfinite(found).all()
    if max(shape) <= 16:
        padding = ((0, 0), (0, 16 - shape[0]), (0, 16 - shape[1]))
        mirrored = [np.pad(image, padding, "reflect") for image in (images.before, images.after)]
        expected = local_and_mean(mirrored[0], mirrored[1])[: shape[0], : shape[1]]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def patch_at(number: int, side: int = 4) -> Box:
    return Box(number, 0, number + side, side)


def test_cache_drops_least_recently_used() -> None:
    # Room for three patches of 4 x 4 float32.
    cache = PatchCache(room=3 * 64)
    answers = [np.full((4, 4), number, np.float32) for number in range(5)]
    for number in range(3):
        cache.keep(patch_at(number), answers[number])
    # The whole batch is not held by one of its patches, and may be written over.
    answers[0][:] = 9
    answers[0] = np.zeros((4, 4), np.float32)
    assert np.array_equal(cache.find(patch_at(0)), answers[0])
    cache.keep(patch_at(3), answers[3])
    assert cache.find(patch_at(1)) is None
    for number in (2, 0, 3):
        assert np.array_equal(cache.find(patch_at(number)), answers[number])
    cache.keep(patch_at(4), answers[4])
    assert [number for number in range(5) if cache.find(patch_at(number)) is not None] == [0, 3, 4]


@pytest.mark.parametrize(("room", "kept"), [(0, []), (63, []), (64, [2]), (127, [2]), (128, [1, 2])])
def test_cache_keeps_to_its_room(room: int, kept: list[int]) -> None:
    cache = PatchCache(room)
    for number in range(3):
        cache.keep(patch_at(number), np.zeros((4, 4), np.float32))
    assert [number for number in range(3) if cache.find(patch_at(number)) is not None] == kept
    # What is larger than the room does not stay.
    cache.keep(patch_at(9), np.zeros((99, 99), np.float32))
    assert cache.find(patch_at(9)) is None


def test_patch_kept_again_counts_once() -> None:
    cache = PatchCache(room=2 * 64)
    for number in (0, 1, 1, 1):
        cache.keep(patch_at(number), np.full((4, 4), number, np.float32))
    for number in (0, 1):
        found = cache.find(patch_at(number))
        assert found is not None
        assert found[0, 0] == number


@pytest.mark.parametrize("streams", [1, 2])
def test_tile_is_given_up_between_batches(streams: int) -> None:
    stop = threading.Event()

    class Stopping(StubDetector):
        def predict(
            self, before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]
        ) -> npt.NDArray[np.float32]:
            found = super().predict(before, after)
            if len(self.calls) >= 3:
                stop.set()
            return found

    images = PixelPair(*np.zeros((2, 1, 70, 100), np.float32), np.ones((70, 100), np.bool_))
    tile = PLAN.tile((1, 1))
    detector = Stopping(16, 1, streams)
    with pytest.raises(TileCancelled):
        computer(detector).blend(tile, window(images, tile), stop)
    # Another stream may be in the middle of a batch.
    assert 3 <= len(detector.calls) <= 2 + streams < len(tile.patches)
    # What was computed of it is not taken for a neighbour's.
    detector.calls.clear()
    with pytest.raises(TileCancelled):
        computer(detector).blend(tile, window(images, tile), stop)
    assert detector.calls == []
