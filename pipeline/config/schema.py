"""Sections of the configuration: every key with its type, its bounds, its unit and its default."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from ussfc.pipeline.choices import Engine, Precision, Smoothing, Taper, VectorFormat
from ussfc.pipeline.dates import date_text

_WORD = r"[A-Za-z0-9_.,@+-]+"
"""Names that go into a batch script: nothing that a shell would read as more than a name."""

_WALLTIME = r"([0-9]+-)?[0-9]{1,2}:[0-9]{2}:[0-9]{2}"

_SIZE = r"([0-9]+(?:\.[0-9]+)?) ?([KMGT])(i?)B"


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )


class GridConfig(_Section):
    """Common grid of both images."""

    reference: Literal["before", "after"] = Field(
        "before", description="image whose pixel grid the results have"
    )
    crs: str | None = Field(
        None, description="another CRS for the grid (EPSG code or WKT); needs grid.resolution"
    )
    resolution: float | None = Field(None, gt=0, description="pixel size in units of the grid's CRS")
    resample_to_model: bool = Field(
        False, description="give the grid pixels of the size that the model was trained with"
    )
    resampling: Literal["bilinear", "cubic", "cubic_spline", "lanczos", "average"] = Field(
        "cubic", description="kernel for imagery where a warp is needed; validity is always nearest"
    )
    aoi: str | None = Field(None, description="vector file of polygons; pixels outside are nodata")


def band_choices(value: Any) -> Any:
    """Return numbers or names of bands as a list; a text may hold them with commas."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s,;]+", value.strip(" []()")) if part]
    if isinstance(value, int):
        value = [value]
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value or not all(map(_is_band, value)):
        raise ValueError("expected band numbers from 1, such as [1,2,3], or names, such as [B04,B03,B02]")
    return [int(part) if str(part).isdigit() else part for part in value]


def _is_band(choice: Any) -> bool:
    """Return True for a number from 1, or a name that begins with a letter."""
    text = str(choice)
    if isinstance(choice, bool):
        return False
    return int(text) > 0 if text.isdigit() else isinstance(choice, str) and bool(re.match("[A-Za-z]", text))


Bands = Annotated[
    tuple[int | str, ...] | None,
    BeforeValidator(band_choices),
    Field(description="numbers from 1 or names of the bands, in the model's order"),
]


class InputsConfig(_Section):
    """Files of both images."""

    vrt_sources: Literal["near", "any"] = Field(
        "near",
        description="files that a VRT may name: near it (its folder, one beside it, the working directory), or any, "
        "those on a network included",
    )


class BandsConfig(_Section):
    """Bands of the files that the model gets."""

    before: Bands = None
    after: Bands = None


Date = Annotated[str | None, BeforeValidator(date_text)]


class NumbersConfig(_Section):
    """Scale and offset of the stored numbers of one date, where its file states none or wrong ones."""

    scale: float | None = Field(
        None,
        gt=0,
        description="factor that leads to reflectances (below 0.1) or to the model's numbers; by default the file's",
    )
    offset: float | None = Field(None, description="term that is added after it; by default the file's")


class DatesConfig(_Section):
    """Dates of acquisition, for records and tags."""

    before: Date = Field(
        None,
        description="date or time at which the before image was taken; by default as its file states it",
    )
    after: Date = Field(
        None, description="date or time at which the after image was taken; by default as its file states it"
    )


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
    taper: Taper | None = Field(
        None, description="blend weights of a patch: hann, pyramid, gaussian or box; by default the model's"
    )


def _word_of_bool(value: Any) -> Any:
    """Return ``off`` for False: YAML takes the word for it."""
    return "off" if value is False else value


