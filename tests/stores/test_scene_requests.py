"""Number of requests and bytes that a scene on S3 takes."""

from __future__ import annotations

import multiprocessing
import re
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.support.cogs import assert_same, compressed_bytes, opened, write_cog
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import SeaweedFS
from ussfc.pipeline.reading import SceneRecipe, describe_scene, sampling
from ussfc.pipeline.tiling.grid import crop
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.tiling.memory import block_cache
from ussfc.pipeline.types import Box


def header_requests(proxy: FaultProxy, path: str = "") -> int:
    return sum(
        re.match(r"bytes=0-", exchange.range or "") is not None
        for exchange in proxy.log
        if path in exchange.path
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3000 x 3000 px, 512 px blocks, 3 bands of uint16: 40 MB compressed, without its overviews."""
    return write_cog(tmp_path_factory.mktemp("large") / "large.tif", 3000)


def read_by_tiles(recipes: list[SceneRecipe], plan: TilePlan) -> None:
    """Read a pair as a worker does, in the plan's order."""
    readers = [recipe.open() for recipe in recipes]
    for index in plan.indices():
        for reader in readers:
            reader.read(plan.tile(index).halo)


def test_requests_and_bytes_of_a_pair(
    proxied: FaultProxy, seaweed: SeaweedFS, bucket: str, large: Path
) -> None:
    names = ("before.tif", "after.tif")
    with large.open("rb") as content:
        seaweed.client.put_object(Bucket=bucket, Key=names[0], Body=content)
    seaweed.client.copy_object(Bucket=bucket, Key=names[1], CopySource=f"{bucket}/{names[0]}")
    whole = describe_scene(str(large)).geobox
    for roi in (Box(0, 0, 3000, 3000), Box(300, 500, 2800, 2900)):
        grid = crop(whole, roi)
        plan = TilePlan.of((grid.shape[0], grid.shape[1]), 2048, 256, 0.125)
        cache = block_cache(plan, 2 * 3 * 2)
        recipes = [SceneRecipe(f"s3://{bucket}/{name}", grid, (1, 2, 3), "bilinear", cache) for name in names]
        proxied.reset()
        # In a process of its own, as a worker is: GDAL's cache belongs to the process, and other tests have used it.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            process.submit(read_by_tiles, recipes, plan).result()
        for name in names:
            # Two, which must agree; the mask and the blocks' positions ask for nothing more.
            assert header_requests(proxied, name) == 2
        # One for each row of blocks in a tile's halo.
        assert proxied.requests["GET"] <= 2 * (2 + 6 * plan.tile_count)
        assert set(proxied.requests) == {"GET"}
        assert {exchange.path.split("?")[0] for exchange in proxied.log} == {
            f"/{bucket}/{name}" for name in names
        }
        assert proxied.response_bytes <= 1.3 * 2 * compressed_bytes(large, roi)


def test_threads_of_a_process_share_the_header(proxied: FaultProxy, scene: str, local: Path) -> None:
    grid = describe_scene(scene).geobox
    reader, found = opened(scene, grid), {}
    proxied.reset()
    # A thread's handles end with it, and with a handle what GDAL kept of the file.
    together = threading.Barrier(4)

    def read(number: int) -> None:
        found[number] = reader.read(Box(200 * number, 0, 200 * (number + 1), 700))
        together.wait(60)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = opened(local, grid)
    for number, pixels in found.items():
        assert_same(pixels, expected.read(Box(200 * number, 0, 200 * (number + 1), 700)))
    assert len(found) == 4
    assert header_requests(proxied) == 2


def test_the_sample_reads_overviews_alone(
    proxied: FaultProxy, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "SAMPLE_PIXELS", 200_000)
    info = describe_scene(scene)
    reader = opened(scene, info.geobox)
    proxied.reset()
    assert 0.9 < reader.sample().valid.mean() < 1
    size = info.bytes_per_pixel * 1500**2
    assert proxied.response_bytes < 0.3 * size
