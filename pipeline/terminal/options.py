"""Options and arguments of the commands, in groups that reach a command as one object."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ussfc.pipeline.errors import ConfigError, StoreError
from ussfc.pipeline.terminal import completion
from ussfc.pipeline.terminal.output import Output
from ussfc.pipeline.terminal.parameters import BandsOption
from ussfc.pipeline.terminal.parameters import LocalPath as LocalPath

if TYPE_CHECKING:
    from ussfc.pipeline.config.schema import RunConfig

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options that set configuration keys; None leaves a key to the other sources."""

    config_file: Path | None = None
    sets: tuple[str, ...] = ()
    model: str | None = None
    threshold: float | None = None
    formats: tuple[str, ...] = ()
    min_area: float | None = None
    simplify: float | None = None
    aoi: str | None = None
    resample_to_model: bool | None = None
    allow_vrt_sources: bool = False
    mask_before: str | None = None
    mask_after: str | None = None
    mask_dilation: float | None = None
    clouds: str | None = None
    before_bands: str | None = None
    after_bands: str | None = None
    date_before: str | None = None
    date_after: str | None = None
    quality: str | None = None
    engine: str | None = None
    precision: str | None = None
    cluster: str | None = None
    scheduler: str | None = None
    registration: str | None = None
    radiometry: str | None = None
    strict: bool | None = None
    force: bool | None = None
    report: bool | None = None

    def load(self, own: Mapping[str, Any] | None = None, base: dict[str, Any] | None = None) -> RunConfig:
        """Return the configuration of files, environment and options.

        Args:
            own: dotted keys that go before the options.
            base: configuration of an earlier run instead of the packaged defaults.

        Raises:
            ConfigError: a source cannot be used.
        """
        from ussfc.pipeline.config.load import load_config

        flags = {
            "model": self.model,
            "threshold": self.threshold,
            "vector.format": list(self.formats) or None,
            "vector.min_area_m2": self.min_area,
            "vector.simplify_m": self.simplify,
            "grid.aoi": self.aoi,
            "grid.resample_to_model": self.resample_to_model,
            "inputs.vrt_sources": "any" if self.allow_vrt_sources else None,
            "masks.before": self.mask_before,
            "masks.after": self.mask_after,
            "masks.dilation_m": self.mask_dilation,
            "masks.clouds": self.clouds,
            "bands.before": self.before_bands,
            "bands.after": self.after_bands,
            "dates.before": self.date_before,
            "dates.after": self.date_after,
            "registration": self.registration,
            "radiometry": self.radiometry,
            "strict": self.strict,
            "force": self.force,
            "output.report": self.report,
            "cluster.address": self.scheduler,
            "inference.quality": self.quality,
            "inference.engine": self.engine,
            "inference.precision": self.precision,
        }
        if self.scheduler is not None:
            flags["cluster.kind"] = "scheduler"
        return load_config(
            self.config_file, self.sets, os.environ, {**flags, **(own or {})}, base, self.cluster
        )


@dataclasses.dataclass(frozen=True)
class Destination:
    """Folder of a run, and how it treats what is there."""

    out: str
    overwrite: bool
    fail_fast: bool


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Argument and options of ``ussfc prepare``."""

    path: Path
    bands: list[int | str] | None
    overwrite: bool
    allow_vrt_sources: bool


@dataclasses.dataclass(frozen=True)
class Training:
    """Options of ``ussfc train``."""

    datas: tuple[str, ...]
    recipe: str | None
    out: Path
    validate_on: str | None
    device: str
    threads: int | None
    sets: tuple[str, ...]
    memory_gb: float
    licence: str | None
    overwrite: bool
    start: str | None


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Options of ``ussfc evaluate``."""

    datas: tuple[str, ...]
    split: str
    scenes: str | None
    tune_on: str | None
    baseline: bool
    out: Path | None


@dataclasses.dataclass(frozen=True)
class Speeds:
    """Options of ``ussfc bench``."""

    model: str | None
    device: str | None
    engines: tuple[str, ...]
    precisions: tuple[str, ...]
    patches: tuple[int, ...]
    size: int
    end_to_end: bool
    rounds: int
    seconds: float
    file: Path | None


def check_folder(context: click.Context, option: click.Parameter, value: str) -> str:
    """Refuse the memory of a process as a folder: with this process all of it ends."""
    if value.lower().startswith("memory:"):
        raise StoreError(
            f"--out {value}: is the memory of this process, of which nothing would be left; give a folder or an "
            "address like s3://bucket/prefix"
        )
    return value


