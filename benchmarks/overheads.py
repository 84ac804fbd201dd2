"""Memory and time around the network: peak against projection, growth with the scene, start-up.

    python benchmarks/overheads.py [FOLDER] [--sides 4096,16384] [--scenes-only] [--set KEY=VALUE ...]

Scenes are the demo pair repeated by a VRT; the detector is a stand-in, so that the numbers are of the pipeline
alone. One more run with the real network over the demo pair checks that projection too. Every run is a process of
its own; peak memory is the largest resident size of the process tree.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import rasterio

SIDES = "4096,16384"
NETWORK_SIDE = 2048


def repeat(source: Path, target: Path, width: int, height: int) -> None:
    """Write a VRT of this size that repeats a raster without a copy."""
    with rasterio.open(source) as src:
        rows, cols, count = src.height, src.width, src.count
        wkt, transform = src.crs.to_wkt(), ", ".join(repr(v) for v in src.transform.to_gdal())
    bands = []
    for band in range(1, count + 1):
        parts = "".join(
            f'<SimpleSource><SourceFilename relativeToVRT="0">{source}</SourceFilename><SourceBand>{band}</SourceBand>'
            f'<SrcRect xOff="0" yOff="0" xSize="{min(cols, width - x)}" ySize="{min(rows, height - y)}"/>'
            f'<DstRect xOff="{x}" yOff="{y}" xSize="{min(cols, width - x)}" ySize="{min(rows, height - y)}"/>'
            "</SimpleSource>"
            for y in range(0, height, rows)
            for x in range(0, width, cols)
        )
        bands.append(f'<VRTRasterBand dataType="UInt16" band="{band}">{parts}</VRTRasterBand>')
    target.write_text(
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{wkt.replace("<", "&lt;")}</SRS>'
        f"<GeoTransform>{transform}</GeoTransform>{''.join(bands)}</VRTDataset>",
        "utf-8",
    )


ONE_RUN = """
import json, sys
from pathlib import Path
sys.path.insert(0, {benchmarks!r})
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run
from stand_in import StandIn
if __name__ == "__main__":
    config = load_config(sets={sets!r})
    detector = StandIn(128) if {stand_in} else None
    m = run({before!r}, {after!r}, Path({out!r}), config, overwrite=True, computation=Computation(detector))
    print(json.dumps({{k: m.dump()[k] for k in ("peak_memory_bytes", "projected_memory_bytes", "stages", "counts")}}))
"""


def one_run(
    before: Path, after: Path, out: Path, executor: str, stand_in: bool, more: Sequence[str]
) -> dict[str, object]:
    # Tiles of 1024 px give two workers two tiles each of the smaller scene.
    tile = 1024 if executor == "local" else 2048
    sets = [
        f"cluster.kind={executor}",
        f"tiling.tile_size={tile}",
        "threshold=0.7",
        "inputs.vrt_sources=any",
        *more,
    ]
    if executor == "local":
        sets.append("cluster.workers=2")
    code = ONE_RUN.format(
        benchmarks=str(Path(__file__).parent), sets=sets, stand_in=stand_in, before=str(before), after=str(after),
        out=str(out),
    )  # fmt: skip
    start = time.perf_counter()
    # Dask's workers import the main module again, so it must be a file with a guard.
    script = out.with_name("one_run.py")
    script.write_text(code, "utf-8")
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "wall": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=None)
    parser.add_argument("--sides", default=SIDES, help="sides of the scenes for the stand-in, pixels")
    parser.add_argument("--scenes-only", action="store_true", help="leave out the runs with the network")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    sides = [int(side) for side in args.sides.split(",")]
    demo = Path(str(resources.files("ussfc.configs").joinpath("demo")))
    pair = demo / "beirut_before.tif", demo / "beirut_after.tif"
    titles = ("Mpx", "peak MB", "projected", "ratio", "infer s", "mosaic s", "vector s", "wall s")
    print(f"{'run':<32}" + "".join(f"{title:>10}" for title in titles))
    runs = [] if args.scenes_only else [("network, demo pair", pair, "serial", False)]
    folder.mkdir(parents=True, exist_ok=True)
    for side in sides if args.scenes_only else (NETWORK_SIDE, *sides):
        repeated = folder / f"before_{side}.vrt", folder / f"after_{side}.vrt"
        for source, target in zip(pair, repeated, strict=True):
            repeat(source, target, side, side)
        if side == NETWORK_SIDE:
            runs.append((f"network, 2 workers, {side} x {side}", repeated, "local", False))
        else:
            runs.append((f"stand-in, {side} x {side}", repeated, "serial", True))
    for name, (before, after), executor, stand_in in runs:
        m = one_run(before, after, folder / "out", executor, stand_in, args.sets)
        peak, projected = m["peak_memory_bytes"] / 1e6, m["projected_memory_bytes"] / 1e6
        seconds = [m["stages"][stage]["seconds"] for stage in ("infer", "mosaic", "vectorise")]
        numbers = (m["counts"]["pixels"] / 1e6, peak, projected, peak / projected, *seconds, m["wall"])
        print(f"{name:<32}" + "".join(f"{number:>10.2f}" for number in numbers), flush=True)
    best = min(_help_seconds() for _ in range(5))
    print(f"ussfc --help: {best:.2f} s (best of 5)")


def _help_seconds() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ussfc.cli", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
