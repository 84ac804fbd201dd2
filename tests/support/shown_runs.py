"""Small finished runs that reports and maps are made of."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from tests.support.paths import DEMO
from tests.support.stubs import StubDetector, StubRecipe
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.types import FloatArray

SHAPE = (400, 560)
"""(rows, cols) of the scenes: four tiles of a map, three of them cut."""

CHANGES = ((20, 30, 60, 60), (100, 200, 40, 90), (300, 480, 30, 30), (200, 60, 6, 7))
"""First row, first column, rows and columns of what changes, none twice as large as another."""


@dataclass(frozen=True)
class DifferenceRecipe(StubRecipe):
    """Builds a detector of plain differences: change is where the dates differ, by as much as they do."""

    def build(self) -> StubDetector:
        """Return the detector."""

        class Difference(StubDetector):
            def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
                return np.clip(2 * np.abs(after - before).mean(axis=1), 0, 1).astype(np.float32)

        return Difference(self.patch_size, self.batch_size, self.streams, self.bands)


def write_pair(folder: Path, crs: bool = True) -> tuple[str, str]:
    """Write an image and the same one with changes; a corner of the later one is without data."""
    with rasterio.open(DEMO / "beirut_before.tif") as source:
        before = source.read(window=((0, SHAPE[0]), (0, SHAPE[1])))
        profile = source.profile | {"width": SHAPE[1], "height": SHAPE[0], "nodata": 0}
        tags, descriptions = source.tags(), source.descriptions
    if not crs:
        profile = {name: value for name, value in profile.items() if name not in ("crs", "transform")}
    after = before.copy()
    for place, (row, column, rows, cols) in enumerate(CHANGES):
        part = after[:, row : row + rows, column : column + cols]
        part[:] = np.where(part < 1500, part + 1500 + 200 * place, part - 1200)
    after[:, 350:, :50] = 0
    paths = []
    for date, image in (("before", before), ("after", after)):
        paths.append(str(folder / f"scene_{date}.tif"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(paths[-1], "w", **profile) as target:
                target.write(image)
                target.update_tags(**tags)
                target.descriptions = descriptions
    return paths[0], paths[1]


def make_run(folder: Path, *sets: str, crs: bool = True, pair: tuple[str, str] | None = None) -> Path:
    """Run without the network on both dates, which are written into a folder unless they are given; return OUT."""
    before, after = pair or write_pair(folder, crs)
    chosen = (
        "tiling.tile_size=256",
        "tiling.patch_size=64",
        "cluster.kind=serial",
        "registration=off",
        "threshold=0.15",
        # Every changed pixel is known, those at corners too.
        "output.smoothing=none",
    )
    out = folder / "out"
    run(
        before,
        after,
        out,
        load_config(sets=[*chosen, *sets]),
        computation=Computation(DifferenceRecipe(64, 8, 1, 3)),
    )
    return out


def copied(out: Path, target: Path) -> Path:
    """Return a copy of OUT that may be changed."""
    shutil.copytree(out, target)
    return target
