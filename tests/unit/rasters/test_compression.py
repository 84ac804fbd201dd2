"""Blocks are compressed as readers of TIFF expect them, constant ones once."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.rasters import files_under, probabilities, probability_of
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.rasters import compression, tiff
from ussfc.pipeline.rasters.compression import BlockCompressor, CogOptions, deflate


def test_deflate_stores_bytes_or_differences() -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    assert [zlib.decompress(block) for block in deflate(blocks, False)] == [b.tobytes() for b in blocks]
    for block, packed in zip(blocks, deflate(blocks, True), strict=True):
        found = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(16, 16)
        np.testing.assert_array_equal(np.cumsum(found, axis=1, dtype=np.uint8), block)


@pytest.mark.parametrize("side", [16, 128])
def test_bytes_do_not_depend_on_what_was_compressed_before(side: int) -> None:
    """ISA-L's do for a few hundred bytes, in some processes: of these zlib makes the stream."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, 256, 256), dtype=np.uint8)
    blocks = np.kron(rng.integers(0, 9, (40, side // 4, side // 4)), np.ones((4, 4), int)).astype(np.uint8)
    expected = deflate(blocks, False)
    if side == 16:
        assert expected == [zlib.compress(block, 1) for block in blocks]

    def again(number: int) -> bool:
        deflate(noise[number % 4][None], False)
        return deflate(blocks[number % 40][None], False) == [expected[number % 40]]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(again, range(800)))


def test_gdal_compresses_bytes_alike() -> None:
    blocks = np.random.default_rng(1).integers(0, 9, (5, 32, 32), dtype=np.uint8)
    options = CogOptions("deflate", 32)
    by_gdal = compression.compress_with_gdal(blocks.reshape(-1, 32), options, 2)
    ours = deflate(blocks, True)
    assert [zlib.decompress(block) for block in by_gdal] == [zlib.decompress(block) for block in ours]


@pytest.mark.parametrize("kind", ["deflate", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("predictor", ["NO", "YES"])
def test_a_block_does_not_depend_on_others(kind: Any, dtype: str, predictor: Any) -> None:
    rng = np.random.default_rng(2)
    blocks = rng.integers(0, 255, (6, 16, 16)).astype(dtype)
    blocks[[1, 4]] = 7
    blocks[2] = np.nan if dtype == "float32" else 255
    options = CogOptions(kind, 16)
    together = BlockCompressor(np.dtype(dtype), predictor, options)
    alone = [
        BlockCompressor(np.dtype(dtype), predictor, options).compress(block[None])[0] for block in blocks
    ]
    assert together.compress(blocks) == alone
    assert together.compress(blocks[::-1]) == alone[::-1]
    assert alone[1] == alone[4]


def test_constant_blocks_are_compressed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counting(column: Any, options: CogOptions, predictor: int) -> list[bytes]:
        number = len(column) // options.block_size
        made.append(number)
        return [b"block"] * number

    monkeypatch.setattr(compression, "compress_with_gdal", counting)
    compressor = BlockCompressor(np.dtype(np.float32), "YES", CogOptions("zstd", 16))
    blocks = np.full((4, 16, 16), np.nan, np.float32)
    blocks[0, 3, 3] = 1
    for _ in range(2):
        assert compressor.compress(blocks) == [b"block"] * 4
    assert made == [4, 1]


def test_a_block_that_gdal_cut_short_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiff.block_bytes
    monkeypatch.setattr(tiff, "block_bytes", lambda file: whole(file[:-100]))
    with pytest.raises(StoreError, match="TIFF"):
        probability_of(probabilities((600, 700)), tmp_path, CogOptions("zstd"))
    assert files_under(tmp_path) == set()
