"""What this machine does: the network, what memory and arithmetic would allow, and the whole way from pair to products.

Every speed is measured beside a plain reference, turn by turn in one run, so that a ratio holds on a machine that
others use as well.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import metadata, resources
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import psutil

import ussfc
from ussfc import engines
from ussfc.cores import cores
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError, InsufficientMemoryError, PipelineError, StoreError
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.parallel.memory_meter import MemoryMeter
from ussfc.pipeline.pixels.radiometry import apply_mapping, percentile_mapping, range_mapping
from ussfc.pipeline.runs.resolve import resolve_config
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.types import FloatArray, Pixels

if TYPE_CHECKING:
    from ussfc.bench import PlainNetwork
    from ussfc.detector import DetectorSpec

FORMAT = 1
"""Version of the result's layout."""

DEMO_HIGH = 3500
"""Number of the demo pair (reflectance x 10000) that becomes the upper end of a model's range."""

MOST_PATCHES = 16
"""Patches that a measurement goes through."""

CUDA_BATCHES = (1, 16, 32)
"""Batch sizes that are measured on CUDA; a CPU gains nothing from one."""

MONAI_AT_ONCE = 4
"""Windows that MONAI's sliding window runs together: what its tutorials choose."""

MONAI_MODE = "gaussian"
"""MONAI's blend: like our own taper it weighs a window's middle most."""

COPY_BYTES = 2**30
"""Buffer that is copied to measure memory: many times what caches hold."""

STAGES = ("read", "network", "mosaic", "vectorise")

PATIENCE_SECONDS = 5
"""Time that a process has to end by itself after Ctrl-C, which reaches it too."""

MISSING_MONAI = "monai is not installed: pip install 'ussfc[test]'"


