"""What a run will do, decided from headers and configuration: grid, bands, tiles, executor, memory, its key."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import psutil
from odc.geo.geobox import GeoBox

import ussfc
from ussfc.pipeline.clusters.base import Cluster, SchedulerAt
from ussfc.pipeline.clusters.select import LOCAL_KINDS, REMOTE_KINDS, select_cluster
from ussfc.pipeline.config.schema import JobsCluster, RunConfig, size_in_bytes
from ussfc.pipeline.errors import ConfigError, InsufficientMemoryError
from ussfc.pipeline.pixels import radiometry
from ussfc.pipeline.reading import (
    AreaOfInterest,
    SceneRecipe,
    choose_bands,
    describe_scene,
    on_grid,
    over_network,
    read_aoi,
)
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.grid import common_grid, crop, crs_name, geometry_box, metres_per_pixel
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.tiling.memory import BASE_DASK, MemoryProjection, project, refuse_beyond
from ussfc.pipeline.types import DetectorSpec, RadiometricMapping, SceneInfo, SceneReader

if TYPE_CHECKING:
    from ussfc.detector import DetectorSpec as NetworkRecipe
    from ussfc.training.recipe import InputSpec

Answer = TypeVar("Answer")

GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")
"""What drivers of CUDA devices put up: on Linux, under Windows (WSL), on Tegra."""

RESOLUTION_TOLERANCE = 2.0
"""Factor between the grid's pixel size and the model's beyond which a warning is due."""


class Ask(Protocol):
    """Asks those who compute, see :meth:`ussfc.pipeline.execution.dask_executor.Executor.ask`."""

    def __call__(self, function: Callable[..., Answer], *args: object) -> list[Answer]:
        """What the function returns on each of them."""


@dataclasses.dataclass(frozen=True)
class ScenePair:
    """Two scenes on their common grid, and how a model sees them."""

    before: SceneInfo
    after: SceneInfo
    recipes: tuple[SceneRecipe, SceneRecipe]
    grid: GeoBox
    area: AreaOfInterest | None
    model: ussfc.ModelSpec
    notices: tuple[str, ...]
    """What a user should know before the run."""


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What a run will do; no pixel has been read for it."""

    pair: ScenePair
    tiles: TilePlan
    executor: str
    """A kind of cluster, or serial."""
    processes: int
    """Worker processes on this machine; 0 where there are none."""
    threads: int
    """Threads of one process that run the network."""
    concurrent_tiles: int
    """Tiles that one process has under way: one in the network, others read or written beside it."""
    cluster: Cluster | None
    """Where the workers come from; None: this process computes."""
    on_gpu: bool
    """Whether every worker computes on a GPU."""
    memory: MemoryProjection

    def summary(self) -> dict[str, Any]:
        """The plan as numbers, for people and programs."""
        tiles, model = self.tiles, self.pair.model
        pixels = tiles.shape[0] * tiles.shape[1]
        workers = self.cluster.worker_count if self.cluster is not None else 1
        cores = workers * self.threads
        speed = (model.cpu_mpx_per_s or 0) * 1e6 * cores
        network_pixels = tiles.computed_patches * tiles.patch_size**2
        infos = (self.pair.before, self.pair.after)
        return {
            "grid": {"rows": tiles.shape[0], "cols": tiles.shape[1], "crs": crs_name(self.pair.grid)},
            "megapixels": round(pixels / 1e6, 3),
            "tiles": tiles.tile_count,
            "patches": tiles.computed_patches,
            "redundant_share": round(tiles.redundant_share, 4),
            "bytes_to_read": int(sum(pixels * info.bytes_per_pixel for info in infos)),
            "memory_bytes": self.memory.total,
            "memory_per_worker_bytes": self.memory.worker,
            "executor": self.executor,
            # None: as many as there will be.
            "workers": workers or None,
            "threads": self.threads,
            # What a GPU does is not in the card.
            "seconds_estimate": round(network_pixels / speed, 1) if speed and not self.on_gpu else None,
            "warnings": list(self.pair.notices),
        }


