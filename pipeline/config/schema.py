"""Configuration: typed, every key documented, unknown keys refused.

Order of precedence: flags, ``--set``, environment ``USSFC_...``, user file, packaged ``configs/default.yaml``.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ussfc.pipeline.errors import ConfigError

ENV_PREFIX = "USSFC_"

_NAMES = r"^[A-Za-z0-9_.,@+-]+$"
"""Names that go into a batch script: nothing that a shell would read as more than a name."""


_SIZE = r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])(i?)B"


class _Loader(yaml.SafeLoader):
    """YAML whose whole numbers are decimal: 12:00:00 is a time, not of base 60, and 0123 an account, not octal."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, words) for tag, words in resolvers if tag != "tag:yaml.org,2002:int"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")
)


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
    engine: Literal["auto", "openvino", "torch", "triton"] = Field(
        "auto", description="what runs the network; auto: the fastest, measured once on a machine"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="arithmetic of the network; auto: the fastest likewise"
    )
    ssfc: Literal["patch", "local"] | None = Field(
        None, description="SSFC means over the patch, or local over the training size; by default the model's"
    )


class ComputeConfig(_Section):
    """Patience and memory. Nothing here moves a single byte of a product."""

    retries: int = Field(
        3,
        ge=0,
        description="new tries of a tile that fails, with growing waits, before the run goes on without it",
    )
    memory_gb: float | None = Field(
        None, gt=0, description="memory the run may use, GB (10^9 bytes); by default 90 % of what is free"
    )


class ClusterConfig(_Section):
    """Who computes the tiles. Nothing here moves a single byte of a product."""

    kind: Literal[
        "auto", "serial", "local", "local-cuda", "slurm", "allocation", "kubernetes", "scheduler"
    ] = Field(
        "auto", description="auto: this process up to 8 cores or for few tiles, else one a core; one a GPU"
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="worker processes here, or in each SLURM job; by default one a core (local), one a GPU "
        "(local-cuda), else 1",
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="threads of a worker that run the network, or beside a GPU read tiles; by default all cores if "
        "serial, those of a task in an allocation, else 1",
    )
    gpu: bool = Field(False, description="every job, pod or task has one GPU and computes on it")
    jobs: int | None = Field(
        None, ge=1, description="SLURM jobs or pods, always so many; or else minimum_jobs and maximum_jobs"
    )
    minimum_jobs: int | None = Field(None, ge=0, description="least number of jobs or pods; 0 if not set")
    maximum_jobs: int | None = Field(
        None, ge=1, description="largest number of jobs or pods: as many as the work asks for"
    )
    memory: str | None = Field(
        None, pattern=f"^{_SIZE}$", description="memory of a job or pod, for example 16GiB"
    )
    walltime: str | None = Field(
        None,
        pattern=r"^([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}$",
        description="time limit of a SLURM job, [days-]hours:minutes:seconds; its workers end a little earlier",
    )
    queue: str | None = Field(None, pattern=_NAMES, description="SLURM partition; by default the site's")
    account: str | None = Field(None, pattern=_NAMES, description="SLURM account; by default the user's")
    image: str | None = Field(None, description="container image of the pods, with this very version")
    namespace: str | None = Field(None, description="Kubernetes namespace; by default that of the context")
    address: str | None = Field(
        None, description="address of a Dask scheduler, tcp://host:port or tls://host:port"
    )
    tls_ca: str | None = Field(None, description="PEM file of the authority that a tls:// scheduler trusts")
    tls_certificate: str | None = Field(None, description="PEM file of our certificate")
    tls_key: str | None = Field(None, description="PEM file of our key")
    options: dict[str, Any] = Field(
        {},
        description="handed to the constructor of SLURMCluster, KubeCluster, LocalCluster or LocalCUDACluster",
    )

    @field_validator("memory", "walltime")
    @classmethod
    def _no_zero(cls, text: str | None) -> str | None:
        if text is not None and not re.search("[1-9]", text):
            raise ValueError("nothing, which SLURM takes for no limit; give what a job needs")
        return text

    @property
    def most_jobs(self) -> int:
        """Jobs or pods at the same time."""
        return self.jobs or self.maximum_jobs or 1


