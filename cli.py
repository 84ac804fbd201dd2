"""The command line: options, progress, messages and exit statuses. The work is done in `pipeline` and `ussfc`.

Exit statuses: 0 done, 1 a defect of this program, 2 wrong usage or configuration, 3 an input or model that cannot
be used, 4 an output that cannot be used, 5 too little memory, 6 products that fail validation, 7 cluster trouble,
8 done but for tiles that kept failing, 130 interrupted.
"""

# Imports of the pipeline stay inside the commands: `ussfc --help` must not wait for torch or GDAL.
from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ussfc.pipeline.config.schema import RunConfig
    from ussfc.pipeline.events import Event, Subscriber
    from ussfc.pipeline.runs.manifest import InferenceRecord, RunRecord, RunStatus

EXIT_DEFECT, EXIT_USAGE, EXIT_INPUT, EXIT_OUTPUT = 1, 2, 3, 4
EXIT_MEMORY, EXIT_INVALID, EXIT_CLUSTER, EXIT_INCOMPLETE = 5, 6, 7, 8
EXIT_INTERRUPTED = 130

PLAIN_SECONDS = 5
"""Distance of progress lines where the output is no terminal."""

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ussfc")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(context: click.Context, debug: bool) -> None:
    """Change detection for two images of a whole city.

    \b
    ussfc demo                          run on an embedded Sentinel-2 pair
    ussfc run BEFORE AFTER --out DIR    change raster and polygons of your own pair
    """
    context.obj = {"debug": debug or bool(context.obj and context.obj.get("debug"))}


