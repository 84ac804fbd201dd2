"""Labelled data for training, and the scores of a model on labelled data."""

from __future__ import annotations

import csv
import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import ussfc
from ussfc import baseline
from ussfc.metrics import Confusion, Tally
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.evaluation.labelled_scenes import LabelledScene, ScenePairs, find_scenes, match_scenes
from ussfc.pipeline.events import Advanced, StageFinished, StageStarted, Subscriber, ignore
from ussfc.pipeline.execution.tile import blend_tile
from ussfc.pipeline.pixels.encoding import classify, encode
from ussfc.pipeline.runs.infer import Computation, infer
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import NODATA_BYTE, Box, ByteArray, PixelPair
from ussfc.training import pictures
from ussfc.training.crops import as_unit_range
from ussfc.training.data import (
    SPLITS,
    Cached,
    Joined,
    LabelledPair,
    LabelledPairs,
    SplitReport,
    check_pairs,
    match_split,
    open_split,
    splits_folder,
)
from ussfc.training.recipe import InputSpec

GEOTIFF = "geotiff"

SWEEP = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Thresholds of the sweep."""


def parse_data(text: str) -> tuple[str, Path]:
    """``KIND:DIR`` as kind and folder.

    Raises:
        ConfigError: no colon in it.
    """
    kind, colon, folder = text.partition(":")
    if not colon or not folder:
        raise ConfigError(f"--data {text}: wanted KIND:DIR, for example geotiff:scenes or levir-cd:LEVIR-CD")
    return kind, Path(folder)


def training_sources(
    datas: Sequence[str], spec: InputSpec, validate_on: Sequence[str], memory: int
) -> tuple[LabelledPairs, LabelledPairs]:
    """Pairs to learn from, and pairs to validate on.

    Data sets of pictures bring their splits ``train`` and ``val``; of georeferenced scenes the named ones are
    held out for validation and the rest is learnt from.

    Args:
        datas: ``KIND:DIR``, one or more.
        spec: the network's input.
        validate_on: names of held-out scenes.
        memory: bytes of decoded pictures that may stay in memory, of each data set.

    Raises:
        ConfigError, PipelineError, ussfc.errors.DataError: the data cannot be used; the message names what.
    """
    train: list[LabelledPairs] = []
    validation: list[LabelledPairs] = []
    missing = set(validate_on)
    for kind, folder in map(parse_data, datas):
        if kind == GEOTIFF:
            scenes = find_scenes(folder)
            held = [scene for scene in scenes if scene.name in validate_on]
            missing -= {scene.name for scene in held}
            ScenePairs(scenes, spec).refuse_beyond_memory()
            learnt = ScenePairs([scene for scene in scenes if scene.name not in validate_on], spec)
            train.append(Cached(learnt))
            validation.append(Cached(ScenePairs(held, spec)))
        else:
            train.append(Cached(open_split(kind, folder, "train"), memory))
            validation.append(open_split(kind, folder, "val"))
            _pictures_fit(kind, spec)
    if missing:
        raise ConfigError(
            f"--validate-on {', '.join(sorted(missing))}: no such scene in the data; check the names"
        )
    return Joined(tuple(train)), Joined(tuple(validation))


def _pictures_fit(kind: str, spec: InputSpec | ussfc.ModelSpec) -> None:
    if len(spec.bands) != 3 or spec.radiometry.kind != "range" or spec.radiometry.high != 255:
        names = ", ".join(band.name for band in spec.bands)
        raise ConfigError(
            f"{kind}: pictures of red, green, blue from 0 to 255, the network's input is {names} of other numbers; "
            "train with input=rgb8, or give geotiff data"
        )


def check_data(kind: str, folder: Path) -> list[SplitReport]:
    """Read every file of a data set: counts, sizes, changed share, and every broken file.

    Args:
        kind: ``levir-cd``, ``cdd``, ``dsifn-cd`` or ``geotiff``.
        folder: the data set; splits that are not there are left out.

    Raises:
        PipelineError, ussfc.errors.DataError: nothing to check there.
    """
    if kind == GEOTIFF:
        # One band: geometry and labels do not depend on how many a model takes.
        spec = InputSpec.model_validate({"bands": [{"name": "1"}], "radiometry": {"kind": "percentiles"}})
        scenes, lone = match_scenes(folder)
        return [check_pairs("scenes", ScenePairs(scenes, spec), lone)]
    splits = [split for split in SPLITS if (splits_folder(kind, folder) / split).is_dir()]
    return [check_pairs(split, *match_split(kind, folder, split)) for split in splits or SPLITS[:1]]


@dataclasses.dataclass(frozen=True)
class SceneScore:
    """One scene or picture."""

    name: str
    tally: Tally
    baseline: Confusion | None
    """Change vector magnitude with Otsu's threshold; None where it was not asked for."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of a model on labelled data."""

    model: str
    data: tuple[str, ...]
    threshold: float
    """Of every score but the sweep's."""
    threshold_from: str
    """Who chose it."""
    scenes: tuple[SceneScore, ...]

    @property
    def tally(self) -> Tally:
        """All scenes together."""
        return sum((scene.tally for scene in self.scenes), Tally.empty())

    def summary(self) -> dict[str, Any]:
        """Numbers for people and programs; scores of the change class from one summed confusion matrix."""
        total = self.tally
        sweep = [{"threshold": t, **total.at(t).scores()} for t in SWEEP]
        result = {
            "model": self.model,
            "data": list(self.data),
            "threshold": self.threshold,
            "threshold_from": self.threshold_from,
            "scores": total.at(self.threshold).scores(),
            "confusion": dataclasses.asdict(total.at(self.threshold)),
            "average_precision": total.average_precision() if total.change.any() else None,
            "scenes": [
                {"name": scene.name, **_counts(scene.tally), **scene.tally.at(self.threshold).scores()}
                for scene in self.scenes
            ],
            "sweep": sweep,
        }
        known = [scene.baseline for scene in self.scenes if scene.baseline is not None]
        if known:
            result["baseline"] = {
                "method": "change vector magnitude, Otsu's threshold per scene",
                "scores": sum(known, Confusion()).scores(),
                "scenes": [
                    {"name": scene.name, **scene.baseline.scores()}
                    for scene in self.scenes
                    if scene.baseline is not None
                ],
            }
        return result


