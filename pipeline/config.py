"""Configuration: typed, every key documented, unknown keys refused.

Order of precedence: flags, ``--set``, environment ``USSFC_...``, user file, packaged ``configs/default.yaml``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError

ENV_PREFIX = "USSFC_"


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )


class GridConfig(_Section):
    """The common grid."""

    reference: Literal["before", "after"] = Field("before", description="whose pixel grid the results have")
    crs: str | None = Field(
        None, description="another CRS for the grid (EPSG code or WKT); needs grid.resolution"
    )
    resolution: float | None = Field(None, gt=0, description="pixel size in units of the grid's CRS")
    resampling: Literal["bilinear", "cubic", "cubic_spline", "lanczos", "average"] = Field(
        "bilinear", description="kernel for imagery where a warp is needed; validity is always nearest"
    )
    aoi: str | None = Field(None, description="vector file of polygons; pixels outside are nodata")


class BandsConfig(_Section):
    """Which bands of the files the model gets."""

    before: tuple[int, ...] | None = Field(None, description="band numbers from 1, in the model's order")
    after: tuple[int, ...] | None = Field(None, description="band numbers from 1, in the model's order")


class TilingConfig(_Section):
    """Tiles and patches."""

    tile_size: int = Field(2048, ge=64, le=16384, description="side of a tile's core, pixels")
    patch_size: int | None = Field(
        None, ge=16, multiple_of=16, description="side of a patch, pixels; by default the model's"
    )
    overlap: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="overlap of neighbouring patches, share of their side; by default the model's",
    )
    taper: Literal["hann", "pyramid", "gaussian", "box"] | None = Field(
        None, description="blend weights of a patch: hann, pyramid, gaussian or box; by default the model's"
    )


class InferenceConfig(_Section):
    """The network."""

    batch_size: int | None = Field(
        None, ge=1, description="patches of one call; by default 1 on CPU, 16 on CUDA"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the network runs")
    engine: Literal["torch"] = Field("torch", description="what runs the network")
    precision: Literal["float32"] = Field("float32", description="arithmetic of the network")
    ssfc: Literal["patch", "local"] | None = Field(
        None, description="SSFC means over the patch, or local over the training size; by default the model's"
    )


class ComputeConfig(_Section):
    """Processes and threads. Nothing here moves a single byte of a product."""

    executor: Literal["auto", "serial", "local", "scheduler"] = Field(
        "auto", description="auto: serial for few tiles, else local Dask processes"
    )
    workers: int | None = Field(
        None, ge=1, description="processes of the local executor; by default one a core"
    )
    threads_per_worker: int | None = Field(
        None, ge=1, description="threads of a worker; by default all cores if serial, else 1"
    )
    scheduler: str | None = Field(None, description="address of a Dask scheduler, tcp://host:port")
    retries: int = Field(
        3,
        ge=0,
        description="new tries of a tile that fails, with growing waits, before the run goes on without it",
    )
    memory_gb: float | None = Field(
        None, gt=0, description="memory the run may use, GB (10^9 bytes); by default 90 % of what is free"
    )


class OutputConfig(_Section):
    """Rasters."""

    probability_dtype: Literal["uint8", "float32"] = Field(
        "uint8", description="uint8: round(254 p), nodata 255; float32: p, nodata NaN"
    )
    compression: Literal["deflate", "zstd"] = Field("deflate", description="compression of the COGs")
    block_size: int = Field(
        512, ge=128, le=4096, multiple_of=16, description="internal tile of the COGs, pixels"
    )
    scratch: str | None = Field(
        None,
        description="local folder for files on their way to an object store; by default the system's own",
    )
    keep_work: bool = Field(True, description="keep OUT/work, which mosaic and vectorise read")


class VectorConfig(_Section):
    """Polygons."""

    format: Literal["parquet", "gpkg", "flatgeobuf"] = Field(
        "parquet", description="file format of the polygons"
    )
    min_area_m2: float = Field(0, ge=0, description="smallest region kept, m2")
    simplify_m: float = Field(0, ge=0, description="tolerance of the simplification, m")
    connectivity: Literal[4, 8] = Field(4, description="neighbours of a pixel that belong to its region")


class RunConfig(_Section):
    """Everything that decides a run, but its inputs and its folder."""

    model: str = Field(
        "ussfc-s2-rgb", description="name of a packaged model, a model card (yaml) or a weights file"
    )
    threshold: float | None = Field(None, ge=0, le=1, description="change where the probability is at least this; by "
                                    "default the model's")  # fmt: skip
    grid: GridConfig = GridConfig()
    bands: BandsConfig = BandsConfig()
    tiling: TilingConfig = TilingConfig()
    inference: InferenceConfig = InferenceConfig()
    compute: ComputeConfig = ComputeConfig()
    output: OutputConfig = OutputConfig()
    vector: VectorConfig = VectorConfig()


def documented_keys(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted key, default, description) of every key."""
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from documented_keys(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.default, field.description or ""


def load_config(
    file: Path | None = None,
    sets: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of a run.

    Args:
        file: user's YAML file.
        sets: ``a.b=c`` settings, c in YAML.
        environment: variables; ``USSFC_TILING__TILE_SIZE=1024`` sets ``tiling.tile_size``.
        flags: dotted keys from command line options; None values are left out.
        base: nested mapping instead of the packaged defaults, as an earlier run recorded it.

    Raises:
        ConfigError: unreadable file, unknown key (the nearest known one is named), unusable value.
    """
    packaged = base or yaml.safe_load(resources.files("configs").joinpath("default.yaml").read_text("utf-8"))
    flat = _flatten(packaged, "configs/default.yaml")
    if file is not None:
        flat |= _from_file(file)
    for name, text in (environment or {}).items():
        if name.startswith(ENV_PREFIX):
            key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            flat |= _flatten(_nest(key, _value(text)), f"environment variable {name}")
    for setting in sets:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: wanted key=value, for example --set tiling.tile_size=1024")
        flat |= _flatten(_nest(key.strip(), _value(text)), f"--set {setting}")
    for key, value in (flags or {}).items():
        if value is not None:
            flat |= _flatten(_nest(key, value), "the command line")
    nested: dict[str, Any] = {}
    for key, (value, _) in flat.items():
        _merge(nested, _nest(key, value))
    try:
        return RunConfig.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
        origin = flat.get(key, (None, "the configuration"))[1]
        raise ConfigError(f"{key} = {first['input']!r} from {origin}: {first['msg'].lower()}") from error


def _from_file(file: Path) -> dict[str, tuple[Any, str]]:
    try:
        loaded = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file}: holds no mapping of keys; see `ussfc config` for what it may hold")
    return _flatten(loaded, str(file))


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _merge(target: dict[str, Any], addition: Mapping[str, Any]) -> None:
    for key, value in addition.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _flatten(nested: Mapping[str, Any], origin: str) -> dict[str, tuple[Any, str]]:
    known = {key for key, _, _ in documented_keys()}
    flat: dict[str, tuple[Any, str]] = {}

    def walk(value: Any, key: str) -> None:
        if key in known:
            flat[key] = (value, origin)
        elif isinstance(value, Mapping) and any(name.startswith(f"{key}.") for name in known):
            for name, inner in value.items():
                walk(inner, f"{key}.{name}")
        else:
            nearest = difflib.get_close_matches(key, known, 1, 0.4)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ConfigError(f"{origin}: unknown key {key}{hint} (`ussfc config` lists all keys)")

    for name, value in nested.items():
        walk(value, str(name))
    return flat
