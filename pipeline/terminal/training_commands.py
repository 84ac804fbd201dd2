"""Commands about models of one's own: ``ussfc train``, ``evaluate`` and ``data``."""

# Imports of what computes stay inside the commands: `ussfc --help` must not wait for torch.
from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ussfc.pipeline.parallel.memory_limit import check_address_space
from ussfc.pipeline.progress import format_duration
from ussfc.pipeline.terminal import completion, options, tables
from ussfc.pipeline.terminal.exit_statuses import ExitStatus
from ussfc.pipeline.terminal.options import Scoring, Settings, Training
from ussfc.pipeline.terminal.output import Output
from ussfc.pipeline.terminal.progress import TrainingProgress, progress

if TYPE_CHECKING:
    from ussfc import ModelSpec
    from ussfc.training.recipe import TrainingRecipe


@click.command()
@options.training_options
@options.output_options
def train(training: Training, output: Output) -> None:
    """Train USSFC-Net on labelled pairs or on masks of one date.

    --out holds the weights, a card, the log and a state to resume from: given again after any stop, it continues.
    `ussfc run --model OUT/best.yaml` uses the result.
    """
    import ussfc

    check_address_space()
    start = None if training.start is None else ussfc.find_model(training.start)
    chosen = _recipe(training, start)
    from ussfc.pipeline.evaluation.sources import describe, reading_of, training_sources
    from ussfc.spec import NOT_STATED, derived_licence
    from ussfc.training.data import TrainingData
    from ussfc.training.loop import train as train_network

    weights = None
    if start is not None:
        from ussfc.training.recipe import started_from

        weights = ussfc.load_weights(start.weights_path(), sha256=start.weights.sha256)
        chosen = started_from(chosen, start, weights)
    pairs, validation = training_sources(
        training.datas, chosen, _names(training.validate_on), int(training.memory_gb * 1e9),
        lambda line: output.notice(f"warning: {line}"),
    )  # fmt: skip
    data = TrainingData(
        pairs,
        validation,
        description=describe(training.datas),
        licence=derived_licence(training.licence, (start.licence or NOT_STATED) if start else None),
        threshold=start.threshold if start else 0.5,
        reading=reading_of(training.datas),
    )
    result = train_network(
        chosen,
        data,
        training.out,
        device=training.device,
        threads=training.threads,
        overwrite=training.overwrite,
        subscriber=TrainingProgress(output),
        start=weights,
    )
    early = ", stopped early" if result.stopped_early else ""
    score = "no validation" if result.best_f1 is None else f"validation F1 {result.best_f1:.3f}"
    line = (
        f"{result.card}: step {result.best_step} of {result.steps}{early}, {score} at threshold {result.threshold:g}, "
        f"{format_duration(result.seconds)}"
    )
    output.result({**vars(result), "folder": str(training.out), "card": str(result.card)}, (line,))


def _recipe(training: Training, start: ModelSpec | None) -> TrainingRecipe:
    """Load the recipe of a training; where none is named, that for the data, with what its start takes."""
    from ussfc.training.recipe import InputSpec, load_recipe

    if training.recipe is not None:
        return load_recipe(training.recipe, training.sets)
    if start is None:
        raise click.MissingParameter(param_hint="'--recipe'", param_type="option")
    masks = any(data.startswith("masks:") for data in training.datas)
    taken = InputSpec(bands=start.bands, resolution_m=start.resolution_m, radiometry=start.radiometry)
    return load_recipe("vhr" if masks else "strong", training.sets, taken)


@click.command()
@options.scoring_settings
@options.scoring_options
@options.output_options
def evaluate(settings: Settings, scoring: Scoring, output: Output) -> None:
    """Score a model on labelled pairs: one confusion matrix of the change class over all of them.

    Georeferenced scenes go through the pipeline as in `ussfc run`; pictures in patches without overlap.
    """
    from ussfc.pipeline.evaluation.evaluate import Selection
    from ussfc.pipeline.evaluation.evaluate import evaluate as score

    check_address_space()
    selection = Selection(scoring.split, _names(scoring.scenes), scoring.tune_on)
    config = settings.load()
    with progress(output) as subscriber:
        result = score(scoring.datas, config, selection, scoring.baseline, scoring.out, subscriber)
    summary = result.summary()
    # The scores are all that the command is for: --quiet silences the progress alone.
    dataclasses.replace(output, quiet=False).result(summary, tables.score_lines(summary))


@click.group()
def data() -> None:
    """Labelled data for training and evaluation."""


@data.command("check")
@click.argument("kind", shell_complete=completion.data_kinds)
@click.argument("folder", type=click.Path(path_type=Path))
@options.json_option("Print the report as JSON.")
def check_data(kind: str, folder: Path, output: Output) -> None:
    """Read every file of a data set: KIND is levir-cd, cdd, dsifn-cd, geotiff or masks.

    Prints how many pairs there are, of what size and how much of them changed (of masks: tiles, whole instances and
    masked share by place), and names every broken file.
    """
    from ussfc.pipeline.evaluation.sources import check_data as check

    reports = check(kind, folder)
    output.result([vars(report) for report in reports], tables.data_lines(reports))
    broken = [fault for report in reports for fault in report.broken]
    for fault in broken:
        output.notice(f"broken: {fault}")
    if broken:
        sys.exit(ExitStatus.INPUT)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()
