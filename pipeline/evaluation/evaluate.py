"""The evaluation of a model on labelled data: scenes through the pipeline, pictures through the network."""

from __future__ import annotations

import csv
import dataclasses
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

import ussfc
from ussfc.metrics import Confusion, Tally
from ussfc.pipeline.choices import Smoothing
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.evaluation.baselines import MEASURES, changed
from ussfc.pipeline.evaluation.labelled_scenes import LabelledScene, ScenePairs, find_scenes
from ussfc.pipeline.evaluation.scores import Evaluation, SceneScore
from ussfc.pipeline.evaluation.sources import GEOTIFF, MASKS, check_pictures_fit, parse_data
from ussfc.pipeline.events import Advanced, Notice, Subscriber, ignore
from ussfc.pipeline.execution.computers import open_computer
from ussfc.pipeline.pixels.alteration import Alteration
from ussfc.pipeline.pixels.encoding import classify, encode
from ussfc.pipeline.pixels.smoothing import median3, with_rim
from ussfc.pipeline.runs.alteration import record_of
from ussfc.pipeline.runs.infer import Computation, infer
from ussfc.pipeline.runs.model_choice import named_model
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.runs.resolve import alteration_terms, resolve_smoothing
from ussfc.pipeline.runs.stages import stage_clock
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.blending import taper_weights
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.types import NODATA_BYTE, Box, ByteArray, PixelPair
from ussfc.training import pictures
from ussfc.training.crops import as_unit_range
from ussfc.training.data import SPLITS, LabelledPair, LabelledPairs, open_split
from ussfc.training.recipe import InputSpec

