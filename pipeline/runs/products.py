"""From the store to the products and their manifest.

A stage reads only the files that the one before it wrote under OUT/work. All products of a folder are of one smoothing,
its classes and all layers of one threshold: whichever is made again, the others follow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ussfc.cores import cores
from ussfc.pipeline.choices import Smoothing
from ussfc.pipeline.config.schema import RunConfig, VectorConfig
from ussfc.pipeline.errors import DamagedRecord, ReadError, StoreError
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.execution.square_job import RasterPart, RegionPart, SquareJob, with_pixels
from ussfc.pipeline.pixels.pyramid import square
from ussfc.pipeline.pixels.sample_checks import check_map
from ussfc.pipeline.pixels.smoothing import SmoothedSource
from ussfc.pipeline.runs.band_values import UNREADABLE, absent_values, plan_values
from ussfc.pipeline.runs.integrity import is_intact
from ussfc.pipeline.runs.manifest import (
    Counts,
    InferenceRecord,
    ProductFileRecord,
    ProductKey,
    ProductRecord,
    RunRecord,
    StageRecord,
)
from ussfc.pipeline.runs.product_keys import (
    is_made_as,
    layer_keys,
    library_versions,
    product_smoothing,
    product_tags,
    product_threshold,
    raster_keys,
    scene_days,
)
from ussfc.pipeline.runs.run_log import recorded
from ussfc.pipeline.runs.squares import (
    Workers,
    bytes_key,
    make_squares,
    no_workers,
    regions_of,
    squares_of,
    start_workers,
)
from ussfc.pipeline.runs.stages import scratch_folder, stage_clock
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.local_folder import sha256_file
from ussfc.pipeline.types import ProbabilitySource, blocks

if TYPE_CHECKING:
    from ussfc.pipeline.execution.tile_job import SceneSource
    from ussfc.pipeline.polygons.band_values import BandValues
    from ussfc.pipeline.polygons.vectorise import RegionRules
    from ussfc.pipeline.runs.pair import ScenePair
    from ussfc.pipeline.storage.probability_store import ProbabilityStore

Scenes = tuple[tuple["SceneSource", "SceneSource"], bool]
"""Both dates, and True if one is read over a network."""

VECTOR_BLOCK = 2048
"""Side of the blocks that are outlined one by one, pixels."""


@dataclass(frozen=True)
class _Made:
    """Files that a stage has written."""

    counts: Mapping[str, dict[str, Any]]
    """Counts of a file, by its name."""
    keys: Mapping[str, ProductKey]
    """Key of each as it was made, which lacks band values where an image could not be read."""


@dataclass(frozen=True)
class _Stage:
    """One pass over the store that makes products."""

    name: Literal["mosaic", "vectorise"]
    keys: Mapping[str, ProductKey]
    """Key of each product, by its name."""
    steps: int
    """Blocks to go through."""
    make: Callable[[Mapping[str, Path], Path], _Made]
    """Writes the files at the paths, with scratch files in the folder."""


def mosaic(out: Folder | Path | str, config: RunConfig, subscriber: Subscriber = ignore) -> None:
    """Write ``change.tif`` and ``probability.tif`` from the store; polygons of another threshold or smoothing follow.

    Raises:
        StoreError: no finished inference in OUT, or no space.
    """
    out = Folder.of(out)
    with _making(out, config, subscriber) as (subscriber, workers):
        write_rasters(out, config, subscriber, again=True, workers=workers)
        if layers_in(out):
            made = config.model_copy(update={"vector": _made_vector(out, config)})
            write_polygons(out, made, subscriber, again=False, workers=workers)


def vectorise(out: Folder | Path | str, config: RunConfig, subscriber: Subscriber = ignore) -> None:
    """Write the polygons from the store; layers of other formats that are there, and ``change.tif``, follow.

    Raises:
        StoreError: no finished inference in OUT, or no space.
        ConfigError: metres asked for on a grid without CRS.
    """
    out = Folder.of(out)
    with _making(out, config, subscriber) as (subscriber, workers):
        write_polygons(out, config, subscriber, again=True, workers=workers)
        if out.exists(layout.CHANGE):
            made = config.model_copy(update={"output": config.output.model_copy(update=_made_output(out))})
            write_rasters(out, made, subscriber, again=False, workers=workers)


def write_products(out: Folder | Path | str, config: RunConfig, subscriber: Subscriber = ignore) -> None:
    """Write what differs from the configuration: rasters, and polygons in its formats and those that are there.

    Raises:
        StoreError: no finished inference in OUT, or no space.
        ConfigError: metres asked for on a grid without CRS.
    """
    out = Folder.of(out)
    with _making(out, config, subscriber) as (subscriber, workers):
        write_rasters(out, config, subscriber, again=False, workers=workers)
        write_polygons(out, config, subscriber, again=False, workers=workers)


@contextmanager
def _making(out: Folder, config: RunConfig, subscriber: Subscriber) -> Iterator[tuple[Subscriber, Workers]]:
    """Lock the folder, keep a log as a run does, with a first line of its own, and have workers on call."""
    with out.lock(), recorded(out, subscriber) as recording:
        facts = read_inference(out)
        threshold = product_threshold(config, facts)
        line = f"ussfc {metadata.version('ussfc')}: model {facts.model.name}, threshold {threshold:g}"
        recording(Notice(line, warning=False))
        with ExitStack() as stack:
            yield recording, start_workers(out, config, facts.grid.shape, recording, stack)
        # Those of a process that was killed as well.
        out.remove(layout.in_work(layout.SQUARES))


def write_rasters(
    out: Folder, config: RunConfig, subscriber: Subscriber, again: bool, workers: Workers = no_workers
) -> None:
    """Do as :func:`mosaic` does in a locked folder; without ``again`` an unchanged raster stays.

    With workers these make the squares of the rasters, and this process puts them in order.
    """
    from ussfc.pipeline.rasters import cog

    store, facts = _finished_inference(out)
    threshold = product_threshold(config, facts)
    options = cog.CogOptions(
        compression=config.output.compression,
        block_size=config.output.block_size,
        threads=cores(),
    )
    smoothing, side = product_smoothing(config, facts), square(options.block_size, store.chunk)
    tags = product_tags(facts) | ({} if smoothing == "none" else {"USSFC_SMOOTHING": smoothing})

    def rasters(paths: Mapping[str, Path], scratch: Path) -> _Made:
        kinds: list[cog.ChangeRaster | cog.ProbabilityRaster] = []
        if layout.CHANGE in paths:
            change_tags = tags | {"USSFC_THRESHOLD": repr(threshold)}
            kinds.append(cog.ChangeRaster(paths[layout.CHANGE], change_tags, threshold))
        if layout.PROBABILITY in paths:
            kinds.append(cog.ProbabilityRaster(paths[layout.PROBABILITY], tags))
        executor, geobox = workers(), facts.grid.geobox
        if executor is None:
            source = _smoothed(store, smoothing, side)
            counts = cog.write(source, geobox, kinds, scratch, options, subscriber, store.chunk)
        else:
            wanted = {name: keys[name] for name in paths}
            job = _raster_job(store.root, facts, config, side, wanted)
            make_squares(executor, job, subscriber)
            counts = cog.write_squares(
                lambda files: squares_of(job, store),
                geobox,
                store.dtype,
                kinds,
                scratch,
                options,
                side,
                subscriber,
            )
            job.files.remove()
        if counts is None:
            return _Made({}, keys)
        found = {
            "changed_pixels": counts.changed,
            "unchanged_pixels": counts.unchanged,
            "nodata_pixels": counts.nodata,
        }
        return _Made({layout.CHANGE: found}, keys)

    keys = raster_keys(facts, store.content(), config)
    steps = len(list(blocks(store.shape, side)))
    _make(out, config, _Stage("mosaic", keys, steps, rasters), subscriber, keys if again else ())


def write_polygons(
    out: Folder,
    config: RunConfig,
    subscriber: Subscriber,
    again: bool,
    pair: ScenePair | None = None,
    workers: Workers = no_workers,
) -> None:
    """Write the polygons in a locked folder, in the formats of the configuration and in those that are there.

    Args:
        out: output folder.
        config: names threshold, filters and formats.
        subscriber: receives the events.
        again: make those of the configuration also where nothing differs.
        pair: scenes of the run, registered, as it read them; None: they are opened again as its record names them.
        workers: those that find the regions.
    """
    from ussfc.pipeline.polygons import vectorise as vector

    store, facts = _finished_inference(out)
    options = vector.VectorOptions(**config.vector.model_dump(exclude={"format"}), dates=scene_days(facts))
    smoothing = product_smoothing(config, facts)
    asked = layer_keys(facts, store.content(), config, config.vector.format)
    keys = asked | layer_keys(facts, store.content(), config, layers_in(out))
    format_of = {name: format_ for format_, name in layout.LAYERS.items()}

    def write(paths: Mapping[str, Path], values: BandValues, scenes: Scenes | None) -> vector.VectorCounts:
        rules = vector.RegionRules(
            facts.grid.geobox, product_threshold(config, facts), replace(options, values=values)
        )
        layers = {format_of[name]: path for name, path in paths.items()}
        executor = workers()
        if executor is None:
            if scenes is not None:
                opened = with_pixels(values, store, *scenes)
                rules = replace(rules, options=replace(options, values=opened))
            source = _smoothed(store, smoothing, VECTOR_BLOCK)
            found = vector.find_blocks(source, rules, VECTOR_BLOCK)
            return vector.write_layers(found, rules, layers, subscriber)
        side = square(config.output.block_size, store.chunk)
        job = _region_job(store.root, facts, side, smoothing, keys[min(paths)], rules, scenes)
        make_squares(executor, job, subscriber, ReadError)
        counts = vector.write_layers(regions_of(job, store), rules, layers, subscriber)
        job.files.remove()
        return counts

    def polygons(paths: Mapping[str, Path], scratch: Path) -> _Made:
        made = keys
        try:
            values, recipes, network = plan_values(facts, pair)
            counts = write(paths, values, (recipes, network))
        except UNREADABLE as error:
            subscriber(Notice(f"the polygons get no band values and no kind: {error}"))
            counts = write(paths, absent_values(facts), None)
            made = {name: key.model_copy(update={"values": False}) for name, key in keys.items()}
        found = {
            "polygons": counts.polygons,
            "polygon_pixels": counts.pixels,
            "polygon_area_m2": counts.area_m2,
            **({} if counts.largest_m2 is None else {"largest_polygon_m2": counts.largest_m2}),
        }
        return _Made(dict.fromkeys(paths, found), made)

    for name in set(layout.LAYERS.values()) - set(keys):
        # Its file was taken away: the manifest must not list it.
        out.remove(layout.in_work(layout.product_record(name)))
    steps = len(list(blocks(store.shape, VECTOR_BLOCK)))
    _make(out, config, _Stage("vectorise", keys, steps, polygons), subscriber, asked if again else ())
    out.remove(layout.in_work(layout.PIXELS))


def square_jobs(
    work: Folder, facts: InferenceRecord, config: RunConfig, chunk: int, pair: ScenePair
) -> tuple[SquareJob, ...]:
    """Return all that a run makes of every square, as the stages after its inference will look for it.

    Args:
        work: the run's ``work`` folder.
        facts: the inference, as far as it is known before its end.
        config: of the run.
        chunk: side of the chunks of the store, pixels.
        pair: both scenes, registered.
    """
    from ussfc.pipeline.polygons import vectorise as vector

    side = square(config.output.block_size, chunk)
    smoothing = product_smoothing(config, facts)
    rasters = _raster_job(work, facts, config, side, raster_keys(facts, "", config))
    values, recipes, network = plan_values(facts, pair)
    options = vector.VectorOptions(
        **config.vector.model_dump(exclude={"format"}), dates=scene_days(facts), values=values
    )
    rules = vector.RegionRules(facts.grid.geobox, product_threshold(config, facts), options)
    keys = layer_keys(facts, "", config, config.vector.format)
    regions = _region_job(work, facts, side, smoothing, keys[min(keys)], rules, (recipes, network))
    return rasters, regions


def _raster_job(
    work: Folder, facts: InferenceRecord, config: RunConfig, side: int, keys: Mapping[str, ProductKey]
) -> SquareJob:
    """Return the squares of the rasters that have the keys."""
    from ussfc.pipeline.rasters.compression import CogOptions

    part = RasterPart(
        facts.grid.geobox,
        CogOptions(config.output.compression, config.output.block_size),
        product_threshold(config, facts) if layout.CHANGE in keys else None,
        layout.PROBABILITY in keys,
    )
    named = [facts.run, *(bytes_key(key) for key in keys.values())]
    return SquareJob.of(work, facts.grid.shape, side, product_smoothing(config, facts), named, rasters=part)


def _region_job(
    work: Folder,
    facts: InferenceRecord,
    side: int,
    smoothing: Smoothing,
    key: ProductKey,
    rules: RegionRules,
    scenes: Scenes | None,
) -> SquareJob:
    """Return the squares of the layer that has the key; those of other formats are the same."""
    decisive = bytes_key(key)
    decisive["vector"] = {name: value for name, value in decisive["vector"].items() if name != "format"}
    values = rules.options.values
    bands = [] if values is None else [values.names, values.lines, values.steps, scenes is not None]
    named = [facts.run, decisive, *bands]
    part = RegionPart(rules, *(scenes or (None, False)))
    return SquareJob.of(work, facts.grid.shape, side, smoothing, named, regions=part)


def _smoothed(store: ProbabilityStore, smoothing: Smoothing, side: int) -> ProbabilitySource:
    """Return the probabilities that products are made of, read in blocks of a side, pixels."""
    return store if smoothing == "none" else SmoothedSource(store, side)


def layers_in(out: Folder) -> tuple[str, ...]:
    """Return the formats of the layers that are in OUT."""
    return tuple(format_ for format_, name in layout.LAYERS.items() if out.exists(name))


def _made_vector(out: Folder, config: RunConfig) -> VectorConfig:
    """Return the options that the layers in OUT were made with; those of the configuration where it is not known."""
    formats = layers_in(out)
    records = (_product_record(out, layout.LAYERS[format_]) for format_ in formats)
    options = next((found.key.vector for found in records if found and found.key.vector), None)
    return VectorConfig(
        **(options or config.vector.model_dump()) | {"format": formats or config.vector.format}
    )


def _made_output(out: Folder) -> dict[str, Any]:
    """Return the keys of the section ``output`` that ``change.tif`` in OUT was made with."""
    found = _product_record(out, layout.CHANGE)
    key = found.key.dump() if found else {}
    return {name: key[name] for name in ("compression", "block_size") if name in key}


def _make(
    out: Folder, config: RunConfig, stage: _Stage, subscriber: Subscriber, again: Collection[str]
) -> None:
    """Make products in one pass and record the key of each; those that are there with the same key stay.

    Args:
        out: output folder.
        config: names the place of scratch files.
        stage: the pass.
        subscriber: receives the events.
        again: names of those that are made also where nothing differs.
    """
    names = []
    for name, key in stage.keys.items():
        found = _product_record(out, name)
        if name in again or found is None or not is_made_as(found.key, key):
            names.append(name)
        elif is_intact(out, name, found):
            subscriber(Notice(f"{name} is there already, made of the same", warning=False))
        else:
            if out.exists(name):
                subscriber(Notice(f"{out / name}: is not what was written, and is made again"))
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
        made = stage.make(paths, scratch)
        digests = {name: (sha256_file(path), path.stat().st_size) for name, path in paths.items()}
    for name in names:
        sha256, size = digests[name]
        record = ProductFileRecord(
            key=made.keys[name],
            stage=stage.name,
            counts=made.counts.get(name, {}),
            # Together they took that long: write_manifest() adds the seconds up.
            seconds=clock[0] / len(names),
            sha256=sha256,
            bytes=size,
        )
        record.write(out, layout.in_work(layout.product_record(name)))


def _product_records(out: Folder) -> dict[str, ProductFileRecord]:
    found = {name: _product_record(out, name) for name in layout.PRODUCTS}
    return {name: record for name, record in found.items() if record is not None}


def _product_record(out: Folder, name: str) -> ProductFileRecord | None:
    try:
        return ProductFileRecord.find(out, layout.in_work(layout.product_record(name)), sealed=True)
    except DamagedRecord:
        # As if it were not there: the product is made again.
        return None


def write_manifest(
    out: Folder | Path | str, peak_memory: int | None = None, subscriber: Subscriber = ignore
) -> RunRecord:
    """Gather the records of the stages into ``run.json``.

    Args:
        out: output folder.
        peak_memory: largest resident size of all processes, bytes, where it was measured.
        subscriber: receives a warning about a map that holds no information, which is recorded as well.

    Returns:
        The record as it was written.
    """
    out = Folder.of(out)
    inference = InferenceRecord.read(out, layout.in_work(layout.INFERENCE), sealed=True)
    if peak_memory is not None:
        inference = inference.model_copy(update={"peak_memory_bytes": peak_memory})
        inference.write(out, layout.in_work(layout.INFERENCE))
    products = _product_records(out)
    seconds: dict[str, float] = {}
    thresholds: dict[str, float] = {}
    counts, config = inference.counts.dump(), dict(inference.config)
    for product in products.values():
        counts |= product.counts
        seconds[product.stage] = seconds.get(product.stage, 0.0) + product.seconds
        if product.key.threshold is not None:
            thresholds[product.stage] = product.key.threshold
    config |= _made_config(config, products)
    sums = Counts(**counts)
    warnings: list[str] = []
    if sums.changed_pixels is not None:
        # Where another threshold was chosen, a map of one class says something about the threshold.
        warned = bool(inference.warnings) and set(thresholds.values()) == {inference.threshold}
        warnings = check_map(sums.changed_share, sums.classified_pixels, warned)
    for warning in warnings:
        subscriber(Notice(warning))
    pixels = inference.counts.pixels
    stages = {stage: StageRecord.of(spent, pixels) for stage, spent in seconds.items()}
    changed: dict[str, Any] = {
        "config": config,
        "counts": sums,
        "warnings": (*inference.warnings, *warnings),
        "stages": {**inference.stages, **stages},
        "versions": library_versions(),
    }
    if products:
        changed["thresholds"] = thresholds
        if len(common := set(thresholds.values())) == 1:
            changed["threshold"] = common.pop()
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
    return InferenceRecord.read(out, name, sealed=True)


def recorded_config(out: Folder | Path | str) -> dict[str, Any]:
    """Return the configuration that inference and products in OUT were made with, threshold resolved.

    Where products are of several thresholds, as earlier versions could leave them, it is that of the inference.
    """
    out = Folder.of(out)
    facts = read_inference(out)
    config = {**facts.config, "threshold": facts.threshold}
    products = {name: found for name, found in _product_records(out).items() if out.exists(name)}
    thresholds = {found.key.threshold for found in products.values()} - {None}
    if len(thresholds) == 1:
        config["threshold"] = thresholds.pop()
    config["output"] = config["output"] | _made_output(out)
    return config | _made_config(config, products)


def _made_config(config: Mapping[str, Any], products: Mapping[str, ProductFileRecord]) -> dict[str, Any]:
    """Return the sections ``output`` and ``vector`` that products were made with; nothing where there is none."""
    if not products:
        return {}
    smoothing = next(iter(products.values())).key.smoothing or "none"
    made = {"output": config.get("output", {}) | {"smoothing": smoothing}}
    options = [found.key.vector for found in products.values() if found.key.vector]
    if options:
        formats = [each["format"] for each in options]
        made["vector"] = options[0] | {"format": formats[0] if len(formats) == 1 else formats}
    return made


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