class InferenceConfig(_Section):
    """The network."""

    batch_size: int | None = Field(
        None, ge=1, description="patches of one call; by default 1 on CPU, 16 on CUDA"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device that runs the network")
    quality: Literal["fast", "best"] = Field(
        "fast",
        description="fast, or best: the mean over the four turns of every patch, at four times the work",
    )
    engine: Engine = Field(
        "auto", description="library that runs the network; auto: the fastest, measured once on a machine"
    )
    precision: Precision = Field(
        "auto", description="arithmetic of the network; auto: the fastest likewise, never int8"
    )
    alteration: Annotated[Literal["auto", "off"], BeforeValidator(_word_of_bool)] = Field(
        "auto",
        description="auto: IR-MAD beside the network where the model's card has terms for both; off: never",
    )
    ssfc: Literal["patch", "local"] | None = Field(
        None, description="SSFC means over the patch, or local over the training size; by default the model's"
    )


class ComputeConfig(_Section):
    """Retries and memory; no key here changes a byte of a product."""

    retries: int = Field(
        3,
        ge=0,
        description="new tries of a tile that fails, with growing waits, before the run goes on without it",
    )
    memory_gb: float | None = Field(
        None, gt=0, description="memory the run may use, GB (10^9 bytes); by default 90 % of what is free"
    )


def _in_the_form(pattern: str, expected: str) -> AfterValidator:
    """Return the check of a text by a regular expression, which the message describes in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {expected}")
        return text

    return AfterValidator(check)


def _not_zero(text: str) -> str:
    if not re.search("[1-9]", text):
        raise ValueError("nothing, which SLURM takes for no limit; give what a job needs")
    return text


Workers = Annotated[
    int | None,
    Field(
        ge=1,
        description="worker processes here, or in each SLURM job; by default one a core (local), one a GPU "
        "(local-cuda), else 1",
    ),
]
Threads = Annotated[
    int | None,
    Field(
        ge=1,
        description="threads of a worker that run the network, or beside a GPU read tiles; by default all cores if "
        "serial, those of a task in an allocation, else 1",
    ),
]
Gpu = Annotated[bool, Field(description="every job, pod or task has one GPU and computes on it")]
Options = Annotated[
    dict[str, Any],
    Field(
        description="arguments of the constructor of SLURMCluster, KubeCluster, LocalCluster or LocalCUDACluster"
    ),
]
Word = Annotated[str, _in_the_form(_WORD, "a name of letters, digits and _ . , @ + - alone")]
Size = Annotated[
    str, _in_the_form(_SIZE, "a number with its unit, such as 16GB or 16GiB"), AfterValidator(_not_zero)
]
Walltime = Annotated[
    str,
    _in_the_form(_WALLTIME, "[days-]hours:minutes:seconds, such as 12:00:00 or 1-00:00:00"),
    AfterValidator(_not_zero),
]


class BaseCluster(_Section):
    """Workers that compute the tiles; no key here changes a byte of a product."""

    kind: str = Field(
        description="auto: this process up to 8 cores or for few tiles, else one a core; one a GPU"
    )

    @property
    def wants_gpu(self) -> bool:
        """True if every job, pod, task or worker has a GPU of its own."""
        return bool(getattr(self, "gpu", False))

    @property
    def network_threads(self) -> int | None:
        """Threads of a worker, None where the configuration leaves them open."""
        return getattr(self, "threads", None)


class AutoCluster(BaseCluster):
    """This process or processes of this machine, after the number of cores, GPUs and tiles."""

    kind: Literal["auto"] = "auto"
    workers: Workers = None
    threads: Threads = None


class SerialCluster(BaseCluster):
    """This process."""

    kind: Literal["serial"] = "serial"
    threads: Threads = None


class LocalCluster(BaseCluster):
    """Processes of this machine."""

    kind: Literal["local"] = "local"
    workers: Workers = None
    threads: Threads = None
    options: Options = {}


class LocalCudaCluster(BaseCluster):
    """Processes of this machine, one a GPU."""

    kind: Literal["local-cuda"] = "local-cuda"
    workers: Workers = None
    options: Options = {}

    @property
    def wants_gpu(self) -> bool:
        """True: every worker has a GPU of its own."""
        return True


class JobsCluster(BaseCluster):
    """Jobs or pods, a fixed number of them or as many as the work asks for."""

    gpu: Gpu = False
    jobs: int | None = Field(
        None, ge=1, description="SLURM jobs or pods, always so many; or else minimum_jobs and maximum_jobs"
    )
    minimum_jobs: int | None = Field(None, ge=0, description="least number of jobs or pods; 0 if not set")
    maximum_jobs: int | None = Field(
        None, ge=1, description="largest number of jobs or pods: as many as the work asks for"
    )
    memory: Size = Field(description="memory of a job or pod, for example 16GiB")
    options: Options = {}

    @property
    def most_jobs(self) -> int:
        """Jobs or pods at the same time, at most."""
        return self.jobs or self.maximum_jobs or 1

    @property
    def workers_per_job(self) -> int:
        """Worker processes of a job or pod."""
        return 1

    @property
    def job_range(self) -> tuple[int, int]:
        """Least and largest number of jobs or pods."""
        return (self.jobs, self.jobs) if self.jobs else (self.minimum_jobs or 0, self.most_jobs)

    @model_validator(mode="after")
    def _numbers_agree(self) -> JobsCluster:
        if self.jobs is None and self.maximum_jobs is None:
            raise ValueError(unset(self.kind, "cluster.jobs or cluster.maximum_jobs"))
        if self.jobs is not None and (self.minimum_jobs is not None or self.maximum_jobs is not None):
            raise ValueError(
                "cluster.jobs: is for always the same number, and minimum_jobs and maximum_jobs are for a changing "
                "one; set the one or the others"
            )
        if (self.minimum_jobs or 0) > self.most_jobs:
            raise ValueError(
                f"cluster.minimum_jobs: {self.minimum_jobs} is more than maximum_jobs, {self.maximum_jobs}"
            )
        return self


class SlurmCluster(JobsCluster):
    """SLURM jobs of workers."""

    kind: Literal["slurm"] = "slurm"
    workers: Workers = None
    threads: Threads = None
    walltime: Walltime = Field(
        description="time limit of a SLURM job, [days-]hours:minutes:seconds; its workers end a little earlier",
    )
    queue: Word | None = Field(None, description="SLURM partition; by default the site's")
    account: Word | None = Field(None, description="SLURM account; by default the user's")

    @property
    def workers_per_job(self) -> int:
        """Worker processes of a job."""
        return self.workers or 1

    @model_validator(mode="after")
    def _one_worker_a_gpu(self) -> SlurmCluster:
        if self.gpu and self.workers_per_job > 1:
            raise ValueError(
                f"cluster.gpu: is for one worker to a job, and cluster.workers is {self.workers}; ask for more jobs"
            )
        return self


class AllocationCluster(BaseCluster):
    """Tasks of the SLURM allocation that this process runs in."""

    kind: Literal["allocation"] = "allocation"
    threads: Threads = None
    gpu: Gpu = False


class KubernetesCluster(JobsCluster):
    """Pods of the Dask operator."""

    kind: Literal["kubernetes"] = "kubernetes"
    threads: Threads = None
    image: str = Field(description="container image of the pods, with this very version")
    namespace: str | None = Field(None, description="Kubernetes namespace; by default that of the context")


class SchedulerCluster(BaseCluster):
    """Workers of a Dask scheduler that runs already."""

    kind: Literal["scheduler"] = "scheduler"
    threads: Threads = None
    gpu: Gpu = False
    address: str = Field(description="address of a Dask scheduler, tcp://host:port or tls://host:port")
    tls_ca: str | None = Field(None, description="PEM file of the authority that a tls:// scheduler trusts")
    tls_certificate: str | None = Field(None, description="PEM file of our certificate")
    tls_key: str | None = Field(None, description="PEM file of our key")

    @property
    def tls(self) -> tuple[str, str, str] | None:
        """PEM files of authority, certificate and key; None without encryption."""
        if self.tls_ca and self.tls_certificate and self.tls_key:
            return self.tls_ca, self.tls_certificate, self.tls_key
        return None

    @model_validator(mode="after")
    def _tls_is_whole(self) -> SchedulerCluster:
        if self.tls is None and (self.tls_ca or self.tls_certificate or self.tls_key):
            raise ValueError(
                "cluster.tls_ca, cluster.tls_certificate and cluster.tls_key go together: set all three"
            )
        if self.tls is None and self.address.startswith("tls://"):
            raise ValueError(
                f"cluster.address {self.address}: needs cluster.tls_ca, cluster.tls_certificate and cluster.tls_key"
            )
        return self


ClusterConfig = (
    AutoCluster
    | SerialCluster
    | LocalCluster
    | LocalCudaCluster
    | SlurmCluster
    | AllocationCluster
    | KubernetesCluster
    | SchedulerCluster
)

CLUSTERS: dict[str, type[BaseCluster]] = {
    model.model_fields["kind"].default: model for model in ClusterConfig.__args__
}
"""Sections by their ``cluster.kind``."""


class OutputConfig(_Section):
    """Rasters."""

    smoothing: Smoothing | None = Field(
        None,
        description="filter of the probabilities before they become rasters and polygons: median3 (of 3 x 3 pixels) or "
        "none; by default the model's",
    )
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
    report: bool = Field(True, description="write report.html and preview.png at the end of a run")


FORMATS: dict[str, VectorFormat] = {
    "geoparquet": "parquet", "parquet": "parquet", "gpkg": "gpkg", "geopackage": "gpkg", "flatgeobuf": "flatgeobuf",
    "fgb": "flatgeobuf", "geojson": "geojson",
}  # fmt: skip
"""Formats of the polygons by every name that they have."""


def _formats(value: Any) -> Any:
    """Return formats under one name each; several may stand in one text, with commas."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        texts = []
    # A flag is given once for each format, or once for all of them.
    names = [name.strip() for text in texts for name in str(text).split(",") if name.strip()]
    if not names:
        raise ValueError("expected one or several of geoparquet, gpkg, flatgeobuf, geojson")
    unknown = [name for name in names if name.lower() not in FORMATS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of geoparquet, gpkg, flatgeobuf, geojson")
    return tuple(dict.fromkeys(FORMATS[name.lower()] for name in names))


class VectorConfig(_Section):
    """Polygons."""

    format: Annotated[
        tuple[VectorFormat, ...],
        BeforeValidator(_formats),
        # A single one is recorded as the text that it always was.
        PlainSerializer(lambda formats: formats[0] if len(formats) == 1 else list(formats)),
    ] = Field(
        ["parquet", "gpkg"],  # type: ignore[arg-type]  # becomes a tuple, as a value of any source does
        description="file formats of the polygons, one or several; also by the names geoparquet, geopackage, fgb",
    )
    min_area_m2: float = Field(0, ge=0, description="smallest region kept, m2")
    simplify_m: float = Field(0, ge=0, description="tolerance of the simplification, m")
    connectivity: Literal[4, 8] = Field(4, description="neighbours of a pixel that belong to its region")


def _classes(value: Any) -> Any:
    """Return numbers of classes as a list; a text may hold them with commas."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s,;]+", value.strip(" []()")) if part]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not value or not all(str(part).isdigit() for part in value):
        raise ValueError("expected numbers from 0, such as [3,8,9,10]")
    return value


MaskKind = Literal["auto", "scl", "qa_pixel", "udm2", "omnicloudmask", "nonzero"]
MaskKindKey = Annotated[
    MaskKind,
    Field(
        description="kind of a mask that is a raster; auto: as its name, its bands or its numbers state it"
    ),
]
MaskClasses = Annotated[
    tuple[int, ...] | None,
    BeforeValidator(_classes),
    Field(description="numbers of a raster that are masked; by default those of its kind"),
]


class MasksConfig(_Section):
    """Pixels that do not show the ground; what is masked on one date is nodata on both."""

    before: str | None = Field(
        None,
        description=(
            "mask of the before image: a raster or a vector file of polygons, on any grid; by default that of a "
            "product which has one; none: no mask"
        ),
    )
    after: str | None = Field(None, description="mask of the after image, likewise")
    kind_before: MaskKindKey = "auto"
    kind_after: MaskKindKey = "auto"
    classes_before: MaskClasses = None
    classes_after: MaskClasses = None
    dilation_m: float = Field(0, ge=0, description="distance that masked areas grow by, m")
    clouds: Annotated[Literal["off", "auto"], BeforeValidator(_word_of_bool)] = Field(
        "off",
        description=(
            "search for clouds in dates without a mask: auto (blue, green, red and near infrared; needs ussfc[clouds]) "
            "or off"
        ),
    )


Registration = Literal["off", "check", "correct"]

Radiometry = Literal["auto", "model", "match"]
"""Treatment of a shift between both dates."""


class RunConfig(_Section):
    """Everything that decides a run, but its inputs and its folder."""

    model: str = Field(
        "ussfc-s2-rgb",
        description="name of a packaged model, a model card (yaml) or a weights file; auto: the best packaged model "
        "whose bands, pixels and numbers both dates have",
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="probability from which a pixel is change; by default the model's",
    )
    registration: Annotated[Registration, BeforeValidator(_word_of_bool)] = Field(
        "correct", description="shift between the dates: off, check (warn of it) or correct (take it out)"
    )
    radiometry: Radiometry = Field(
        "auto",
        description="numbers of the later date: model (as the model's range takes them), match (matched to the earlier "
        "date's by ground that did not change) or auto (match where a sample shows all bands shifted, else model)",
    )
    strict: bool = Field(False, description="warnings about the inputs end the run before the network")
    force: bool = Field(
        False, description="run even if the numbers of the scenes are none that the model takes"
    )
    grid: GridConfig = GridConfig()
    inputs: InputsConfig = InputsConfig()
    bands: BandsConfig = BandsConfig()
    dates: DatesConfig = DatesConfig()
    before: NumbersConfig = NumbersConfig()
    after: NumbersConfig = NumbersConfig()
    masks: MasksConfig = MasksConfig()
    tiling: TilingConfig = TilingConfig()
    inference: InferenceConfig = InferenceConfig()
    compute: ComputeConfig = ComputeConfig()
    cluster: ClusterConfig = Field(AutoCluster(), discriminator="kind")
    output: OutputConfig = OutputConfig()
    vector: VectorConfig = VectorConfig()


def unset(kind: str, keys: str) -> str:
    """Return the message about keys without which a kind of cluster cannot start."""
    return f"cluster.kind {kind}: {keys} is not set; set it, for example with --set"


def size_in_bytes(text: str) -> int:
    """Return the bytes of a size such as ``16GiB`` or ``16GB``, as ``cluster.memory`` has it."""
    number, power, binary = re.fullmatch(_SIZE, text).groups()  # type: ignore[union-attr]
    return int(float(number) * (1024 if binary else 1000) ** ("KMGT".index(power) + 1))
