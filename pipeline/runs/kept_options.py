"""Options of products that later commands have set: the same run, given again, keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ussfc.pipeline.config.schema import OutputConfig, RunConfig, VectorConfig
from ussfc.pipeline.errors import DamagedRecord
from ussfc.pipeline.runs.manifest import InferenceRecord, RunRecord
from ussfc.pipeline.runs.products import recorded_config
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

OUTPUT = ("smoothing", "compression", "block_size")
"""Keys of the section ``output`` that decide products."""

VECTOR = ("min_area_m2", "simplify_m", "connectivity")
"""Keys of the section ``vector`` that decide products; formats are added to those that are there in any case."""


def with_kept_options(
    given: RunConfig, config: RunConfig, threshold: float, out: Folder
) -> tuple[RunConfig, tuple[str, ...]]:
    """Return the configuration with which a run makes its products, and a line about what it keeps, if anything.

    A run that asks for the same products as the one that began the folder keeps the options with which later commands
    have made them. Where another threshold or smoothing is named, another option than before, or one that is not the
    default and not what is there, products are made as the run says.

    Args:
        given: configuration of the run as its user gave it.
        config: the same with the model's smoothing where none is named.
        threshold: of the run, that of the model where none is named.
        out: output folder of the run.

    Returns:
        The configuration, and the message, none where nothing is kept.
    """
    made = _made(config, out)
    if made is None or given.threshold not in (None, made["threshold"]):
        return config, ()
    if given.output.smoothing not in (None, made["output"].get("smoothing")):
        return config, ()
    sections = {"output": _chosen(made["output"], OUTPUT), "vector": _chosen(made["vector"], VECTOR)}
    asked = {"output": config.output.model_dump(mode="json"), "vector": config.vector.model_dump(mode="json")}
    usual = {
        "output": OutputConfig().model_dump(mode="json"),
        "vector": VectorConfig().model_dump(mode="json"),
    }
    differing = {"threshold": made["threshold"]} if made["threshold"] != threshold else {}
    for section, options in sections.items():
        for name, value in options.items():
            if value == asked[section][name]:
                continue
            if name != "smoothing" and asked[section][name] != usual[section][name]:
                return config, ()
            differing[name] = value
    if not differing:
        return config, ()
    shown = (
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in differing.items()
    )
    line = (
        f"products keep what a later command set: {', '.join(shown)}; `ussfc threshold`, `vectorise` and `mosaic` "
        "change it"
    )
    return config.model_copy(
        update={
            "threshold": made["threshold"],
            "output": config.output.model_copy(update=sections["output"]),
            "vector": config.vector.model_copy(update=sections["vector"]),
        }
    ), (line,)


def _made(config: RunConfig, out: Folder) -> dict[str, Any] | None:
    """Return the options with which products in OUT were made; None where the run asks for other ones than it did."""
    try:
        facts = InferenceRecord.find(out, layout.in_work(layout.INFERENCE), sealed=True)
        if facts is not None:
            same = _options(config.model_dump(mode="json")) == _options(facts.config)
            return recorded_config(out) if same else None
    except DamagedRecord:
        pass
    # Without the record of the inference, or with a damaged one, that of the run has them.
    try:
        record = RunRecord.find(out, layout.MANIFEST, sealed=True)
    except DamagedRecord:
        return None
    if record is None or not record.products:
        return None
    return {"output": {}, "vector": {}, **record.config, "threshold": record.threshold}


def _options(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what decides the products of a configuration in JSON values."""
    sections = (_chosen(config.get("output", {}), OUTPUT), _chosen(config.get("vector", {}), VECTOR))
    return config.get("threshold"), *sections


def _chosen(section: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: section[name] for name in names if name in section}
