"""F1 against a shift between the dates, with registration off and by default, on labelled pairs.

    python benchmarks/registration_sweep.py DIR [NAME ...] [--model ussfc-s2-rgb] [--out sweep.csv]

DIR holds NAME_before.tif, NAME_after.tif and NAME_label.tif. The later date is displaced by its geotransform alone, so
that no pixel is resampled for the test.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine

from ussfc import load_config, run

SHIFTS = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Displacements on top of the pair's own, pixels."""

DIRECTION = math.radians(30)
"""Direction of the displacement, from the columns' axis."""


def displaced(image: Path, pixels: float, folder: Path) -> Path:
    """Write a copy whose geotransform lies some pixels beside the original's."""
    copy = folder / f"{image.stem}_{pixels:g}.tif"
    rasterio.shutil.copy(image, copy, driver="GTiff")
    with rasterio.open(copy, "r+") as file:
        file.transform = file.transform * Affine.translation(
            pixels * math.cos(DIRECTION), pixels * math.sin(DIRECTION)
        )
    return copy


def confusion(out: Path, label: Path) -> tuple[int, int, int]:
    """Return true positives, false positives and false negatives of a run, on its own grid."""
    with rasterio.open(out / "change.tif") as file, rasterio.open(label) as truth:
        window = rasterio.windows.from_bounds(*file.bounds, transform=truth.transform)
        expected = truth.read(1, window=window.round_offsets().round_lengths(), boundless=True) == 1
        found = file.read(1)
    rows, cols = (min(sides) for sides in zip(found.shape, expected.shape, strict=True))
    found, expected = found[:rows, :cols], expected[:rows, :cols]
    known = found != 255
    return (
        int(np.sum(known & (found == 1) & expected)),
        int(np.sum(known & (found == 1) & ~expected)),
        int(np.sum(known & (found == 0) & expected)),
    )


def draw(table: Path, figure: Path) -> None:
    """Draw the mean F1 over pairs against the displacement, of both modes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    axes = plt.figure(figsize=(6, 3.4), layout="constrained").add_subplot()
    for mode, label in (("off", "registration: off"), ("correct", "default")):
        points = {}
        for row in rows:
            if row["registration"] == mode:
                points.setdefault(float(row["shift_px"]), []).append(float(row["f1"]))
        axes.plot(list(points), [np.mean(values) for values in points.values()], "o-", label=label)
    axes.set_xscale("symlog", base=2, linthresh=0.25)
    axes.set(xlabel="displacement added to the later date, pixels", ylabel="mean F1", ylim=(0, None))
    axes.set_xticks(SHIFTS, [f"{pixels:g}" for pixels in SHIFTS])
    axes.grid(color="#dddddd")
    axes.legend()
    axes.figure.savefig(figure, dpi=110)


def main() -> None:
    """Write a row for each pair, shift and mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--model", default="ussfc-s2-rgb")
    parser.add_argument("--out", type=Path, default=Path("sweep.csv"))
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    names = given.names or sorted(
        path.name.removesuffix("_label.tif") for path in given.folder.glob("*_label.tif")
    )
    with given.out.open("w", newline="") as file, tempfile.TemporaryDirectory() as scratch:
        rows = csv.writer(file)
        rows.writerow(("pair", "shift_px", "registration", "state", "found_px", "left_px", "f1"))
        for name in names:
            for pixels in SHIFTS:
                after = displaced(given.folder / f"{name}_after.tif", pixels, Path(scratch))
                for mode in ("off", "correct"):
                    config = load_config(sets=[f"registration={mode}", f"model={given.model}"])
                    out = Path(scratch) / f"{name}-{pixels:g}-{mode}"
                    record = run(str(given.folder / f"{name}_before.tif"), str(after), out, config)
                    right, wrong, missed = confusion(out, given.folder / f"{name}_label.tif")
                    f1 = 2 * right / max(1, 2 * right + wrong + missed)
                    found = record.registration
                    rows.writerow(
                        (name, pixels, mode, found.state, found.typical_px, found.left_px, round(f1, 4))
                    )
                    file.flush()
    if given.figure is not None:
        draw(given.out, given.figure)


if __name__ == "__main__":
    main()
