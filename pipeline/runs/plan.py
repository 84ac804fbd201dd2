"""The plan of a run, made from headers and configuration: grid, tiles, executor, memory. No pixel is read."""

from __future__ import annotations

import dataclasses
import resource
from pathlib import Path
from typing import Any, Literal

import numpy as np

import ussfc
from ussfc.pipeline.clusters.base import Cluster
from ussfc.pipeline.clusters.select import LOCAL_KINDS, REMOTE_KINDS, select_cluster
from ussfc.pipeline.config.schema import JobsCluster, RunConfig, size_in_bytes
from ussfc.pipeline.errors import ConfigError, InsufficientMemoryError, StoreError
from ussfc.pipeline.parallel.memory_limit import available_memory, check_address_space
from ussfc.pipeline.pixels.kept import most_kept_bytes
from ussfc.pipeline.pixels.pyramid import READ_SIZE
from ussfc.pipeline.reading import SceneRecipe, over_network
from ussfc.pipeline.reading.date_masks import describe_mask
from ussfc.pipeline.runs.manifest import RegistrationRecord
from ussfc.pipeline.runs.pair import ScenePair, inspect_pair, kept_bands
from ussfc.pipeline.runs.resolve import PatchLayout, alteration_terms, resolve_config, resolve_layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.layout import PROBABILITY
from ussfc.pipeline.tiling.grid import crs_name
from ussfc.pipeline.tiling.lattice import TilePlan
from ussfc.pipeline.tiling.memory import BASE_DASK, MemoryProjection, Workload, check_projection, project
from ussfc.pipeline.types import SceneInfo

GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvmap")
"""Files that drivers of CUDA devices put up: on Linux, under Windows (WSL), on Tegra."""

OTHER_FILES = 30
"""Files and folders of a run beside the chunks and records of its tiles."""


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A run, decided: every setting is resolved, and no pixel has been read for it."""

    pair: ScenePair
    config: RunConfig
    """Configuration with the parts that it leaves to the model filled in."""
    threshold: float
    """Probability from which a pixel counts as changed, in [0, 1]."""
    layout: PatchLayout
    tiles: TilePlan
    executor: str
    """Kind of cluster, or serial."""
    processes: int
    """Worker processes on this machine; 0 where there are none."""
    threads: int
    """Threads of one process that run the network."""
    concurrent_tiles: int
    """Tiles that one process has under way: one in the network, others read or written beside it."""
    cluster: Cluster | None
    """Source of the workers; None: this process computes."""
    on_gpu: bool
    """True where every worker computes on a GPU."""
    memory: MemoryProjection
    registration: RegistrationRecord | None = None
    """Shift between both dates; None: not measured yet."""
    chosen: Literal["model", "match"] | None = None
    """Choice of ``radiometry: auto``; None: not made yet, or not to be made."""

    @property
    def model(self) -> ussfc.ModelSpec:
        """The model's card."""
        return self.pair.model

    @property
    def pixels(self) -> int:
        """Pixels of the common grid."""
        return self.tiles.shape[0] * self.tiles.shape[1]

    @property
    def most_output_bytes(self) -> int:
        """Bytes of store, pixels, squares, scratch raster and products with overviews, each at worst uncompressed."""
        item = 1 if self.config.output.probability_dtype == "uint8" else 4
        kept = most_kept_bytes(kept_bands(self.pair))
        return int(self.pixels * (item * (3.7 + 1.35 * self.makes_squares) + kept))

    @property
    def makes_squares(self) -> bool:
        """True if products are made in passing, of squares that are kept in files until then."""
        return self.cluster is not None or self.on_gpu

    def summary(self) -> dict[str, Any]:
        """Return the plan as numbers, for people and programs."""
        tiles, model = self.tiles, self.model
        workers = self.cluster.worker_count if self.cluster is not None else 1
        infos = (self.pair.before, self.pair.after)
        return {
            "model": model.name,
            "licence": model.licence.weights if model.licence else None,
            "terms": model.licence.terms if model.licence else None,
            "scored": model.scored,
            "beside": "none" if self.config.inference.alteration == "off" else "IR-MAD",
            "advice": advice(self.pair),
            "threshold": self.threshold,
            "bands": {
                date: list(recipe.bands)
                for date, recipe in zip(("before", "after"), self.pair.recipes, strict=True)
            },
            "grid": {"rows": tiles.shape[0], "cols": tiles.shape[1], "crs": crs_name(self.pair.grid)},
            "megapixels": round(self.pixels / 1e6, 3),
            "tiles": tiles.tile_count,
            "patches": tiles.computed_patches,
            "quality": self.config.inference.quality,
            "redundant_share": round(tiles.redundant_share, 4),
            "bytes_to_read": int(sum(self.pixels * info.bytes_per_pixel for info in infos)),
            "bytes_to_write_at_most": self.most_output_bytes,
            "memory_bytes": self.memory.total,
            "memory_per_worker_bytes": self.memory.worker,
            "executor": self.executor,
            # None: as many as there will be.
            "workers": workers or None,
            "threads": self.threads,
            "radiometry": self.config.radiometry,
            "masks": {
                date: describe_mask(mask)
                for date, mask in zip(("before", "after"), self.pair.masks, strict=True)
                if mask is not None
            },
            "warnings": [*self.pair.notices, *memory_notices(self)],
        }