def inspect_pair(before: str, after: str, config: RunConfig) -> ScenePair:
    """Open both headers, find the common grid, choose the bands. No pixel is read.

    Raises:
        ReadError, GridError, ConfigError, ussfc.ModelError: each names the input and the way out.
    """
    model = ussfc.find_model(config.model)
    # Workers have working directories of their own, and the run's key must not depend on ours.
    before, after = (str(Path(uri).absolute()) if Path(uri).exists() else uri for uri in (before, after))
    infos = describe_scene(before), describe_scene(after)
    grid = common_grid(*infos, config.grid.reference, config.grid.crs, config.grid.resolution)
    area = None
    if config.grid.aoi is not None:
        grid, area = _cut_to_area(grid, config.grid.aoi)
    notices = [note for info in infos for note in info.notes]
    wanted = [(band.name, band.common_name) for band in model.bands]
    recipes = []
    for uri, info, chosen in zip(
        (before, after), infos, (config.bands.before, config.bands.after), strict=True
    ):
        bands, notice = choose_bands(info, wanted, chosen)
        notices += [notice] if notice else []
        recipes.append(SceneRecipe(uri, grid, bands, config.grid.resampling))
    if grid.crs is None:
        notices.append("neither image has a CRS: the run and its products are in pixel coordinates")
    notices += _scale_notices(
        grid, model, resolve_config(config, model).tiling.patch_size or model.patch_size
    )
    notices += _range_notices(infos, model)
    return ScenePair(*infos, (recipes[0], recipes[1]), grid, area, model, tuple(notices))


def _cut_to_area(grid: GeoBox, aoi: str) -> tuple[GeoBox, AreaOfInterest]:
    area = read_aoi(aoi)
    if grid.crs is not None and area.crs is not None:
        area = area.to_crs(grid.crs)
    box = geometry_box(area, grid)
    if box.pixels == 0:
        raise ConfigError(f"grid.aoi {aoi}: lies outside the overlap of the two images")
    grid = crop(grid, box)
    return grid, on_grid(area, grid)


def _range_notices(infos: Iterable[SceneInfo], model: ussfc.ModelSpec) -> list[str]:
    """A model with a fixed range is blind to numbers of another kind: bytes instead of reflectances."""
    import numpy as np

    mapping = model.radiometry
    if mapping.kind != "range":
        return []
    high = float(np.max(mapping.high))
    return [
        f"{info.uri}: holds {info.dtype}, model {model.name} takes numbers up to {high:g} as its range; the result "
        "will mean little: give data of the kind the model was trained on, or another model"
        for info in infos
        if np.issubdtype(np.dtype(info.dtype), np.integer) and np.iinfo(info.dtype).max < high
    ]


def _scale_notices(grid: GeoBox, model: ussfc.ModelSpec, patch_size: int) -> list[str]:
    notices = []
    metres = metres_per_pixel(grid)
    if metres and model.resolution_m:
        factor = metres / model.resolution_m
        if not 1 / RESOLUTION_TOLERANCE <= factor <= RESOLUTION_TOLERANCE:
            notices.append(
                f"the grid has pixels of {metres:.3g} m, model {model.name} was trained at {model.resolution_m:g} m; "
                "set grid.resolution or choose another model"
            )
    if min(grid.shape) < patch_size:
        notices.append(
            f"the scene ({grid.shape[0]} x {grid.shape[1]} px) is smaller than a patch of {patch_size} px and is "
            "mirrored to fill it"
        )
    return notices


def space_notices(plan: RunPlan, config: RunConfig, out: Folder) -> list[str]:
    """What compresses badly may fill a disk after hours; how well it compresses, nobody knows before."""
    free = out.free_bytes()
    item = 1 if config.output.probability_dtype == "uint8" else 4
    # Store, scratch raster and product with overviews, each at worst uncompressed; the classes are small.
    wanted = int(plan.tiles.shape[0] * plan.tiles.shape[1] * item * 3.7)
    if free is None or free >= wanted:
        return []
    return [
        f"{out}: has {free / 1e9:.1f} GB free; results of this scene may need up to {wanted / 1e9:.1f} GB, seldom "
        "more than a third of that"
    ]


def resolve_config(config: RunConfig, model: ussfc.ModelSpec) -> RunConfig:
    """The configuration with what it leaves to the model filled in from the model card."""
    cutting, tiling = model.tiling, config.tiling
    return config.model_copy(
        update={
            "tiling": tiling.model_copy(
                update={
                    "patch_size": tiling.patch_size or cutting.patch_size or model.patch_size,
                    "overlap": cutting.overlap if tiling.overlap is None else tiling.overlap,
                    "taper": tiling.taper or cutting.taper,
                }
            ),
            "inference": config.inference.model_copy(update={"ssfc": config.inference.ssfc or cutting.ssfc}),
        }
    )


