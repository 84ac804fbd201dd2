"""The whole way, stage by stage. Reads like a table of contents; every number is made elsewhere.

A stage reads only what the one before it wrote under OUT/work, so that each can be run again alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from odc.geo.geobox import GeoBox

import ussfc
from pipeline import radiometry
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, StoreError
from pipeline.events import Advanced, Notice, StageFinished, StageStarted, Subscriber, ignore
from pipeline.grid import common_grid, crop, crs_name, geometry_box, metres_per_pixel
from pipeline.memory import MemoryProjection, project, refuse_beyond
from pipeline.meter import MemoryMeter
from pipeline.reading import (
    AreaOfInterest,
    SceneRecipe,
    choose_bands,
    describe_scene,
    on_grid,
    read_aoi,
)
from pipeline.storage import prepare_folder, read_json, remove, sha256_file, write_json
from pipeline.tiling import TilePlan
from pipeline.types import DetectorRecipe, SceneInfo, SceneReader, Stretch, blocks

if TYPE_CHECKING:
    from pipeline.inference import TileJob
    from pipeline.probability_store import ProbabilityStore
    from ussfc.recipe import InputSpec

OURS = ("change.tif", "probability.tif", "changes.parquet", "changes.gpkg", "changes.fgb", "run.json", "work")
"""What a run writes into its folder, and what ``overwrite`` removes from it."""

RESOLUTION_TOLERANCE = 2.0
"""Factor between the grid's pixel size and the model's beyond which a warning is due."""

VECTOR_BLOCK = 2048


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
    """serial, local or scheduler."""
    processes: int
    """Worker processes of our own; 0 for serial, and for a scheduler's."""
    threads: int
    """Threads of one process that run the network."""
    memory: MemoryProjection

    def summary(self) -> dict[str, Any]:
        """The plan as numbers, for people and programs."""
        tiles, model = self.tiles, self.pair.model
        pixels = tiles.shape[0] * tiles.shape[1]
        cores = max(1, self.processes) * self.threads
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
            "workers": self.processes,
            "threads": self.threads,
            "seconds_estimate": round(network_pixels / speed, 1)
            if speed and self.executor != "scheduler"
            else None,
            "warnings": list(self.pair.notices),
        }


def look(before: str, after: str, config: RunConfig) -> ScenePair:
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
    notices += _scale_notices(grid, model, settled(config, model).tiling.patch_size or model.patch_size)
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


def settled(config: RunConfig, model: ussfc.ModelSpec) -> RunConfig:
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


def plan(before: str, after: str, config: RunConfig) -> RunPlan:
    """What a run would do. Raises as :func:`look` does."""
    return _plan(look(before, after, config), config)


def _plan(pair: ScenePair, config: RunConfig, network: bool = True) -> RunPlan:
    model = pair.model
    tiles = tile_plan(pair.grid, model, config)
    executor, processes, threads = _choose_executor(tiles, config)
    batch = config.inference.batch_size or 1
    raw = sum(tiles.shape[0] * tiles.shape[1] * _raw_bytes(info) for info in (pair.before, pair.after))
    # One process computes one tile at a time; its threads are the network's.
    local = settled(config, model).inference.ssfc == "local"
    memory = project(tiles, len(model.bands), raw, processes, 1, batch * threads, network, local)
    return RunPlan(pair, tiles, executor, processes, threads, memory)


def tile_plan(grid: GeoBox, model: ussfc.ModelSpec, config: RunConfig) -> TilePlan:
    """How a grid is cut for a model."""
    tiling = settled(config, model).tiling
    assert tiling.patch_size is not None
    assert tiling.overlap is not None
    return TilePlan.of((grid.shape[0], grid.shape[1]), tiling.tile_size, tiling.patch_size, tiling.overlap)


def _raw_bytes(info: SceneInfo) -> int:
    import numpy as np

    return np.dtype(info.dtype).itemsize * len(info.bands)


