"""The figures of a model card: training curves, precision against recall, failures.

    python benchmarks/model_card.py MODEL LOG.csv DIR --scenes a,b,c --figures docs/figures

Failures are the patches with the most falsely claimed and the most missed pixels of each of the first two scenes. The
labels are not drawn: their licence does not let them travel with the code.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import ussfc
from ussfc.metrics import Tally
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.evaluation.labelled_scenes import ScenePairs, find_scenes
from ussfc.pipeline.runs.infer import Computation, infer
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.types import Box
from ussfc.training.pictures import true_colour
from ussfc.training.recipe import InputSpec

CROP = 160


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("log", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", required=True)
    parser.add_argument("--figures", type=Path, required=True)
    args = parser.parse_args()
    spec = ussfc.find_model(args.model)
    config = load_config(flags={"model": args.model})
    inputs = InputSpec(bands=spec.bands, resolution_m=spec.resolution_m, radiometry=spec.radiometry)
    scenes = find_scenes(args.folder, args.scenes.split(","))
    total, failures = Tally.empty(), []
    for number, scene in enumerate(scenes):
        pair = ScenePairs([scene], inputs).pair(0)
        with tempfile.TemporaryDirectory() as folder:
            store = infer(
                plan(str(scene.before), str(scene.after), config),
                Path(folder),
                computation=Computation(fail_fast=True, makes_polygons=False),
            )
            levels = store.read(Box(0, 0, *store.shape))
        total += Tally.of_levels(levels, pair.label, pair.valid)
        claimed = (levels != 255) & (levels >= spec.threshold * 254)
        for kind, wrong in (("claimed", claimed & ~pair.label), ("missed", pair.label & ~claimed)):
            if number < 2:
                failures.append((f"{scene.name}: {kind}", pair, levels, most(wrong & pair.valid)))
    draw_curves(args.log, total, spec, args.figures)
    draw_failures(failures, spec, args.figures)


def draw_curves(log: Path, total: Tally, spec: ussfc.ModelSpec, figures: Path) -> None:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    with log.open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    steps = [row["step"] for row in rows]
    left.plot(steps, [row["f1"] for row in rows], "o-", markersize=3, label="validation F1, best threshold")
    left.plot(
        steps,
        [row["average_precision"] for row in rows],
        "o-",
        markersize=3,
        label="validation average precision",
    )
    left.plot(steps, [row["loss"] for row in rows], "-", color="#999999", label="training loss")
    left.set(xlabel="step", ylim=(0, None))
    left.legend(fontsize=8)
    points = total.curve()
    right.plot([r for _, _, r in points], [p for _, p, _ in points])
    chosen = total.at(spec.threshold)
    right.plot(
        chosen.recall, chosen.precision, "o", label=f"threshold {spec.threshold:g}: F1 {chosen.f1:.3f}"
    )
    right.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(color="#e4e4e4")
    figure.savefig(figures / f"{spec.name}_curves.png", dpi=110)


def draw_failures(failures: list[Any], spec: ussfc.ModelSpec, figures: Path) -> None:
    figure = Figure(figsize=(7.2, 2.5 * len(failures)), layout="constrained")
    grid = figure.subplots(len(failures), 3, squeeze=False)
    for line, (title, pair, levels, (y, x)) in zip(grid, failures, strict=True):
        window = (..., slice(y, y + CROP), slice(x, x + CROP))
        for axes, image, name in zip(
            line,
            (true_colour(pair.before[window]), true_colour(pair.after[window]), levels[window]),
            (f"{title}, before", "after", "probability"),
            strict=True,
        ):
            axes.imshow(image, cmap="magma", vmin=0, vmax=254)
            axes.set_title(name, fontsize=9)
            axes.set_axis_off()
    path = figures / f"{spec.name}_failures.png"
    figure.savefig(path, dpi=100)
    # A palette takes a third of the bytes.
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256).save(path, optimize=True)


def most(wrong: np.ndarray) -> tuple[int, int]:
    """Corner of the window with the most wrong pixels, on a grid of a quarter window."""
    sums = np.pad(wrong.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    places = [
        (y, x)
        for y in range(0, wrong.shape[0] - CROP, CROP // 4)
        for x in range(0, wrong.shape[1] - CROP, CROP // 4)
    ]
    return max(places, key=lambda p: sums[p[0] + CROP, p[1] + CROP] - sums[p[0], p[1] + CROP]
               - sums[p[0] + CROP, p[1]] + sums[p[0], p[1]])  # fmt: skip


if __name__ == "__main__":
    main()