@dataclasses.dataclass(frozen=True)
class Samples:
    """One quantity, measured once a round."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, rounds: int, measure: Callable[[], float]) -> Samples:
        """Measure now."""
        return cls(tuple(measure() for _ in range(rounds)))

    @property
    def median(self) -> float:
        """The middle one, or the mean of the two in the middle."""
        return median(self.values)

    def over(self, others: Samples) -> Samples:
        """Ratios round by round: the two of a round were measured next to each other."""
        return Samples(tuple(a / b for a, b in zip(self.values, others.values, strict=True)))

    def record(self) -> dict[str, Any]:
        """As the result holds it."""
        return {
            "median": self.median,
            "least": min(self.values),
            "largest": max(self.values),
            "samples": list(self.values),
        }


def bench(
    config: RunConfig,
    *,
    only_engines: Sequence[str] = (),
    only_precisions: Sequence[str] = (),
    patches: Sequence[int] = (),
    size: int | None = 2048,
    rounds: int = 3,
    seconds: float = 1.0,
    subscriber: Subscriber = ignore,
) -> dict[str, Any]:
    """Measure this machine.

    Args:
        config: model and device; and of the whole way everything that ``ussfc run`` takes.
        only_engines: measure the network by these; none: by all.
        only_precisions: measure the network in these; none: in all.
        patches: sides of the network's patches, pixels; none: the configuration's, or else the model's.
        size: side of the pair of the whole way, pixels; None leaves that out.
        rounds: measurements of each quantity.
        seconds: wall time of one measurement of the network or the machine.
        subscriber: hears a notice before each step.

    Returns:
        What ``ussfc bench --json`` writes. A *sampled* number is an object of ``median``, ``least``, ``largest`` and
        ``samples``, the numbers of all rounds in their order. *Reference* is the plain network: float32, eager, a patch
        at a time, all cores. Ratios are taken round by round and above 1 where ussfc does better.

        - ``format``: 1. ``made``: time of the start, ISO 8601.
        - ``machine``: ``processor``, ``cores`` (that this process may use), ``memory_bytes``, ``gpu`` (a name,
          or null), ``system``, ``python``, ``versions`` by package, ``others_share``: of the machine's processor time
          while this ran, what other programs took.
        - ``settings``: ``model``, ``weights_sha256``, ``device``, ``patches``, ``size``, ``rounds``, ``seconds``.
        - ``roof``: ``copy_bytes_per_s``, sampled; ``flop_per_s``: precision to sampled, or to null where the
          processor lacks such arithmetic; ``flop_per_pixel``; ``bytes_per_pixel`` and ``mpx_per_s``, each by precision:
          what a well fused network moves, and the speed that the scarcer of memory and arithmetic allows it.
        - ``network``: a list with an object for each engine, precision, patch and batch size: ``engine``,
          ``precision``, ``patch`` (pixels), then ``not_here`` (the reason) alone, or ``batch``, ``streams``;
          ``mpx_per_s``, ``reference_mpx_per_s`` and ``ratio``, sampled; ``largest_deviation`` of a probability from
          the reference's, over all measured patches; ``roof_share``: of the roof's Mpx/s for the precision.
        - ``end_to_end``: null, or ``pixels``, ``patch`` (pixels), ``overlap`` (share of the patch); ``ussfc`` and
          ``monai``, each with ``seconds``, ``mpx_per_s``, ``peak_memory_bytes`` and ``process_seconds`` (with the start
          of Python and its imports), all sampled, or with ``not_here`` (the reason) alone; ``ussfc`` also with
          ``engine``, ``precision``, ``detector`` (all that moves a probability) and ``executor`` (name, processes,
          threads); ``speed_ratio`` and
          ``memory_ratio``, sampled, or null where one is not here.
        - ``stages``: null, or of the runs of ``end_to_end`` the seconds of ``read``, ``network`` (both over the number
          of processes that share them), ``mosaic``, ``vectorise``, and ``share_outside_network`` of the wall time; all
          sampled.

    Raises:
        ConfigError: an engine or precision that there is not.
        ussfc.ModelError: the model cannot be used, or not with such patches, or there is no such device.
        PipelineError: a run of the whole way failed; the message is the run's.
    """

    def tell(message: str) -> None:
        subscriber(Notice(message, warning=False))

    kinds = _kinds(only_engines, only_precisions)
    model = ussfc.find_model(config.model)
    config = resolve_config(config, model)
    inference = config.inference
    # All of them before anything is measured: a patch size may be refused.
    plain = [_plain_recipe(config, model, patch) for patch in patches or (config.tiling.patch_size,)]
    device = plain[0].device
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = _processor_seconds()
    tell("what memory and arithmetic allow")
    roof = _roof(plain[0], rounds, seconds)
    network = []
    for recipe in plain:
        reference = _Reference.of(model, recipe)
        for engine, precision in kinds:
            for batch in CUDA_BATCHES if device == "cuda" else (None,):
                tell(
                    f"network: {engine} {precision}, patches of {recipe.patch_size} px"
                    + (f", {batch} a call" if batch else "")
                )
                row: dict[str, Any] = {"engine": engine, "precision": precision, "patch": recipe.patch_size}
                try:
                    wanted = ussfc.detector_spec(
                        model,
                        patch_size=recipe.patch_size,
                        ssfc=inference.ssfc,
                        engine=engine,
                        precision=precision,
                        device=device,
                        batch_size=batch,
                    )
                    row |= _beside(reference, wanted, rounds, seconds)
                except ussfc.ModelError as error:
                    network.append(row | {"not_here": str(error)})
                    break
                allowed = roof["mpx_per_s"].get(precision, roof["mpx_per_s"]["float32"])
                network.append(row | {"roof_share": row["mpx_per_s"]["median"] / allowed})
    end_to_end, stages = (None, None) if size is None else _end_to_end(config, model, size, rounds, tell)
    return {
        "format": FORMAT,
        "made": started,
        "machine": _machine(device) | {"others_share": _others_share(clock)},
        "settings": {
            "model": model.name,
            "weights_sha256": model.weights.sha256,
            "device": device,
            "patches": [recipe.patch_size for recipe in plain],
            "size": size,
            "rounds": rounds,
            "seconds": seconds,
        },
        "roof": roof,
        "network": network,
        "end_to_end": end_to_end,
        "stages": stages,
    }


def _kinds(only_engines: Sequence[str], only_precisions: Sequence[str]) -> list[tuple[str, str]]:
    """Engines and precisions to measure."""
    every = [
        (engine, precision) for engine, precisions in engines.PRECISIONS.items() for precision in precisions
    ]
    for what, wanted, known in (
        ("engine", only_engines, {engine for engine, _ in every}),
        ("precision", only_precisions, {precision for _, precision in every}),
    ):
        for name in wanted:
            if name not in known:
                raise ConfigError(f"{what} {name!r}: not known; known: {', '.join(sorted(known))}")
    kinds = [
        (engine, precision)
        for engine, precision in every
        if engine in (only_engines or (engine,)) and precision in (only_precisions or (precision,))
    ]
    if not kinds:
        raise ConfigError(
            f"no engine of {', '.join(only_engines)} has a precision of {', '.join(only_precisions)}; leave out one"
        )
    return kinds


def _plain_recipe(config: RunConfig, model: ussfc.ModelSpec, patch_size: int | None) -> DetectorSpec:
    """What :class:`ussfc.bench.PlainNetwork` takes."""
    inference = config.inference
    return ussfc.detector_spec(
        model,
        patch_size=patch_size,
        ssfc=inference.ssfc,
        engine="torch",
        precision="float32",
        device=inference.device,
    )


def _machine(device: str) -> dict[str, Any]:
    import rasterio

    from ussfc.bench import gpu_name

    packages = ("ussfc", "torch", "numpy", "rasterio", "zarr", "distributed", "openvino", "triton", "monai")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": gpu_name() if device == "cuda" else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions | {"gdal": rasterio.__gdal_version__},
    }


def _processor() -> str:
    """The processor's name; Python knows it on few systems."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _processor_seconds() -> tuple[float, float, float]:
    """Seconds of all cores together since the machine's start; those that were in use; those that were ours."""
    # A guest's seconds are counted as the user's as well.
    spent = {
        name: value for name, value in psutil.cpu_times()._asdict().items() if not name.startswith("guest")
    }
    every = sum(spent.values())
    return every, every - spent["idle"] - spent.get("iowait", 0.0), sum(os.times()[:4])


