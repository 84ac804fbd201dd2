"""Scores of a model by what is averaged in the network, and by what smooths its map.

    python benchmarks/quality.py MODEL DIR --scenes a,b,c

Every scene goes through the pipeline once for each of the eight orientations of a patch and each order of the dates.
The averages of these maps are scored as `ussfc evaluate` scores: F1 at the card's threshold and at the best one,
average precision, and the number of regions at the card's threshold. Needs scikit-image, as the tests do.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.filters import apply_hysteresis_threshold
from skimage.measure import label

import ussfc
from ussfc.metrics import Confusion, Tally
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.evaluation.labelled_scenes import ScenePairs, find_scenes
from ussfc.pipeline.pixels.encoding import encode
from ussfc.pipeline.pixels.smoothing import median3, with_rim
from ussfc.pipeline.runs.infer import Computation, infer
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.types import Box, Detector, DetectorSpec, FloatArray
from ussfc.training.recipe import InputSpec

View = tuple[int, bool, bool]
"""Quarter turns, mirrored, dates swapped."""

VIEWS: tuple[View, ...] = tuple(
    (turns, mirrored, swapped)
    for swapped in (False, True)
    for mirrored in (False, True)
    for turns in range(4)
)

AVERAGES: dict[str, Sequence[View]] = {
    "one": VIEWS[:1],
    "dates swapped": [view for view in VIEWS if view[:2] == (0, False)],
    "half turn": [VIEWS[0], VIEWS[2]],
    "mirrored": [VIEWS[0], VIEWS[4]],
    "four turns": VIEWS[:4],
    "half turns, mirrored": [VIEWS[0], VIEWS[2], VIEWS[4], VIEWS[6]],
    "half turn, dates swapped": [VIEWS[0], VIEWS[2], VIEWS[8], VIEWS[10]],
    "eight orientations": VIEWS[:8],
    "eight orientations, dates swapped": VIEWS,
}

Levels = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class ViewSpec:
    """A detector that looks at every patch in one orientation."""

    spec: DetectorSpec
    view: View

    @property
    def identity(self) -> str:
        return f"{self.spec.identity} view={self.view}"

    @property
    def patch_size(self) -> int:
        return self.spec.patch_size

    def build(self, streams: int | None = None) -> Detector:
        return ViewDetector(self.spec.build(streams), self.view)  # type: ignore[call-arg, return-value]


class ViewDetector:
    def __init__(self, detector: Detector, view: View) -> None:
        self._detector, self._view = detector, view

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        turns, mirrored, swapped = self._view
        pair = [np.rot90(image, turns, (-2, -1)) for image in (before, after)]
        pair = [np.ascontiguousarray(image[..., ::-1] if mirrored else image) for image in pair]
        found = self._detector.predict(*(pair[::-1] if swapped else pair))
        turned: FloatArray = np.rot90(found[..., ::-1] if mirrored else found, -turns, (-2, -1))
        return np.ascontiguousarray(turned)


def median(levels: Levels) -> Levels:
    return median3(with_rim(levels)).astype(np.uint8)


def plain(levels: Levels, threshold: float) -> Classes:
    return (levels != 255) & (levels >= threshold * 254)


def hysteresis(low: float) -> Callable[[Levels, float], Classes]:
    def cut(levels: Levels, threshold: float) -> Classes:
        numbers = np.where(levels == 255, 0, levels / 254)
        return np.asarray(apply_hysteresis_threshold(numbers, low * threshold, threshold))

    return cut


SMOOTHINGS: dict[str, tuple[Callable[[Levels], Levels], Callable[[Levels, float], Classes]]] = {
    "none": (lambda levels: levels, plain),
    "median 3 x 3": (median, plain),
    "median 3 x 3 twice": (lambda levels: median(median(levels)), plain),
    "hysteresis from 0.8": (lambda levels: levels, hysteresis(0.8)),
    "hysteresis from 0.5": (lambda levels: levels, hysteresis(0.5)),
    "median, hysteresis from 0.8": (median, hysteresis(0.8)),
    "median, hysteresis from 0.5": (median, hysteresis(0.5)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", required=True)
    args = parser.parse_args()
    model = ussfc.find_model(args.model)
    inputs = InputSpec(bands=model.bands, resolution_m=model.resolution_m, radiometry=model.radiometry)
    config = load_config(flags={"model": args.model, "output.probability_dtype": "float32"})
    scenes = []
    for scene in find_scenes(args.folder, args.scenes.split(",")):
        pair = ScenePairs([scene], inputs, config).pair(0)
        planned = plan(str(scene.before), str(scene.after), config)
        spec = ussfc.detector_spec(model, ussfc.DetectorOptions(streams=planned.threads))
        maps = {}
        for view in VIEWS:
            with tempfile.TemporaryDirectory() as folder:
                computation = Computation(ViewSpec(spec, view), True, makes_polygons=False)  # type: ignore[arg-type]
                store = infer(planned, Path(folder), computation=computation)
                maps[view] = store.read(Box(0, 0, *store.shape))
        scenes.append((pair, maps))
    print(f"{args.model} at {model.threshold:g} on {args.scenes}")
    print("| averaged | smoothed | precision | recall | F1 | best F1 | average precision | regions |")
    print("|---|---|---|---|---|---|---|---|")
    for averaged, views in AVERAGES.items():
        for smoothed, (smooth, cut) in SMOOTHINGS.items():
            total, tally, regions = Confusion(), Tally.empty(), 0
            for pair, maps in scenes:
                mean = np.mean([maps[view] for view in views], axis=0, dtype=np.float64).astype(np.float32)
                levels = smooth(encode(mean, ~np.isnan(mean), np.dtype(np.uint8)).astype(np.uint8))
                valid = np.ones(pair.shape, bool) if pair.valid is None else pair.valid
                valid = valid & (levels != 255)
                changed = cut(levels, model.threshold)
                regions += int(np.max(label(changed, connectivity=1)))
                total += Confusion.of(changed[valid], pair.label[valid])
                tally += Tally.of_levels(levels, pair.label, valid)
            numbers = (total.precision, total.recall, total.f1)
            ranked = (tally.at(tally.best_threshold()).f1, tally.average_precision())
            shown = numbers + (ranked if cut is plain else ())
            cells = [f"{number:.4f}" for number in shown] + ["", ""] * (cut is not plain)
            print(f"| {averaged} | {smoothed} | {' | '.join(cells)} | {regions} |")


if __name__ == "__main__":
    main()
