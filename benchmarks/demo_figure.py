"""Draw docs/figures/demo.png from a finished `ussfc demo` (needs matplotlib).

python benchmarks/demo_figure.py OUT docs/figures/demo.png
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import geopandas
import matplotlib as mpl
import numpy as np
import rasterio

mpl.use("Agg")
import matplotlib.pyplot as plt


def colour(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        image = source.read((1, 2, 3)).astype(float)
    low, high = np.percentile(image, (1, 98), axis=(1, 2))
    return np.moveaxis(np.clip((image - low[:, None, None]) / (high - low)[:, None, None], 0, 1), 0, -1)


def main() -> None:
    out, target = Path(sys.argv[1]), Path(sys.argv[2])
    demo = Path(str(resources.files("ussfc.configs").joinpath("demo")))
    with rasterio.open(out / "probability.tif") as source:
        probability = source.read(1, masked=True) / 254
        bounds = source.bounds
        to_pixels = ~source.transform
    polygons = geopandas.read_parquet(out / "changes.parquet").affine_transform(
        [to_pixels.a, to_pixels.b, to_pixels.d, to_pixels.e, to_pixels.c, to_pixels.f]
    )
    figure, axes = plt.subplots(1, 4, figsize=(16, 4.4), layout="constrained")
    after = colour(demo / "beirut_after.tif")
    for axis, (title, image, cmap) in zip(
        axes,
        (
            ("before", colour(demo / "beirut_before.tif"), None),
            ("after", after, None),
            ("probability of change", probability, "magma"),
            ("polygons", after, None),
        ),
        strict=True,
    ):
        axis.imshow(image, cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
    limits = axes[3].get_xlim(), axes[3].get_ylim()
    polygons.boundary.plot(ax=axes[3], color="#ff0040", linewidth=1)
    axes[3].set(xlim=limits[0], ylim=limits[1], aspect="equal")
    figure.savefig(target, dpi=80)
    print(f"{target}: {len(polygons)} polygons, {bounds}")


if __name__ == "__main__":
    main()
