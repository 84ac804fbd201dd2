"""Effect of patch size, overlap, taper and the extent of SSFC's means on a model's scores, seams and cost.

    python benchmarks/tiling_study.py MODEL DIR --scenes a,b,c --json study.json --figures docs/figures

Every scene is read as for a run and cut by the pipeline's own plan as one tile; the network runs once for each
(extent, patch, overlap), and its patches are blended with every taper by the pipeline's own blender. Scenes smaller
than a patch are left out of that patch size. `--draw` makes the figures again from the JSON alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import ussfc
from ussfc.metrics import Tally
from ussfc.pipeline.choices import TAPERS
from ussfc.pipeline.evaluation.labelled_scenes import ScenePairs, find_scenes
from ussfc.pipeline.execution.computers import open_computer
from ussfc.pipeline.pixels.encoding import encode
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import PixelPair
from ussfc.training.data import LabelledPair
from ussfc.training.recipe import InputSpec

PATCHES = (128, 256, 512, 1024)
OVERLAPS = (0.0, 0.125, 0.25, 0.375, 0.5)
EXTENTS = ("patch", "local")
COLOURS = dict(zip(TAPERS, ("#1b6ca8", "#c8553d", "#2a9d8f", "#777777"), strict=True))


class Recorder:
    """A detector that keeps every answer, and can give them again."""

    def __init__(self, detector: Any) -> None:
        self.detector = detector
        self.bands, self.patch_size = detector.bands, detector.patch_size
        self.batch_size, self.streams = 1, 1
        self.answers: list[np.ndarray] = []
        self.seconds = 0.0
        self.again = False

    def predict(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        if self.again:
            answer = self.answers.pop(0)
            self.answers.append(answer)
            return answer
        start = time.perf_counter()
        self.answers.append(self.detector.predict(before, after))
        self.seconds += time.perf_counter() - start
        return self.answers[-1]


def measure(
    pair: LabelledPair, spec: ussfc.ModelSpec, extent: str, patch: int, overlap: float
) -> list[dict[str, Any]]:
    recipe = ussfc.detector_spec(
        spec, ussfc.DetectorOptions(patch_size=patch, ssfc=extent, device="cpu", batch_size=1, streams=1)
    )
    recorder = Recorder(recipe.build())
    tile = TilePlan.of(pair.shape, max(pair.shape), patch, overlap).tile((0, 0))
    images = PixelPair(pair.before, pair.after, pair.valid)
    rows = []
    for taper in TAPERS:
        probability, patches = open_computer(recorder, taper_weights(patch, taper)).blend(tile, images)
        recorder.again = True
        levels = encode(probability, images.valid, np.dtype(np.uint8))
        tally = Tally.of_levels(levels, pair.label, images.valid)
        rows.append(
            {
                "taper": taper,
                "change": tally.change.tolist(),
                "no_change": tally.no_change.tolist(),
                "jump": border_jump(probability, tile.patches),
            }
        )
    spread, flips, shared = disagreement(tile.patches, recorder.answers, pair.shape, spec.threshold)
    facts = {
        "scene": pair.name,
        "extent": extent,
        "patch": patch,
        "overlap": overlap,
        "patches": patches,
        "seconds": recorder.seconds,
        "spread": spread,
        "flips": flips,
        "shared": shared,
    }
    return [{**facts, **row} for row in rows]


def disagreement(
    patches: Any, answers: list[np.ndarray], shape: tuple[int, int], threshold: float
) -> tuple[float, int, int]:
    """Over pixels that several patches see: summed spread of probability, pixels whose class differs, pixels."""
    low, high, seen = np.full(shape, 2, np.float32), np.full(shape, -1, np.float32), np.zeros(shape, np.uint8)
    for box, answer in zip(patches, answers, strict=True):
        window = box.slices
        part = answer[0][: box.shape[0], : box.shape[1]]
        low[window] = np.minimum(low[window], part)
        high[window] = np.maximum(high[window], part)
        seen[window] += 1
    several = seen > 1
    flips = ((high >= threshold) & (low < threshold))[several].sum()
    return float((high - low)[several].sum()), int(flips), int(several.sum())


def border_jump(probability: np.ndarray, patches: Any) -> float:
    """Mean step of the mosaic across the patches' borders over the mean step elsewhere; 1 where no border shows."""
    ratios = []
    for axis in (0, 1):
        steps = np.abs(np.diff(probability, axis=axis)).mean(axis=1 - axis)
        starts = {(box.y0, box.x0)[axis] for box in patches} | {(box.y1, box.x1)[axis] for box in patches}
        borders = np.array([start - 1 for start in sorted(starts) if 0 < start <= steps.size])
        if borders.size:
            inside = np.ones(steps.size, bool)
            inside[borders] = False
            ratios.append(float(steps[borders].mean() / steps[inside].mean()))
    return float(np.mean(ratios)) if ratios else 1.0