def _choose_executor(tiles: TilePlan, config: RunConfig) -> tuple[str, int, int]:
    """(executor, own worker processes, network threads of a process)."""
    compute = config.compute
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    executor = compute.executor
    if compute.scheduler is not None and executor == "auto":
        executor = "scheduler"
    if executor == "auto":
        # Few tiles cannot occupy many workers; one process with a thread a core then does better.
        executor = "serial" if tiles.tile_count < 4 * cores or cores == 1 else "local"
    if executor == "scheduler" and compute.scheduler is None:
        raise ConfigError(
            "compute.executor is scheduler but compute.scheduler is not set; give tcp://host:port"
        )
    if executor == "local":
        return executor, compute.workers or cores, compute.threads_per_worker or 1
    return executor, 0, compute.threads_per_worker or (cores if executor == "serial" else 1)


def infer(
    plan: RunPlan,
    config: RunConfig,
    out: Path,
    overwrite: bool = False,
    subscriber: Subscriber = ignore,
    detector: DetectorRecipe | None = None,
) -> ProbabilityStore:
    """Run the network over every tile that is not done yet.

    Args:
        plan: of :func:`plan`.
        config: the configuration that made it.
        out: output folder.
        overwrite: replace another run's work and products.
        subscriber: hears the events.
        detector: another detector than the model's network, with the same patch size.

    Raises:
        StoreError, MemoryRefused, TileError, ClusterError: see their messages.
    """
    from pipeline.inference import TileJob
    from pipeline.probability_store import grid_record, start_store

    for notice in plan.pair.notices:
        subscriber(Notice(notice))
    if plan.executor != "scheduler":
        refuse_beyond(plan.memory, _allowed_memory(config))
    prepare_folder(out)
    config = settled(config, plan.pair.model)
    assert config.tiling.taper is not None
    recipe = detector or ussfc.detector_recipe(
        plan.pair.model,
        patch_size=config.tiling.patch_size,
        ssfc=config.inference.ssfc,
        engine=config.inference.engine,
        precision=config.inference.precision,
        device=config.inference.device,
        batch_size=config.inference.batch_size,
        streams=plan.threads,
    )
    with _stage("radiometry", 2, 0, subscriber):
        stretches = _stretches(plan.pair)
    key = _run_key(plan, config, recipe, stretches)
    work = out / "work"
    _refuse_taken(out, overwrite)
    if overwrite:
        for name in OURS:
            remove(out / name)
    store = start_store(
        work, key, plan.pair.grid, config.output.probability_dtype, config.tiling.tile_size, overwrite
    )
    done = store.done()
    job = TileJob(
        key=hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest(),
        before=plan.pair.recipes[0],
        after=plan.pair.recipes[1],
        stretches=stretches,
        area=plan.pair.area,
        plan=plan.tiles,
        taper=config.tiling.taper,
        detector=recipe,
        store=work.resolve(),
    )
    pixels = plan.tiles.shape[0] * plan.tiles.shape[1]
    # Speed and time left are of this process's own work, not of what an earlier one did.
    fresh = pixels - sum(plan.tiles.core(index).pixels for index in done)
    if done:
        told = f"resuming: {len(done)} of {plan.tiles.tile_count} tiles are done"
        subscriber(Notice(told, warning=False))
    with _stage("infer", plan.tiles.tile_count - len(done), fresh, subscriber) as clock:
        done |= _compute(plan, config, job, done, work, subscriber)
    facts = {
        "inputs": {name: _input_record(info, recipe_.bands) for name, info, recipe_ in zip(
            ("before", "after"), (plan.pair.before, plan.pair.after), plan.pair.recipes, strict=True)},
        "grid": grid_record(plan.pair.grid),
        "config": config.model_dump(mode="json"),
        "model": {"name": plan.pair.model.name, "sha256": plan.pair.model.weights.sha256,
                  "licence": plan.pair.model.licence.weights if plan.pair.model.licence else None},
        "threshold": _threshold(config, plan.pair.model),
        "detector": recipe.identity,
        "radiometry": {"before": dataclasses.asdict(stretches[0]), "after": dataclasses.asdict(stretches[1])},
        "executor": {"name": plan.executor, "processes": plan.processes, "threads": plan.threads},
        "projected_memory_bytes": plan.memory.total,
        "warnings": list(plan.pair.notices),
        "counts": {"tiles": plan.tiles.tile_count, "patches": sum(r.patches for r in done.values()),
                   "valid_pixels": sum(r.valid_pixels for r in done.values()), "pixels": pixels},
        "tile_seconds": {name: round(sum(r.seconds.get(name, 0.0) for r in done.values()), 3)
                         for name in ("read", "network")},
        "stages": {"infer": _speed(clock, fresh)},
    }  # fmt: skip
    write_json(work / "infer.json", facts)
    return store


