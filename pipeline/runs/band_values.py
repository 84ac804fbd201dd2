"""The bands of a run whose values its polygons have: those of the model, and the near infrared."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

import ussfc
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ConfigError, GridError, ReadError
from ussfc.pipeline.execution.square_job import band_reads
from ussfc.pipeline.pixels import radiometry
from ussfc.pipeline.polygons.band_values import CELL, BandValues, Line
from ussfc.pipeline.polygons.kinds import VISIBLE
from ussfc.pipeline.reading import SceneRecipe, over_network
from ussfc.pipeline.runs.comparison import have_large_blocks, moved_recipe, with_band
from ussfc.pipeline.runs.manifest import InferenceRecord
from ussfc.pipeline.runs.model_choice import configured_model
from ussfc.pipeline.runs.pair import (
    ScenePair,
    describe_pair,
    infrared_bands,
    is_declared,
    kept_bands,
    model_range,
)
from ussfc.pipeline.types import RadiometricMapping, SceneInfo

if TYPE_CHECKING:
    from ussfc import ModelSpec

WHOLE = 1 << 20
"""Side of the squares that are read of files with large blocks, pixels: a block of the grid is read at once."""

UNREADABLE = (ReadError, GridError, ConfigError, ussfc.ModelError)
"""Errors of scenes that are no longer there, or not as they were."""


@dataclasses.dataclass(frozen=True)
class _Scenes:
    """Both dates as a run read them."""

    infos: tuple[SceneInfo, SceneInfo]
    recipes: tuple[SceneRecipe, SceneRecipe]
    model: ModelSpec


def open_values(facts: InferenceRecord, pair: ScenePair | None) -> BandValues:
    """Return the bands of a finished inference with the way to both dates, see :func:`plan_values`."""
    values, scenes, network = plan_values(facts, pair)
    return dataclasses.replace(values, read=band_reads(scenes, network))


def plan_values(
    facts: InferenceRecord, pair: ScenePair | None
) -> tuple[BandValues, tuple[SceneRecipe, SceneRecipe], bool]:
    """Return the bands of a finished inference, recipes of both dates with them, and True if one is over a network.

    Args:
        facts: the inference.
        pair: its scenes, registered, as it read them; None: they are opened again as the record names them.

    Raises:
        ReadError, GridError, ConfigError, ussfc.ModelError: the scenes cannot be opened, or have changed.
    """
    scenes = (
        _recorded(facts) if pair is None else _Scenes((pair.before, pair.after), pair.recipes, pair.model)
    )
    values = _described(scenes.model, facts)
    recipes = scenes.recipes
    infrared = _infrared(scenes, facts)
    if infrared is not None:
        recipes, lines = infrared
        values = dataclasses.replace(
            values,
            names=(*values.names, "nir"),
            lines=((*values.lines[0], lines[0]), (*values.lines[1], lines[1])),
        )
    values = dataclasses.replace(values, cell=WHOLE if have_large_blocks(scenes.infos) else CELL)
    return values, recipes, any(over_network(uri) for recipe in recipes for uri in recipe.opened)


def tile_recipes(facts: InferenceRecord, pair: ScenePair) -> tuple[SceneRecipe, SceneRecipe] | None:
    """Return the recipes with which tiles read all bands that polygons have values of, those of the network first.

    Args:
        facts: the inference, as far as it is known before its end.
        pair: both scenes, registered.

    Returns:
        None where tiles keep nothing, see :func:`ussfc.pipeline.runs.pair.kept_bands`.
    """
    return plan_values(facts, pair)[1] if kept_bands(pair) else None


def _recorded(facts: InferenceRecord) -> _Scenes:
    """Open the scenes that a record names. What was masked, or outside an area of interest, is no change anyway."""
    config, grid = load_config(base=facts.config), facts.grid.geobox
    model = configured_model(config) or ussfc.find_model(facts.model.name)
    dates = facts.inputs.before, facts.inputs.after
    infos = describe_pair(dates[0].uri, dates[1].uri, config)
    recipes = []
    for info, date in zip(infos, dates, strict=True):
        if info.identity != date.identity:
            raise ReadError(f"{date.uri}: has changed since the run")
        recipes.append(SceneRecipe.of(date.uri, info, grid, date.bands, config.grid.resampling))
    before, after = recipes
    moved = None if facts.registration is None else facts.registration.matrix
    return _Scenes(infos, (before, after if moved is None else moved_recipe(after, moved)), model)


def absent_values(facts: InferenceRecord) -> BandValues:
    """Return the bands of a finished inference whose scenes cannot be read; none where its model is gone too."""
    try:
        return _described(ussfc.find_model(facts.model.name), facts)
    except ussfc.ModelError:
        mappings = facts.radiometry.before.mapping, facts.radiometry.after.mapping
        return BandValues((), (0.0, 1.0), ((), ()), mappings)


def _described(model: ModelSpec, facts: InferenceRecord) -> BandValues:
    common = [band.common_name or band.name for band in model.bands]
    names = common if len(set(common)) == len(common) else [band.name for band in model.bands]
    mappings = facts.radiometry.before.mapping, facts.radiometry.after.mapping
    found = facts.radiometry.normalisation
    matched = found is not None and found.gain is not None
    ranges = [model_range(model) or (mappings[0] if matched else own) for own in mappings]
    lines = [
        tuple(_line(*ends) for ends in zip(mapping.low, mapping.high, target.low, target.high, strict=True))
        for mapping, target in zip(mappings, ranges, strict=True)
    ]
    visible = [place for place, name in enumerate(names) if name in VISIBLE] or range(len(names))
    low, high = (
        float(np.mean([ends[place] for place in visible])) for ends in (ranges[0].low, ranges[0].high)
    )
    return BandValues(tuple(names), (low, high), (lines[0], lines[1]), mappings)


def _line(low: float, high: float, target_low: float, target_high: float) -> Line:
    """Return the line that brings one range to another."""
    gain = (target_high - target_low) / (high - low)
    return gain, target_low - gain * low


def _infrared(
    scenes: _Scenes, facts: InferenceRecord
) -> tuple[tuple[SceneRecipe, SceneRecipe], tuple[Line, Line]] | None:
    """Return recipes with the near infrared and its lines; None where the model has it, or a date does not name it.

    Of a matched later date its line is not known.
    """
    lines = facts.radiometry.normalisation
    numbers = infrared_bands(scenes.infos, scenes.model)
    if numbers is None or (lines and lines.gain is not None):
        return None
    recipes, found = [], []
    unit = getattr(scenes.model.radiometry, "reflectance", None)
    for recipe, info, number in zip(scenes.recipes, scenes.infos, numbers, strict=True):
        recipes.append(with_band(recipe, info, number))
        scales = info.scales((number,))
        if unit is None or not is_declared(scales):
            found.append((1.0, 0.0))
            continue
        stored = radiometry.declared_mapping(RadiometricMapping((0.0,), (unit,)), scales, unit)
        found.append(_line(stored.low[0], stored.high[0], 0.0, unit))
    return (recipes[0], recipes[1]), (found[0], found[1])