_USED_BY = {
    "workers": ("auto", "local", "local-cuda", "slurm"),
    "threads": ("auto", "serial", "local", "slurm", "allocation", "kubernetes", "scheduler"),
    "gpu": ("slurm", "allocation", "kubernetes", "scheduler"),
    **dict.fromkeys(("jobs", "minimum_jobs", "maximum_jobs", "memory"), ("slurm", "kubernetes")),
    **dict.fromkeys(("walltime", "queue", "account"), ("slurm",)),
    **dict.fromkeys(("image", "namespace"), ("kubernetes",)),
    **dict.fromkeys(("address", "tls_ca", "tls_certificate", "tls_key"), ("scheduler",)),
    "options": ("local", "local-cuda", "slurm", "kubernetes"),
}
"""Kinds of cluster by the key that they make something of."""

_NEEDED = {
    "slurm": (("memory",), ("walltime",), ("jobs", "maximum_jobs")),
    "kubernetes": (("memory",), ("image",), ("jobs", "maximum_jobs")),
    "scheduler": (("address",),),
}
"""Keys without which a kind cannot start; of each tuple one."""


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
    cluster: ClusterConfig = ClusterConfig()
    output: OutputConfig = OutputConfig()
    vector: VectorConfig = VectorConfig()


def size_in_bytes(text: str) -> int:
    """Bytes of ``16GiB`` or ``16GB``, as ``cluster.memory`` has it."""
    number, power, binary = re.fullmatch(_SIZE, text).groups()  # type: ignore[union-attr]
    return int(float(number) * (1024 if binary else 1000) ** ("KMGT".index(power) + 1))


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
    cluster: str | None = None,
) -> RunConfig:
    """The configuration of a run.

    Args:
        file: user's YAML file.
        sets: ``a.b=c`` settings, c in YAML.
        environment: variables; ``USSFC_TILING__TILE_SIZE=1024`` sets ``tiling.tile_size``.
        flags: dotted keys from command line options; None values are left out.
        base: nested mapping instead of the packaged defaults, as an earlier run recorded it.
        cluster: a packaged preset by its name, or a YAML file: goes before ``file``, but decides the kind.

    Raises:
        ConfigError: unreadable file, unknown key (the nearest known one is named), unusable value, a key of ``cluster``
            that its kind makes nothing of, or lacks.
    """
    packaged = base or yaml.safe_load(
        resources.files("ussfc.configs").joinpath("default.yaml").read_text("utf-8")
    )
    flat = _flatten(packaged, "configs/default.yaml")
    kind = preset_jobs = None
    if cluster is not None:
        preset = _from_file(_preset(cluster))
        kind = preset.get("cluster.kind", (None, ""))
        if kind[0] is None:
            raise ConfigError(f"--cluster {cluster}: says no cluster.kind; see configs/clusters for examples")
        _overlay(flat, preset)
        # A packaged file says a number so that it works as it is; it is no wish that a user's own would contradict.
        preset_jobs = preset.get("cluster.jobs")
    if file is not None:
        _overlay(flat, _from_file(file))
    for name, text in (environment or {}).items():
        if name.startswith(ENV_PREFIX):
            key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            _overlay(flat, _flatten(_nest(key, _value(text)), f"environment variable {name}"))
    for setting in sets:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: wanted key=value, for example --set tiling.tile_size=1024")
        _overlay(flat, _flatten(_nest(key.strip(), _value(text)), f"--set {setting}"))
    if kind is not None:
        flat["cluster.kind"] = kind
    for key, value in (flags or {}).items():
        if value is not None:
            _overlay(flat, _flatten(_nest(key, value), "the command line"))
    between = [flat.get(f"cluster.{end}_jobs", (None, "")) for end in ("minimum", "maximum")]
    if (
        preset_jobs is not None
        and flat["cluster.jobs"] == preset_jobs
        and any(value is not None and origin != preset_jobs[1] for value, origin in between)
    ):
        flat["cluster.jobs"] = (None, preset_jobs[1])
    nested: dict[str, Any] = {}
    for key, (value, _) in flat.items():
        _merge(nested, _nest(key, value))
    try:
        config = RunConfig.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
        said = first["msg"].removeprefix("Value error, ")
        origin = flat.get(key, (None, "the configuration"))[1]
        raise ConfigError(
            f"{key} = {first['input']!r} from {origin}: {said[:1].lower()}{said[1:]}"
        ) from error
    _check_cluster(config.cluster, {key: origin for key, (_, origin) in flat.items()})
    return config