def resolve_detector(
    plan: RunPlan,
    config: RunConfig,
    detector: DetectorSpec | None,
    begun: str | None = None,
    ask: Ask | None = None,
) -> tuple[RunConfig, DetectorSpec]:
    """The configuration without gaps, and the detector that it means.

    Args:
        plan: of the run.
        config: that made it.
        detector: another detector than the model's network.
        begun: identity of the detector that the run in the output folder began with, if there is one: what
            the configuration leaves to the machine is then as it was there, unless what it says disagrees: that is
            another run, whose choices are its own.
        ask: where workers on other machines can be asked what they compute fastest. They are, where something is left
            to choose, and their number is known: those of an adaptive cluster come and go. Where one is missing or of
            another opinion, it is what any machine has.
    """
    config = resolve_config(config, plan.pair.model)
    if detector is not None:
        return config, detector
    chosen = config.inference.model_dump(include={"engine", "precision"}) | {"device": _device(config)}
    recorded = ussfc.detector_choices(begun or "")
    if all(chosen[name] in ("auto", value) for name, value in recorded.items()):
        chosen |= recorded
    recipe = ussfc.detector_spec(
        plan.pair.model,
        patch_size=config.tiling.patch_size,
        ssfc=config.inference.ssfc,
        batch_size=config.inference.batch_size,
        streams=plan.threads,
        choose=partial(_for_workers, plan, ask) if plan.executor in REMOTE_KINDS else None,
        **chosen,
    )
    return config, recipe


def _for_workers(plan: RunPlan, ask: Ask | None, recipes: Sequence[NetworkRecipe]) -> NetworkRecipe:
    assert plan.cluster is not None
    # Of somebody else's scheduler those count that are there.
    expected = plan.cluster.worker_count or (1 if isinstance(plan.cluster, SchedulerAt) else 0)
    if ask is None or not expected:
        return ussfc.anywhere(recipes)
    answers = ask(_fastest, recipes)
    # One that can build none of them says so when it is to begin.
    found = {answer for answer in answers if answer is not None}
    return recipes[found.pop()] if len(found) == 1 and len(answers) >= expected else ussfc.anywhere(recipes)


def _fastest(recipes: Sequence[NetworkRecipe]) -> int | None:
    """On a worker: which of them it computes fastest; None: it can build none."""
    try:
        return recipes.index(ussfc.fastest(recipes))
    except Exception:  # noqa: BLE001 - whatever a library raises, it is told where tiles are to begin
        return None


def what_computes(recipe: DetectorSpec) -> str:
    """How a notice names a detector: its engine, precision and device, where its identity tells them."""
    choices = ussfc.detector_choices(recipe.identity)
    return "{engine} in {precision} on {device}".format(**choices) if len(choices) == 3 else recipe.identity


def plan(before: str, after: str, config: RunConfig) -> RunPlan:
    """What a run would do. Raises as :func:`look` does."""
    return plan_pair(inspect_pair(before, after, config), config)


def plan_pair(pair: ScenePair, config: RunConfig, network: bool = True) -> RunPlan:
    """The plan for a pair that was looked at; ``network`` is False for a detector that needs no torch."""
    model = pair.model
    tiles = tile_plan(pair.grid, model, config)
    on_gpu = _device(config) == "cuda"
    selected = select_cluster(config.cluster, tiles.tile_count, on_gpu, ussfc.gpus)
    batch = config.inference.batch_size or 1
    raw = sum(tiles.shape[0] * tiles.shape[1] * _raw_bytes(info) for info in (pair.before, pair.after))
    local = resolve_config(config, model).inference.ssfc == "local"
    remote = any(over_network(recipe.uri) for recipe in pair.recipes)
    memory = project(
        tiles,
        len(model.bands),
        raw,
        selected.processes,
        selected.concurrent_tiles,
        batch * selected.threads,
        network,
        local,
        remote,
        on_gpu,
    )
    if selected.cluster is not None and not selected.processes:
        # Workers elsewhere are Dask's as well; only the sum over them is not this machine's matter.
        memory = dataclasses.replace(memory, worker=memory.worker + BASE_DASK)
    before, after = (
        dataclasses.replace(recipe, block_cache=memory.block_cache, identity=info.identity)
        for recipe, info in zip(pair.recipes, (pair.before, pair.after), strict=True)
    )
    pair = dataclasses.replace(pair, recipes=(before, after))
    return RunPlan(
        pair=pair,
        tiles=tiles,
        executor=selected.kind,
        processes=selected.processes,
        threads=selected.threads,
        concurrent_tiles=selected.concurrent_tiles,
        cluster=selected.cluster,
        on_gpu=on_gpu,
        memory=memory,
    )


def tile_plan(grid: GeoBox, model: ussfc.ModelSpec, config: RunConfig) -> TilePlan:
    """How a grid is cut for a model."""
    tiling = resolve_config(config, model).tiling
    assert tiling.patch_size is not None
    assert tiling.overlap is not None
    return TilePlan.of((grid.shape[0], grid.shape[1]), tiling.tile_size, tiling.patch_size, tiling.overlap)


