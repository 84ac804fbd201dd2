"""The key of a run: everything that decides a stored byte."""

from __future__ import annotations

import hashlib
from typing import Any

from ussfc.pipeline.runs.plan import RunPlan
from ussfc.pipeline.storage.probability_store import FORMAT_VERSION
from ussfc.pipeline.tiling.grid import grid_record
from ussfc.pipeline.types import DetectorSpec


def run_key(plan: RunPlan, detector: DetectorSpec) -> dict[str, Any]:
    """Return everything that decides a stored byte, by the name that a message uses for it."""
    pair, layout, tiles = plan.pair, plan.layout, plan.tiles
    return {
        "before": [pair.before.uri, pair.before.identity, list(pair.recipes[0].bands)],
        "after": [pair.after.uri, pair.after.identity, list(pair.recipes[1].bands)],
        "grid": grid_record(pair.grid),
        "aoi": hashlib.sha256(pair.area.wkb).hexdigest() if pair.area else None,
        "resampling": plan.config.grid.resampling,
        "radiometry": pair.model.radiometry.model_dump(mode="json"),
        "tiling": [tiles.tile_size, tiles.patch_size, tiles.stride, layout.taper],
        "model": detector.identity,
        "probability_dtype": plan.config.output.probability_dtype,
        "format": FORMAT_VERSION,
    }
