"""F1 against gains, offsets, haze, season and clouds in one date, with several settings, on labelled pairs.

    python benchmarks/radiometry_sweep.py DIR [NAME ...] [--model ussfc-s2-rgb] [--out radiometry.csv]

DIR holds NAME_before.tif, NAME_after.tif (bands red, green, blue, near infrared of Sentinel-2, reflectance x 10000) and
NAME_label.tif. What is injected goes into the later date, unless its name ends in "earlier".
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from registration_sweep import confusion
from scipy import ndimage

from ussfc import load_config, run
from ussfc.pipeline.errors import ReadError

OFF = ("registration=off", "radiometry=model", "force=true")
"""No stage that looks at the inputs and mends them."""

MATCH = ("radiometry=match",)

HAZE = np.array([150, 250, 400, 60], np.float32)[:, None, None]
"""Numbers that haze adds to red, green, blue and near infrared."""

CLOUD = 6000
"""Number of a thick cloud in each band."""


def season(image: np.ndarray) -> np.ndarray:
    """Let plants dry: brighter in visible light, darker in the near infrared, by the vegetation index."""
    red, infrared = image[0], image[3]
    index = np.clip((infrared - red) / np.maximum(1, infrared + red), 0, 1)
    return image * np.stack([1 + 0.5 * index] * 3 + [1 - 0.4 * index])


def cloud_cover(shape: tuple[int, int], share: float) -> np.ndarray:
    """Return the opacity of clouds with soft edges over a share of the image, 0 to 1."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 25, mode="wrap")
    edge = np.quantile(field, 1 - share)
    return np.clip((field - edge) / (0.15 * field.std()), 0, 1).astype(np.float32)


def clouded(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that pastes clouds over a share of an image."""

    def paste(image: np.ndarray) -> np.ndarray:
        opacity = cloud_cover(image.shape[1:], share)
        return image * (1 - opacity) + CLOUD * opacity

    return paste


INJECTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda image: image,
    "gain 0.8": lambda image: 0.8 * image,
    "gain 1.2": lambda image: 1.2 * image,
    "offset -500": lambda image: image - 500,
    "offset -1000": lambda image: image - 1000,
    "offset +500": lambda image: image + 500,
    "offset +1000": lambda image: image + 1000,
    "offset +1000, earlier": lambda image: image + 1000,
    "haze": lambda image: 0.95 * image + HAZE,
    "thick haze": lambda image: 0.85 * image + 2.5 * HAZE,
    "season": season,
    "clouds 5 %": clouded(0.05),
    "clouds 20 %": clouded(0.2),
}


def settings(name: str, mask: Path) -> dict[str, tuple[str, ...]]:
    """Return the settings that a change of the later date is computed with, by their names."""
    found = {"off": OFF, "default": (), "match": MATCH}
    if name == "offset +1000":
        found["after.offset"] = ("after.offset=-1000",)
    if name.startswith("clouds"):
        found["mask"] = (f"masks.after={mask}", "masks.kind_after=nonzero")
    return found


def changed(image: Path, name: str, folder: Path) -> tuple[Path, Path]:
    """Write a changed copy of an image, and a mask of its clouds where it has any."""
    copy, mask = folder / "changed.tif", folder / "clouds.tif"
    with rasterio.open(image) as file:
        profile, pixels, bands = file.profile, file.read().astype(np.float32), file.descriptions
    with rasterio.open(copy, "w", **profile) as file:
        file.write(np.clip(np.rint(INJECTIONS[name](pixels)), 1, 65535).astype(np.uint16))
        file.descriptions = bands
    if name.startswith("clouds"):
        opacity = cloud_cover(pixels.shape[1:], float(name.split()[1]) / 100)
        with rasterio.open(mask, "w", **{**profile, "count": 1, "dtype": "uint8"}) as file:
            file.write((opacity > 0).astype(np.uint8), 1)
    return copy, mask


def main() -> None:
    """Write a row for each pair, change and setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--model", default="ussfc-s2-rgb")
    parser.add_argument("--injected", nargs="*", default=list(INJECTIONS), choices=INJECTIONS)
    parser.add_argument("--out", type=Path, default=Path("radiometry.csv"))
    given = parser.parse_args()
    names = given.names or sorted(
        path.name.removesuffix("_label.tif") for path in given.folder.glob("*_label.tif")
    )
    with given.out.open("w", newline="") as file, tempfile.TemporaryDirectory() as scratch:
        rows = csv.writer(file)
        rows.writerow(("pair", "injected", "setting", "f1", "warnings"))
        for name in names:
            for injected in given.injected:
                dates = [given.folder / f"{name}_{date}.tif" for date in ("before", "after")]
                own = 0 if injected.endswith("earlier") else 1
                dates[own], mask = changed(dates[own], injected, Path(scratch))
                for setting, sets in settings(injected, mask).items():
                    config = load_config(sets=[f"model={given.model}", *sets])
                    out = Path(scratch) / f"{name}-{injected}-{setting}"
                    try:
                        record = run(str(dates[0]), str(dates[1]), out, config)
                    except ReadError as error:
                        rows.writerow((name, injected, setting, "refused", str(error)))
                        continue
                    right, wrong, missed = confusion(out, given.folder / f"{name}_label.tif")
                    f1 = 2 * right / max(1, 2 * right + wrong + missed)
                    rows.writerow((name, injected, setting, round(f1, 4), " | ".join(record.warnings)))
                    file.flush()


if __name__ == "__main__":
    main()
