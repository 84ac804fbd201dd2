"""Speed of reading JPEG 2000 beside its cloud-optimised GeoTIFF: Mpx of a band a second of one core.

Real Sentinel-2 pixels of the demo, mirrored to a band of 4096 x 4096 px in blocks of 1024 as the products have them; in
the lossless coding of the products, and in a lossy one of a third of its size.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil

from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.types import blocks

SIDE = 4096
ROUNDS = 3
CODINGS = {
    "jp2, lossless": {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"},
    "jp2, lossy": {"driver": "JP2OpenJPEG", "QUALITY": "20"},
    "cog, deflate": {"driver": "COG", "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "BLOCKSIZE": "512"},
}


def write_band(folder: Path) -> Path:
    demo = Path(__file__).parents[1] / "configs/demo/beirut_after.tif"
    with rasterio.open(demo) as source:
        pixels, profile = source.read(1), source.profile
    rows, cols = (-(-SIDE // length) for length in pixels.shape)
    mirrored = np.block(
        [[pixels[:: 1 - 2 * (y % 2), :: 1 - 2 * (x % 2)] for x in range(cols)] for y in range(rows)]
    )
    path = folder / "band.tif"
    profile |= {"count": 1, "height": SIDE, "width": SIDE}
    with rasterio.open(path, "w", **profile) as target:
        target.write(mirrored[:SIDE, :SIDE], 1)
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        band = write_band(Path(name))
        files = {}
        for coding, options in CODINGS.items():
            options = dict(options)
            files[coding] = Path(name) / f"{len(files)}.{'jp2' if 'jp2' in coding else 'tif'}"
            block = {"BLOCKXSIZE": "1024", "BLOCKYSIZE": "1024"} if "jp2" in coding else {}
            rasterio.shutil.copy(band, files[coding], driver=options.pop("driver"), **options, **block)
        print(
            "| coding | bytes a pixel | Mpx/s of a core, windows of 1024 px | with halos of 256 px, tiles of 1024 |"
        )
        print("|---|---|---|---|")
        for coding, path in files.items():
            info = describe_scene(str(path))
            speeds = []
            for halo in (0, 256):
                best = 0.0
                for _ in range(ROUNDS):
                    reader = SceneRecipe.of(str(path), info, info.geobox, (1,), "cubic").open()
                    start = time.process_time()
                    for box in blocks((SIDE, SIDE), 1024):
                        wide = type(box)(
                            max(0, box.y0 - halo),
                            max(0, box.x0 - halo),
                            min(SIDE, box.y1 + halo),
                            min(SIDE, box.x1 + halo),
                        )
                        reader.read(wide)
                    best = max(best, SIDE * SIDE / 1e6 / (time.process_time() - start))
                speeds.append(best)
            size = path.stat().st_size / SIDE**2
            print(f"| {coding} | {size:.2f} | {speeds[0]:.1f} | {speeds[1]:.1f} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