def _raw_bytes(info: SceneInfo) -> int:
    import numpy as np

    return np.dtype(info.dtype).itemsize * len(info.bands)


def _device(config: RunConfig) -> str:
    """The device that the workers are to use; ``auto`` is decided here, where it means this machine.

    Raises:
        ConfigError: workers with a GPU are asked to compute on the CPU.
    """
    device, cluster = config.inference.device, config.cluster
    if not cluster.wants_gpu:
        if device == "auto" and cluster.kind not in REMOTE_KINDS:
            # Its driver's file first: where there is none, planning need not wait for torch.
            there = any(Path(file).exists() for file in GPU_FILES)
            return "cuda" if there and ussfc.gpus() else "cpu"
        return device
    if device == "cpu":
        raise ConfigError(
            f"inference.device cpu: cluster.kind {cluster.kind} gives every worker a GPU; leave out one of the two"
        )
    return "cuda"


def check_memory(plan: RunPlan, config: RunConfig) -> None:
    """Refuse a run that does not fit: into this machine, or into the jobs of a cluster.

    Raises:
        InsufficientMemoryError: names both numbers and the settings that change them.
    """
    if plan.executor in ("serial", *LOCAL_KINDS):
        refuse_beyond(plan.memory, _allowed_memory(config))
    elif isinstance(config.cluster, JobsCluster):
        given, workers = size_in_bytes(config.cluster.memory), config.cluster.workers_per_job
        if workers * plan.memory.worker > given:
            raise InsufficientMemoryError(
                f"a job's {workers} worker(s) would need about {workers * plan.memory.worker / 1e9:.2f} GB, and "
                f"cluster.memory is {given / 1e9:.2f} GB; raise it, or lower tiling.tile_size"
                f"{', cluster.threads' if plan.concurrent_tiles > 1 else ''} or cluster.workers"
            )


def _allowed_memory(config: RunConfig) -> int:
    if config.compute.memory_gb is not None:
        return int(config.compute.memory_gb * 1e9)
    return int(0.9 * psutil.virtual_memory().available)


def scene_mappings(pair: ScenePair) -> tuple[RadiometricMapping, RadiometricMapping]:
    """The constants of both dates; see :func:`scene_mapping`."""
    before, after = (
        scene_mapping(pair.model, recipe.open(), info.uri)
        for info, recipe in zip((pair.before, pair.after), pair.recipes, strict=True)
    )
    return before, after


def scene_mapping(model: ussfc.ModelSpec | InputSpec, reader: SceneReader, scene: str) -> RadiometricMapping:
    """The constants that bring one scene into the model's input range.

    Args:
        model: a model, or the input of one to be trained: whose mapping to follow.
        reader: the scene on the grid; sampled only if the mapping asks for percentiles.
        scene: its name, for the error.

    Raises:
        ReadError: no valid pixel to take percentiles from.
    """
    mapping = model.radiometry
    if mapping.kind == "range":
        return radiometry.range_mapping(_ends(mapping.low), _ends(mapping.high), len(model.bands))
    return radiometry.percentile_mapping(reader.sample(), mapping.low, mapping.high, scene)


def _ends(value: float | Iterable[float]) -> float | tuple[float, ...]:
    return float(value) if isinstance(value, int | float) else tuple(value)


def run_key(plan: RunPlan, config: RunConfig, recipe: DetectorSpec) -> dict[str, Any]:
    """Everything that decides a stored byte, by the name a message calls it."""
    from ussfc.pipeline.storage.probability_store import FORMAT_VERSION, grid_record

    pair = plan.pair
    return {
        "before": [pair.before.uri, pair.before.identity, list(pair.recipes[0].bands)],
        "after": [pair.after.uri, pair.after.identity, list(pair.recipes[1].bands)],
        "grid": grid_record(pair.grid),
        "aoi": hashlib.sha256(pair.area.wkb).hexdigest() if pair.area else None,
        "resampling": config.grid.resampling,
        "radiometry": pair.model.radiometry.model_dump(mode="json"),
        "tiling": [plan.tiles.tile_size, plan.tiles.patch_size, plan.tiles.stride, config.tiling.taper],
        "model": recipe.identity,
        "probability_dtype": config.output.probability_dtype,
        "format": FORMAT_VERSION,
    }


def threshold_of_model(config: RunConfig, model: ussfc.ModelSpec) -> float:
    """The configured threshold, by default the model's."""
    return model.threshold if config.threshold is None else config.threshold
