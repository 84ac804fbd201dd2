"""Commands of the command line; options, output and tables are in `ussfc.pipeline.terminal`.

Exit statuses are in `ussfc.pipeline.terminal.exit_statuses`.
"""

# Imports of what computes stay inside the commands: `ussfc --help` must not wait for torch or GDAL.
from __future__ import annotations

import atexit
import dataclasses
import gc
import os
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ussfc.pipeline.parallel.memory_limit import check_address_space
from ussfc.pipeline.terminal import (
    assessment_commands,
    completion,
    doctor_commands,
    model_commands,
    options,
    report_commands,
    tables,
    training_commands,
)
from ussfc.pipeline.terminal.aligned import terminal_width
from ussfc.pipeline.terminal.error_reports import Commands, print_traceback, reported_errors
from ussfc.pipeline.terminal.exit_statuses import ExitStatus
from ussfc.pipeline.terminal.imports import importing_meanwhile
from ussfc.pipeline.terminal.options import Destination, Preparation, Settings, Speeds
from ussfc.pipeline.terminal.output import Output
from ussfc.pipeline.terminal.parameters import LocalPath
from ussfc.pipeline.terminal.progress import follow, follow_batch, progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ussfc.pipeline.batches.index import PairResult
    from ussfc.pipeline.events import Subscriber
    from ussfc.pipeline.runs.manifest import InferenceRecord, RunRecord
    from ussfc.pipeline.runs.pair import ScenePair
    from ussfc.pipeline.storage.folder import Folder

