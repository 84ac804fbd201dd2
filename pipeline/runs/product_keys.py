"""Keys of the products: everything that decides their bytes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from ussfc.pipeline.choices import Smoothing
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.dates import iso_date, tiff_time
from ussfc.pipeline.runs.manifest import InferenceRecord, ProductKey
from ussfc.pipeline.storage import layout


def raster_keys(facts: InferenceRecord, content: str, config: RunConfig) -> dict[str, ProductKey]:
    """Return the keys of the rasters, by name.

    Args:
        facts: the inference that they are made from.
        content: digest of its probabilities.
        config: names threshold, smoothing and compression.
    """
    from ussfc.pipeline.rasters.compression import ISAL_LEVEL, LEVEL

    common: dict[str, Any] = {
        "content": content,
        "shape": facts.grid.shape,
        "tags": product_tags(facts),
        "gdal": library_versions()["gdal"],
        "compression": config.output.compression,
        "block_size": config.output.block_size,
        "level": LEVEL[config.output.compression],
        **_smoothing_key(config, facts),
    }
    if config.output.compression == "deflate":
        common["isal"] = f"{_version('isal')} level {ISAL_LEVEL}"
    change = ProductKey(**common, threshold=product_threshold(config, facts))
    return {layout.CHANGE: change, layout.PROBABILITY: ProductKey(**common)}


def layer_keys(
    facts: InferenceRecord, content: str, config: RunConfig, formats: Iterable[str]
) -> dict[str, ProductKey]:
    """Return the keys of the polygons, by name; see :func:`raster_keys`.

    Args:
        facts: the inference that they are made from.
        content: digest of its probabilities.
        config: names threshold, smoothing, filters and simplification.
        formats: those of the layers.
    """
    installed = library_versions()
    versions = {name: installed[name] for name in ("ussfc", "shapely", "pyarrow", "gdal")}
    options = config.vector.model_dump(mode="json")
    return {
        layout.LAYERS[format_]: ProductKey.model_validate({
            "content": content,
            "shape": facts.grid.shape,
            "threshold": product_threshold(config, facts),
            **_smoothing_key(config, facts),
            "vector": options | {"format": format_},
            "versions": versions,
            "dates": scene_days(facts),
            "values": True,
        })
        for format_ in formats
    }  # fmt: skip


def is_made_as(found: ProductKey, wanted: ProductKey) -> bool:
    """Return True if a product has all that one with another key would have.

    A layer of an earlier version, without values of bands, stays until it is made again for another reason.
    """
    mine, other = found.dump(), wanted.dump()
    if found.values is None or wanted.values is False:
        mine.pop("values", None)
        other.pop("values", None)
    return mine == other


def product_threshold(config: RunConfig, facts: InferenceRecord) -> float:
    """Return the threshold of a configuration; that of the inference where it names none."""
    return float(facts.threshold if config.threshold is None else config.threshold)


def product_smoothing(config: RunConfig, facts: InferenceRecord) -> Smoothing:
    """Return the smoothing of a configuration; that of the inference where it names none, as of earlier versions."""
    recorded: Smoothing = facts.config.get("output", {}).get("smoothing") or "none"
    return config.output.smoothing or recorded


def _smoothing_key(config: RunConfig, facts: InferenceRecord) -> dict[str, str]:
    """Return the part of a key where there is any: products without have the keys of earlier versions."""
    smoothing = product_smoothing(config, facts)
    return {} if smoothing == "none" else {"smoothing": smoothing}


def scene_days(facts: InferenceRecord) -> tuple[str | None, str | None]:
    """Return the days of before and after, ISO 8601; None where one is not known."""
    return iso_date(facts.inputs.before.acquired), iso_date(facts.inputs.after.acquired)


def product_tags(facts: InferenceRecord) -> dict[str, str]:
    """Return dataset tags; nothing in them changes from one run of the same inputs to the next."""
    tags = {
        "TIFFTAG_SOFTWARE": f"ussfc {_version('ussfc')}",
        "USSFC_MODEL": facts.model.name,
        "USSFC_MODEL_SHA256": facts.model.sha256,
    }
    for date, scene in (("BEFORE", facts.inputs.before), ("AFTER", facts.inputs.after)):
        tags[f"USSFC_{date}"] = Path(scene.uri).name
        if scene.acquired:
            tags[f"USSFC_{date}_ACQUIRED"] = scene.acquired
    taken = tiff_time(facts.inputs.after.acquired)
    if taken is not None:
        tags["TIFFTAG_DATETIME"] = taken
    registration = facts.registration
    if registration is not None and registration.matrix is not None:
        tags["USSFC_AFTER_MOVED_PX"] = f"{registration.dx:+.2f} {registration.dy:+.2f}"
    return tags


def library_versions() -> dict[str, str]:
    """Return the versions of ussfc and of the libraries that decide bytes."""
    import rasterio

    names = ("ussfc", "torch", "rasterio", "zarr", "distributed", "odc-geo", "shapely", "pyarrow", "numpy")
    return {name: _version(name) for name in names} | {"gdal": rasterio.__gdal_version__}


@functools.cache
def _version(name: str) -> str:
    # Reading the record of a package takes a millisecond or two.
    return metadata.version(name)