def _compute(
    plan: RunPlan,
    config: RunConfig,
    job: TileJob,
    done: Mapping[tuple[int, int], Any],
    work: Path,
    tell: Subscriber,
) -> dict[tuple[int, int], Any]:
    from pipeline.executors import DaskExecutor, Executor, SerialExecutor

    executor: Executor = SerialExecutor()
    if plan.executor != "serial":
        address = config.compute.scheduler if plan.executor == "scheduler" else None
        executor = DaskExecutor(address, plan.processes, work / "dask")
    fresh = {}

    def on_result(result: Any) -> None:
        fresh[result.index] = result
        tell(Advanced("infer", 1, plan.tiles.core(result.index).pixels))

    remaining: Iterable[tuple[int, int]] = (index for index in plan.tiles.indices() if index not in done)
    if len(done) < plan.tiles.tile_count:
        executor.run(job, remaining, on_result)
    remove(work / "dask")
    return fresh


def _stretches(pair: ScenePair) -> tuple[Stretch, Stretch]:
    before, after = (
        scene_stretch(pair.model, recipe.open(), info.uri)
        for info, recipe in zip((pair.before, pair.after), pair.recipes, strict=True)
    )
    return before, after


def scene_stretch(model: ussfc.ModelSpec | InputSpec, reader: SceneReader, scene: str) -> Stretch:
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
        return radiometry.range_stretch(_ends(mapping.low), _ends(mapping.high), len(model.bands))
    return radiometry.percentile_stretch(reader.sample(), mapping.low, mapping.high, scene)


def _ends(value: float | Iterable[float]) -> float | tuple[float, ...]:
    return float(value) if isinstance(value, int | float) else tuple(value)


def _run_key(
    plan: RunPlan, config: RunConfig, recipe: DetectorRecipe, stretches: tuple[Stretch, Stretch]
) -> dict[str, Any]:
    """Everything that decides a stored byte, by the name a message calls it."""
    from pipeline.probability_store import grid_record

    pair = plan.pair
    return {
        "before": [pair.before.uri, pair.before.identity, list(pair.recipes[0].bands)],
        "after": [pair.after.uri, pair.after.identity, list(pair.recipes[1].bands)],
        "grid": grid_record(pair.grid),
        "aoi": hashlib.sha256(pair.area.wkb).hexdigest() if pair.area else None,
        "resampling": config.grid.resampling,
        "radiometry": [dataclasses.asdict(stretch) for stretch in stretches],
        "tiling": [plan.tiles.tile_size, plan.tiles.patch_size, plan.tiles.stride, config.tiling.taper],
        "model": recipe.identity,
        "probability_dtype": config.output.probability_dtype,
    }


def mosaic(out: Path, config: RunConfig, subscriber: Subscriber = ignore) -> None:
    """Write ``change.tif`` and ``probability.tif`` from the store.

    Raises:
        StoreError: no finished inference in OUT, or no space.
    """
    from pipeline import cog

    store, facts = _finished(out)
    grid = _grid(facts)
    threshold = _threshold_of(config, facts)
    options = cog.CogOptions(
        compression=config.output.compression,
        block_size=config.output.block_size,
        threads=config.compute.threads_per_worker or os.cpu_count() or 1,
    )
    pixels = store.shape[0] * store.shape[1]
    scratch = out / "work" / "cog"
    tags = _tags(facts)
    with _stage("mosaic", 2 * len(list(blocks(store.shape, cog.READ_SIZE))), pixels, subscriber) as clock:
        counts = cog.write_change(
            store, grid, threshold, out / "change.tif", scratch, options,
            tags | {"USSFC_THRESHOLD": repr(threshold)}, subscriber,
        )  # fmt: skip
        cog.write_probability(store, grid, out / "probability.tif", scratch, options, tags, subscriber)
    write_json(
        out / "work" / "mosaic.json",
        {
            "threshold": threshold,
            "counts": {
                "changed_pixels": counts.changed,
                "unchanged_pixels": counts.unchanged,
                "nodata_pixels": counts.nodata,
            },
            "products": _hashes(out, "change.tif", "probability.tif"),
            "stages": {"mosaic": _speed(clock, pixels)},
        },
    )