def _counts(tally: Tally) -> dict[str, int]:
    change = int(tally.change.sum())
    return {"pixels": change + int(tally.no_change.sum()), "changed_pixels": change}


def evaluate(
    datas: Sequence[str],
    config: RunConfig,
    *,
    split: str = "test",
    scenes: Sequence[str] = (),
    tune_on: str | None = None,
    with_baseline: bool = False,
    out: Path | None = None,
    subscriber: Subscriber = ignore,
) -> Evaluation:
    """Score a model on labelled data.

    Georeferenced scenes go through the pipeline (grid, tiles, blending) as in a run; pictures go through the
    network in patches that do not overlap, as the data sets' published scores are counted.

    Args:
        datas: ``KIND:DIR``, one or more.
        config: whose model, threshold, tiling and inference to take.
        split: of data sets of pictures: ``train``, ``val`` or ``test``.
        scenes: take only these of geotiff data; none: all.
        tune_on: choose the threshold here: a split's name for pictures, names of scenes (``a,b``) for geotiff
            data; they are not scored. None: the configuration's, or else the model's threshold.
        with_baseline: score change vector magnitude with Otsu's threshold as well.
        out: folder for ``evaluation.json``, ``curve.csv``, ``curve.png`` and one picture of errors a scene.
        subscriber: hears the events.

    Raises:
        ConfigError, PipelineError, ussfc.ModelError, ussfc.errors.DataError: each says what to do.
    """
    if config.output.probability_dtype != "uint8":
        raise ConfigError(
            "output.probability_dtype: scores are counted on the 255 levels of uint8; leave it at that"
        )
    spec = ussfc.find_model(config.model)
    parsed = [parse_data(text) for text in datas]
    tuned_scenes = tuple(tune_on.split(",")) if tune_on and tune_on not in SPLITS else ()
    threshold, origin = (
        (spec.threshold, "the model card") if config.threshold is None else (config.threshold, "given")
    )
    jobs: list[_Job] = []
    tuning: list[_Job] = []
    for kind, folder in parsed:
        if kind == GEOTIFF:
            chosen = [
                scene for scene in find_scenes(folder, scenes or None) if scene.name not in tuned_scenes
            ]
            jobs += [_scene_job(scene, config, spec, with_baseline) for scene in chosen]
            tuning += [_scene_job(scene, config, spec, False) for scene in find_scenes(folder, tuned_scenes)]
        else:
            _pictures_fit(kind, spec)
            jobs += _picture_jobs(open_split(kind, folder, split), config, spec, with_baseline)
            if tune_on in SPLITS:
                if tune_on == split:
                    raise ConfigError(f"--tune-on {tune_on}: is the split that is scored; take another one")
                tuning += _picture_jobs(open_split(kind, folder, tune_on), config, spec, False)
    if not jobs:
        raise ConfigError("nothing to score: every scene is named in --tune-on")
    if tune_on and not tuning:
        raise ConfigError(
            f"--tune-on {tune_on}: wanted the name of a split, or names of scenes of the geotiff data"
        )
    subscriber(StageStarted("evaluate", len(jobs) + len(tuning), 0))
    if tuning:
        threshold = sum(
            (score.tally for score, _ in _done(tuning, subscriber)), Tally.empty()
        ).best_threshold()
        origin = f"largest F1 on {tune_on}"
    results = []
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    for score, shown in _done(jobs, subscriber):
        results.append(score)
        # Of pictures by the thousand, each one's errors would bury the folder.
        if out is not None and len(jobs) <= MOST_PICTURES:
            pictures.save(shown.picture(threshold), out / f"errors_{score.name}.png")
    evaluation = Evaluation(spec.name, tuple(datas), threshold, origin, tuple(results))
    if out is not None:
        _write(evaluation, out)
    subscriber(StageFinished("evaluate", 0.0, 0))
    return evaluation