def _set_debug(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().obj["debug"] = True


def _with_config(command: Command) -> Command:
    """The options that every command with a configuration takes."""
    for decorate in reversed(
        (
            click.option(
                "--model", metavar="NAME|FILE", help="Model: a name, a card (yaml) or a weights file."
            ),
            click.option(
                "--config", "config_file", type=click.Path(path_type=Path), help="YAML configuration."
            ),
            click.option(
                "--set", "sets", multiple=True, metavar="A.B=C", help="Set one key; see `ussfc config`."
            ),
            click.option(
                "--threshold", type=float, metavar="T", help="Change where the probability is at least T."
            ),
            click.option("--aoi", metavar="FILE", help="Polygons; pixels outside are nodata."),
            click.option(
                "--engine", metavar="NAME", help="What runs the network: auto, openvino, torch or triton."
            ),
            click.option(
                "--precision",
                metavar="NAME",
                help="Arithmetic of the network: auto, float32, bfloat16 or float16.",
            ),
            click.option(
                "--cluster",
                metavar="NAME|FILE",
                help="Where tiles are computed: local, local-cuda, slurm, allocation, kubernetes, scheduler, or a YAML "
                "file.",
            ),
            click.option(
                "--scheduler", metavar="ADDRESS", help="Use the workers of a Dask scheduler, tcp://host:port."
            ),
        )
    ):
        command = decorate(command)
    return command


def _with_output(command: Command) -> Command:
    """The options that decide what a command prints."""
    for decorate in reversed(
        (
            click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
            click.option("-v", "--verbose", is_flag=True, help="Print every stage."),
            click.option(
                "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."
            ),
            click.option(
                "--debug",
                is_flag=True,
                expose_value=False,
                callback=_set_debug,
                help="Show the traceback of an error.",
            ),
        )
    ):
        command = decorate(command)
    return command


def _with_pair(command: Command) -> Command:
    """BEFORE, AFTER and where to write."""
    for decorate in reversed((click.argument("before"), click.argument("after"))):
        command = decorate(command)
    return command


OUT = click.argument("out")
OUT_OPTION = click.option(
    "--out",
    required=True,
    metavar="DIR|URI",
    help="Folder of the products, also in an object store: s3://bucket/prefix, gs://, az://.",
)
OVERWRITE = click.option(
    "--overwrite/--resume",
    default=False,
    help="Replace what is in the folder, or continue the same run there (the default).",
)
FAIL_FAST = click.option(
    "--fail-fast", is_flag=True, help="Stop at the first error of a tile, without trying again."
)


@main.command()
@_with_pair
@OUT_OPTION
@OVERWRITE
@FAIL_FAST
@_with_config
@_with_output
def run(
    before: str,
    after: str,
    out: str,
    overwrite: bool,
    fail_fast: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Detect change between BEFORE and AFTER: change.tif, probability.tif and polygons in --out.

    Given again after any stop, it continues with what is missing. Tiles that keep failing are nodata in the
    products and listed in run.json; the exit status is then 8, and the same command tries them again.
    """
    from ussfc.pipeline.runs.infer import Computation
    from ussfc.pipeline.runs.run import run as run_pipeline

    with _errors():
        config = _config(**options)
        with _progress(quiet, verbose, as_json) as subscriber:
            manifest = run_pipeline(
                before, after, out, config, overwrite, subscriber, Computation(fail_fast=fail_fast)
            )
        _show_result(manifest, out, quiet, as_json)
        _leave_incomplete(manifest)


@main.command()
@_with_pair
@OUT_OPTION
@OVERWRITE
@FAIL_FAST
@click.option("-n", "--dry-run", is_flag=True, help="Print the batch script, submit nothing.")
@_with_config
@click.option("--json", "as_json", is_flag=True, help="Print the job as JSON.")
def submit(
    before: str,
    after: str,
    out: str,
    overwrite: bool,
    fail_fast: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run as one SLURM job that holds scheduler, client and workers: one batch script, submitted with sbatch.

    With --cluster slurm or a file of that kind, as `ussfc run` takes it: cluster.jobs times cluster.workers tasks
    of cluster.threads cores. Prints the job's id; `ussfc status OUT --follow` follows it from the folder alone.
    Given again after the job's end, it continues.
    """
    from ussfc.pipeline.runs.submit import submit as submit_run

    with _errors():
        flags = (*(("--overwrite",) if overwrite else ()), *(("--fail-fast",) if fail_fast else ()))
        submission = submit_run(before, after, out, _config(**options), flags, dry_run)
        for note in submission.notes:
            click.echo(f"warning: {note}", err=True)
        if as_json:
            shown = dataclasses.asdict(submission) | {"file": submission.file and str(submission.file)}
            click.echo(json.dumps(shown | {"log": str(submission.log)}, indent=1))
        elif dry_run:
            click.echo(submission.script, nl=False)
        else:
            log = str(submission.log).replace("%j", submission.job or "")
            click.echo(f"job {submission.job}, script {submission.file}, log {log}")


@main.command()
@click.argument("pairs")
@OUT_OPTION
@OVERWRITE
@FAIL_FAST
@click.option(
    "--at-once", type=click.IntRange(1), help="Pairs under way at a time; default 2 with workers, else 1."
)
@_with_config
@_with_output
def batch(
    pairs: str,
    out: str,
    overwrite: bool,
    fail_fast: bool,
    at_once: int | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a list of PAIRS with one pool of workers, each into a folder of its own under --out.

    PAIRS is a CSV (columns before, after, and perhaps name and configuration keys), a GeoJSON with the same
    properties, or a STAC collection whose items have assets before and after. A pair that fails does not stop the
    rest. --out gets results.csv, one row a pair, and collection.json, a STAC collection of the products. Given
    again after any stop, it continues. Exit status 8 if a pair failed or is incomplete.
    """
    from ussfc.pipeline.batches.pair_lists import read_pairs
    from ussfc.pipeline.batches.run_batch import run_batch
    from ussfc.pipeline.runs.infer import Computation
    from ussfc.pipeline.storage.remote import shown_uri

    with _errors():
        entries = read_pairs(pairs)
        with _progress(quiet, verbose, as_json) as subscriber:
            results = run_batch(
                entries,
                out,
                lambda settings: _config(**options, own=settings),
                overwrite,
                subscriber,
                Computation(fail_fast=fail_fast),
                at_once,
            )
        failed = [result for result in results if result.manifest is None]
        incomplete = [result for result in results if result.manifest and not result.manifest.complete]
        if as_json:
            click.echo(json.dumps([result.dump() for result in results], indent=1, sort_keys=True))
        elif not quiet:
            done = len(results) - len(failed) - len(incomplete)
            click.echo(
                f"{done} of {len(results)} pairs complete, {len(incomplete)} incomplete, {len(failed)} failed"
            )
            for name in ("results.csv", "collection.json"):
                click.echo(f"  {shown_uri(out).rstrip('/')}/{name}")
        for result in failed:
            click.echo(f"failed: {result.name}: {result.error}", err=True)
        if failed or incomplete:
            sys.exit(EXIT_INCOMPLETE)


@main.command()
@click.argument("out", default="ussfc-demo")
@_with_output
def demo(out: str, quiet: bool, verbose: bool, as_json: bool) -> None:
    """Run on an embedded Sentinel-2 pair of Beirut and write to OUT (default: ./ussfc-demo)."""
    from ussfc.pipeline.runs.run import run as run_pipeline

    with _errors(), resources.as_file(resources.files("ussfc.configs").joinpath("demo")) as folder:
        with _progress(quiet, verbose, as_json) as subscriber:
            before, after = (str(folder / f"beirut_{date}.tif") for date in ("before", "after"))
            manifest = run_pipeline(before, after, out, _config(), False, subscriber)
        _show_result(manifest, out, quiet, as_json)
        if not (quiet or as_json):
            click.echo(
                "Contains modified Copernicus Sentinel data 2015-2018. `ussfc models show` prints the model's card."
            )


@main.command()
@_with_pair
@_with_config
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(before: str, after: str, as_json: bool, **options: Any) -> None:
    """Say what a run would do: tiles, patches, bytes, memory, time. No pixel is read."""
    from ussfc.pipeline.runs.plan import plan as plan_run

    with _errors():
        summary = plan_run(before, after, _config(**options)).summary()
        if as_json:
            click.echo(json.dumps(summary, indent=1))
            return
        grid, seconds = summary["grid"], summary["seconds_estimate"]
        for name, value in (
            (
                "grid",
                f"{grid['rows']} x {grid['cols']} px ({summary['megapixels']} Mpx), {grid['crs'] or 'no CRS'}",
            ),
            ("tiles", f"{summary['tiles']}"),
            ("patches", f"{summary['patches']} ({summary['redundant_share']:.1%} computed by several tiles)"),
            ("to read", f"{summary['bytes_to_read'] / 1e6:.1f} MB"),
            ("memory", f"{summary['memory_bytes'] / 1e9:.2f} GB peak, all processes"),
            (
                "executor",
                f"{summary['executor']}, {summary['workers'] or 'any number of'} process(es) x {summary['threads']}",
            ),
            (
                "time",
                f"about {_duration(seconds)} of network on cores like the card's" if seconds else "unknown",
            ),
        ):
            click.echo(f"{name:>9}  {value}")
        for warning in summary["warnings"]:
            click.echo(f"  warning  {warning}")


@main.command()
@_with_pair
@OUT_OPTION
@OVERWRITE
@FAIL_FAST
@_with_config
@_with_output
def infer(
    before: str,
    after: str,
    out: str,
    overwrite: bool,
    fail_fast: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run the network alone: probabilities in OUT/work."""
    from ussfc.pipeline.runs.infer import Computation
    from ussfc.pipeline.runs.infer import infer as infer_tiles
    from ussfc.pipeline.runs.plan import plan as plan_run
    from ussfc.pipeline.runs.products import read_inference

    with _errors():
        config = _config(**options)
        with _progress(quiet, verbose, as_json) as subscriber:
            infer_tiles(
                plan_run(before, after, config), out, overwrite, subscriber, Computation(fail_fast=fail_fast)
            )
        facts = read_inference(out)
        if as_json:
            click.echo(json.dumps(facts.dump(), indent=1, sort_keys=True))
        _leave_incomplete(facts)


def _leave_incomplete(facts: InferenceRecord) -> None:
    if not facts.complete:
        failed = facts.failed_tiles
        click.echo(
            f"incomplete: {len(failed)} of {facts.counts.tiles} tiles kept failing, the first with: "
            f"{failed[0].error}; the same command tries them again",
            err=True,
        )
        sys.exit(EXIT_INCOMPLETE)


def _finishing(
    stage: str, out: str, quiet: bool, verbose: bool, as_json: bool, options: dict[str, Any]
) -> None:
    from ussfc.pipeline.runs import products

    with _errors():
        config = _config(base=products.inference_config(out), **options)
        with _progress(quiet, verbose, as_json) as subscriber:
            {"mosaic": products.mosaic, "vectorise": products.vectorise}[stage](out, config, subscriber)
        manifest = products.write_manifest(out)
        _show_result(manifest, out, quiet, as_json)
        _leave_incomplete(manifest)


def _finishing_options(command: Command) -> Command:
    for decorate in reversed(
        (
            click.option(
                "--config", "config_file", type=click.Path(path_type=Path), help="YAML configuration."
            ),
            click.option(
                "--set", "sets", multiple=True, metavar="A.B=C", help="Set one key; see `ussfc config`."
            ),
            click.option(
                "--threshold", type=float, metavar="T", help="Change where the probability is at least T."
            ),
        )
    ):
        command = decorate(command)
    return command


@main.command()
@OUT
@_finishing_options
@_with_output
def mosaic(out: str, quiet: bool, verbose: bool, as_json: bool, **options: Any) -> None:
    """Write the rasters of OUT again from its probabilities, with another threshold for example."""
    _finishing("mosaic", out, quiet, verbose, as_json, options)


@main.command()
@OUT
@_finishing_options
@_with_output
def vectorise(out: str, quiet: bool, verbose: bool, as_json: bool, **options: Any) -> None:
    """Write the polygons of OUT again from its probabilities, with another threshold or area."""
    _finishing("vectorise", out, quiet, verbose, as_json, options)


@main.command()
@OUT
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def validate(out: str, as_json: bool) -> None:
    """Check the products of OUT: COGs, classes against probabilities, polygons against classes, hashes."""
    from ussfc.pipeline.runs.validate import validate as validate_products

    with _errors():
        checks = validate_products(out)
        if as_json:
            click.echo(
                json.dumps([{"check": c.name, "ok": c.ok, "detail": c.detail} for c in checks], indent=1)
            )
        else:
            for check in checks:
                click.echo(f"{'ok    ' if check.ok else 'FAILED'}  {check.name}: {check.detail}")
        if not all(check.ok for check in checks):
            sys.exit(EXIT_INVALID)


FOLLOW_SECONDS = 5
"""Distance of two looks of `ussfc status --follow`."""

STALLED_SECONDS = 300
"""Without a new tile for so long, a run that is followed may have ended."""


@main.command()
@OUT
@click.option("-f", "--follow", is_flag=True, help="Look again every few seconds until the run has ended.")
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
def status(out: str, follow: bool, as_json: bool) -> None:
    """Say what is done in OUT, what failed and what is left, from the folder alone.

    Exit status 0 where the run is complete, else 8; so a script can wait for it.
    """
    from ussfc.pipeline.runs.status import status as status_of

    with _errors():
        found = _follow(out) if follow else status_of(out)
        if as_json:
            click.echo(json.dumps(found.dump(), indent=1))
        else:
            tiles = found.tiles
            click.echo(f"{found.state}: {tiles.done} of {tiles.total} tiles done, {tiles.left} left, "
                       f"{tiles.failed} failed")  # fmt: skip
            for failure in found.failed_tiles:
                click.echo(f"  failed   {failure.error} (tried {failure.attempts} times)")
            for name, size in found.products.items():
                click.echo(f"  product  {name}, {size / 1e6:.1f} MB")
            for name in found.uploads:
                click.echo(f"  unfinished upload of {name}; if no run is going on, `ussfc clean` removes it")
        if found.state != "complete":
            sys.exit(EXIT_INCOMPLETE)


def _follow(out: str) -> RunStatus:
    """The status once the run has ended; a line on standard error whenever tiles were added."""
    from ussfc.pipeline.runs.status import status as status_of

    first = last = time.monotonic()
    begun = done = None
    while True:
        found = status_of(out, waiting=True)
        if found.state in ("complete", "incomplete"):
            return found
        now, tiles = time.monotonic(), found.tiles
        begun = tiles.done if begun is None else begun
        if tiles.done != done:
            done, last = tiles.done, now
            added = done - begun
            left = f", {_duration((now - first) / added * tiles.left)} left" if added else ""
            click.echo(f"{found.state}: {done} of {tiles.total} tiles{left if tiles.left else ''}", err=True)
        elif now - last >= STALLED_SECONDS:
            last = now
            click.echo(
                f"no new tile for {_duration(STALLED_SECONDS)}; the job may wait in its queue or have ended (squeue "
                "says which); the same `ussfc run` or `ussfc submit` continues it",
                err=True,
            )
        time.sleep(FOLLOW_SECONDS)


@main.command()
@OUT
@click.option("-n", "--dry-run", is_flag=True, help="List, remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the names as JSON.")
def clean(out: str, dry_run: bool, as_json: bool) -> None:
    """Remove what stopped runs left in OUT: unfinished uploads, which cost storage, and files written aside.

    Not while a run is going on there. What is done stays.
    """
    from ussfc.pipeline.runs.status import clean as clean_folder

    with _errors():
        found = clean_folder(out, dry_run)
        if as_json:
            click.echo(json.dumps(found, indent=1))
            return
        verb = "would remove" if dry_run else "removed"
        for kind, names in found.items():
            for name in names:
                click.echo(f"{verb} {kind.removesuffix('s')} {name}")
        if not any(found.values()):
            click.echo("nothing to clean")


@main.command()
@click.option(
    "--data",
    "datas",
    multiple=True,
    required=True,
    metavar="KIND:DIR",
    help="Labelled pairs: levir-cd, cdd, dsifn-cd or geotiff, and their folder. May be given again.",
)
@click.option("--recipe", required=True, metavar="NAME|FILE", help="paper, strong, or a YAML file.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of this training.")
@click.option(
    "--validate-on", metavar="A,B,...", help="Scenes of geotiff data that are held out for validation."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--threads", type=click.IntRange(1), help="CPU threads; the last bits depend on it. Default: all cores."
)
@click.option("--set", "sets", multiple=True, metavar="A.B=C", help="Set one key of the recipe.")
@click.option(
    "--memory-gb", default=8.0, show_default=True, help="Decoded pictures that may stay in memory, GB."
)
@click.option("--licence", help="Licence of the labels; the card says that the weights are under it too.")
@click.option("--overwrite", is_flag=True, help="Replace another training in the folder.")
@_with_output
def train(
    datas: tuple[str, ...],
    recipe: str,
    out: Path,
    validate_on: str | None,
    device: str,
    threads: int | None,
    sets: tuple[str, ...],
    memory_gb: float,
    licence: str | None,
    overwrite: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Train USSFC-Net on labelled pairs; --out holds the weights, a card, the log and a state to resume from.

    Given again after any stop, it continues. `ussfc run --model OUT/best.yaml` uses the result.
    """
    from ussfc.training.recipe import load_recipe

    with _errors():
        chosen = load_recipe(recipe, sets)
        from ussfc.pipeline.evaluation.sources import training_sources
        from ussfc.spec import Licence
        from ussfc.training.loop import train as train_network

        data, validation = training_sources(
            datas, chosen.input_spec, _names(validate_on), int(memory_gb * 1e9)
        )
        terms = Licence(weights=licence, training_labels=licence) if licence else None
        result = train_network(
            chosen,
            data,
            validation,
            out,
            device=device,
            threads=threads,
            description=", ".join(text.partition(":")[0] for text in datas),
            licence=terms,
            overwrite=overwrite,
            subscriber=(lambda event: None) if quiet else _TrainingLines(verbose),
        )
        if as_json:
            click.echo(json.dumps({**vars(result), "folder": str(out)}, indent=1))
        elif not quiet:
            early = ", stopped early" if result.stopped_early else ""
            click.echo(
                f"{out / 'best.yaml'}: step {result.best_step} of {result.steps}{early}, validation F1 "
                f"{result.best_f1:.3f} at threshold {result.threshold:g}, {_duration(result.seconds)}"
            )


class _TrainingLines:
    """Progress of a training: one live line in a terminal, a line every few seconds elsewhere."""

    def __init__(self, verbose: bool) -> None:
        self._live = sys.stderr.isatty()
        self._every = PLAIN_SECONDS if verbose else 6 * PLAIN_SECONDS
        self._last = time.monotonic()
        self._speed: float | None = None

    def __call__(self, event: Any) -> None:
        from ussfc.training.loop import StepCompleted, TrainingNotice, Validated

        if isinstance(event, StepCompleted):
            self._stepped(event)
            return
        if self._live:
            click.echo("\r\033[K", err=True, nl=False)
        if isinstance(event, Validated):
            mark = ", best so far" if event.best else ""
            click.echo(
                f"step {event.step}: validation F1 {event.f1:.4f} at threshold {event.threshold:g}{mark}",
                err=True,
            )
        elif isinstance(event, TrainingNotice):
            click.echo(event.message, err=True)

    def _stepped(self, event: Any) -> None:
        # Smoothed: a step may share the machine with another program.
        speed = event.patches_per_s
        self._speed = speed if self._speed is None else 0.8 * self._speed + 0.2 * speed
        line = f"step {event.step}/{event.steps}, loss {event.loss:.4f}, {self._speed:.1f} crops/s"
        now = time.monotonic()
        if self._live:
            click.echo(f"\r\033[K{line}", err=True, nl=False)
        elif now - self._last >= self._every:
            self._last = now
            click.echo(line, err=True)


@main.command()
@click.option(
    "--model", required=True, metavar="NAME|FILE", help="Model: a name, a card (yaml) or a weights file."
)
@click.option(
    "--data",
    "datas",
    multiple=True,
    required=True,
    metavar="KIND:DIR",
    help="Labelled pairs: levir-cd, cdd, dsifn-cd or geotiff, and their folder. May be given again.",
)
@click.option(
    "--split", default="test", show_default=True, help="Of data sets of pictures: train, val or test."
)
@click.option("--scenes", metavar="A,B,...", help="Score these scenes of geotiff data only.")
@click.option(
    "--tune-on",
    metavar="SPLIT|A,B,...",
    help="Choose the threshold with the largest F1 here: a split, or scenes, which are then not scored.",
)
@click.option("--baseline", is_flag=True, help="Score change vector magnitude with Otsu's threshold as well.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for scores, curve and pictures of errors."
)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML configuration.")
@click.option("--set", "sets", multiple=True, metavar="A.B=C", help="Set one key; see `ussfc config`.")
@click.option("--threshold", type=float, metavar="T", help="Change where the probability is at least T.")
@_with_output
def evaluate(
    model: str,
    datas: tuple[str, ...],
    split: str,
    scenes: str | None,
    tune_on: str | None,
    baseline: bool,
    out: Path | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score a model on labelled pairs: one confusion matrix of the change class over all of them.

    Georeferenced scenes go through the pipeline as in `ussfc run`; pictures in patches without overlap.
    """
    from ussfc.pipeline.evaluation.evaluate import Selection
    from ussfc.pipeline.evaluation.evaluate import evaluate as score

    with _errors():
        with _progress(quiet, verbose, as_json) as subscriber:
            result = score(
                datas,
                _config(model=model, **options),
                Selection(split, _names(scenes), tune_on),
                with_baseline=baseline,
                out=out,
                subscriber=subscriber,
            )
        summary = result.summary()
        if as_json:
            click.echo(json.dumps(summary, indent=1))
        else:
            _show_scores(summary)


MOST_SIZES = 4
"""Sizes of pairs up to which each is named."""

MOST_ROWS = 40
"""Scenes up to which the table has a row each."""


def _show_scores(summary: dict[str, Any]) -> None:
    names = ("precision", "recall", "f1", "iou", "overall_accuracy", "kappa")

    def line(name: str, scores: dict[str, Any]) -> str:
        numbers = ("     -   " if scores[key] is None else f"{scores[key]:9.4f}" for key in names)
        return f"{name:<24}" + "".join(numbers)

    click.echo(f"{summary['model']} at threshold {summary['threshold']:g} ({summary['threshold_from']})")
    click.echo(
        " " * 24 + "".join(f"{name:>9}" for name in ("precision", "recall", "F1", "IoU", "OA", "kappa"))
    )
    if len(summary["scenes"]) <= MOST_ROWS:
        for scene in summary["scenes"]:
            click.echo(line(scene["name"], scene))
    click.echo(line(f"all {len(summary['scenes'])}", summary["scores"]))
    if "baseline" in summary:
        click.echo(line("magnitude + Otsu, all", summary["baseline"]["scores"]))
    average = summary["average_precision"]
    click.echo(f"average precision {'-' if average is None else format(average, '.4f')}; F1 by threshold:")
    scored = [(row["threshold"], row["f1"]) for row in summary["sweep"]]
    click.echo("  ".join(f"{t:.2f} {'-' if f1 is None else format(f1, '.3f')}" for t, f1 in scored))


@main.group()
def data() -> None:
    """Labelled data for training and evaluation."""


@data.command("check")
@click.argument("kind")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check_data(kind: str, folder: Path, as_json: bool) -> None:
    """Read every file of a data set: KIND is levir-cd, cdd, dsifn-cd or geotiff.

    Says how many pairs there are, of what size, how much of them changed, and names every broken file.
    """
    from ussfc.pipeline.evaluation.sources import check_data as check

    with _errors():
        reports = check(kind, folder)
        if as_json:
            click.echo(json.dumps([vars(report) for report in reports], indent=1))
        for report in reports:
            if not as_json:
                sizes = ", ".join(f"{count} of {size}" for size, count in report.sizes.items())
                if len(report.sizes) > MOST_SIZES:
                    sizes = f"{len(report.sizes)} sizes"
                share = report.changed / report.pixels if report.pixels else 0.0
                changed = f"{share:.2%} of {report.pixels / 1e6:.1f} Mpx changed"
                click.echo(f"{report.split}: {report.pairs} pairs ({sizes or 'none whole'}), {changed}")
            for fault in report.broken:
                click.echo(f"broken: {fault}", err=True)
        if any(report.broken for report in reports):
            sys.exit(EXIT_INPUT)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


@main.group()
def models() -> None:
    """The models that come with the package."""


@models.command("list")
def list_models() -> None:
    """List the packaged models."""
    import ussfc

    with _errors():
        for name in ussfc.list_models():
            spec = ussfc.find_model(name)
            licence = spec.licence.weights if spec.licence else "no licence stated"
            click.echo(f"{name}  {spec.title} [{licence}]")


@models.command("show")
@click.argument("name", default="ussfc-s2-rgb")
@click.option("--json", "as_json", is_flag=True, help="Print card and costs as JSON.")
def show_model(name: str, as_json: bool) -> None:
    """Print the card of a model, and what its network costs: parameters, multiply-accumulates, time here."""
    import yaml

    import ussfc
    from ussfc.efficiency import efficiency, latency

    with _errors():
        spec = ussfc.find_model(name)
        card = spec.model_dump(mode="json", exclude_none=True)
        if not as_json:
            click.echo(yaml.safe_dump(card, sort_keys=False, width=110).rstrip())
        network = ussfc.load_weights(spec.weights_path(), sha256=spec.weights.sha256)
        counts = efficiency(network)
        seconds = latency(network, counts.patch_size)
        if as_json:
            costs = {**dataclasses.asdict(counts), "latency_s": round(seconds, 4)}
            click.echo(json.dumps({**card, "efficiency": costs}, indent=1))
            return
        size = counts.patch_size
        click.echo(f"\nnetwork, one pair of {size} x {size} px:")
        for label, value in (
            ("parameters", f"{counts.parameters:,}"),
            ("multiply-accumulates", f"{counts.macs / 1e9:.2f} G"),
            (
                "  as thop counts",
                f"{counts.macs_by_thop / 1e9:.2f} G (transposed convolutions fourfold, batch norm)",
            ),
            ("  as fvcore counts", f"{counts.macs_by_fvcore / 1e9:.2f} G (batch norm)"),
            ("latency here", f"{1000 * seconds:.0f} ms on one CPU core, {size**2 / seconds / 1e6:.2f} Mpx/s"),
        ):
            click.echo(f"  {label:<22} {value}")


@main.command()
@click.option("--model", metavar="NAME|FILE", help="Model: a name, a card (yaml) or a weights file.")
@click.option("--device", help="auto, cpu or cuda.")
@click.option(
    "--engine", "engines", multiple=True, metavar="NAME", help="Only this engine; may be given again."
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="NAME",
    help="Only this precision; may be given again.",
)
@click.option(
    "--patch",
    "patches",
    multiple=True,
    type=click.IntRange(16),
    metavar="PX",
    help="Side of the patches; may be given again. Default: the model's.",
)
@click.option(
    "--size",
    default=2048,
    show_default=True,
    type=click.IntRange(256),
    metavar="PX",
    help="Side of the pair that goes the whole way.",
)
@click.option("--end-to-end/--no-end-to-end", default=True, help="Whether a pair goes the whole way at all.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Measurements of each.")
@click.option(
    "--seconds",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Time of one measurement.",
)
@click.option(
    "--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all numbers here."
)
def bench(
    model: str | None,
    device: str | None,
    engines: tuple[str, ...],
    precisions: tuple[str, ...],
    patches: tuple[int, ...],
    size: int,
    end_to_end: bool,
    rounds: int,
    seconds: float,
    file: Path | None,
) -> None:
    """Measure this machine: the network by every engine, and the whole way from a pair of images to the products.

    Beside each, turn by turn, stands a plain reference: the network in eager float32, and MONAI's sliding window over
    it; and what memory and arithmetic of this machine would allow. Pixels are of the demo pair. The whole way goes by
    the engine and precision of the options where they name one, else of the configuration.
    """
    from ussfc.pipeline.benchmark.bench import bench as measure
    from ussfc.pipeline.storage.folder import Folder

    with _errors("interrupted; nothing is kept"):
        config = _config(
            model=model,
            engine=engines[0] if len(engines) == 1 else None,
            precision=precisions[0] if len(precisions) == 1 else None,
            own={"inference.device": device, "tiling.patch_size": patches[0] if patches else None},
        )
        folder = Folder.of(file.parent) if file is not None else None
        if folder is not None:
            # A place that cannot be written is said before minutes are spent.
            folder.prepare()
        result = measure(
            config,
            only_engines=engines,
            only_precisions=precisions,
            patches=patches,
            size=size if end_to_end else None,
            rounds=rounds,
            seconds=seconds,
            subscriber=lambda event: click.echo(getattr(event, "message", ""), err=True),
        )
        if folder is not None and file is not None:
            folder.write_json(file.name, result)
        _show_speeds(result)


WIDTH = 130
"""Characters of the widest table of `ussfc bench`."""

BUSY = 0.05
"""Share of the processor time that others may take before the numbers are said to suffer."""


def _show_speeds(result: dict[str, Any]) -> None:
    """The result of `ussfc bench` as tables."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # A narrower terminal breaks the lines; better than to lose digits.
    console = Console(width=max(WIDTH, shutil.get_terminal_size().columns))

    def spread(sampled: dict[str, Any] | None, unit: float = 1.0, digits: int = 2) -> str:
        if sampled is None:
            return "-"
        middle, least, largest = (
            f"{sampled[name] / unit:.{digits}f}" for name in ("median", "least", "largest")
        )
        return middle if least == largest else f"{middle} ({least}-{largest})"

    def show(title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        table = Table(
            title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for number, head in enumerate(heads):
            table.add_column(head, justify="right" if number else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)

    machine, settings, roof = result["machine"], result["settings"], result["roof"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    for line in (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 1e9:.1f} GB, "
        f"{machine['gpu'] or 'no GPU in use'}",
        f"{machine['system']}, Python {machine['python']}, {versions}",
        f"model {settings['model']}, device {settings['device']}; medians of {settings['rounds']} rounds of "
        f"{settings['seconds']:g} s, least and largest in brackets",
    ):
        console.print(line, markup=False, highlight=False)
    others = machine["others_share"]
    if others > BUSY:
        console.print(
            f"other programs took {others:.0%} of the processors: speeds are too low and ratios too high, for "
            "operators that are spread over all cores, as the references', wait for the slowest core",
            markup=False,
            highlight=False,
        )
    console.print()
    show(
        f"The machine, and what it allows at {roof['flop_per_pixel'] / 1e3:.1f} kFLOP a pixel",
        ("precision", "copy GB/s", "matrix product TFLOP/s", "kB a pixel, fused", "allowed Mpx/s"),
        [
            (
                precision,
                spread(roof["copy_bytes_per_s"], 1e9, 1),
                spread(rate, 1e12, 3) if rate else "in float32",
                f"{roof['bytes_per_pixel'][precision] / 1e3:.1f}",
                f"{roof['mpx_per_s'][precision]:.2f}",
            )
            for precision, rate in roof["flop_per_s"].items()
        ],
    )
    show(
        "Network; the reference is eager float32, a patch at a time, all cores",
        ("engine, precision", "patch", "batch", "calls", "Mpx/s", "reference\nMpx/s", "ratio", "largest\ndeviation",
         "of\nallowed"),
        [
            (
                f"{row['engine']} {row['precision']}",
                str(row["patch"]),
                *(
                    ("", "", "not here", "", "", "", "")
                    if "not_here" in row
                    else (
                        str(row["batch"]),
                        str(row["streams"]),
                        spread(row["mpx_per_s"], digits=3),
                        f"{row['reference_mpx_per_s']['median']:.3f}",
                        spread(row["ratio"]),
                        f"{row['largest_deviation']:.1e}",
                        f"{row['roof_share']:.0%}",
                    )
                ),
            )
            for row in result["network"]
        ],
    )  # fmt: skip
    reasons = {
        f"{row['engine']} {row['precision']}": row["not_here"]
        for row in result["network"]
        if "not_here" in row
    }
    way = result["end_to_end"]
    if way is not None:
        ours = " ".join(way["ussfc"].get(fact, "") for fact in ("engine", "precision")).strip()
        sides = ((f"ussfc run {ours}".strip(), "ussfc"), ("MONAI, scene in memory", "monai"))
        show(
            f"End to end: {way['pixels'] / 1e6:.1f} Mpx, patches of {way['patch']} px, overlap {way['overlap']:g}",
            ("", "Mpx/s", "seconds", "peak memory MB"),
            [
                (name, *(("not here", "", "") if "not_here" in way[key] else (
                    spread(way[key]["mpx_per_s"], digits=3), spread(way[key]["seconds"]),
                    spread(way[key]["peak_memory_bytes"], 1e6, 0),
                )))
                for name, key in sides
            ]
            + [("MONAI's over ussfc's", "", spread(way["speed_ratio"]), spread(way["memory_ratio"]))],
        )  # fmt: skip
        reasons |= {name: way[key]["not_here"] for name, key in sides if "not_here" in way[key]}
    stages = result["stages"]
    if stages is not None:
        show(
            "Stages of ussfc run",
            ("", "read s", "network s", "mosaic s", "vectorise s", "of the wall time outside the network"),
            [
                (
                    "seconds",
                    *(spread(stages[name]) for name in ("read", "network", "mosaic", "vectorise")),
                    spread(stages["share_outside_network"], 0.01, 0) + " %",
                )
            ],
        )
    for name, reason in reasons.items():
        console.print(f"{name}: not here: {reason}", markup=False, highlight=False)


@main.command("config")
def show_config() -> None:
    """List every configuration key with its default and meaning."""
    from ussfc.pipeline.config.load import documented_keys

    for key, default, description in documented_keys():
        click.echo(f"{key:<30} {json.dumps(default):<16} {description}")


def _config(
    config_file: Path | None = None,
    sets: tuple[str, ...] = (),
    base: dict[str, Any] | None = None,
    model: str | None = None,
    threshold: float | None = None,
    aoi: str | None = None,
    cluster: str | None = None,
    scheduler: str | None = None,
    engine: str | None = None,
    precision: str | None = None,
    own: Mapping[str, Any] | None = None,
) -> RunConfig:
    from ussfc.pipeline.config.load import load_config

    flags = {
        "model": model,
        "threshold": threshold,
        "grid.aoi": aoi,
        "cluster.address": scheduler,
        "inference.engine": engine,
        "inference.precision": precision,
    }
    if scheduler is not None:
        flags["cluster.kind"] = "scheduler"
    flags |= own or {}
    return load_config(config_file, sets, os.environ, flags, base, cluster)


@contextmanager
def _errors(
    interrupted: str = "interrupted; the same command continues where it stopped",
) -> Iterator[None]:
    """Turn what a user can meet into one line and an exit status."""
    from ussfc.errors import DataError, ModelError, TrainingError
    from ussfc.pipeline import errors

    statuses: tuple[tuple[type[Exception], int], ...] = (
        (errors.ConfigError, EXIT_USAGE),
        (errors.StoreError, EXIT_OUTPUT),
        (errors.InsufficientMemoryError, EXIT_MEMORY),
        (errors.ClusterError, EXIT_CLUSTER),
        (errors.PipelineError, EXIT_INPUT),
        (ModelError, EXIT_INPUT),
        (DataError, EXIT_INPUT),
        (TrainingError, EXIT_USAGE),
    )
    debug = click.get_current_context().find_root().obj["debug"]
    try:
        yield
    except KeyboardInterrupt:
        click.echo(interrupted, err=True)
        sys.exit(EXIT_INTERRUPTED)
    except tuple(kind for kind, _ in statuses) as error:
        if debug:
            raise
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(next(status for kind, status in statuses if isinstance(error, kind)))


@contextmanager
def _progress(quiet: bool, verbose: bool, as_json: bool) -> Iterator[Subscriber]:
    """A subscriber: a live bar in a terminal, plain lines elsewhere, nothing but errors with -q."""
    if quiet:
        yield lambda event: None
    elif sys.stderr.isatty() and not as_json:
        with _bar() as subscriber:
            yield subscriber
    else:
        yield _Lines(verbose)


class _Lines:
    """Progress as lines on standard error."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._total = self._done = self._pixels = 0
        self._start = self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        from ussfc.pipeline.events import Advanced, Notice, StageFinished, StageStarted

        now = time.monotonic()
        if isinstance(event, StageStarted):
            self._total, self._done, self._pixels, self._start, self._last = event.total, 0, 0, now, now
        elif isinstance(event, Advanced):
            self._done += event.done
            self._pixels += event.pixels
            if now - self._last >= PLAIN_SECONDS:
                self._last = now
                seconds = now - self._start
                left = seconds * (self._total - self._done) / max(self._done, 1)
                speed = self._pixels / 1e6 / seconds
                click.echo(
                    f"{event.stage}: {self._done}/{self._total}, {speed:.2f} Mpx/s, {_duration(left)} left",
                    err=True,
                )
        elif isinstance(event, StageFinished):
            if self._verbose or event.seconds >= PLAIN_SECONDS:
                click.echo(f"{event.stage}: done in {_duration(event.seconds)}", err=True)
        elif isinstance(event, Notice):
            click.echo(f"{'warning' if event.warning else 'note'}: {event.message}", err=True)


@contextmanager
def _bar() -> Iterator[Subscriber]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ussfc.pipeline.events import Advanced, Notice, StageFinished, StageStarted

    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}
        pixels: dict[str, tuple[int, float]] = {}

        def subscriber(event: Event) -> None:
            if isinstance(event, StageStarted):
                tasks[event.stage] = progress.add_task(event.stage, total=event.total, speed="")
                pixels[event.stage] = (0, time.monotonic())
            elif isinstance(event, Advanced):
                done, start = pixels[event.stage]
                pixels[event.stage] = (done + event.pixels, start)
                speed = (done + event.pixels) / 1e6 / max(time.monotonic() - start, 1e-3)
                progress.update(tasks[event.stage], advance=event.done, speed=f"{speed:.2f} Mpx/s")
            elif isinstance(event, StageFinished):
                task = tasks[event.stage]
                progress.update(task, completed=progress.tasks[task].total)
            elif isinstance(event, Notice):
                progress.console.print(
                    f"{'warning' if event.warning else 'note'}: {event.message}", markup=False
                )

        yield subscriber


def _show_result(manifest: RunRecord, out: str, quiet: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(manifest.dump(), indent=1, sort_keys=True))
        return
    if quiet:
        return
    from ussfc.pipeline.storage.remote import shown_uri

    counts = manifest.counts
    if counts.changed_pixels is not None:
        share = f"{counts.changed_share:.2%}"
        click.echo(f"{counts.changed_pixels} of {counts.classified_pixels} pixels changed ({share})")
    if counts.polygons is not None:
        click.echo(f"{counts.polygons} polygons")
    total = sum(stage.seconds for stage in manifest.stages.values())
    click.echo(f"{counts.pixels / 1e6:.2f} Mpx in {_duration(total)}")
    width = shutil.get_terminal_size().columns
    for name in manifest.products:
        click.echo(f"  {shown_uri(out).rstrip('/')}/{name}"[: max(width, 40)])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