def vectorise(out: Path, config: RunConfig, subscriber: Subscriber = ignore) -> None:
    """Write the polygons from the store.

    Raises:
        StoreError: no finished inference in OUT, or no space.
        ConfigError: metres asked for on a grid without CRS.
    """
    from pipeline import vector

    store, facts = _finished(out)
    options = vector.VectorOptions(**config.vector.model_dump())
    path = out / f"changes{vector.SUFFIX[options.format]}"
    threshold = _threshold_of(config, facts)
    pixels = store.shape[0] * store.shape[1]
    total = len(list(blocks(store.shape, VECTOR_BLOCK)))
    with _stage("vectorise", total, pixels, subscriber) as clock:
        counts = vector.vectorise(store, _grid(facts), threshold, options, path, subscriber, VECTOR_BLOCK)
    for suffix in set(vector.SUFFIX.values()) - {path.suffix}:
        # One layer per run: the same regions under another format would go stale unseen.
        remove(out / f"changes{suffix}")
    write_json(
        out / "work" / "vectorise.json",
        {
            "threshold": threshold,
            "vector": config.vector.model_dump(mode="json"),
            "counts": {
                "polygons": counts.polygons,
                "polygon_pixels": counts.pixels,
                "polygon_area_m2": counts.area_m2,
            },
            "products": _hashes(out, path.name),
            "stages": {"vectorise": _speed(clock, pixels)},
        },
    )


def report(out: Path, peak_memory: int | None = None) -> dict[str, Any]:
    """Gather what the stages recorded into ``run.json``.

    Args:
        out: output folder.
        peak_memory: largest resident size of all processes, bytes, where it was measured.

    Returns:
        What was written.
    """
    manifest = read_json(out / "work" / "infer.json")
    for stage in ("mosaic", "vectorise"):
        path = out / "work" / f"{stage}.json"
        if not path.exists():
            continue
        facts = read_json(path)
        for name in ("counts", "products", "stages"):
            manifest.setdefault(name, {}).update(facts[name])
        manifest.setdefault("thresholds", {})[stage] = facts["threshold"]
        manifest["config"] |= {"vector": facts["vector"]} if "vector" in facts else {}
    manifest["versions"] = _versions()
    previous = read_json(out / "run.json") if (out / "run.json").exists() else {}
    manifest["peak_memory_bytes"] = peak_memory or previous.get("peak_memory_bytes")
    write_json(out / "run.json", manifest)
    return manifest


def run(
    before: str,
    after: str,
    out: Path,
    config: RunConfig,
    overwrite: bool = False,
    subscriber: Subscriber = ignore,
    detector: DetectorRecipe | None = None,
) -> dict[str, Any]:
    """The whole way: plan, infer, mosaic, vectorise, report.

    Args:
        before: earlier image, path or URI.
        after: later image, path or URI.
        out: folder of the products.
        config: of :func:`pipeline.config.load_config`.
        overwrite: replace another run in ``out``.
        subscriber: hears the events.
        detector: another detector than the model's network, with the same patch size.

    Returns:
        The content of ``run.json``.
    """
    with MemoryMeter() as meter:
        planned = _plan(look(before, after, config), config, network=detector is None)
        infer(planned, config, out, overwrite, subscriber, detector)
        mosaic(out, config, subscriber)
        vectorise(out, config, subscriber)
    manifest = report(out, meter.peak)
    if not config.output.keep_work:
        remove(out / "work")
    return manifest


