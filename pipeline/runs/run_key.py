"""The key of a run: everything that decides a stored byte."""

from __future__ import annotations

import hashlib
from typing import Any

from ussfc.addresses import shown_address
from ussfc.pipeline.reading.date_masks import DateMask, RasterMask
from ussfc.pipeline.runs.alteration import VERSION as ALTERATION_VERSION
from ussfc.pipeline.runs.manifest import RegistrationRecord
from ussfc.pipeline.runs.normalisation import VERSION as MATCH_VERSION
from ussfc.pipeline.runs.pair import is_declared
from ussfc.pipeline.runs.plan import RunPlan
from ussfc.pipeline.runs.resolve import alteration_terms
from ussfc.pipeline.storage.probability_store import FORMAT_VERSION
from ussfc.pipeline.tiling.grid import grid_record
from ussfc.pipeline.types import DetectorSpec, SceneInfo


def run_key(plan: RunPlan, detector: DetectorSpec) -> dict[str, Any]:
    """Return everything that decides a stored byte, by the name that a message uses for it."""
    pair, layout, tiles = plan.pair, plan.layout, plan.tiles
    before, after = (
        scene_key(info, recipe.bands)
        for info, recipe in zip((pair.before, pair.after), pair.recipes, strict=True)
    )
    return {
        "before": before,
        "after": after,
        "grid": grid_record(pair.grid),
        "aoi": hashlib.sha256(pair.area.wkb).hexdigest() if pair.area else None,
        "resampling": plan.config.grid.resampling,
        "radiometry": {
            **pair.model.radiometry.model_dump(mode="json", exclude={"reflectance"}),
            **({"match": MATCH_VERSION} if "match" in (plan.config.radiometry, plan.chosen) else {}),
        },
        "tiling": [tiles.tile_size, tiles.patch_size, tiles.stride, layout.taper],
        "model": detector.identity,
        "probability_dtype": plan.config.output.probability_dtype,
        "format": FORMAT_VERSION,
        **_alteration_key(plan),
        **_registration_key(plan.registration),
        **({"masks": masks[0]} if (masks := mask_keys(pair.masks)) else {}),
    }


def _alteration_key(plan: RunPlan) -> dict[str, Any]:
    """Return the terms of IR-MAD beside the network; a network alone has the key of a run that knew nothing else."""
    terms = alteration_terms(plan.config, plan.model)
    return {} if terms is None else {"alteration": {**terms.model_dump(), "version": ALTERATION_VERSION}}


def _registration_key(record: RegistrationRecord | None) -> dict[str, Any]:
    """Return the correction where there is one: a pair that lies well has the key of a run without any."""
    return {"registration": record.matrix} if record is not None and record.matrix is not None else {}


def mask_keys(masks: tuple[DateMask | None, DateMask | None]) -> list[Any]:
    """Return what decides the masks of both dates; nothing without any, so that the key is that of earlier versions."""
    if masks == (None, None):
        return []
    return [[mask and _mask_key(mask) for mask in masks]]


def _mask_key(mask: DateMask) -> list[Any]:
    rule = [] if mask.rule is None else [list(mask.rule.classes or ()), list(mask.rule.bits or ())]
    # Polygons are known by their shape, wherever they come from.
    uri = "" if mask.rule is None else shown_address(mask.uri)
    band = mask.source.band if isinstance(mask.source, RasterMask) else 0
    return [uri, mask.identity, mask.kind, band, rule, mask.distance]


def scene_key(info: SceneInfo, bands: tuple[int, ...]) -> list[Any]:
    """Return address, identity and bands, and the declared numbers where there are any."""
    scales = info.scales(bands)
    declared = [[list(scale) for scale in scales]] if is_declared(scales) else []
    return [info.uri, info.identity, list(bands), *declared]