MOST_PICTURES = 64
"""Scenes up to which each gets a picture of its errors."""


@dataclasses.dataclass(frozen=True)
class _Shown:
    """What a picture of errors shows."""

    pair: LabelledPair
    levels: ByteArray

    def picture(self, threshold: float) -> pictures.Picture:
        answer = classify(self.levels, threshold) == 1
        valid = self.levels != NODATA_BYTE
        if self.pair.valid is not None:
            valid &= self.pair.valid
        return pictures.row([
            pictures.true_colour(self.pair.before),
            pictures.true_colour(self.pair.after),
            pictures.errors(answer, self.pair.label, valid),
        ])  # fmt: skip


_Job = Callable[[], tuple[SceneScore, _Shown]]


def _done(jobs: Sequence[_Job], tell: Subscriber) -> Iterator[tuple[SceneScore, _Shown]]:
    for job in jobs:
        score, shown = job()
        tell(Advanced("evaluate", 1, shown.levels.size))
        yield score, shown


def _scene_job(scene: LabelledScene, config: RunConfig, spec: ussfc.ModelSpec, with_baseline: bool) -> _Job:
    inputs = InputSpec(bands=spec.bands, resolution_m=spec.resolution_m, radiometry=spec.radiometry)

    def job() -> tuple[SceneScore, _Shown]:
        # Read once more as for training: for the label, the baseline and the picture.
        pair = ScenePairs([scene], inputs, config).pair(0)
        with tempfile.TemporaryDirectory(prefix="ussfc-evaluate-") as folder:
            planned = plan(str(scene.before), str(scene.after), config)
            store = infer(planned, Path(folder), computation=Computation(fail_fast=True))
            levels = store.read(Box(0, 0, *store.shape)).astype(np.uint8)
        return _scored(pair, levels, with_baseline)

    return job


def _picture_jobs(
    pairs: LabelledPairs, config: RunConfig, spec: ussfc.ModelSpec, with_baseline: bool
) -> list[_Job]:
    recipe = ussfc.detector_spec(
        spec, patch_size=config.tiling.patch_size or spec.patch_size, ssfc=config.inference.ssfc,
        engine=config.inference.engine, precision=config.inference.precision, device=config.inference.device,
        batch_size=config.inference.batch_size, streams=config.cluster.network_threads,
    )  # fmt: skip
    detector = recipe.build()
    weights = taper_weights(recipe.patch_size, "box")

    def job(index: int) -> tuple[SceneScore, _Shown]:
        pair = pairs.pair(index)
        plan = TilePlan.of(pair.shape, max(pair.shape), recipe.patch_size, 0.0)
        images = PixelPair(as_unit_range(pair.before), as_unit_range(pair.after), np.ones(pair.shape, bool))
        probability, _ = blend_tile(plan.tile((0, 0)), images, detector, weights)
        return _scored(
            pair, encode(probability, images.valid, np.dtype(np.uint8)).astype(np.uint8), with_baseline
        )

    return [partial(job, index) for index in range(len(pairs.names))]


def _scored(pair: LabelledPair, levels: ByteArray, with_baseline: bool) -> tuple[SceneScore, _Shown]:
    valid = np.ones(pair.shape, bool) if pair.valid is None else pair.valid
    plain = None
    if with_baseline:
        answer = baseline.changed(as_unit_range(pair.before), as_unit_range(pair.after), valid)
        plain = Confusion.of(answer[valid], pair.label[valid])
    return SceneScore(pair.name, Tally.of_levels(levels, pair.label, valid), plain), _Shown(pair, levels)


def _write(evaluation: Evaluation, out: Path) -> None:
    Folder.of(out).write_json("evaluation.json", evaluation.summary())
    points = evaluation.tally.curve()
    with (out / "curve.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("threshold", "precision", "recall"))
        writer.writerows(points)
    pictures.precision_recall(points, evaluation.tally.at(evaluation.threshold), out / "curve.png")