MOST_PICTURES = 64
"""Scenes up to which each gets a picture of its errors."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """The part of the data that is scored, and the part that chooses the threshold."""

    split: str = "test"
    """Split of data sets of pictures: ``train``, ``val`` or ``test``."""
    scenes: Sequence[str] = ()
    """Names of the geotiff scenes to take; none: all."""
    tune_on: str | None = None
    """Split of pictures, or names of geotiff scenes (``a,b``), that choose the threshold and are not scored; None: the
    configuration's threshold, or else the model's."""

    @property
    def tuning_scenes(self) -> tuple[str, ...]:
        """Names of the scenes that choose the threshold."""
        return tuple(self.tune_on.split(",")) if self.tune_on and self.tune_on not in SPLITS else ()


def evaluate(
    datas: Sequence[str],
    config: RunConfig,
    selection: Selection = Selection(),
    with_baseline: bool = False,
    out: Path | None = None,
    subscriber: Subscriber = ignore,
) -> Evaluation:
    """Score a model on labelled data.

    Georeferenced scenes go through the pipeline (grid, tiles, blending) as in a run; pictures go through the
    network in patches that do not overlap, as the data sets' published scores are counted.

    Args:
        datas: ``KIND:DIR``, one or more.
        config: names model, threshold, tiling and inference.
        selection: the part of the data to score.
        with_baseline: score the baselines without learning of :mod:`ussfc.pipeline.evaluation.baselines` as well.
        out: folder for ``evaluation.json``, ``curve.csv``, ``curve.png``, ``reliability.png`` and a picture of errors a
            scene.
        subscriber: receives the events.

    Raises:
        ConfigError, PipelineError, ussfc.ModelError, ussfc.errors.DataError: each names the way out.
    """
    if config.output.probability_dtype != "uint8":
        raise ConfigError(
            "output.probability_dtype: scores are counted on the 255 levels of uint8; leave it at that"
        )
    spec = named_model(config.model)
    jobs, tuning = _jobs(datas, config, spec, selection, with_baseline)
    threshold, origin = (
        (spec.threshold, "the model card") if config.threshold is None else (config.threshold, "given")
    )
    results = []
    with stage_clock("evaluate", len(jobs) + len(tuning), 0, subscriber):
        if tuning:
            tallies = (score.tally for score, _ in _score(tuning, subscriber))
            threshold = sum(tallies, Tally.empty()).best_threshold()
            origin = f"largest F1 on {selection.tune_on}"
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        for score, shown in _score(jobs, subscriber):
            results.append(score)
            # Of pictures by the thousand, each one's errors would bury the folder.
            if out is not None and len(jobs) <= MOST_PICTURES:
                pictures.save(shown.picture(threshold), out / layout.errors_picture(score.name))
    if taught := sorted(_taught(spec) & {result.name for result in results}):
        what = ", ".join(taught)
        subscriber(
            Notice(
                f"{what}: the model has learnt from scenes of these names; scores on them say nothing of others"
            )
        )
    evaluation = Evaluation(spec.name, tuple(datas), threshold, origin, tuple(results))
    if out is not None:
        _write(evaluation, out)
    return evaluation


def _taught(spec: ussfc.ModelSpec) -> set[str]:
    """Return the names of the scenes that a model has learnt from, as far as its card names them."""
    return set() if spec.training is None else set(spec.training.scenes)


def _jobs(
    datas: Sequence[str], config: RunConfig, spec: ussfc.ModelSpec, selection: Selection, with_baseline: bool
) -> tuple[list[_ScoreJob], list[_ScoreJob]]:
    """Return the jobs that score, and those that choose the threshold."""
    jobs: list[_ScoreJob] = []
    tuning: list[_ScoreJob] = []
    tune_on, held_out = selection.tune_on, selection.tuning_scenes
    for kind, folder in map(parse_data, datas):
        if kind == GEOTIFF:
            found = find_scenes(folder, selection.scenes or None)
            chosen = [scene for scene in found if scene.name not in held_out]
            jobs += [_scene_job(scene, config, spec, with_baseline) for scene in chosen]
            tuning += [_scene_job(scene, config, spec, False) for scene in find_scenes(folder, held_out)]
        elif kind == MASKS:
            raise ConfigError(
                f"masks:{folder}: has no labelled pairs to score; give levir-cd, cdd, dsifn-cd or geotiff data"
            )
        else:
            check_pictures_fit(kind, spec)
            jobs += _picture_jobs(open_split(kind, folder, selection.split), config, spec, with_baseline)
            if tune_on in SPLITS:
                if tune_on == selection.split:
                    raise ConfigError(
                        f"split {tune_on}: is the split that is scored; choose the threshold on another one"
                    )
                tuning += _picture_jobs(open_split(kind, folder, tune_on), config, spec, False)
    if not jobs:
        raise ConfigError("nothing to score: every scene is named to choose the threshold on")
    if tune_on and not tuning:
        raise ConfigError(
            f"{tune_on}: no data to choose the threshold on; expected the name of a split, or names of scenes of the "
            "geotiff data"
        )
    return jobs, tuning


@dataclasses.dataclass(frozen=True)
class _Shown:
    """Content of a picture of errors."""

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


_ScoreJob = Callable[[], tuple[SceneScore, _Shown]]


def _score(jobs: Sequence[_ScoreJob], subscriber: Subscriber) -> Iterator[tuple[SceneScore, _Shown]]:
    for job in jobs:
        score, shown = job()
        subscriber(Advanced("evaluate", 1, shown.levels.size))
        yield score, shown


def _scene_job(
    scene: LabelledScene, config: RunConfig, spec: ussfc.ModelSpec, with_baseline: bool
) -> _ScoreJob:
    inputs = InputSpec(bands=spec.bands, resolution_m=spec.resolution_m, radiometry=spec.radiometry)
    smoothing = resolve_smoothing(config, spec)

    def job() -> tuple[SceneScore, _Shown]:
        # Read once more as for training: for the label, the baseline and the picture.
        pair = ScenePairs([scene], inputs, config).pair(0)
        with tempfile.TemporaryDirectory(prefix="ussfc-evaluate-") as folder:
            planned = plan(str(scene.before), str(scene.after), config)
            store = infer(
                planned, Path(folder), computation=Computation(fail_fast=True, makes_polygons=False)
            )
            levels = store.read(Box(0, 0, *store.shape)).astype(np.uint8)
        return _scored(pair, _smoothed(levels, smoothing), with_baseline)

    return job


def _picture_jobs(
    pairs: LabelledPairs, config: RunConfig, spec: ussfc.ModelSpec, with_baseline: bool
) -> list[_ScoreJob]:
    recipe = ussfc.detector_spec(
        spec,
        ussfc.DetectorOptions(
            patch_size=config.tiling.patch_size or spec.patch_size,
            ssfc=config.inference.ssfc,
            engine=config.inference.engine,
            precision=config.inference.precision,
            device=config.inference.device,
            batch_size=config.inference.batch_size,
            streams=config.cluster.network_threads,
            quality=config.inference.quality,
        ),
    )
    computer = open_computer(recipe.build(), taper_weights(recipe.patch_size, "box"))
    smoothing, terms = resolve_smoothing(config, spec), alteration_terms(config, spec)

    def job(index: int) -> tuple[SceneScore, _Shown]:
        pair = pairs.pair(index)
        plan = TilePlan.of(pair.shape, max(pair.shape), recipe.patch_size, 0.0)
        images = PixelPair(as_unit_range(pair.before), as_unit_range(pair.after), np.ones(pair.shape, bool))
        probability, _ = computer.blend(plan.tile((0, 0)), images)
        if terms is not None:
            flat = [date.reshape(len(date), -1) for date in (images.before, images.after)]
            odds = record_of(Alteration.of(flat[0], flat[1]), terms, flat[0].shape[1]).odds
            if odds is not None:
                whole = Box(0, 0, *pair.shape)
                log_distance = odds.log_distance(images.dates, images.valid, whole)
                probability = odds.combine(probability, log_distance)
        levels = encode(probability, images.valid, np.dtype(np.uint8)).astype(np.uint8)
        return _scored(pair, _smoothed(levels, smoothing), with_baseline)

    return [partial(job, index) for index in range(len(pairs.names))]


def _smoothed(levels: ByteArray, smoothing: Smoothing) -> ByteArray:
    """Return the levels of a whole scene as its products have them."""
    return levels if smoothing == "none" else median3(with_rim(levels)).astype(np.uint8, copy=False)


def _scored(pair: LabelledPair, levels: ByteArray, with_baseline: bool) -> tuple[SceneScore, _Shown]:
    valid = np.ones(pair.shape, bool) if pair.valid is None else pair.valid
    baselines = {}
    if with_baseline:
        before, after = as_unit_range(pair.before), as_unit_range(pair.after)
        for name in MEASURES:
            answer = changed(name, before, after, valid)
            baselines[name] = Confusion.of(answer[valid], pair.label[valid])
    return SceneScore(pair.name, Tally.of_levels(levels, pair.label, valid), baselines), _Shown(pair, levels)


def _write(evaluation: Evaluation, out: Path) -> None:
    Folder.of(out).write_json(layout.EVALUATION, evaluation.summary())
    points = evaluation.tally.curve()
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("threshold", "precision", "recall"))
    writer.writerows(points)
    Folder.of(out).write(layout.CURVE_TABLE, text.getvalue().encode())
    pictures.precision_recall(points, evaluation.tally.at(evaluation.threshold), out / layout.CURVE_PICTURE)
    pictures.reliability(evaluation.tally.reliability(), out / layout.RELIABILITY_PICTURE)
