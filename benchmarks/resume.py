"""Cost of crash safety: a restart of a run that is 99 % done, and the bookkeeping of every tile.

    python benchmarks/resume.py [--tiles-a-side 100] [FOLDER|URI ...]

10,000 tiles of 64 px by a stand-in detector, so that the bookkeeping is as large and the work as small as can be;
then 100 records are taken away, and a new process is timed from its start to the first new tile. Bookkeeping is
everything that `ProbabilityStore.write` does beside the chunk itself (checksum, size, record), over the seconds of
the default network on a tile of 2048 px.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from overheads import repeat

import ussfc
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.types import Box, TileResult

TILE = 64
ONE_RUN = """
import json, sys, time
start = time.time()
sys.path.insert(0, {benchmarks!r})
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.events import Advanced
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run
from stand_in import StandIn
first = []
def subscriber(event):
    if isinstance(event, Advanced) and event.stage == "infer" and not first:
        first.append(time.time() - {began})
if __name__ == "__main__":
    config = load_config(sets=["tiling.tile_size={tile}", "tiling.patch_size=32", "cluster.kind=serial",
                               "threshold=0.9"])
    m = run({before!r}, {after!r}, {out!r}, config, subscriber=subscriber, computation=Computation(StandIn(32)))
    print(json.dumps({{"first": first[0] if first else None, "stages": m.dump()["stages"]}}))
"""


def one_run(before: Path, after: Path, out: str, scratch: Path) -> dict[str, object]:
    script = scratch / "one_run.py"
    code = ONE_RUN.format(
        benchmarks=str(Path(__file__).parent), before=str(before), after=str(after), out=out, tile=TILE,
        began=time.time(),
    )  # fmt: skip
    script.write_text(code, "utf-8")
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def restart(place: str, before: Path, after: Path, scratch: Path, count: int) -> None:
    start = time.perf_counter()
    one_run(before, after, place, scratch)
    whole = time.perf_counter() - start
    out = Folder.of(place)
    store = ProbabilityStore(out / "work")
    indices = sorted(store.records())
    store.forget(indices[:: len(indices) // count][:count])
    out.remove("run.json")
    start = time.perf_counter()
    done = ProbabilityStore(out / "work").records()
    listed = time.perf_counter() - start
    outcome = one_run(before, after, place, scratch)
    print(
        f"{out.address.split('://')[0] if out.local is None else 'local folder'}: {len(indices)} tiles, "
        f"{len(done)} done; whole run {whole:.0f} s; listing what is done {listed:.2f} s; "
        f"start of the process to its first new tile {outcome['first']:.2f} s",
        flush=True,
    )


def bookkeeping() -> None:
    """Print the share of a 2048 px tile's time that goes into checksum, size and record."""
    side, seconds = 2048, []
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (side, side)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        store = ProbabilityStore.create(
            folder, GeoBox((side, 20 * side), Affine.identity(), None), "uint8", side
        )
        for col in range(20):
            core = Box(0, col * side, side, (col + 1) * side)
            start = time.perf_counter()
            store._array[core.slices] = pixels
            chunk = time.perf_counter() - start
            start = time.perf_counter()
            store.write(core, pixels, TileResult((0, col), 100, side * side))
            seconds.append((time.perf_counter() - start - chunk, chunk))
    extra, chunk = (float(np.median(column)) for column in zip(*seconds, strict=True))
    speed = ussfc.find_model("ussfc-s2-rgb").cpu_mpx_per_s
    tile = side * side / 1e6 / speed
    print(
        f"bookkeeping of a 2048 px tile: {1000 * extra:.1f} ms beside {1000 * chunk:.0f} ms for its chunk; the network "
        f"takes {tile:.1f} s of a core ({speed} Mpx/s by the card): {extra / tile:.3%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("places", nargs="*", metavar="FOLDER|URI")
    parser.add_argument("--tiles-a-side", type=int, default=100)
    arguments = parser.parse_args()
    bookkeeping()
    demo = Path(str(resources.files("ussfc.configs").joinpath("demo")))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        pair = scratch / "before.vrt", scratch / "after.vrt"
        for date, target in zip(("before", "after"), pair, strict=True):
            repeat(demo / f"beirut_{date}.tif", target, *[arguments.tiles_a_side * TILE] * 2)
        count = max(1, arguments.tiles_a_side**2 // 100)
        for place in arguments.places or [str(scratch / "out")]:
            restart(place, *pair, scratch, count)


if __name__ == "__main__":
    main()