def summarise(rows: list[dict[str, Any]], threshold: float) -> list[dict[str, Any]]:
    """Return one line a combination, over the scenes that every patch size up to 512 has; 1024 stands alone."""
    result = []
    keys = sorted({(r["extent"], r["patch"], r["overlap"], r["taper"]) for r in rows})
    for extent, patch, overlap, taper in keys:
        some = [
            r
            for r in rows
            if (r["extent"], r["patch"], r["overlap"], r["taper"]) == (extent, patch, overlap, taper)
        ]
        tally = Tally(sum(np.array(r["change"]) for r in some), sum(np.array(r["no_change"]) for r in some))
        shared, seconds = sum(r["shared"] for r in some), sum(r["seconds"] for r in some)
        computed = sum(r["patches"] for r in some) * patch**2
        result.append({
            "extent": extent, "patch": patch, "overlap": overlap, "taper": taper,
            "scenes": sorted(r["scene"] for r in some), "f1": tally.at(threshold).f1,
            "best_f1": tally.at(tally.best_threshold()).f1, "ap": tally.average_precision(),
            "spread": sum(r["spread"] for r in some) / shared if shared else None,
            "flips": sum(r["flips"] for r in some) / shared if shared else None,
            "jump": float(np.mean([r["jump"] for r in some])),
            "seconds_per_computed_mpx": seconds / computed * 1e6,
        })  # fmt: skip
    for r in result:
        # The quietest overlap stands for all, and for a scene without end: in a small one the last patches, shifted
        # inward, overlap far more.
        alike = [o for o in result if (o["extent"], o["patch"]) == (r["extent"], r["patch"])]
        r["cost"] = min(o["seconds_per_computed_mpx"] for o in alike) / (1 - r["overlap"]) ** 2
    return result


def draw_overlap(summary: list[dict[str, Any]], folder: Path) -> None:
    from matplotlib.figure import Figure

    colours = {128: "#1b6ca8", 256: "#2a9d8f", 512: "#e9a03b", 1024: "#c8553d"}
    patches = sorted({r["patch"] for r in summary if r["patch"] <= 512})

    def lines(axes: Any, value: str, taper: str) -> None:
        for extent, style in (("patch", "-"), ("local", "--")):
            for patch in patches:
                some = [r for r in summary if (r["extent"], r["patch"], r["taper"]) == (extent, patch, taper)]
                points = [(r["overlap"] * 100, r[value]) for r in some if r[value] is not None]
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=colours[patch],
                    marker="o",
                    markersize=3.5,
                    label=f"{patch} px, {extent}",
                )
        axes.set_xlabel("overlap, %")
        axes.grid(color="#e4e4e4")

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    lines(left, "f1", "hann")
    left.set_ylabel("F1 of the change class")
    lines(middle, "spread", "hann")
    middle.set_ylabel("disagreement in overlaps\n(max - min probability)")
    middle.set_ylim(bottom=0)
    lines(right, "cost", "hann")
    right.set_ylabel("network seconds per Mpx of scene, one core")
    right.set_ylim(bottom=0)
    right.legend(fontsize=7)
    figure.savefig(folder / "tiling_overlap.png", dpi=120)


def draw_taper(summary: list[dict[str, Any]], folder: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    base = min(r["patch"] for r in summary)
    for taper, colour in COLOURS.items():
        some = [r for r in summary if (r["extent"], r["patch"], r["taper"]) == ("patch", base, taper)]
        left.plot(
            [r["overlap"] * 100 for r in some],
            [r["f1"] for r in some],
            "o-",
            color=colour,
            markersize=3.5,
            label=taper,
        )
        right.plot(
            [r["overlap"] * 100 for r in some],
            [r["jump"] for r in some],
            "o-",
            color=colour,
            markersize=3.5,
            label=taper,
        )
    left.set_ylabel(f"F1, {base} px patches")
    right.set_ylabel("step across patch borders / elsewhere")
    for axes in (left, right):
        axes.set_xlabel("overlap, %")
        axes.grid(color="#e4e4e4")
        axes.legend(fontsize=8)
    figure.savefig(folder / "tiling_taper.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", default=None)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--figures", type=Path, default=None)
    parser.add_argument("--patches", default=",".join(map(str, PATCHES)))
    parser.add_argument("--draw", action="store_true")
    args = parser.parse_args()
    spec = ussfc.find_model(args.model)
    if not args.draw:
        inputs = InputSpec(bands=spec.bands, resolution_m=spec.resolution_m, radiometry=spec.radiometry)
        pairs = ScenePairs(find_scenes(args.folder, args.scenes.split(",") if args.scenes else None), inputs)
        rows = []
        for index, name in enumerate(pairs.names):
            pair = pairs.pair(index)
            for patch in map(int, args.patches.split(",")):
                if patch > min(pair.shape):
                    continue
                for overlap in OVERLAPS:
                    # One after the other, so that a busy machine slows both alike.
                    for extent in EXTENTS:
                        rows += measure(pair, spec, extent, patch, overlap)
            print(name, flush=True)
        args.json.write_text(
            json.dumps({"threshold": spec.threshold, "sha256": spec.weights.sha256, "rows": rows})
        )
    study = json.loads(args.json.read_text())
    summary = summarise(study["rows"], study["threshold"])
    print("extent patch overlap taper     F1    best    AP   spread   flips    jump   s/Mpx  scenes")
    for r in summary:
        spread, flips = (f"{r[k]:.4f}" if r[k] is not None else "  -   " for k in ("spread", "flips"))
        print(
            f"{r['extent']:6} {r['patch']:5} {r['overlap']:6.3f} {r['taper']:9} {r['f1']:.4f} {r['best_f1']:.4f} "
            f"{r['ap']:.4f} {spread} {flips} {r['jump']:7.2f} {r['cost']:7.2f}  {len(r['scenes'])}"
        )
    if args.figures:
        draw_overlap(summary, args.figures)
        draw_taper(summary, args.figures)


if __name__ == "__main__":
    main()
