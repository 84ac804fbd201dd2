"""Chunks in a bucket that were written again since their records: found by a listing, compared by their content."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from tests.support.fault_proxy import FaultProxy
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import Box, TileResult

GRID = GeoBox((64, 256), Affine(10, 0, 500_000, 0, -10, 4_000_000), "EPSG:32636")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning"),
]


def test_only_chunks_written_again_are_read(proxied: FaultProxy, bucket: str) -> None:
    store = ProbabilityStore.create(f"s3://{bucket}/out/work", GRID, "uint8", 64)
    values = np.random.default_rng(0).integers(0, 255, GRID.shape).astype(np.uint8)
    for col in range(4):
        core = Box(0, 64 * col, 64, 64 * col + 64)
        store.write(core, values[core.slices], TileResult((0, col), 1, core.pixels))
    assert all(record.mark is not None for record in store.records().values())
    proxied.reset()
    assert ProbabilityStore(store.root).damaged(trust_marks=True) == []
    chunks = f"/{bucket}/out/work/{layout.CHUNKS}/"
    assert not [exchange.path for exchange in proxied.log if exchange.path.startswith(chunks)]
    flipped, copied = layout.chunk((0, 1)), layout.chunk((0, 2))
    content = bytearray(store.root.read(flipped))
    content[len(content) // 2] ^= 1
    store.root.write(flipped, bytes(content))
    store.root.write(copied, store.root.read(copied))
    assert ProbabilityStore(store.root).damaged(trust_marks=True) == [(0, 1)]
