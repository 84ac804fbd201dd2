"""The answer does not depend on tiles, batches, streams, neighbours or the place of the blending."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.assembly import assemble, scenes
from tests.support.stubs import StubDetector, StubTileDetector, lattice_patches, local_and_mean, window
from ussfc.pipeline.choices import TAPERS, Taper
from ussfc.pipeline.execution.host_computer import HostComputer, PatchCache
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import Box, PixelPair

law = settings(deadline=None, max_examples=60)


@law
@given(
    images=scenes(),
    sizes=st.lists(st.integers(7, 70), min_size=1, max_size=3),
    patch=st.integers(2, 24),
    overlap=st.floats(0, 0.7),
    taper=st.sampled_from(TAPERS),
    batches=st.lists(st.integers(1, 5), min_size=3, max_size=3),
)
def test_tile_size_and_batch_change_no_bit(
    images: PixelPair, sizes: list[int], patch: int, overlap: float, taper: Taper, batches: list[int]
) -> None:
    whole = assemble(images, 100, overlap, taper, StubDetector(patch, 1, bands=2))
    assert (np.isnan(whole) == ~images.valid).all()
    for size, batch in zip(sizes, batches, strict=False):
        cut = assemble(images, size, overlap, taper, StubDetector(patch, batch, bands=2))
        assert cut.tobytes() == whole.tobytes()


@law
@given(images=scenes(), patch=st.integers(2, 24), overlap=st.floats(0, 0.7), tile_size=st.integers(7, 70))
def test_tiles_give_the_mean_over_the_lattice(
    images: PixelPair, patch: int, overlap: float, tile_size: int
) -> None:
    shape = images.valid.shape
    stride = TilePlan.of((shape[0], shape[1]), 1, patch, overlap).stride
    padding = ((0, 0), *((0, max(0, patch - length)) for length in shape))
    before, after = np.pad(images.before, padding, "reflect"), np.pad(images.after, padding, "reflect")
    total, weight = np.zeros(before.shape[1:]), np.zeros(before.shape[1:])
    weights = taper_weights(patch, "hann").astype(np.float64)
    for position in lattice_patches((shape[0], shape[1]), patch, stride):
        part = (slice(None), *position.slices)
        total[position.slices] += weights * local_and_mean(before[part], after[part])
        weight[position.slices] += weights
    expected = (total / weight)[: shape[0], : shape[1]][images.valid]
    found = assemble(images, tile_size, overlap, "hann", StubDetector(patch, 2, bands=2))
    np.testing.assert_allclose(found[images.valid], expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize("streams", [2, 4])
def test_calls_side_by_side_change_no_bit(streams: int) -> None:
    rng = np.random.default_rng(3)
    images = PixelPair(*rng.random((2, 1, 90, 70), dtype=np.float32), rng.random((90, 70)) > 0.2)
    one = assemble(images, 40, 0.25, "hann", StubDetector(16, 3))
    side_by_side = assemble(images, 40, 0.25, "hann", StubDetector(16, 3, streams))
    assert one.tobytes() == side_by_side.tobytes()


@law
@given(
    images=scenes(),
    size=st.integers(7, 70),
    patch=st.integers(2, 24),
    overlap=st.floats(0, 0.7),
    taper=st.sampled_from(TAPERS),
)
def test_device_and_host_blend_the_same_bits(
    images: PixelPair, size: int, patch: int, overlap: float, taper: Taper
) -> None:
    host = assemble(images, size, overlap, taper, StubDetector(patch, 2, bands=2))
    device = assemble(images, size, overlap, taper, StubTileDetector(patch, 2, bands=2))
    assert device.tobytes() == host.tobytes()


@law
@given(
    images=scenes(),
    size=st.integers(7, 40),
    patch=st.integers(2, 24),
    overlap=st.floats(0, 0.7),
    batch=st.integers(1, 3),
    room=st.sampled_from([0, 700, 5000, 10**9]),
    order=st.randoms(use_true_random=False),
)
def test_cached_patches_change_no_bit(
    images: PixelPair, size: int, patch: int, overlap: float, batch: int, room: int, order: random.Random
) -> None:
    plan = TilePlan.of((images.valid.shape[0], images.valid.shape[1]), size, patch, overlap)
    weights = taper_weights(patch, "hann")
    indices = list(plan.indices())
    order.shuffle(indices)
    plain, cached = StubDetector(patch, batch, bands=2), StubDetector(patch, batch, bands=2)
    with_cache = HostComputer(cached, weights, PatchCache(room))
    needed: set[Box] = set()
    for index in indices:
        tile = plan.tile(index)
        expected, count = HostComputer(plain, weights).blend(tile, window(images, tile))
        found, patches = with_cache.blend(tile, window(images, tile))
        assert found.tobytes() == expected.tobytes()
        assert patches == count
        needed.update(each for each in tile.patches if images.valid[each.intersect(tile.core).slices].any())
    assert len(cached.calls) <= len(plain.calls)
    if room == 10**9 and batch == 1:
        assert len(cached.calls) == len(needed)
    if room == 0:
        assert len(cached.calls) == len(plain.calls)
