"""Commands about the accuracy of a map: ``ussfc sample`` and ``ussfc assess``."""

# Imports of what computes stay inside the commands: `ussfc --help` must not wait for GDAL.
from __future__ import annotations

from pathlib import Path

import click

from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.terminal import completion, options
from ussfc.pipeline.terminal.output import Output
from ussfc.pipeline.terminal.progress import progress


@click.command()
@options.OUT
@click.argument("file", metavar="FILE", shell_complete=completion.files)
@click.option(
    "--by", metavar="COLUMN", help="Column with the names; by default name, or the first one of text."
)
@options.output_options
def districts(out: str, file: str, by: str | None, output: Output) -> None:
    """Sum the changed area of OUT in each polygon of FILE, with its share of what was classified there.

    Pixels count by their area on the ellipsoid, where their centre lies inside; districts that overlap count each for
    itself. Writes districts.csv and districts.parquet (GeoParquet) in OUT, and a section of report.html.
    """
    from ussfc.pipeline.assessment.districts import sum_districts
    from ussfc.pipeline.report.write import conclude
    from ussfc.pipeline.terminal.assessment_tables import district_lines

    with progress(output) as subscriber:
        found = sum_districts(out, file, by, subscriber)
        conclude(out, subscriber)
    output.result(found.dump(), district_lines(found, out))


@click.command()
@options.OUT
@click.option("--n", "points", type=int, metavar="POINTS", help="Number of points; default 300.")
@click.option(
    "--target-se",
    type=float,
    metavar="SE",
    help="As many points as this standard error of the overall accuracy needs, in place of --n: 0.01.",
)
@click.option(
    "--strata",
    default="change,buffer,stable",
    show_default=True,
    metavar="A,B,...",
    help="Strata; without buffer what lies beside change is stable.",
)
@click.option(
    "--buffer",
    default=5,
    show_default=True,
    type=click.IntRange(1, 100),
    metavar="PX",
    help="Width of the buffer around change, pixels.",
)
@click.option(
    "--unit",
    type=click.Choice(["pixel", "block"]),
    default="pixel",
    show_default=True,
    help="Unit that is drawn and labelled.",
)
@click.option(
    "--block-size",
    type=click.IntRange(2, 256),
    metavar="PX",
    help="Side of a block, pixels; default 3, with --unit block.",
)
@click.option(
    "--seed",
    default=1,
    show_default=True,
    type=click.IntRange(0, 2**63),
    help="The same seed draws the same points.",
)
@click.option(
    "--to", type=options.LocalPath(file_okay=False), metavar="DIR", help="Folder; default OUT-sample."
)
@options.output_options
def sample(
    out: str,
    points: int | None,
    target_se: float | None,
    strata: str,
    buffer: int,
    unit: str,
    block_size: int | None,
    seed: int,
    to: Path | None,
    output: Output,
) -> None:
    """Draw a stratified random sample of OUT's change.tif to be labelled, for `ussfc assess`.

    Strata are change, a buffer around it and what is stable; nodata is left out. Writes points with an empty field
    reference as GeoPackage and GeoParquet, how they were drawn, and a QGIS project with both dates. Rare strata get
    50 points where there are enough, the rest is shared by area; with --target-se by area and expected variance.
    """
    from ussfc.pipeline.assessment.sample import SampleRequest, draw_sample
    from ussfc.pipeline.terminal.assessment_tables import sample_lines

    if block_size is not None and unit == "pixel":
        raise ConfigError(f"--block-size {block_size}: is for --unit block alone; give that as well")
    side = 1 if unit == "pixel" else block_size or 3
    names = tuple(name.strip() for name in strata.split(",") if name.strip())
    request = SampleRequest(points, target_se, names, buffer, side, seed)
    with progress(output) as subscriber:
        drawn = draw_sample(out, request, to, subscriber)
    listed = {**drawn.record.dump(), "folder": str(drawn.folder), "files": list(drawn.files)}
    output.result(listed, sample_lines(drawn))


@click.command()
@options.OUT
@click.argument("sample_file", metavar="SAMPLE", type=options.LocalPath())
@options.output_options
def assess(out: str, sample_file: Path, output: Output) -> None:
    """Estimate accuracy and area of change of OUT from a labelled SAMPLE, each with its 95 % interval.

    User's, producer's and overall accuracy, F1, and the area of change adjusted for the errors of the map. Where
    change.tif has another threshold since the sample was drawn, the estimates are post-stratified by the map as it
    is. Writes assessment.json beside SAMPLE.
    """
    from ussfc.pipeline.assessment.assess import assess as assess_map
    from ussfc.pipeline.assessment.sample_files import ASSESSMENT
    from ussfc.pipeline.report.write import conclude
    from ussfc.pipeline.terminal.assessment_tables import assessment_lines

    with progress(output) as subscriber:
        result = assess_map(out, sample_file, subscriber)
        conclude(out, subscriber)
    output.result(result.dump(), assessment_lines(result, sample_file.absolute().parent / ASSESSMENT))