def grouped(name: str, group: type[Any], *options: Decorator[Any]) -> Decorator[Any]:
    """Return a decorator that adds options to a command and passes their values as one object.

    Args:
        name: parameter of the command that receives the object.
        group: dataclass whose fields are named after the options' values; a field without an option keeps its default.
        options: click's decorators, in the order of the help page.
    """
    fields = [field.name for field in dataclasses.fields(group)]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(*args: Any, **values: Any) -> Any:
            taken = {field: values.pop(field) for field in fields if field in values}
            return command(*args, **values, **{name: group(**taken)})

        for option in reversed(options):
            call = option(call)
        return call

    return decorate


def _set_debug(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().obj["debug"] = True


def _choices(context: click.Context, option: click.Parameter, value: str | None) -> list[int | str] | None:
    from ussfc.pipeline.config.schema import band_choices

    try:
        found: list[int | str] | None = band_choices(value)
    except ValueError as error:
        raise ConfigError(f"--bands {value}: {error}") from error
    return found


PACKAGED_TERMS = "The packaged weights for Sentinel-2 are CC BY-NC-SA 4.0: not for commercial use."
MODEL_HELP = (
    "Model: a name, a card (yaml) or a weights file; auto: the best packaged model that fits both dates. "
    f"{PACKAGED_TERMS}"
)
MODEL = click.option("--model", metavar="NAME|FILE", help=MODEL_HELP, shell_complete=completion.models)
CONFIG = click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML configuration.")
SET = click.option("--set", "sets", multiple=True, metavar="A.B=C", help="Set one key; see `ussfc config`.")
THRESHOLD = click.option(
    "--threshold", type=float, metavar="T", help="Change where the probability is at least T."
)
CLUSTER = (
    click.option(
        "--cluster",
        metavar="NAME|FILE",
        shell_complete=completion.clusters,
        help="Place of the computation: local, local-cuda, slurm, allocation, kubernetes, scheduler, or a YAML file.",
    ),
    click.option(
        "--scheduler", metavar="ADDRESS", help="Use the workers of a Dask scheduler, tcp://host:port."
    ),
)
POLYGONS = (
    click.option(
        "--format",
        "formats",
        multiple=True,
        metavar="NAME",
        shell_complete=completion.formats,
        help="Format of the polygons: geoparquet, gpkg, flatgeobuf or geojson. Several with commas, or given again.",
    ),
    click.option("--min-area", type=float, metavar="M2", help="Leave out regions smaller than this, m2."),
    click.option(
        "--simplify", type=float, metavar="M", help="Let outlines of the polygons move by at most this, m."
    ),
)
OUT = click.argument("out", shell_complete=completion.files)
FOLDER = click.option(
    "-o",
    "--out",
    required=True,
    metavar="DIR|URI",
    callback=check_folder,
    shell_complete=completion.files,
    help="Folder of the products, also in an object store: s3://bucket/prefix, gs://, az://.",
)
DATA = click.option(
    "--data",
    "datas",
    multiple=True,
    required=True,
    metavar="KIND:DIR",
    help="Labelled pairs: levir-cd, cdd, dsifn-cd or geotiff, and their folder. May be given again. `ussfc train` also "
    "takes masks:DIR, images and masks of one date, to generate pairs from.",
)

NETWORK: tuple[Decorator[Any], ...] = (
    click.option(
        "--quality",
        metavar="NAME",
        shell_complete=completion.qualities,
        help="fast, or best: the mean over the four turns of every patch, at four times the work of the network.",
    ),
    click.option(
        "--engine",
        metavar="NAME",
        shell_complete=completion.engines,
        help="Library that runs the network: auto, openvino, torch or triton.",
    ),
    click.option(
        "--precision",
        metavar="NAME",
        shell_complete=completion.precisions,
        help="Arithmetic of the network: auto, float32, bfloat16, float16 or int8.",
    ),
)
"""Options of the network's computation."""

config_options = grouped(
    "settings",
    Settings,
    MODEL,
    CONFIG,
    SET,
    THRESHOLD,
    *POLYGONS,
    click.option(
        "--aoi", metavar="FILE", shell_complete=completion.files, help="Polygons; pixels outside are nodata."
    ),
    click.option(
        "--resample-to-model",
        is_flag=True,
        default=None,
        help="Compute on pixels of the size that the model was trained with.",
    ),
    click.option(
        "--allow-vrt-sources",
        is_flag=True,
        help="Let VRTs name files anywhere and on networks, not only near them.",
    ),
    click.option(
        "--mask-before",
        metavar="FILE",
        shell_complete=completion.files,
        help="Clouds of BEFORE: a raster (SCL, QA_PIXEL, UDM2, OmniCloudMask, or 0 and 1) or polygons; by default "
        "the product's own; none: no mask.",
    ),
    click.option(
        "--mask-after", metavar="FILE", shell_complete=completion.files, help="Clouds of AFTER, likewise."
    ),
    click.option("--mask-dilation", type=float, metavar="M", help="Let masked areas grow by this, m."),
    click.option(
        "--clouds",
        metavar="MODE",
        shell_complete=completion.cloud_modes,
        help="Search for clouds in dates without a mask: auto (needs ussfc[clouds]) or off, the default.",
    ),
    click.option(
        "--before-bands",
        cls=BandsOption,
        metavar="R G B [N]",
        help="Bands of BEFORE in the model's order, by number or name: 3 2 1, or B04 B03 B02.",
    ),
    click.option("--after-bands", cls=BandsOption, metavar="R G B [N]", help="Bands of AFTER, likewise."),
    click.option("--date-before", metavar="DATE", help="When BEFORE was taken, for the records: 2018-06-30."),
    click.option("--date-after", metavar="DATE", help="When AFTER was taken, likewise."),
    click.option(
        "--registration",
        metavar="MODE",
        shell_complete=completion.registrations,
        help="Shift between the dates: off, check (warn of it) or correct (take it out, the default).",
    ),
    click.option(
        "--radiometry",
        metavar="MODE",
        shell_complete=completion.radiometries,
        help="Numbers of AFTER: model (by the model's range), match (to those of BEFORE), or auto (match where all "
        "bands are shifted, the default).",
    ),
    click.option("--strict", is_flag=True, default=None, help="Let a warning about the inputs end the run."),
    click.option(
        "--force",
        is_flag=True,
        default=None,
        help="Run even if the scenes hold no numbers that the model takes.",
    ),
    click.option("--no-report", "report", flag_value=False, default=None, help="Write no report.html."),
    *NETWORK,
    *CLUSTER,
)
"""Options of every command that starts from a pair."""


def register_options(command: Command) -> Command:
    """Add the options of `ussfc register` to a command."""
    for option in (
        click.option(
            "--vrt", type=LocalPath(), help="Write the later scene, moved onto the earlier one, as a VRT."
        ),
        click.option(
            "--vectors", type=LocalPath(), help="Write the windows: .parquet, .geojson, .gpkg or .fgb."
        ),
        grouped("settings", Settings, CONFIG, SET),
    ):
        command = option(command)
    return command


prepare_options = grouped(
    "preparation",
    Preparation,
    click.argument("path", type=LocalPath(dir_okay=False), metavar="OUT.tif"),
    click.option(
        "--bands",
        cls=BandsOption,
        callback=_choices,
        metavar="B ...",
        help="Bands by number or name; by default those of the finest pixels.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace a file that has the name."),
    click.option(
        "--allow-vrt-sources",
        is_flag=True,
        help="Let VRTs name files anywhere and on networks, not only near them.",
    ),
)
"""Argument and options of `ussfc prepare`."""

raster_options = grouped("settings", Settings, CONFIG, SET, THRESHOLD, *CLUSTER)
"""Options of `ussfc mosaic`."""

polygon_options = grouped("settings", Settings, CONFIG, SET, THRESHOLD, *POLYGONS, *CLUSTER)
"""Options of `ussfc vectorise`."""

threshold_options = grouped(
    "settings", Settings, click.argument("threshold", type=float), CONFIG, SET, *POLYGONS, *CLUSTER
)
"""Argument and options of `ussfc threshold`."""

destination_options = grouped(
    "destination",
    Destination,
    FOLDER,
    click.option(
        "--overwrite/--resume",
        default=False,
        help="Replace what is in the folder, or continue the same run there (the default).",
    ),
    click.option(
        "--fail-fast", is_flag=True, help="Stop at the first error of a tile, without trying again."
    ),
)
"""Options of every command that computes tiles."""

output_options = grouped(
    "output",
    Output,
    click.option("-q", "--quiet", is_flag=True, help="Print errors only."),
    click.option("-v", "--verbose", is_flag=True, help="Print every stage."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."),
    click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_set_debug,
        help="Show the traceback of an error.",
    ),
)
"""Options of every command with progress and a result."""


def json_option(text: str) -> Decorator[Any]:
    """Return the decorator of a command whose output knows no option but ``--json``.

    Args:
        text: help of the option.
    """
    return grouped("output", Output, click.option("--json", "as_json", is_flag=True, help=text))


def pair_arguments(command: Command) -> Command:
    """Add the arguments BEFORE and AFTER to a command."""
    for name in ("after", "before"):
        command = click.argument(name, shell_complete=completion.files)(command)
    return command


training_options = grouped(
    "training",
    Training,
    DATA,
    click.option(
        "--recipe",
        metavar="NAME|FILE",
        shell_complete=completion.recipes,
        help="paper, strong, vhr, or a YAML file. With --from it may be left out: strong, or vhr for masks, with the "
        "bands and numbers of the model.",
    ),
    click.option(
        "--from",
        "start",
        metavar="NAME|FILE",
        shell_complete=completion.models,
        help="Begin with the weights of this model, at optimiser.finetuning_rate.",
    ),
    click.option("--out", required=True, type=LocalPath(), help="Folder of this training."),
    click.option(
        "--validate-on",
        metavar="A,B,...",
        help="Scenes of geotiff data, or places of masks, that are held out for validation; none: learn from all, and "
        "keep the last weights.",
    ),
    click.option(
        "--device",
        default="auto",
        show_default=True,
        shell_complete=completion.devices,
        help="auto, cpu or cuda.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1),
        help="CPU threads; the last bits depend on it. Default: all cores.",
    ),
    click.option("--set", "sets", multiple=True, metavar="A.B=C", help="Set one key of the recipe."),
    click.option(
        "--memory-gb", default=8.0, show_default=True, help="Decoded pictures that may stay in memory, GB."
    ),
    click.option(
        "--licence", help="Licence of the labels; the card gives it as the licence of the weights too."
    ),
    click.option("--overwrite", is_flag=True, help="Replace another training in the folder."),
)

scoring_options = grouped(
    "scoring",
    Scoring,
    DATA,
    click.option(
        "--split",
        default="test",
        show_default=True,
        help="Split of data sets of pictures: train, val or test.",
    ),
    click.option("--scenes", metavar="A,B,...", help="Score these scenes of geotiff data only."),
    click.option(
        "--tune-on",
        metavar="SPLIT|A,B,...",
        help="Choose the threshold with the largest F1 here: a split, or scenes, which are then not scored.",
    ),
    click.option(
        "--baseline",
        is_flag=True,
        help="Score what needs no learning as well: change vectors, the same of matched dates with a median, "
        "blurred IR-MAD, each with Otsu's threshold of the scene.",
    ),
    click.option(
        "--out",
        type=LocalPath(),
        help="Folder for scores, curve and pictures of errors.",
    ),
)

scoring_settings = grouped(
    "settings",
    Settings,
    click.option(
        "--model", required=True, metavar="NAME|FILE", help=MODEL_HELP, shell_complete=completion.models
    ),
    CONFIG,
    SET,
    THRESHOLD,
    *NETWORK,
)

speed_options = grouped(
    "speeds",
    Speeds,
    MODEL,
    click.option("--device", shell_complete=completion.devices, help="auto, cpu or cuda."),
    click.option(
        "--engine",
        "engines",
        multiple=True,
        metavar="NAME",
        shell_complete=completion.engines,
        help="Only this engine; may be given again.",
    ),
    click.option(
        "--precision",
        "precisions",
        multiple=True,
        metavar="NAME",
        help="Only this precision; may be given again.",
    ),
    click.option(
        "--patch",
        "patches",
        multiple=True,
        type=click.IntRange(16),
        metavar="PX",
        help="Side of the patches; may be given again. Default: the model's.",
    ),
    click.option(
        "--size",
        default=2048,
        show_default=True,
        type=click.IntRange(256),
        metavar="PX",
        help="Side of the pair that goes the whole way.",
    ),
    click.option(
        "--end-to-end/--no-end-to-end", default=True, help="Let a pair go the whole way, or leave that out."
    ),
    click.option(
        "--rounds", default=3, show_default=True, type=click.IntRange(1), help="Measurements of each."
    ),
    click.option(
        "--seconds",
        default=1.0,
        show_default=True,
        type=click.FloatRange(0, min_open=True),
        help="Time of one measurement.",
    ),
    click.option("--json", "file", type=LocalPath(dir_okay=False), help="Write all numbers here."),
)
