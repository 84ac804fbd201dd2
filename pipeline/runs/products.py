"""From the store to the products and their manifest.

A stage reads only the files that the one before it wrote under OUT/work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ussfc.cores import cores
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.pixels.pyramid import square
from ussfc.pipeline.runs.manifest import (
    Counts,
    InferenceRecord,
    ProductFileRecord,
    ProductKey,
    ProductRecord,
    RunRecord,
    StageRecord,
)
from ussfc.pipeline.runs.stages import scratch_folder, stage_clock
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.local_folder import sha256_file
from ussfc.pipeline.types import blocks

if TYPE_CHECKING:
    from ussfc.pipeline.storage.probability_store import ProbabilityStore

VECTOR_BLOCK = 2048
"""Side of the blocks that are outlined one by one, pixels."""


@dataclass(frozen=True)
class _Stage:
    """One pass over the store that makes products."""

    name: Literal["mosaic", "vectorise"]
    keys: Mapping[str, ProductKey]
    """Key of each product, by its name."""
    steps: int
    """Blocks to go through."""
    make: Callable[[Mapping[str, Path], Path], Mapping[str, dict[str, Any]]]
    """Writes the files at the paths, with scratch files in the folder, and returns counts by name."""


def mosaic(out: Folder | Path | str, config: RunConfig, subscriber: Subscriber = ignore) -> None:
    """Write ``change.tif`` and ``probability.tif`` from the store.

    Raises:
        StoreError: no finished inference in OUT, or no space.
    """
    out = Folder.of(out)
    with out.lock():
        write_rasters(out, config, subscriber, again=True)


def write_rasters(out: Folder, config: RunConfig, subscriber: Subscriber, again: bool) -> None:
    """Do as :func:`mosaic` does in a locked folder; without ``again`` an unchanged raster stays."""
    from ussfc.pipeline.rasters import cog

    store, facts = _finished_inference(out)
    threshold = _threshold(config, facts)
    options = cog.CogOptions(
        compression=config.output.compression,
        block_size=config.output.block_size,
        threads=cores(),
    )
    tags = _tags(facts)

    def rasters(paths: Mapping[str, Path], scratch: Path) -> dict[str, dict[str, Any]]:
        kinds: list[cog.ChangeRaster | cog.ProbabilityRaster] = []
        if layout.CHANGE in paths:
            change_tags = tags | {"USSFC_THRESHOLD": repr(threshold)}
            kinds.append(cog.ChangeRaster(paths[layout.CHANGE], change_tags, threshold))
        if layout.PROBABILITY in paths:
            kinds.append(cog.ProbabilityRaster(paths[layout.PROBABILITY], tags))
        counts = cog.write(store, facts.grid.geobox, kinds, scratch, options, subscriber, store.chunk)
        if counts is None:
            return {}
        return {
            layout.CHANGE: {
                "changed_pixels": counts.changed,
                "unchanged_pixels": counts.unchanged,
                "nodata_pixels": counts.nodata,
            }
        }

    steps = len(list(blocks(store.shape, square(options.block_size, store.chunk))))
    keys = raster_keys(facts, store.content(), config)
    _make(out, config, _Stage("mosaic", keys, steps, rasters), subscriber, again)


def vectorise(out: Folder | Path | str, config: RunConfig, subscriber: Subscriber = ignore) -> None:
    """Write the polygons from the store.

    Raises:
        StoreError: no finished inference in OUT, or no space.
        ConfigError: metres asked for on a grid without CRS.
    """
    out = Folder.of(out)
    with out.lock():
        write_polygons(out, config, subscriber, again=True)


def write_polygons(out: Folder, config: RunConfig, subscriber: Subscriber, again: bool) -> None:
    """Do as :func:`vectorise` does in a locked folder; without ``again`` an unchanged layer stays."""
    from ussfc.pipeline.polygons import vectorise as vector

    store, facts = _finished_inference(out)
    options = vector.VectorOptions(**config.vector.model_dump())
    name = layout.LAYERS[options.format]
    threshold = _threshold(config, facts)

    def polygons(paths: Mapping[str, Path], scratch: Path) -> dict[str, dict[str, Any]]:
        counts = vector.vectorise(
            store, facts.grid.geobox, threshold, options, paths[name], subscriber, VECTOR_BLOCK
        )
        return {
            name: {
                "polygons": counts.polygons,
                "polygon_pixels": counts.pixels,
                "polygon_area_m2": counts.area_m2,
            }
        }

    steps = len(list(blocks(store.shape, VECTOR_BLOCK)))
    key = vector_key(facts, store.content(), config)
    _make(out, config, _Stage("vectorise", {name: key}, steps, polygons), subscriber, again)
    for other in set(layout.LAYERS.values()) - {name}:
        # One layer per run: the same regions under another format would go stale unseen.
        out.remove(other)
        out.remove(layout.in_work(layout.product_record(other)))


def _make(out: Folder, config: RunConfig, stage: _Stage, subscriber: Subscriber, again: bool) -> None:
    """Make products in one pass and record the key of each; those that are there with the same key stay.

    Args:
        out: output folder.
        config: names the place of scratch files.
        stage: the pass.
        subscriber: receives the events.
        again: make them also where nothing differs.
    """
    names = []
    for name, key in stage.keys.items():
        found = _product_record(out, name)
        if not again and found and found.key.dump() == key.dump() and out.size(name) == found.bytes:
            subscriber(Notice(f"{name} is there already, made of the same", warning=False))
        else:
            names.append(name)
    if not names:
        return
    # The manifest vouches for the products together, a record for one: neither may outlive a change.
    out.remove(layout.MANIFEST)
    for name in names:
        out.remove(layout.in_work(layout.product_record(name)))
    rows, cols = stage.keys[names[0]].shape
    with (
        stage_clock(stage.name, stage.steps, rows * cols, subscriber) as clock,
        scratch_folder(out, config, layout.SCRATCH) as scratch,
        ExitStack() as stack,
    ):
        paths = {name: stack.enter_context(out.atomic_output(name, scratch)) for name in names}
        counts = stage.make(paths, scratch)
        digests = {name: (sha256_file(path), path.stat().st_size) for name, path in paths.items()}
    for name in names:
        sha256, size = digests[name]
        record = ProductFileRecord(
            key=stage.keys[name],
            stage=stage.name,
            counts=counts.get(name, {}),
            # Together they took that long: write_manifest() adds the seconds up.
            seconds=clock[0] / len(names),
            sha256=sha256,
            bytes=size,
        )
        record.write(out, layout.in_work(layout.product_record(name)))


def _product_record(out: Folder, name: str) -> ProductFileRecord | None:
    return ProductFileRecord.find(out, layout.in_work(layout.product_record(name)))


def raster_keys(facts: InferenceRecord, content: str, config: RunConfig) -> dict[str, ProductKey]:
    """Return the keys of the rasters, by name.

    Args:
        facts: the inference that they are made from.
        content: digest of its probabilities.
        config: names threshold and compression.
    """
    from ussfc.pipeline.rasters.compression import ISAL_LEVEL, LEVEL

    common: dict[str, Any] = {
        "content": content,
        "shape": facts.grid.shape,
        "tags": _tags(facts),
        "gdal": _versions()["gdal"],
        "compression": config.output.compression,
        "block_size": config.output.block_size,
        "level": LEVEL[config.output.compression],
    }
    if config.output.compression == "deflate":
        common["isal"] = f"{metadata.version('isal')} level {ISAL_LEVEL}"
    change = ProductKey(**common, threshold=_threshold(config, facts))
    return {layout.CHANGE: change, layout.PROBABILITY: ProductKey(**common)}


def vector_key(facts: InferenceRecord, content: str, config: RunConfig) -> ProductKey:
    """Return the key of the polygons; see :func:`raster_keys`."""
    versions = {name: _versions()[name] for name in ("ussfc", "shapely", "pyarrow", "gdal")}
    return ProductKey.model_validate({
        "content": content,
        "shape": facts.grid.shape,
        "threshold": _threshold(config, facts),
        "vector": config.vector.model_dump(mode="json"),
        "versions": versions,
    })  # fmt: skip


def write_manifest(out: Folder | Path | str, peak_memory: int | None = None) -> RunRecord:
    """Gather the records of the stages into ``run.json``.

    Args:
        out: output folder.
        peak_memory: largest resident size of all processes, bytes, where it was measured.

    Returns:
        The record as it was written.
    """
    out = Folder.of(out)
    inference = InferenceRecord.read(out, layout.in_work(layout.INFERENCE))
    if peak_memory is not None:
        inference = inference.model_copy(update={"peak_memory_bytes": peak_memory})
        inference.write(out, layout.in_work(layout.INFERENCE))
    products = {}
    for name in layout.PRODUCTS:
        found = _product_record(out, name)
        if found is not None:
            products[name] = found
    seconds: dict[str, float] = {}
    thresholds: dict[str, float] = {}
    counts, config = inference.counts.dump(), dict(inference.config)
    for product in products.values():
        counts |= product.counts
        seconds[product.stage] = seconds.get(product.stage, 0.0) + product.seconds
        if product.key.threshold is not None:
            thresholds[product.stage] = product.key.threshold
        if product.key.vector is not None:
            config["vector"] = product.key.vector
    pixels = inference.counts.pixels
    stages = {stage: StageRecord.of(spent, pixels) for stage, spent in seconds.items()}
    changed: dict[str, Any] = {
        "config": config,
        "counts": Counts(**counts),
        "stages": {**inference.stages, **stages},
        "versions": _versions(),
    }
    if products:
        changed["thresholds"] = thresholds
        changed["products"] = {
            name: ProductRecord(sha256=found.sha256, bytes=found.bytes, key=found.key)
            for name, found in products.items()
        }
    record = RunRecord(**(inference.dump() | changed))
    record.write(out, layout.MANIFEST)
    return record


def read_inference(out: Folder | Path | str) -> InferenceRecord:
    """Read the record of the inference in OUT.

    Raises:
        StoreError: no run there, or one whose inference has not ended.
    """
    out = Folder.of(out)
    out.ping()
    name = layout.in_work(layout.INFERENCE)
    if not out.exists(name) and out.exists(layout.in_work(layout.RUN_KEY)):
        raise StoreError(f"{out}: tiles are not all computed yet; run `ussfc infer` or `ussfc run` again")
    return InferenceRecord.read(out, name)


def inference_config(out: Folder | Path | str) -> dict[str, Any]:
    """Return the configuration that the inference in OUT was made with, threshold resolved."""
    facts = read_inference(out)
    return {**facts.config, "threshold": facts.threshold}


def _finished_inference(out: Folder) -> tuple[ProbabilityStore, InferenceRecord]:
    from ussfc.pipeline.storage.probability_store import ProbabilityStore

    facts = read_inference(out)
    store = ProbabilityStore(out / layout.WORK)
    missing = facts.counts.tiles - facts.counts.tiles_failed - len(store.known())
    if missing:
        raise StoreError(
            f"{out}: {missing} tile(s) are not computed yet; run `ussfc infer` or `ussfc run` again"
        )
    return store, facts


def _threshold(config: RunConfig, facts: InferenceRecord) -> float:
    return float(facts.threshold if config.threshold is None else config.threshold)


def _tags(facts: InferenceRecord) -> dict[str, str]:
    """Return dataset tags; nothing in them changes from one run of the same inputs to the next."""
    tags = {
        "TIFFTAG_SOFTWARE": f"ussfc {metadata.version('ussfc')}",
        "USSFC_MODEL": facts.model.name,
        "USSFC_MODEL_SHA256": facts.model.sha256,
    }
    for date, scene in (("BEFORE", facts.inputs.before), ("AFTER", facts.inputs.after)):
        tags[f"USSFC_{date}"] = Path(scene.uri).name
        if scene.acquired:
            tags[f"USSFC_{date}_ACQUIRED"] = scene.acquired
    return tags


def _versions() -> dict[str, str]:
    import rasterio

    names = ("ussfc", "torch", "rasterio", "zarr", "distributed", "odc-geo", "shapely", "pyarrow", "numpy")
    return {name: metadata.version(name) for name in names} | {"gdal": rasterio.__gdal_version__}