def _others_share(before: tuple[float, float, float]) -> float:
    every, used, ours = (now - then for now, then in zip(_processor_seconds(), before, strict=True))
    return min(1.0, max(0.0, (used - ours) / max(every, 1e-9)))


def _roof(recipe: DetectorSpec, rounds: int, seconds: float) -> dict[str, Any]:
    """What memory and arithmetic of the device allow a network."""
    from ussfc import bench as house

    network = house.PlainNetwork(recipe).network
    size = COPY_BYTES
    if recipe.device == "cpu":
        size = min(size, psutil.virtual_memory().available // 8)
    copied = Samples.of(rounds, lambda: house.copy_rate(recipe.device, size, seconds))
    rates: dict[str, Samples | None] = {}
    for precision in house.BYTES:
        if house.has_arithmetic(recipe.device, precision):
            rates[precision] = Samples.of(
                rounds, partial(house.matrix_rate, recipe.device, precision, seconds)
            )
        else:
            rates[precision] = None
    flop = house.pixel_flop(network)
    moved = {precision: house.pixel_bytes(network, precision) for precision in rates}
    plain = rates["float32"]
    assert plain is not None
    allowed = {}
    for precision, rate in rates.items():
        # What has no arithmetic of its own, or a slower one, computes in float32 and still moves less.
        fastest = max(plain.median, rate.median if rate else 0.0)
        allowed[precision] = min(copied.median / moved[precision], fastest / flop) / 1e6
    return {
        "copy_bytes_per_s": copied.record(),
        "flop_per_s": {precision: rate and rate.record() for precision, rate in rates.items()},
        "flop_per_pixel": flop,
        "bytes_per_pixel": moved,
        "mpx_per_s": allowed,
    }


@dataclasses.dataclass(frozen=True)
class _Reference:
    """The plain network, the patches that all are measured on, and its answer."""

    network: PlainNetwork
    before: FloatArray
    after: FloatArray
    answers: FloatArray

    @classmethod
    def of(cls, model: ussfc.ModelSpec, recipe: DetectorSpec) -> _Reference:
        from ussfc.bench import PlainNetwork, answers

        network = PlainNetwork(recipe)
        before, after = demo_patches(model, recipe.patch_size)
        return cls(network, before, after, answers(network, before, after))


def _beside(reference: _Reference, recipe: DetectorSpec, rounds: int, seconds: float) -> dict[str, Any]:
    """A detector's row, measured in turns with the reference."""
    from ussfc.bench import answers, speed

    detector = recipe.build()
    deviation = np.abs(answers(detector, reference.before, reference.after) - reference.answers).max()
    own, plain = [], []
    # One call of every stream: what it does but once is over.
    speed(detector, reference.before, reference.after, 0.0)
    for _ in range(rounds):
        plain.append(speed(reference.network, reference.before, reference.after, seconds) / 1e6)
        own.append(speed(detector, reference.before, reference.after, seconds) / 1e6)
    measured, compared = Samples(tuple(own)), Samples(tuple(plain))
    return {
        "batch": detector.batch_size,
        "streams": detector.streams,
        "mpx_per_s": measured.record(),
        "reference_mpx_per_s": compared.record(),
        "ratio": measured.over(compared).record(),
        "largest_deviation": float(deviation),
    }


def demo_patches(model: ussfc.ModelSpec, patch_size: int) -> tuple[FloatArray, FloatArray]:
    """Patches of the packaged pair side by side, as a model's network sees them.

    Args:
        model: whose bands and range.
        patch_size: pixels.

    Returns:
        Before and after, ``(n, bands, patch_size, patch_size)`` float32 in [0, 1], at most :data:`MOST_PATCHES`.
    """
    cut = []
    for image in _demo(model).images:
        unit = in_unit_range(image, model)
        side = max(patch_size, unit.shape[1] // patch_size * patch_size)
        unit = _mirrored(unit, range(side), side)
        tiles = unit.reshape(len(unit), side // patch_size, patch_size, side // patch_size, patch_size)
        every = tiles.transpose(1, 3, 0, 2, 4).reshape(-1, len(unit), patch_size, patch_size)
        chosen = np.linspace(0, len(every) - 1, min(len(every), MOST_PATCHES)).round().astype(int)
        cut.append(np.ascontiguousarray(every[chosen]))
    return cut[0], cut[1]


def in_unit_range(image: npt.NDArray[Any], model: ussfc.ModelSpec) -> FloatArray:
    """A whole scene in the model's input range, as a run would stretch it.

    Args:
        image: ``(bands, rows, cols)`` source numbers, all valid.
        model: whose radiometry.

    Returns:
        The same shape, float32 in [0, 1].
    """
    mapping = model.radiometry
    pixels = Pixels(image, np.ones(image.shape[1:], np.bool_))
    if mapping.kind == "range":
        stretch = range_mapping(mapping.low, mapping.high, len(image))
    else:
        sample = Pixels(image[:, ::4, ::4], pixels.valid[::4, ::4])
        stretch = percentile_mapping(sample, mapping.low, mapping.high, "the pair")
    return apply_mapping(pixels, stretch)


@dataclasses.dataclass(frozen=True)
class _Demo:
    """The packaged pair with the bands and the numbers of a model."""

    images: tuple[npt.NDArray[Any], npt.NDArray[Any]]
    """Before and after, (bands, rows, cols)."""
    names: tuple[str, ...]
    """Of the bands."""
    crs: Any
    transform: Any


def _demo(model: ussfc.ModelSpec) -> _Demo:
    import rasterio

    names = tuple(band.name for band in model.bands)
    images = []
    with resources.as_file(resources.files("ussfc.configs").joinpath("demo")) as folder:
        for date in ("before", "after"):
            with rasterio.open(folder / f"beirut_{date}.tif") as source:
                found = list(source.descriptions)
                # A band that the pair lacks is played by another one.
                bands = [
                    found.index(name) if name in found else n % len(found) for n, name in enumerate(names)
                ]
                images.append(_in_range_of(model, source.read()[bands]))
                crs, transform = source.crs, source.transform
    return _Demo((images[0], images[1]), names, crs, transform)


def _in_range_of(model: ussfc.ModelSpec, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The demo's numbers as those of a model's range: 0..3500 as 0..255, for example."""
    if model.radiometry.kind != "range":
        return image
    low, high = (
        np.broadcast_to(np.asarray(end, np.float64), len(image))[:, None, None]
        for end in (model.radiometry.low, model.radiometry.high)
    )
    scaled = low + image * ((high - low) / DEMO_HIGH)
    for dtype in (np.uint8, np.uint16):
        largest = np.iinfo(dtype).max
        # Whole numbers serve where they are fine enough.
        if (high - low).min() >= 100 and low.min() >= 0 and high.max() <= largest:
            return np.clip(np.rint(scaled), 0, largest).astype(dtype)
    return scaled.astype(np.float32)


def _mirrored(image: npt.NDArray[Any], rows: range, cols: int) -> npt.NDArray[Any]:
    """Rows of a large image that repeats a small one, mirrored at every other turn so that seams fit.

    Args:
        image: ``(bands, side, side)``.
        rows: of the large image.
        cols: its width.

    Returns:
        ``(bands, len(rows), cols)``.
    """

    def place(index: npt.NDArray[np.intp], length: int) -> npt.NDArray[np.intp]:
        turn = index % (2 * length)
        return np.minimum(turn, 2 * length - 1 - turn)

    wanted = place(np.arange(rows.start, rows.stop), image.shape[1]), place(np.arange(cols), image.shape[2])
    return image[:, wanted[0][:, None], wanted[1][None, :]]


def write_pair(model: ussfc.ModelSpec, folder: Path, size: int) -> tuple[Path, Path]:
    """The packaged pair repeated to ``size`` x ``size`` pixels, as tiled GeoTIFFs with DEFLATE.

    Args:
        model: whose bands and range the numbers have.
        folder: gets ``before.tif`` and ``after.tif``.
        size: side, pixels.

    Raises:
        StoreError: no room in the folder.
    """
    import rasterio
    from rasterio.windows import Window

    demo = _demo(model)
    paths = folder / "before.tif", folder / "after.tif"
    for path, image in zip(paths, demo.images, strict=True):
        try:
            with rasterio.open(
                path, "w", driver="GTiff", width=size, height=size, count=len(image), dtype=image.dtype, crs=demo.crs,
                transform=demo.transform, tiled=True, blockxsize=512, blockysize=512, compress="deflate",
                bigtiff="if_safer", num_threads="all_cpus",
            ) as target:  # fmt: skip
                target.descriptions = demo.names
                for top in range(0, size, 512):
                    rows = range(top, min(top + 512, size))
                    target.write(_mirrored(image, rows, size), window=Window(0, top, size, len(rows)))
        except (OSError, rasterio.errors.RasterioError) as error:
            raise StoreError(
                f"{path}: cannot be written ({error}); set TMPDIR to a folder with room"
            ) from error
    return paths


def _end_to_end(
    config: RunConfig, model: ussfc.ModelSpec, size: int, rounds: int, tell: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The whole way in turns with MONAI's sliding window, each time in a process of its own; and its stages."""
    runs: dict[str, list[dict[str, Any]]] = {"ussfc": [], "monai": []}
    not_here: dict[str, str] = {}
    if importlib.util.find_spec("monai") is None:
        not_here["monai"] = MISSING_MONAI
    inference = config.inference
    chosen: dict[str, str] = {}
    try:
        # What the configuration leaves to the machine is measured here once, and not on the way.
        recipe = ussfc.detector_spec(
            model,
            patch_size=config.tiling.patch_size,
            ssfc=inference.ssfc,
            engine=inference.engine,
            precision=inference.precision,
            device=inference.device,
        )
        chosen = {"engine": recipe.engine, "precision": recipe.precision}
    except ussfc.ModelError as error:
        not_here["ussfc"] = str(error)
    config = config.model_copy(update={"inference": inference.model_copy(update=chosen)})
    with tempfile.TemporaryDirectory(prefix="ussfc-bench-") as name:
        folder = Path(name)
        tell(f"end to end: writing a pair of {size} x {size} px")
        before, after = write_pair(model, folder, size)
        for number in range(rounds):
            for program, done in runs.items():
                if program in not_here:
                    continue
                tell(f"end to end: {program}, round {number + 1} of {rounds}")
                job = {
                    "program": program,
                    "before": str(before),
                    "after": str(after),
                    "out": str(folder / "out"),
                    "result": str(folder / "result.json"),
                    "config": config.model_dump(mode="json"),
                }
                outcome = _in_own_process(job)
                if "not_here" in outcome:
                    not_here[program] = outcome["not_here"]
                else:
                    done.append(outcome)
    found = {
        program: {"not_here": not_here[program]} if program in not_here else _records(done, size**2)
        for program, done in runs.items()
    }
    ratios: dict[str, Any] = {"speed_ratio": None, "memory_ratio": None}
    if not not_here:
        for ratio, field in (("speed_ratio", "seconds"), ("memory_ratio", "peak_memory_bytes")):
            theirs, ours = (_field(runs[program], field) for program in ("monai", "ussfc"))
            ratios[ratio] = theirs.over(ours).record()
    result = {
        "pixels": size**2,
        "patch": config.tiling.patch_size,
        "overlap": config.tiling.overlap,
        **found,
        **ratios,
    }
    if "ussfc" in not_here:
        return result, None
    first, *_ = way = runs["ussfc"]
    result["ussfc"] |= chosen | {fact: first[fact] for fact in ("detector", "executor")}
    stages = {stage: _field(way, stage).record() for stage in (*STAGES, "share_outside_network")}
    return result, stages


def _field(done: Sequence[Mapping[str, Any]], name: str) -> Samples:
    return Samples(tuple(float(outcome[name]) for outcome in done))


def _records(done: Sequence[Mapping[str, Any]], pixels: int) -> dict[str, Any]:
    fields = ("seconds", "peak_memory_bytes", "process_seconds")
    speed = Samples(tuple(pixels / 1e6 / outcome["seconds"] for outcome in done))
    return {"mpx_per_s": speed.record(), **{field: _field(done, field).record() for field in fields}}


_HERE = (ussfc.ModelError, InsufficientMemoryError)
"""What says that this machine cannot, rather than that something failed."""

_KINDS = (*_HERE, ConfigError, StoreError, PipelineError)
"""Errors that a run may end with; the first that fits."""

_PROGRAM = """
import json, sys
job = json.load(sys.stdin)
sys.path[:] = job["path"]
from ussfc.pipeline.benchmark.bench import serve
serve(job)
"""


def _in_own_process(job: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job in a fresh Python, so that peak memory is of that alone.

    Returns:
        What :func:`serve` measured and ``process_seconds``; or ``not_here``, the reason.

    Raises:
        PipelineError: the run failed.
    """
    result = Path(job["result"])
    result.unlink(missing_ok=True)
    start = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - a list, no shell
        [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        try:
            said = process.communicate(json.dumps({**job, "path": sys.path}))[1]
        except BaseException:
            _end(process)
            raise
    seconds = time.perf_counter() - start
    shutil.rmtree(job["out"], ignore_errors=True)
    if not result.exists():
        lines = said.strip().splitlines()
        reason = f"status {process.returncode}" + (f": {lines[-1]}" if lines else "")
        if process.returncode == -signal.SIGKILL:
            reason = "killed by the system, most often for want of memory"
        if job["program"] == "monai":
            return {"not_here": f"its process ended with {reason}"}
        raise PipelineError(f"the run of the whole way ended with {reason}")
    outcome: dict[str, Any] = json.loads(result.read_text("utf-8"))
    if "error" in outcome:
        kind = next(kind for kind in _KINDS if kind.__name__ == outcome["kind"])
        if kind in _HERE:
            return {"not_here": outcome["error"]}
        raise kind(outcome["error"])
    return outcome | {"process_seconds": seconds}


def _end(process: subprocess.Popen[str]) -> None:
    """Have a process end, in good order if it can: it may have workers of its own."""
    for stop in (None, signal.SIGINT, signal.SIGKILL):
        if stop is not None:
            process.send_signal(stop)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


def serve(job: Mapping[str, Any]) -> None:
    """The process of :func:`_in_own_process`: measure, and leave the result in the job's file."""
    config = RunConfig.model_validate(job["config"])
    try:
        outcome = {"ussfc": _our_way, "monai": _their_way}[job["program"]](job, config)
    except _KINDS as error:
        kind = next(kind for kind in _KINDS if isinstance(error, kind))
        outcome = {"error": str(error), "kind": kind.__name__}
    Path(job["result"]).write_text(json.dumps(outcome), "utf-8")


def _our_way(job: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    # What a run imports on its way is not its speed, as with MONAI, whose imports take longer.
    for module in (
        "ussfc.pipeline.rasters.cog",
        "ussfc.pipeline.execution.dask_executor",
        "ussfc.pipeline.execution.serial_executor",
        "ussfc.pipeline.polygons.vectorise",
        "ussfc.weights",
    ):
        importlib.import_module(module)
    start = time.perf_counter()
    manifest = run(job["before"], job["after"], job["out"], config)
    seconds = time.perf_counter() - start
    processes = max(1, manifest.executor.processes)
    spent = {stage: manifest.tile_seconds[stage] / processes for stage in ("read", "network")}
    spent |= {stage: manifest.stages[stage].seconds for stage in ("mosaic", "vectorise")}
    return {
        "seconds": seconds,
        "peak_memory_bytes": manifest.peak_memory_bytes,
        "detector": manifest.detector,
        "executor": manifest.executor.dump(),
        "share_outside_network": 1 - spent["network"] / seconds,
        **spent,
    }


def _their_way(job: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """The scene in memory, the plain network, MONAI's sliding window, a plain GeoTIFF."""
    import rasterio

    from ussfc.bench import PlainNetwork

    model = ussfc.find_model(config.model)
    patch, overlap = config.tiling.patch_size, config.tiling.overlap
    assert patch is not None
    assert overlap is not None
    recipe = _plain_recipe(config, model, patch)
    importlib.import_module("monai.inferers")
    with MemoryMeter() as meter:
        start = time.perf_counter()
        network = PlainNetwork(recipe)
        images = []
        for date in ("before", "after"):
            with rasterio.open(job[date]) as source:
                images.append(in_unit_range(source.read(), model))
                profile = {"crs": source.crs, "transform": source.transform}
        answer = network.slide(images[0], images[1], patch, overlap, MONAI_MODE, MONAI_AT_ONCE)
        rows, cols = answer.shape
        out = Path(job["out"])
        out.mkdir()
        with rasterio.open(
            out / "probability.tif",
            "w",
            driver="GTiff",
            width=cols,
            height=rows,
            count=1,
            dtype="float32",
            **profile,
        ) as target:
            target.write(answer, 1)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_memory_bytes": meter.peak}
