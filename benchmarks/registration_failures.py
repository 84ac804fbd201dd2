"""Pairs where registration fails or falls short, as a figure: windows, their shifts, and the verdict.

    python benchmarks/registration_failures.py BEFORE AFTER [--out docs/figures/registration_failures.png]

BEFORE and AFTER are Sentinel-2 scenes (bands red, green, blue, near infrared) on one grid, at least 512 px a side.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from scipy import ndimage

from ussfc import load_config
from ussfc.pipeline.runs.manifest import RegistrationRecord
from ussfc.pipeline.runs.register import register_scenes

SIDE = 512
"""Side of the scenes, pixels."""


def clouded(image: np.ndarray) -> np.ndarray:
    """Return an image of which clouds leave a quarter."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(image.shape[1:]), 18)
    edge = np.quantile(field, 0.25)
    opacity = np.clip((field - edge) / (0.1 * field.std()), 0, 1)
    texture = 6000 + 4000 * ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(field.shape), 3)
    return image * (1 - opacity) + texture * opacity


def bent(image: np.ndarray, pixels: float = 4.0) -> np.ndarray:
    """Return an image that is bent like a bow, by so many pixels from its middle to its left and right edge."""
    rows, cols = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    places = rows - pixels * (2 * cols / (SIDE - 1) - 1) ** 2, cols
    return np.stack([ndimage.map_coordinates(band, places, order=3, mode="nearest") for band in image])


def measured(
    before: np.ndarray, after: np.ndarray, names: tuple[str, ...], folder: Path
) -> RegistrationRecord:
    """Write a pair and register it as ``ussfc register`` does."""
    paths = []
    for date, image in (("before", before), ("after", after)):
        paths.append(str(folder / f"{date}.tif"))
        profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": len(image), "dtype": "uint16"}
        where = {"crs": "EPSG:32630", "transform": Affine(10, 0, 600_000, 0, -10, 5_200_000)}
        with rasterio.open(paths[-1], "w", **profile, **where) as file:
            file.write(np.clip(np.rint(image), 1, 65535).astype(np.uint16))
            file.descriptions = names
    return register_scenes(*paths, load_config()).record


def picture(image: np.ndarray) -> np.ndarray:
    """Return red, green, blue, or one band as grey, for the eye."""
    shown = image[:3] if len(image) >= 3 else image[[0, 0, 0]]
    return np.clip(np.moveaxis(shown, 0, -1) / np.percentile(shown, 97), 0, 1) ** 0.7


def main() -> None:
    """Draw the figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/registration_failures.png"))
    given = parser.parse_args()
    dates = []
    for path in (given.before, given.after):
        with rasterio.open(path) as file:
            dates.append(file.read(window=((0, SIDE), (0, SIDE))).astype(np.float64))
    before, after = dates
    names = ("B04", "B03", "B02", "B08")
    cases = {
        "red against near infrared of one date": (before[[0]], before[[3]], ("",)),
        "clouds over three quarters of AFTER": (before, clouded(after), names),
        "BEFORE bent by 4 px": (before, bent(before), names),
    }
    figure, panels = plt.subplots(1, 3, figsize=(11, 4.5), layout="constrained")
    with tempfile.TemporaryDirectory() as folder:
        # Windows that find nothing in common give shifts as long as the search reaches.
        for axes, magnified, (title, (one, other, bands)) in zip(
            panels, (15, 2, 15), cases.items(), strict=True
        ):
            record = measured(one, other, bands, Path(folder))
            axes.imshow(picture(other), interpolation="antialiased")
            for agrees, colour in ((True, "#33ff66"), (False, "#ff4040")):
                found = [each for each in record.vectors if each.agrees == agrees]
                places = np.array([(each.column + each.size / 2, each.row + each.size / 2) for each in found])
                lengths = np.array([(each.dx, each.dy) for each in found])
                if found:
                    axes.quiver(
                        *places.T, *lengths.T, color=colour, angles="xy", scale_units="xy", scale=1 / magnified,
                        width=0.008, minlength=0, edgecolor="black", linewidth=0.3,
                    )  # fmt: skip
            shift = f"{record.typical_px:.2f} px, {record.agreeing} of {record.windows} windows agree"
            axes.set_title(f"{title} (arrows x {magnified})\n{record.state}: {shift}", fontsize=9)
            axes.set(xticks=[], yticks=[], xlim=(0, SIDE), ylim=(SIDE, 0))
            print(title, record.dump() | {"vectors": len(record.vectors)})
    figure.savefig(given.out, dpi=80, bbox_inches="tight")
    # A third of the bytes; nothing is lost to the eye.
    Image.open(given.out).convert("RGB").quantize(255, Image.Quantize.FASTOCTREE).save(
        given.out, optimize=True
    )


if __name__ == "__main__":
    main()