LAST_MODULES = (
    "ussfc.pipeline.runs.cloud_check",
    "scipy.sparse.csgraph",
    "pyogrio",
    "ussfc.pipeline.report.write",
)
"""Modules of a run's last steps that take long to import: SciPy's images are for the search for clouds, its graphs and
pyogrio, with pandas, for polygons."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ussfc")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(context: click.Context, debug: bool) -> None:
    """Change detection for two images of a whole city.

    \b
    ussfc demo                          run on an embedded Sentinel-2 pair
    ussfc run BEFORE AFTER --out DIR    change raster and polygons of your own pair
    """
    sys.excepthook = print_traceback
    # Or the interpreter, on its way out, looks for cycles among all objects of all libraries: half a second.
    atexit.register(gc.freeze)
    # NumPy's OpenBLAS keeps its threads waiting in a busy loop between products, beside our own threads, and ours are
    # small. NumPy is loaded after this, in workers too, which inherit it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context.obj = {"debug": debug or bool(context.obj and context.obj.get("debug"))}


@main.command()
@options.pair_arguments
@options.destination_options
@options.config_options
@click.option(
    "--profile",
    type=LocalPath(dir_okay=False),
    metavar="FILE",
    help="Write a time line of stages and tiles by process and thread, for Perfetto or chrome://tracing.",
)
@options.output_options
def run(
    before: str,
    after: str,
    destination: Destination,
    settings: Settings,
    profile: Path | None,
    output: Output,
) -> None:
    """Detect change between BEFORE and AFTER: change.tif, probability.tif and polygons in --out.

    Given again after any stop, it continues with what is missing. Tiles that keep failing are nodata in the
    products and listed in run.json; the exit status is then 8, and the same command tries them again.
    """
    from ussfc.pipeline.batches.upkeep import refresh_pair
    from ussfc.pipeline.runs.infer import Computation
    from ussfc.pipeline.runs.run import run as run_pipeline
    from ussfc.pipeline.runs.trace import traced

    out, computation = destination.out, Computation(fail_fast=destination.fail_fast)
    config = settings.load()
    with progress(output) as shown, traced(profile, shown) as recorded:
        subscriber = importing_meanwhile(recorded, *LAST_MODULES)
        record = run_pipeline(
            before, after, out, config, destination.overwrite, subscriber, computation, _conclude
        )
    refresh_pair(out, record)
    lines = _summary(record, out, output)
    output.result(record.dump(), lines, sort_keys=True)
    _exit_if_incomplete(record, output)


def _conclude(out: Folder, subscriber: Subscriber, pair: ScenePair) -> None:
    from ussfc.pipeline.report.write import conclude

    conclude(out, subscriber, pair)


def _summary(record: RunRecord, out: str, output: Output) -> Iterator[str]:
    from ussfc.pipeline.storage import layout
    from ussfc.pipeline.storage.folder import Folder

    # It may be that of an earlier run, or could not be made.
    wanted = record.config.get("output", {}).get("report", True)
    has_report = bool(wanted) and Folder.of(out).exists(layout.REPORT)
    yield from tables.run_lines(record, out, output.elapsed, has_report, terminal_width())


@main.command()
@options.pair_arguments
@options.destination_options
@click.option("-n", "--dry-run", is_flag=True, help="Print the batch script, submit nothing.")
@options.config_options
@options.json_option("Print the job as JSON.")
def submit(
    before: str, after: str, destination: Destination, dry_run: bool, settings: Settings, output: Output
) -> None:
    """Run as one SLURM job that holds scheduler, client and workers: one batch script, submitted with sbatch.

    With --cluster slurm or a file of that kind, as `ussfc run` takes it: cluster.jobs times cluster.workers tasks
    of cluster.threads cores. Prints the job's id; `ussfc status OUT --follow` follows it from the folder alone.
    Given again after the job's end, it continues.
    """
    from ussfc.pipeline.runs.submit import submit as submit_run

    flags = {"--overwrite": destination.overwrite, "--fail-fast": destination.fail_fast}
    given = tuple(flag for flag, value in flags.items() if value)
    submission = submit_run(before, after, destination.out, settings.load(), given, dry_run)
    for note in submission.notes:
        output.notice(f"warning: {note}")
    if output.as_json:
        shown = dataclasses.asdict(submission) | {"file": submission.file and str(submission.file)}
        output.json(shown | {"log": str(submission.log)})
    elif dry_run:
        click.echo(submission.script, nl=False)
    else:
        log = str(submission.log).replace("%j", submission.job or "")
        click.echo(f"job {submission.job}, script {submission.file}, log {log}")


@main.command()
@click.argument("pairs", shell_complete=completion.files)
@options.destination_options
@click.option(
    "--at-once", type=click.IntRange(1), help="Pairs under way at a time; default 2 with workers, else 1."
)
@options.config_options
@options.output_options
def batch(
    pairs: str, destination: Destination, at_once: int | None, settings: Settings, output: Output
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

    out, computation = destination.out, Computation(fail_fast=destination.fail_fast)
    entries = read_pairs(pairs)
    with progress(output) as subscriber:
        results = run_batch(
            entries, out, settings.load, destination.overwrite, subscriber, computation, at_once
        )
    _show_batch(results, out, output)


def _show_batch(results: list[PairResult], out: str, output: Output) -> None:
    listed = [result.dump() for result in results]
    output.result(listed, tables.batch_lines(results, out), sort_keys=True)
    for result in results:
        if result.manifest is None:
            output.notice(f"failed: {result.name}: {result.error}")
    if not all(result.manifest and result.manifest.complete for result in results):
        sys.exit(ExitStatus.INCOMPLETE)


@main.command()
@click.argument("out", default="ussfc-demo", callback=options.check_folder, shell_complete=completion.files)
@options.output_options
def demo(out: str, output: Output) -> None:
    """Run on an embedded Sentinel-2 pair of Beirut and write to OUT (default: ./ussfc-demo).

    The packaged weights that it runs are under CC BY-NC-SA 4.0: not for commercial use.
    """
    from ussfc.pipeline.runs.run import run as run_pipeline

    with resources.as_file(resources.files("ussfc.configs").joinpath("demo")) as folder:
        before, after = (str(folder / f"beirut_{date}.tif") for date in ("before", "after"))
        with progress(output) as shown:
            subscriber = importing_meanwhile(shown, *LAST_MODULES)
            record = run_pipeline(
                before, after, out, Settings().load(), False, subscriber, conclude=_conclude
            )
    source = (
        "Contains modified Copernicus Sentinel data 2015-2018. `ussfc models show` prints the model's card."
    )
    lines = _summary(record, out, output)
    output.result(record.dump(), (*lines, source), sort_keys=True)


@main.command()
@options.pair_arguments
@options.config_options
@options.json_option("Print the plan as JSON.")
def plan(before: str, after: str, settings: Settings, output: Output) -> None:
    """Print what a run would do: model, bands, tiles, bytes, memory, time. No pixel is read.

    The network computes a few patches of noise, to know how fast it is on this machine.
    """
    from ussfc.pipeline.runs.estimate import estimate_time
    from ussfc.pipeline.runs.plan import plan as plan_run

    planned = plan_run(before, after, settings.load())
    found = estimate_time(planned, lambda: output.elapsed)
    summary = planned.summary() | {
        "seconds_estimate": found and found.seconds,
        "seconds_range": [found.least, found.most] if found else None,
        "seconds_source": found and found.source,
    }
    output.result(summary, tables.plan_lines(summary, (before, after), terminal_width()))


@main.command()
@options.pair_arguments
@options.register_options
@options.json_option("Print the estimate as JSON.")
def register(
    before: str, after: str, settings: Settings, vectors: Path | None, vrt: Path | None, output: Output
) -> None:
    """Measure how far AFTER lies beside BEFORE, in pixels of their common grid. `ussfc run` does so by itself."""
    from ussfc.pipeline.runs.register import register_scenes, write_moved, write_vectors

    found = register_scenes(before, after, settings.load())
    if vectors is not None:
        write_vectors(found, vectors)
    if vrt is not None:
        write_moved(found, vrt)
    written = [path for path in (vectors, vrt) if path is not None]
    output.result(found.record.dump(), tables.registration_lines(found.record, written))


@main.command()
@click.argument("date", shell_complete=completion.files)
@options.prepare_options
@options.output_options
def prepare(date: str, preparation: Preparation, output: Output) -> None:
    """Write DATE once as one cloud-optimised GeoTIFF that is read faster, from whatever `ussfc run` takes.

    For JPEG 2000, bands in an archive or on a network, and scenes side by side that are run on more than once. Names,
    scale, offset, nodata and date stay.
    """
    from ussfc.pipeline.runs.prepare import prepare as write_scene

    with progress(output) as subscriber:
        found = write_scene(
            date,
            preparation.path,
            preparation.bands,
            preparation.overwrite,
            subscriber,
            preparation.allow_vrt_sources,
        )
    paths = {"path": str(found.path), "mask": found.mask and str(found.mask)}
    listed = dataclasses.asdict(found) | paths
    output.result(listed, tables.prepared_lines(found))


@main.command()
@options.pair_arguments
@options.destination_options
@options.config_options
@options.output_options
def infer(before: str, after: str, destination: Destination, settings: Settings, output: Output) -> None:
    """Run the network alone: probabilities in OUT/work."""
    from ussfc.pipeline.runs.infer import Computation
    from ussfc.pipeline.runs.infer import infer as infer_tiles
    from ussfc.pipeline.runs.plan import plan as plan_run
    from ussfc.pipeline.runs.products import read_inference

    out, computation = destination.out, Computation(fail_fast=destination.fail_fast)
    config = settings.load()
    with progress(output) as subscriber:
        infer_tiles(plan_run(before, after, config), out, destination.overwrite, subscriber, computation)
    record = read_inference(out)
    output.result(record.dump(), (), sort_keys=True)
    _exit_if_incomplete(record, output)


def _exit_if_incomplete(record: InferenceRecord, output: Output) -> None:
    if not record.complete:
        output.notice(tables.incomplete_line(record))
        sys.exit(ExitStatus.INCOMPLETE)


@main.command()
@options.OUT
@options.threshold_options
@options.output_options
def threshold(out: str, settings: Settings, output: Output) -> None:
    """Bring change.tif and the polygons of OUT to another THRESHOLD, 0 to 1; the network does not run.

    OUT is the folder of a run, or of a batch: then of all its pairs.

    Formats, smallest area and simplification stay as they are there, unless options change them.
    """
    _finish("threshold", out, settings, output)


@main.command()
@options.OUT
@options.raster_options
@options.output_options
def mosaic(out: str, settings: Settings, output: Output) -> None:
    """Write the rasters of OUT, a run or a batch, again from its probabilities, with another compression for example.

    With another threshold the polygons follow.
    """
    _finish("mosaic", out, settings, output)


@main.command()
@options.OUT
@options.polygon_options
@options.output_options
def vectorise(out: str, settings: Settings, output: Output) -> None:
    """Write the polygons of OUT, a run or a batch, again from its probabilities, in another format for example.

    Formats that are there stay and follow; with another threshold change.tif follows as well.
    """
    _finish("vectorise", out, settings, output)


def _finish(stage: str, out: str, settings: Settings, output: Output) -> None:
    from ussfc.pipeline.batches.folder_checks import is_batch
    from ussfc.pipeline.batches.upkeep import finish_pairs, refresh_pair
    from ussfc.pipeline.report.write import conclude
    from ussfc.pipeline.runs import products

    stages = {
        "threshold": products.write_products, "mosaic": products.mosaic, "vectorise": products.vectorise,
    }  # fmt: skip

    def finish(folder: Folder | str, subscriber: Subscriber) -> RunRecord:
        stages[stage](folder, settings.load(base=products.recorded_config(folder)), subscriber)
        found = products.write_manifest(folder, subscriber=subscriber)
        conclude(folder, subscriber)
        return found

    if is_batch(out):
        with progress(output) as subscriber:
            results = finish_pairs(out, stage, finish, subscriber)
        _show_batch(results, out, output)
        return
    with progress(output) as subscriber:
        record = finish(out, subscriber)
    refresh_pair(out, record)
    lines = _summary(record, out, output)
    output.result(record.dump(), lines, sort_keys=True)
    _exit_if_incomplete(record, output)


main.add_command(report_commands.report)
main.add_command(report_commands.view)


@main.command()
@options.OUT
@options.json_option("Print the checks as JSON.")
def validate(out: str, output: Output) -> None:
    """Check the products of OUT, a run or a batch: COGs, classes, polygons, hashes, each against the others."""
    from ussfc.pipeline.batches.folder_checks import is_batch
    from ussfc.pipeline.runs.validate import validate as validate_products
    from ussfc.pipeline.terminal.pair_checks import validate_pairs

    if is_batch(out):
        validate_pairs(out, output)
        return
    checks = validate_products(out)
    listed = [{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
    output.result(listed, tables.check_lines(checks))
    if not all(check.ok for check in checks):
        sys.exit(ExitStatus.INVALID)


@main.command()
@options.OUT
@click.option(
    "-f", "--follow", "following", is_flag=True, help="Look again every few seconds until the run has ended."
)
@options.json_option("Print the status as JSON.")
def status(out: str, following: bool, output: Output) -> None:
    """Print what is done in OUT, what failed and what is left, from the folder of a run or a batch alone.

    Exit status 0 where the run, or every pair of the batch, is complete, else 8; so a script can wait for it.
    """
    from ussfc.pipeline.batches.folder_checks import batch_status, is_batch, worst_state
    from ussfc.pipeline.runs.status import status as status_of

    if is_batch(out):
        pairs = follow_batch(out, output) if following else batch_status(out)
        state = worst_state(pairs)
        listed = {"state": state, "pairs": [pair.dump() for pair in pairs]}
        output.result(listed, tables.batch_status_lines(pairs))
        if state != "complete":
            sys.exit(ExitStatus.INCOMPLETE)
        return
    found = follow(out, output) if following else status_of(out)
    output.result(found.dump(), tables.status_lines(found))
    if found.state != "complete":
        sys.exit(ExitStatus.INCOMPLETE)


@main.command()
@options.OUT
@click.option("-n", "--dry-run", is_flag=True, help="List, remove nothing.")
@options.json_option("Print the names as JSON.")
def clean(out: str, dry_run: bool, output: Output) -> None:
    """Remove what stopped runs left in OUT, a run or a batch: unfinished uploads, and files written aside.

    Unfinished uploads cost storage. Not while a run is going on there. What is done stays.
    """
    from ussfc.pipeline.batches.folder_checks import is_batch
    from ussfc.pipeline.batches.upkeep import clean_batch
    from ussfc.pipeline.runs.status import clean as clean_folder

    found = clean_batch(out, dry_run) if is_batch(out) else clean_folder(out, dry_run)
    output.result(found, tables.clean_lines(found, dry_run))


main.add_command(assessment_commands.districts)
main.add_command(assessment_commands.sample)
main.add_command(assessment_commands.assess)
main.add_command(model_commands.models)


main.add_command(training_commands.train)
main.add_command(training_commands.evaluate)
main.add_command(training_commands.data)
main.add_command(doctor_commands.doctor)


@main.command()
@options.speed_options
def bench(speeds: Speeds) -> None:
    """Measure this machine: the network by every engine, and the whole way from a pair of images to the products.

    Beside each, turn by turn, stands a plain reference: the network in eager float32, and MONAI's sliding window over
    it; and what memory and arithmetic of this machine would allow. Pixels are of the demo pair. The whole way goes by
    the engine and precision of the options where they name one, else of the configuration.
    """
    from ussfc.pipeline.benchmark.bench import Measurement
    from ussfc.pipeline.benchmark.bench import bench as measure
    from ussfc.pipeline.storage.folder import Folder
    from ussfc.pipeline.terminal.speed_tables import print_speeds

    check_address_space()
    chosen = Settings(
        model=speeds.model,
        engine=speeds.engines[0] if len(speeds.engines) == 1 else None,
        precision=speeds.precisions[0] if len(speeds.precisions) == 1 else None,
    )
    patch_size = speeds.patches[0] if speeds.patches else None
    measurement = Measurement(
        engines=speeds.engines,
        precisions=speeds.precisions,
        patches=speeds.patches,
        size=speeds.size if speeds.end_to_end else None,
        rounds=speeds.rounds,
        seconds=speeds.seconds,
    )
    with reported_errors("interrupted; nothing is kept"):
        config = chosen.load({"inference.device": speeds.device, "tiling.patch_size": patch_size})
        folder = None if speeds.file is None else Folder.of(speeds.file.parent)
        if folder is not None:
            # A place that cannot be written is reported before minutes are spent.
            folder.prepare()
        result = measure(
            config, measurement, lambda event: click.echo(getattr(event, "message", ""), err=True)
        )
        if folder is not None and speeds.file is not None:
            folder.write_json(speeds.file.name, result)
        print_speeds(result)


@main.command("help", hidden=True)
@click.argument("names", nargs=-1)
@click.pass_context
def show_help(context: click.Context, names: tuple[str, ...]) -> None:
    """Print the help page of a command, as its --help does."""
    page = context.find_root()
    for name in names:
        group = page.command
        command = group.get_command(page, name) if isinstance(group, click.Group) else None
        if command is None:
            page.fail(f"No such command {name!r}.")
        page = click.Context(command, page, name)
    click.echo(page.get_help())


@main.command("config")
def show_config() -> None:
    """List every configuration key with its default and meaning."""
    Output().lines(tables.key_lines())


if __name__ == "__main__":
    main()