def _preset(name: str) -> Path:
    """The file of a cluster: a packaged one by its name, else the name is a path."""
    folder = resources.files("ussfc.configs").joinpath("clusters")
    names = sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )
    if name in names:
        return Path(str(folder.joinpath(f"{name}.yaml")))
    if not Path(name).exists():
        raise ConfigError(f"--cluster {name}: neither a file nor one of {', '.join(names)}")
    return Path(name)


def _overlay(flat: dict[str, tuple[Any, str]], addition: Mapping[str, tuple[Any, str]]) -> None:
    """Later settings over earlier ones; a mapping's entries one by one."""
    for key, (value, origin) in addition.items():
        earlier = flat.get(key, (None, ""))[0]
        if isinstance(earlier, dict) and isinstance(value, dict):
            merged = copy.deepcopy(earlier)
            _merge(merged, value)
            value = merged
        flat[key] = value, origin


def _check_cluster(cluster: ClusterConfig, origins: Mapping[str, str]) -> None:
    defaults = ClusterConfig()
    for key, kinds in _USED_BY.items():
        if getattr(cluster, key) != getattr(defaults, key) and cluster.kind not in kinds:
            raise ConfigError(
                f"cluster.{key} from {origins.get(f'cluster.{key}', 'the configuration')}: of no use to cluster.kind "
                f"{cluster.kind}, only to {', '.join(kinds)}; choose one with --cluster, or leave the key out"
            )
    for keys in _NEEDED.get(cluster.kind, ()):
        if all(getattr(cluster, key) is None for key in keys):
            wanted = " or ".join(f"cluster.{key}" for key in keys)
            raise ConfigError(
                f"cluster.kind {cluster.kind}: {wanted} is not set; set it, for example with --set"
            )
    if cluster.jobs is not None and (cluster.minimum_jobs is not None or cluster.maximum_jobs is not None):
        raise ConfigError(
            "cluster.jobs: is for always the same number, and minimum_jobs and maximum_jobs are for a changing one; "
            "set the one or the others"
        )
    if cluster.gpu and (cluster.workers or 1) > 1:
        raise ConfigError(
            f"cluster.gpu: is for one worker to a job, and cluster.workers is {cluster.workers}; ask for more jobs"
        )
    if (cluster.minimum_jobs or 0) > cluster.most_jobs:
        raise ConfigError(
            f"cluster.minimum_jobs: {cluster.minimum_jobs} is more than maximum_jobs, {cluster.maximum_jobs}"
        )
    tls = (cluster.tls_ca, cluster.tls_certificate, cluster.tls_key)
    if any(tls) != all(tls):
        raise ConfigError(
            "cluster.tls_ca, cluster.tls_certificate and cluster.tls_key go together: set all three"
        )
    if cluster.address is not None and cluster.address.startswith("tls://") and not all(tls):
        raise ConfigError(
            f"cluster.address {cluster.address}: wants cluster.tls_ca, cluster.tls_certificate and cluster.tls_key"
        )


def _from_file(file: Path) -> dict[str, tuple[Any, str]]:
    try:
        loaded = yaml.load(file.read_text("utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read as YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file}: holds no mapping of keys; see `ussfc config` for what it may hold")
    return _flatten(loaded, str(file))


def _value(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
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
