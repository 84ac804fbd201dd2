"""From the store to the products and their manifest. A stage reads only what the one before it wrote under OUT/work."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from odc.geo.geobox import GeoBox

from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.events import Notice, StageFinished, StageStarted, Subscriber, ignore
from ussfc.pipeline.parallel.ordered_map import cores
from ussfc.pipeline.storage.folder import Folder, sha256_file
from ussfc.pipeline.types import blocks

if TYPE_CHECKING:
    from ussfc.pipeline.storage.probability_store import ProbabilityStore

CHANGE, PROBABILITY = "change.tif", "probability.tif"

PRODUCTS = (CHANGE, PROBABILITY, "changes.parquet", "changes.gpkg", "changes.fgb", "run.json")
"""What a run writes into its folder beside ``work``, and what ``overwrite`` removes from it."""

VECTOR_BLOCK = 2048


def mosaic(out: Folder | Path | str, config: RunConfig, subscriber: Subscriber = ignore) -> None:
    """Write ``change.tif`` and ``probability.tif`` from the store.

    Raises:
        StoreError: no finished inference in OUT, or no space.
    """
    out = Folder.of(out)
    with out.lock():
        write_rasters(out, config, subscriber, again=True)


def write_rasters(out: Folder, config: RunConfig, subscriber: Subscriber, again: bool) -> None:
    """:func:`mosaic` in a folder that is held; without ``again`` a raster made of the same stays."""
    from ussfc.pipeline.rasters import cog

    store, facts = _finished(out)
    threshold = _threshold_of(config, facts)
    options = cog.CogOptions(
        compression=config.output.compression,
        block_size=config.output.block_size,
        threads=cores(),
    )
    tags = _tags(facts)

    def rasters(paths: Mapping[str, Path], scratch: Path) -> dict[str, dict[str, Any]]:
        kinds: list[cog.ChangeRaster | cog.ProbabilityRaster] = []
        if CHANGE in paths:
            told = tags | {"USSFC_THRESHOLD": repr(threshold)}
            kinds.append(cog.ChangeRaster(paths[CHANGE], told, threshold))
        if PROBABILITY in paths:
            kinds.append(cog.ProbabilityRaster(paths[PROBABILITY], tags))
        counts = cog.write(store, _grid(facts), kinds, scratch, options, subscriber, store.chunk)
        if counts is None:
            return {}
        return {
            CHANGE: {
                "changed_pixels": counts.changed,
                "unchanged_pixels": counts.unchanged,
                "nodata_pixels": counts.nodata,
            }
        }

    steps = len(list(blocks(store.shape, cog.square(options.block_size, store.chunk))))
    keys = raster_keys(facts, store.content(), config)
    _make(out, config, "mosaic", keys, steps, rasters, subscriber, again)


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
    """:func:`vectorise` in a folder that is held; without ``again`` a layer made of the same stays."""
    from ussfc.pipeline.polygons import vectorise as vector

    store, facts = _finished(out)
    options = vector.VectorOptions(**config.vector.model_dump())
    name = f"changes{vector.SUFFIX[options.format]}"
    threshold = _threshold_of(config, facts)

    def polygons(paths: Mapping[str, Path], scratch: Path) -> dict[str, dict[str, Any]]:
        counts = vector.vectorise(
            store, _grid(facts), threshold, options, paths[name], subscriber, VECTOR_BLOCK
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
    _make(out, config, "vectorise", {name: key}, steps, polygons, subscriber, again)
    for suffix in set(vector.SUFFIX.values()) - {vector.SUFFIX[options.format]}:
        # One layer per run: the same regions under another format would go stale unseen.
        out.remove(f"changes{suffix}")
        out.remove(_record(f"changes{suffix}"))


def _make(
    out: Folder,
    config: RunConfig,
    stage: str,
    keys: Mapping[str, Mapping[str, Any]],
    steps: int,
    make: Callable[[Mapping[str, Path], Path], Mapping[str, dict[str, Any]]],
    subscriber: Subscriber,
    again: bool,
) -> None:
    """Make products in one pass and record what each is made of, but for those that are there, made of the same.

    Args:
        out: output folder.
        config: says where scratch files go.
        stage: mosaic or vectorise.
        keys: everything that decides the bytes of each file, by its name.
        steps: blocks to go through.
        make: writes the files at the paths, with scratch files in the folder, and returns counts by name.
        subscriber: hears the events.
        again: also where nothing differs.
    """
    wanted = []
    for name, key in keys.items():
        facts = out.find_json(_record(name))
        if not again and facts and facts["key"] == dict(key) and out.size(name) == facts["bytes"]:
            subscriber(Notice(f"{name} is there already, made of the same", warning=False))
        else:
            wanted.append(name)
    if not wanted:
        return
    # The manifest vouches for the products together, a record for one: neither may outlive a change.
    out.remove("run.json")
    for name in wanted:
        out.remove(_record(name))
    rows, cols = keys[wanted[0]]["shape"]
    with (
        stage_clock(stage, steps, rows * cols, subscriber) as clock,
        scratch_folder(out, config, "scratch") as scratch,
        ExitStack() as stack,
    ):
        paths = {name: stack.enter_context(out.atomic_output(name, scratch)) for name in wanted}
        counts = make(paths, scratch)
        made = {
            name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for name, path in paths.items()
        }
    for name in wanted:
        # Together they took that long: report() adds the seconds up.
        seconds = clock[0] / len(wanted)
        facts = {"key": dict(keys[name]), "stage": stage, "counts": counts.get(name, {}), "seconds": seconds}
        out.write_json(_record(name), {**facts, **made[name]})


def _record(name: str) -> str:
    return f"work/products/{name}.json"


def raster_keys(facts: Mapping[str, Any], content: str, config: RunConfig) -> dict[str, dict[str, Any]]:
    """What decides the bytes of the rasters."""
    from ussfc.pipeline.rasters import cog

    common = {
        "content": content,
        "shape": facts["grid"]["shape"],
        "tags": _tags(facts),
        "gdal": _versions()["gdal"],
        "compression": config.output.compression,
        "block_size": config.output.block_size,
        "level": cog.LEVEL[config.output.compression],
    }
    if config.output.compression == "deflate":
        common["isal"] = f"{metadata.version('isal')} level {cog.ISAL_LEVEL}"
    threshold = _threshold_of(config, facts)
    return {CHANGE: {**common, "threshold": threshold}, PROBABILITY: common}


def vector_key(facts: Mapping[str, Any], content: str, config: RunConfig) -> dict[str, Any]:
    """What decides the bytes of the polygons."""
    return {
        "content": content,
        "shape": facts["grid"]["shape"],
        "threshold": _threshold_of(config, facts),
        "vector": config.vector.model_dump(mode="json"),
        "versions": {name: _versions()[name] for name in ("ussfc", "shapely", "pyarrow", "gdal")},
    }


def report(out: Folder | Path | str, peak_memory: int | None = None) -> dict[str, Any]:
    """Gather what the stages recorded into ``run.json``.

    Args:
        out: output folder.
        peak_memory: largest resident size of all processes, bytes, where it was measured.

    Returns:
        What was written.
    """
    out = Folder.of(out)
    manifest = out.read_json("work/infer.json")
    if peak_memory is not None:
        manifest["peak_memory_bytes"] = peak_memory
        out.write_json("work/infer.json", manifest)
    pixels = manifest["counts"]["pixels"]
    products: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for name in PRODUCTS:
        facts = out.find_json(_record(name))
        if facts is None:
            continue
        products[name] = {field: facts[field] for field in ("sha256", "bytes", "key")}
        manifest["counts"] |= facts["counts"]
        stage = facts["stage"]
        seconds[stage] = seconds.get(stage, 0.0) + facts["seconds"]
        if "threshold" in facts["key"]:
            manifest.setdefault("thresholds", {})[stage] = facts["key"]["threshold"]
        manifest["config"] |= {"vector": facts["key"]["vector"]} if "vector" in facts["key"] else {}
    manifest["stages"] |= {stage: speed([spent], pixels) for stage, spent in seconds.items()}
    if products:
        manifest["products"] = products
    manifest["versions"] = _versions()
    out.write_json("run.json", manifest)
    return manifest


def recorded(out: Folder | Path | str) -> dict[str, Any]:
    """What the inference in OUT recorded when it ended, as it stands in ``run.json`` before any product.

    Raises:
        StoreError: no run there, or one whose inference has not ended.
    """
    from ussfc.pipeline.storage.probability_store import KEY

    out = Folder.of(out)
    out.ping()
    if not out.exists("work/infer.json") and out.exists(f"work/{KEY}"):
        raise StoreError(f"{out}: tiles are not all computed yet; run `ussfc infer` or `ussfc run` again")
    return out.read_json("work/infer.json")


def recorded_config(out: Folder | Path | str) -> dict[str, Any]:
    """The configuration that the inference in OUT was made with, threshold resolved."""
    facts = recorded(out)
    return {**facts["config"], "threshold": facts["threshold"]}


def _finished(out: Folder) -> tuple[ProbabilityStore, dict[str, Any]]:
    from ussfc.pipeline.storage.probability_store import ProbabilityStore

    facts = recorded(out)
    store = ProbabilityStore(out / "work")
    missing = facts["counts"]["tiles"] - facts["counts"]["tiles_failed"] - len(store.known())
    if missing:
        raise StoreError(
            f"{out}: {missing} tile(s) are not computed yet; run `ussfc infer` or `ussfc run` again"
        )
    return store, facts


def _grid(facts: Mapping[str, Any]) -> GeoBox:
    from ussfc.pipeline.storage.probability_store import grid_from_record

    return grid_from_record(facts["grid"])


def _threshold_of(config: RunConfig, facts: Mapping[str, Any]) -> float:
    return float(facts["threshold"] if config.threshold is None else config.threshold)


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


def _versions() -> dict[str, str]:
    import rasterio

    names = ("ussfc", "torch", "rasterio", "zarr", "distributed", "odc-geo", "shapely", "pyarrow", "numpy")
    return {name: metadata.version(name) for name in names} | {"gdal": rasterio.__gdal_version__}


def speed(seconds: list[float], pixels: int) -> dict[str, float]:
    """A stage's clock as the manifest tells it: seconds and megapixels a second."""
    return {"seconds": round(seconds[0], 3), "mpx_per_s": round(pixels / 1e6 / max(seconds[0], 1e-9), 3)}


@contextmanager
def stage_clock(name: str, total: int, pixels: int, subscriber: Subscriber) -> Iterator[list[float]]:
    """Announce a stage and time it; the yielded list holds its seconds once it is over."""
    subscriber(StageStarted(name, total, pixels))
    clock: list[float] = []
    start = time.perf_counter()
    yield clock
    clock.append(time.perf_counter() - start)
    subscriber(StageFinished(name, clock[0], pixels))


@contextmanager
def scratch_folder(out: Folder, config: RunConfig, name: str) -> Iterator[Path]:
    """A local folder for files that nobody needs later: in OUT/work, or where the configuration says.

    Raises:
        StoreError: the folder of the configuration cannot be written.
    """
    if out.local is not None:
        folder = out.local / "work" / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            (out / "work").remove(name)
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix=f"ussfc-{name}-", dir=config.output.scratch)
    except OSError as error:
        raise StoreError(
            f"{config.output.scratch or tempfile.gettempdir()}: cannot be written ({error.strerror}); set "
            "output.scratch to a local folder with room"
        ) from error
    with temporary as made:
        yield Path(made)
