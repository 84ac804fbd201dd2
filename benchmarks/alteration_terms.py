"""Fit the terms of IR-MAD beside a network (`alteration` in a model's card) on scenes that the network has not seen.

    python benchmarks/alteration_terms.py --data DIR --fold CARD=SCENE,SCENE --fold CARD=SCENE,SCENE ...

Each fold names the card of a network and the scenes of DIR that it was trained without. Terms and threshold for the
scenes of a fold come from all other folds; those of a card from all of them. Every scene weighs the same. F1, area and
calibration at the threshold of a card are those of `ussfc evaluate` with the terms of the fold in its card.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_expit

import ussfc
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.evaluation.labelled_scenes import LabelledScene, ScenePairs, find_scenes
from ussfc.pipeline.pixels.alteration import Alteration, CombinedOdds
from ussfc.pipeline.pixels.binomial_blur import blur_radius
from ussfc.pipeline.pixels.encoding import encode
from ussfc.pipeline.pixels.smoothing import median3, with_rim
from ussfc.pipeline.runs.infer import Computation, infer
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.types import PROBABILITY_STEPS, BoolArray, Box, FloatArray, PixelPair
from ussfc.training.crops import as_unit_range
from ussfc.training.recipe import InputSpec

Array = npt.NDArray[np.float64]

THRESHOLDS = np.arange(1, PROBABILITY_STEPS) / PROBABILITY_STEPS
"""Thresholds that are tried."""


@dataclass(frozen=True)
class Scene:
    """A scene that its fold's network has not seen."""

    name: str
    fold: int
    probability: FloatArray
    """Of the network, (rows, cols)."""
    log_distance: FloatArray
    """Of IR-MAD, (rows, cols)."""
    label: BoolArray
    valid: BoolArray

    def levels(self, terms: Array, combine: bool = True) -> npt.NDArray[np.uint8]:
        """Return the smoothed levels of a run."""
        unused = Alteration((), (), 0.0)
        odds = CombinedOdds(unused, float(terms[0]), float(terms[1]), float(terms[2]), 1.0, 4)
        found = odds.combine(self.probability, self.log_distance) if combine else self.probability
        stored = encode(found, self.valid, np.dtype(np.uint8))
        return np.asarray(median3(with_rim(stored)), np.uint8)


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--fold", action="append", required=True)
    parser.add_argument("--blur", type=float, default=2.0)
    arguments = parser.parse_args()
    scenes = [
        read(scene, card, number, arguments.blur)
        for number, (card, names) in enumerate(fold.split("=") for fold in arguments.fold)
        for scene in find_scenes(arguments.data, names.split(","))
    ]
    ones = np.ones(3)
    print("scene: AP of the network, of both; F1 of the network at its card's threshold, of both with terms and "
          "threshold of the other folds; area claimed over area labelled")  # fmt: skip
    counted: list[tuple[float, float]] = []
    totals = np.zeros((2, 3))
    for fold, (card, _) in enumerate(each.split("=") for each in arguments.fold):
        others = [scene for scene in scenes if scene.fold != fold]
        terms = fit(others)
        threshold = best_threshold(others, terms)
        print(f"fold {fold}: network {terms[0]:.3f}, distance {terms[1]:.3f}, offset {terms[2]:.3f}, "
              f"threshold {threshold:.3f}")  # fmt: skip
        for scene in (scene for scene in scenes if scene.fold == fold):
            alone, both = scene.levels(ones, combine=False), scene.levels(terms)
            counts = np.array([
                confusion(scene, alone, ussfc.find_model(card).threshold),
                confusion(scene, both, threshold),
            ], float)  # fmt: skip
            totals += counts
            counted.append((average_precision(scene, alone), average_precision(scene, both)))
            print(f"  {scene.name:12} {counted[-1][0]:.3f} {counted[-1][1]:.3f}  {f1(counts[0]):.3f} "
                  f"{f1(counts[1]):.3f}  {counts[1][2] / max(1, counts[1][1]):.2f}")  # fmt: skip
        means = np.mean(counted, axis=0)
        print(f"{len(counted)} scenes so far: mean AP {means[0]:.3f} {means[1]:.3f}, F1 {f1(totals[0]):.3f} "
              f"{f1(totals[1]):.3f}")  # fmt: skip
    terms = fit(scenes)
    print(f"terms of all: network {terms[0]:.3f}, distance {terms[1]:.3f}, offset {terms[2]:.3f}, "
          f"threshold {best_threshold(scenes, terms):.3f}")  # fmt: skip