def plan(before: str, after: str, config: RunConfig) -> RunPlan:
    """Plan a run from files to products; reads headers only.

    Args:
        before: earlier image, path or URI.
        after: later image, path or URI.
        config: from :func:`ussfc.load_config`.

    Raises:
        ReadError, GridError, ConfigError, ClusterError, ussfc.ModelError: each names the input and the way out.
    """
    return plan_pair(inspect_pair(before, after, config), config)


def advice(pair: ScenePair) -> str | None:
    """Return what to take instead of the chosen model, one line; None where no packaged model scored higher."""
    stronger = pair.stronger
    if stronger is None:
        return None
    return (
        f"model {stronger.model.name} fits both dates as well and scored higher (mean F1 {stronger.f1:.2f} instead of "
        f"{stronger.chosen_f1:.2f} over the same {stronger.scenes} scenes): set model=auto"
    )


def plan_pair(pair: ScenePair, config: RunConfig, network: bool = True) -> RunPlan:
    """Plan a run over an inspected pair.

    Args:
        pair: the scenes.
        config: that the pair was inspected with.
        network: False for another detector than the model's network, which needs no torch, and so less memory.
    """
    config, layout = resolve_config(config, pair.model, network), resolve_layout(config, pair.model)
    shape = (pair.grid.shape[0], pair.grid.shape[1])
    terms = alteration_terms(config, pair.model)
    margin = 0 if terms is None else terms.margin_px
    tiles = TilePlan.of(shape, layout.tile_size, layout.patch_size, layout.overlap, margin)
    on_gpu = chosen_device(config) == "cuda"
    selected = select_cluster(config.cluster, tiles.tile_count, on_gpu, ussfc.gpus)
    work = Workload(
        bands=len(pair.model.bands),
        source_bytes=sum(
            shape[0] * shape[1] * _raw_bytes(info, recipe)
            for info, recipe in zip((pair.before, pair.after), pair.recipes, strict=True)
        ),
        values=kept_bands(pair),
        processes=selected.processes,
        threads=selected.concurrent_tiles,
        patches_in_flight=(config.inference.batch_size or 1) * selected.threads,
        network=network,
        local=layout.ssfc == "local",
        remote=any(over_network(uri) for recipe in pair.recipes for uri in recipe.opened),
        costly=any(recipe.costly for recipe in pair.recipes),
        on_gpu=on_gpu,
        block_bytes=_block_bytes(pair),
        masks=sum(mask is not None for mask in pair.masks),
        combines=terms is not None,
        compares_engines=network
        and not on_gpu
        and _leaves_a_choice(config)
        and not ussfc.engine_was_chosen(),
    )
    memory = project(tiles, work)
    if selected.cluster is not None and not selected.processes:
        # Workers elsewhere are Dask's as well; only the sum over them is not this machine's matter.
        memory = dataclasses.replace(memory, worker=memory.worker + BASE_DASK)
    before, after = (
        dataclasses.replace(recipe, block_cache=memory.block_cache, identity=info.identity)
        for recipe, info in zip(pair.recipes, (pair.before, pair.after), strict=True)
    )
    first, second = (mask and mask.with_cache(memory.block_cache) for mask in pair.masks)
    return RunPlan(
        pair=dataclasses.replace(pair, recipes=(before, after), masks=(first, second)),
        config=config,
        threshold=pair.model.threshold if config.threshold is None else config.threshold,
        layout=layout,
        tiles=tiles,
        executor=selected.kind,
        processes=selected.processes,
        threads=selected.threads,
        concurrent_tiles=selected.concurrent_tiles,
        cluster=selected.cluster,
        on_gpu=on_gpu,
        memory=memory,
    )


