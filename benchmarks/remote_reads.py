"""Requests and bytes of reading a pair from S3: order of tiles, cache, workers.

    PYTHONPATH=. python benchmarks/remote_reads.py [SIDE]

Two images of SIDE x SIDE px (the demo image repeated with noise, 3 bands of uint16, cloud optimised, blocks of
512 px) lie on a SeaweedFS of its own behind a proxy that counts. Each line reads every tile of a plan (2048 px,
patches of 256 px, 12.5 % overlap) with its halo, as the executors do, in processes of their own. `factor` is the
bytes that came over the compressed bytes of all blocks; 1 would be every block once. `peak MB` is the largest
resident size of one worker.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from odc.geo.geobox import GeoBox

from tests.support.cogs import compressed_bytes, write_cog
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import SeaweedFS
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.tiling.memory import GDAL_CACHE, block_cache
from ussfc.pipeline.types import Box

Indices = list[tuple[int, int]]
BUCKET = "scenes"


def by_rows(plan: TilePlan) -> Indices:
    return sorted(plan.indices())


def interleaved(indices: Indices, workers: int) -> list[Indices]:
    """Return the tiles that workers of the same speed get from one queue."""
    return [indices[worker::workers] for worker in range(workers)]


def in_parts(indices: Indices, workers: int) -> list[Indices]:
    """Cut the order into one band of tiles for each worker."""
    ends = [len(indices) * worker // workers for worker in range(workers + 1)]
    return [indices[start:stop] for start, stop in itertools.pairwise(ends)]


def work(
    variables: dict[str, str], grid: GeoBox, plan: TilePlan, indices: Indices, cache: int, peaks: Any
) -> None:
    os.environ.update(variables)
    uris = [f"s3://{BUCKET}/{name}.tif" for name in ("before", "after")]
    readers = [SceneRecipe(uri, grid, (1, 2, 3), "bilinear", cache).open() for uri in uris]
    for index in indices:
        for reader in readers:
            reader.read(plan.tile(index).halo)
    lines = Path("/proc/self/status").read_text().splitlines()
    peaks.put(next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM")))


def measure(
    name: str,
    server: SeaweedFS,
    grid: GeoBox,
    plan: TilePlan,
    parts: list[Indices],
    cache: int,
    compressed: int,
) -> None:
    context = multiprocessing.get_context("spawn")
    with FaultProxy(server.endpoint) as proxy:
        variables = server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint}
        peaks = context.Queue()
        start = time.perf_counter()
        workers = [
            context.Process(target=work, args=(variables, grid, plan, part, cache, peaks)) for part in parts
        ]
        for worker in workers:
            worker.start()
        peak = max(peaks.get() for _ in workers)
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - start
        tally = proxy.tally
    headers = sum((exchange.range or "").startswith("bytes=0-") for exchange in tally.log)
    print(
        f"{name:<44}{cache / 1e6:>8.0f}{tally.requests['GET']:>9}{headers:>9}{tally.response_bytes / 1e6:>10.1f}"
        f"{tally.response_bytes / compressed:>9.3f}{peak:>9.0f}{seconds:>8.1f}",
        flush=True,
    )


def main() -> None:
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 12_000
    with tempfile.TemporaryDirectory() as folder:
        path = write_cog(Path(folder) / "scene.tif", side)
        grid = describe_scene(str(path)).geobox
        compressed = 2 * compressed_bytes(path, Box(0, 0, side, side))
        plan = TilePlan.of((side, side), 2048, 256, 0.125)
        cache = block_cache(plan, 2 * 3 * 2)
        with SeaweedFS(Path(folder) / "store") as server:
            server.make_bucket(BUCKET)
            for name in ("before", "after"):
                with path.open("rb") as content:
                    server.client.put_object(Bucket=BUCKET, Key=f"{name}.tif", Body=content)
            print(
                json.dumps(
                    {"side": side, "tiles": plan.tile_count, "compressed_mb": round(compressed / 1e6, 1)}
                )
            )
            titles = ("cache MB", "GETs", "headers", "MB", "factor", "peak MB", "s")
            print(
                f"{'':<44}"
                + "".join(f"{t:>{w}}" for t, w in zip(titles, (8, 9, 9, 10, 9, 9, 8), strict=True))
            )
            strips = list(plan.indices())
            runs = [
                ("1 worker, row by row", [by_rows(plan)], GDAL_CACHE),
                ("1 worker, strips", [strips], GDAL_CACHE),
                ("1 worker, strips", [strips], cache),
                ("2 workers from one queue", interleaved(strips, 2), cache),
                ("2 workers, a part of the order each", in_parts(strips, 2), cache),
                ("4 workers from one queue", interleaved(strips, 4), cache),
                ("4 workers, a part of the order each", in_parts(strips, 4), cache),
            ]
            for name, parts, size in runs:
                measure(name, server, grid, plan, parts, size, compressed)


if __name__ == "__main__":
    main()