def read(scene: LabelledScene, card: str, fold: int, blur: float) -> Scene:
    """Compute a scene's probabilities and distances."""
    sets = [f"model={card}", "output.probability_dtype=float32", "inference.alteration=off"]
    config = load_config(sets=sets)
    spec = ussfc.find_model(card)
    inputs = InputSpec(bands=spec.bands, resolution_m=spec.resolution_m, radiometry=spec.radiometry)
    pair = ScenePairs([scene], inputs, config).pair(0)
    with tempfile.TemporaryDirectory() as folder:
        planned = plan(str(scene.before), str(scene.after), config)
        store = infer(planned, folder, computation=Computation(makes_polygons=False))
        probability = store.read(Box(0, 0, *store.shape)).astype(np.float32)
    seen = ~np.isnan(probability)
    before, after = as_unit_range(pair.before), as_unit_range(pair.after)
    found = Alteration.of(before[:, seen], after[:, seen])
    if found is None:
        raise SystemExit(f"{scene.before}: IR-MAD could not be found")
    odds = CombinedOdds(found, 1.0, 1.0, 0.0, blur, blur_radius(blur))
    log_distance = odds.log_distance(PixelPair(before, after, seen).dates, seen, Box(0, 0, *seen.shape))
    valid = seen if pair.valid is None else seen & pair.valid
    return Scene(scene.name, fold, np.nan_to_num(probability), log_distance, pair.label, valid)


def features(scene: Scene) -> tuple[Array, Array]:
    """Return log odds, log distance and one of every valid pixel, and whether it changed."""
    least = 0.5 / PROBABILITY_STEPS
    probability = np.clip(scene.probability[scene.valid].astype(float), least, 1 - least)
    rows = np.stack([
        np.log(probability / (1 - probability)),
        scene.log_distance[scene.valid],
        np.ones(len(probability)),
    ])  # fmt: skip
    return rows, scene.label[scene.valid].astype(float)


def fit(scenes: list[Scene]) -> Array:
    """Return factor of the log odds, factor of the log distance, and offset, by logistic regression."""
    found = [features(scene) for scene in scenes]
    rows = np.concatenate([each for each, _ in found], axis=1)
    label = np.concatenate([each for _, each in found])
    weights = np.concatenate([np.full(len(each), 1 / len(each)) for _, each in found])

    def loss(terms: Array) -> tuple[float, Array]:
        odds = terms @ rows
        expected = expit(odds)
        value = -weights @ (label * log_expit(odds) + (1 - label) * log_expit(-odds))
        return float(value), rows @ (weights * (expected - label))

    def curvature(terms: Array) -> Array:
        expected = expit(terms @ rows)
        return np.asarray((rows * (weights * expected * (1 - expected))) @ rows.T)

    # A plain Newton's method runs away where the network is surer than it may be.
    found_terms = minimize(
        loss, np.zeros(3), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-8}
    )
    assert found_terms.success, found_terms.message
    return np.asarray(found_terms.x)


def confusion(scene: Scene, levels: npt.NDArray[np.uint8], threshold: float) -> tuple[int, int, int]:
    """Return pixels of change that were found, that are labelled, and that were claimed."""
    claimed = (levels >= np.ceil(threshold * PROBABILITY_STEPS)) & scene.valid
    change = scene.label & scene.valid
    return int((claimed & change).sum()), int(change.sum()), int(claimed.sum())


def f1(counts: npt.NDArray[np.float64]) -> float:
    """Return the F1 of such counts."""
    return float(2 * counts[0] / max(1, counts[1] + counts[2]))


def best_threshold(scenes: list[Scene], terms: Array) -> float:
    """Return the threshold with the largest mean F1 over scenes."""
    means = np.zeros(len(THRESHOLDS))
    for scene in scenes:
        levels = scene.levels(terms)
        means += [f1(np.array(confusion(scene, levels, threshold), float)) for threshold in THRESHOLDS]
    return float(THRESHOLDS[int(means.argmax())])


def average_precision(scene: Scene, levels: npt.NDArray[np.uint8]) -> float:
    """Return the area under the curve of precision over recall."""
    found, change = levels[scene.valid], scene.label[scene.valid]
    claimed = np.bincount(found, minlength=256)[::-1].cumsum()
    hits = np.bincount(found[change], minlength=256)[::-1].cumsum()
    steps = np.diff(hits, prepend=0)
    return float((steps * hits / np.maximum(1, claimed)).sum() / max(1, change.sum()))


if __name__ == "__main__":
    main()