def _leaves_a_choice(config: RunConfig) -> bool:
    return "auto" in (config.inference.engine, config.inference.precision)


def _block_bytes(pair: ScenePair) -> int:
    """Return the decoded size of one block of each file together."""
    return pair.before.block_bytes + pair.after.block_bytes + pair.mask_block_bytes


def _raw_bytes(info: SceneInfo, recipe: SceneRecipe) -> int:
    """Return the bytes of a pixel as it is read: all bands of a file, but of a file a band those that are taken."""
    bands = len(recipe.bands) if recipe.is_stack else len(info.bands)
    return np.dtype(info.dtype).itemsize * bands


def chosen_device(config: RunConfig) -> str:
    """Return the device that the workers use; ``auto`` is decided here where it means this machine.

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


def space_notices(plan: RunPlan, out: Folder) -> list[str]:
    """Warn of a disk that may fill up after hours; how well results compress is not known before."""
    free, notices = out.free_bytes(), []
    item = 1 if plan.config.output.probability_dtype == "uint8" else 4
    needed = plan.most_output_bytes
    if free is not None and free < needed:
        notices.append(
            f"{out}: has {free / 1e9:.1f} GB free; results of this scene may need up to {needed / 1e9:.1f} GB, seldom "
            "more than a third of that"
        )
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    product = int(plan.pixels * item * 1.35)
    if out.local is not None and largest != resource.RLIM_INFINITY and largest < product:
        notices.append(
            f"a file may have {largest / 1e9:.3g} GB (`ulimit -f`); {PROBABILITY} of this scene may need up to "
            f"{product / 1e9:.3g} GB, seldom more than a third of that"
        )
    return notices


def check_files(plan: RunPlan, out: Folder) -> None:
    """Refuse a run whose files the disk cannot take: a chunk, a record and pixels for each tile, and squares.

    Raises:
        StoreError: names both numbers.
    """
    free = out.free_files()
    # Chunks and pixels are in a folder for each row.
    needed = 3 * plan.tiles.tile_count + 2 * -(-plan.tiles.shape[0] // plan.layout.tile_size) + OTHER_FILES
    if plan.makes_squares:
        rows, cols = (-(-side // READ_SIZE) for side in plan.tiles.shape)
        needed += 2 * rows * (cols + 1)
    if free is None or free >= needed:
        return
    needed -= len(out.sizes())
    if free < needed:
        raise StoreError(
            f"{out}: its disk can take {free} more files, and the run writes about {needed}; remove some, choose "
            "another output folder, or raise tiling.tile_size"
        )


def check_memory(plan: RunPlan) -> None:
    """Refuse a run that does not fit: into this machine, or into the jobs of a cluster.

    Raises:
        InsufficientMemoryError: names both numbers and the settings that change them.
    """
    cluster = plan.config.cluster
    if plan.executor in ("serial", *LOCAL_KINDS):
        check_projection(plan.memory, _allowed_memory(plan.config), _block_bytes(plan.pair))
        # The limit is one of each process, not of their sum.
        check_address_space(max(plan.memory.worker, plan.memory.total - plan.processes * plan.memory.worker))
    elif isinstance(cluster, JobsCluster):
        given, workers = size_in_bytes(cluster.memory), cluster.workers_per_job
        if workers * plan.memory.worker > given:
            raise InsufficientMemoryError(
                f"a job's {workers} worker(s) would need about {workers * plan.memory.worker / 1e9:.2f} GB, and "
                f"cluster.memory is {given / 1e9:.2f} GB; raise it, or lower tiling.tile_size"
                f"{', cluster.threads' if plan.concurrent_tiles > 1 else ''} or cluster.workers"
            )


def memory_notices(plan: RunPlan) -> list[str]:
    """Return why a run does not fit, where it is so."""
    try:
        check_memory(plan)
    except InsufficientMemoryError as error:
        return [f"a run is refused: {error}"]
    return []


def _allowed_memory(config: RunConfig) -> int:
    if config.compute.memory_gb is not None:
        return int(config.compute.memory_gb * 1e9)
    return int(0.9 * available_memory())