def recorded_config(out: Path) -> dict[str, Any]:
    """The configuration that the inference in OUT was made with, threshold resolved."""
    facts = read_json(out / "work" / "infer.json")
    return {**facts["config"], "threshold": facts["threshold"]}


def _finished(out: Path) -> tuple[ProbabilityStore, dict[str, Any]]:
    from pipeline.probability_store import ProbabilityStore

    facts = read_json(out / "work" / "infer.json")
    store = ProbabilityStore(out / "work")
    missing = facts["counts"]["tiles"] - len(store.done())
    if missing:
        raise StoreError(
            f"{out}: {missing} tile(s) are not computed yet; run `ussfc infer` or `ussfc run` again"
        )
    return store, facts


def _refuse_taken(out: Path, overwrite: bool) -> None:
    """Files of our names that no run made are somebody else's, whatever the flags; a finished run wants the flag."""
    manifest, key, store = out / "run.json", out / "work" / "run_key.json", out / "work" / "probability.zarr"
    taken = [name for name in OURS if (out / name).exists()]
    if taken and not any(mark.exists() for mark in (manifest, key, store)):
        raise StoreError(
            f"{out / taken[0]}: exists, but no run of ussfc is in this folder; choose another --out"
        )
    if manifest.exists() and not key.exists() and not overwrite:
        raise StoreError(
            f"{out}: holds a finished run whose work was removed; choose another --out, or replace it with --overwrite"
        )


def _grid(facts: Mapping[str, Any]) -> GeoBox:
    from pipeline.probability_store import grid_from_record

    return grid_from_record(facts["grid"])


def _threshold(config: RunConfig, model: ussfc.ModelSpec) -> float:
    return model.threshold if config.threshold is None else config.threshold


def _threshold_of(config: RunConfig, facts: Mapping[str, Any]) -> float:
    return float(facts["threshold"] if config.threshold is None else config.threshold)


def _allowed_memory(config: RunConfig) -> int:
    if config.compute.memory_gb is not None:
        return int(config.compute.memory_gb * 1e9)
    return int(0.9 * psutil.virtual_memory().available)


def _input_record(info: SceneInfo, bands: tuple[int, ...]) -> dict[str, Any]:
    return {
        "uri": info.uri,
        "identity": info.identity,
        "dtype": info.dtype,
        "bands": list(bands),
        "acquired": info.acquired,
    }


def _tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Dataset tags; nothing in them changes from one run of the same inputs to the next."""
    tags = {
        "TIFFTAG_SOFTWARE": f"ussfc {metadata.version('ussfc')}",
        "USSFC_MODEL": facts["model"]["name"],
        "USSFC_MODEL_SHA256": facts["model"]["sha256"],
    }
    for name, record in facts["inputs"].items():
        tags[f"USSFC_{name.upper()}"] = Path(record["uri"]).name
        if record["acquired"]:
            tags[f"USSFC_{name.upper()}_ACQUIRED"] = record["acquired"]
    return tags


def _hashes(out: Path, *names: str) -> dict[str, Any]:
    return {name: {"sha256": sha256_file(out / name), "bytes": (out / name).stat().st_size} for name in names}


def _versions() -> dict[str, str]:
    import rasterio

    names = ("ussfc", "torch", "rasterio", "zarr", "distributed", "odc-geo", "shapely", "pyarrow", "numpy")
    return {name: metadata.version(name) for name in names} | {"gdal": rasterio.__gdal_version__}


def _speed(seconds: list[float], pixels: int) -> dict[str, float]:
    return {"seconds": round(seconds[0], 3), "mpx_per_s": round(pixels / 1e6 / max(seconds[0], 1e-9), 3)}


@contextmanager
def _stage(name: str, total: int, pixels: int, subscriber: Subscriber) -> Iterator[list[float]]:
    """Announce a stage and time it; the yielded list holds its seconds once it is over."""
    subscriber(StageStarted(name, total, pixels))
    clock: list[float] = []
    start = time.perf_counter()
    yield clock
    clock.append(time.perf_counter() - start)
    subscriber(StageFinished(name, clock[0], pixels))


__all__ = ["RunPlan", "infer", "look", "mosaic", "plan", "recorded_config", "report", "run", "vectorise"]
