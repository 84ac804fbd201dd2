"""Options of products that later commands have set: the same run, given again, keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import DamagedRecord
from ussfc.pipeline.runs.manifest import InferenceRecord
from ussfc.pipeline.runs.product_keys import product_smoothing, product_threshold
from ussfc.pipeline.runs.products import recorded_config
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

OUTPUT = ("smoothing", "compression", "block_size")
"""Keys of the section ``output`` that decide products."""

VECTOR = ("min_area_m2", "simplify_m", "connectivity")
"""Keys of the section ``vector`` that decide products; formats are added to those that are there in any case."""


def with_kept_options(given: RunConfig, config: RunConfig, out: Folder) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the configuration with which a run makes its products, and a line about what it keeps, if anything.

    A run that asks for the same products as the one that began the folder keeps the options with which later commands
    have made them. One that names another threshold, or any other option than before, makes them as it says.

    Args:
        given: configuration of the run as its user gave it.
        config: the same with the model's smoothing where none is named.
        out: output folder of the run.

    Returns:
        The configuration, and the message, none where nothing is kept.
    """
    try:
        facts = InferenceRecord.find(out, layout.in_work(layout.INFERENCE), sealed=True)
        if facts is None or _options(config.model_dump(mode="json")) != _options(facts.config):
            return config, ()
        made = recorded_config(out)
    except DamagedRecord:
        return config, ()
    if given.threshold not in (None, made["threshold"]):
        return config, ()
    if given.output.smoothing not in (None, made["output"]["smoothing"]):
        return config, ()
    kept = {"threshold": made["threshold"]}
    sections = {
        section: _chosen(made[section], names) for section, names in (("output", OUTPUT), ("vector", VECTOR))
    }
    asked = {
        "threshold": product_threshold(config, facts),
        **config.output.model_dump(mode="json"),
        "smoothing": product_smoothing(config, facts),
        **config.vector.model_dump(mode="json"),
    }
    differing = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in (kept | sections["output"] | sections["vector"]).items()
        if value != asked[name]
    ]
    if not differing:
        return config, ()
    line = f"products keep what a later command set: {', '.join(differing)}; name an option to set it anew"
    return config.model_copy(
        update={
            **kept,
            "output": config.output.model_copy(update=sections["output"]),
            "vector": config.vector.model_copy(update=sections["vector"]),
        }
    ), (line,)


def _options(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what decides the products of a configuration in JSON values."""
    sections = (_chosen(config.get("output", {}), OUTPUT), _chosen(config.get("vector", {}), VECTOR))
    return config.get("threshold"), *sections


def _chosen(section: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: section[name] for name in names if name in section}
