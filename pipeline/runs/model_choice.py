"""Choice of a packaged model by what both dates are: bands, size of a pixel, kind of numbers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import fmean

import numpy as np

import ussfc
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.reading import choose_bands
from ussfc.pipeline.storage.remote import host_of
from ussfc.pipeline.tiling.grid import metres_per_pixel
from ussfc.pipeline.types import SceneInfo
from ussfc.pipeline.waiting import waiting_for

AUTO = "auto"
"""Value of ``model`` that leaves the choice to the scenes."""

FALLBACK = "ussfc-s2-rgb"
"""Model where none fits, and where there are no scenes to choose by: it needs the fewest bands."""

RESOLUTION_TOLERANCE = 2.0
"""Factor between a scene's pixel size and the model's beyond which it does not fit."""

BYTE = 255
"""Largest number of an 8-bit image; wider numbers that end there are rare, and a model of bytes is not for others."""


@dataclass(frozen=True, slots=True)
class ModelFit:
    """A packaged model beside two scenes."""

    model: ussfc.ModelSpec
    obstacle: str
    """Reason why it does not fit; empty where it does."""


def named_model(name: str) -> ussfc.ModelSpec:
    """Return the card of a model where there are no scenes to choose by.

    Raises:
        ussfc.ModelError: there is none, or it cannot be read.
    """
    return ussfc.find_model(FALLBACK if name == AUTO else name)


def configured_model(config: RunConfig) -> ussfc.ModelSpec | None:
    """Return the model that a configuration names; None for ``auto``, which needs the scenes.

    Raises:
        ussfc.ModelError: there is no such model, or it cannot be read.
    """
    if config.model == AUTO:
        return None
    with waiting_for(host_of(config.model)):
        return ussfc.find_model(config.model)


def fitting_model(infos: tuple[SceneInfo, SceneInfo], config: RunConfig) -> ussfc.ModelSpec:
    """Return the packaged model of the best F1 that fits both scenes.

    Args:
        infos: headers of both dates.
        config: names bands and grid.
    """
    best = rank_models(infos, config)[0]
    return named_model(AUTO) if best.obstacle else best.model


def rank_models(infos: tuple[SceneInfo, SceneInfo], config: RunConfig) -> list[ModelFit]:
    """Return the packaged models, those that fit first, by their mean F1 over scenes that all these were scored on.

    The last scores of two cards may be of other cities, and cities differ more than models do.

    Args:
        infos: headers of both dates.
        config: names bands and grid.
    """
    found = [ModelFit(card, _obstacle(card, infos, config)) for card in _packaged_cards()]
    scores = [_scene_scores(fit.model) for fit in found if not fit.obstacle]
    shared = set.intersection(*map(set, scores)) if scores else set()

    def order(fit: ModelFit) -> tuple[bool, float, str]:
        own = [f1 for scene, f1 in _scene_scores(fit.model).items() if scene in shared]
        comparable = bool(own) and not fit.obstacle
        return bool(fit.obstacle), -(fmean(own) if comparable else fit.model.overall_f1), fit.model.name

    return sorted(found, key=order)


def better_model(
    infos: tuple[SceneInfo, SceneInfo], config: RunConfig, model: ussfc.ModelSpec
) -> ussfc.ModelSpec | None:
    """Return the best packaged model that fits both dates, where a packaged one was chosen that does not fit.

    Args:
        infos: headers of both dates.
        config: names bands and grid.
        model: the chosen model.
    """
    if not _is_packaged(model) or not _obstacle(model, infos, config):
        return None
    best = rank_models(infos, config)[0]
    return None if best.obstacle else best.model


@dataclass(frozen=True)
class StrongerModel:
    """A packaged model that scored higher than the chosen one."""

    model: ussfc.ModelSpec
    f1: float
    """Mean F1 over the scenes that both were scored on."""
    chosen_f1: float
    """That of the chosen model."""
    scenes: int
    """Number of these scenes."""


def stronger_model(
    infos: tuple[SceneInfo, SceneInfo], config: RunConfig, model: ussfc.ModelSpec
) -> StrongerModel | None:
    """Return the packaged model that scored higher than the chosen packaged one, where both fit both dates.

    Args:
        infos: headers of both dates.
        config: names bands and grid.
        model: the chosen model.
    """
    if config.model == AUTO or not _is_packaged(model):
        return None
    ranked = rank_models(infos, config)
    best = ranked[0].model
    if best.name == model.name or any(fit.obstacle for fit in ranked if fit.model.name == model.name):
        return None
    f1, chosen_f1 = (_scene_scores(card) for card in (best, model))
    shared = f1.keys() & chosen_f1.keys()
    if not shared:
        return None
    means = [fmean(scores[scene] for scene in shared) for scores in (f1, chosen_f1)]
    return StrongerModel(best, means[0], means[1], len(shared)) if means[0] > means[1] else None


def _scene_scores(card: ussfc.ModelSpec) -> dict[str, float]:
    """Return F1 by scene, without sums over several."""
    return {score.scene: score.f1 for score in card.scores if not score.pooled}


def _is_packaged(model: ussfc.ModelSpec) -> bool:
    """Return whether a model is a packaged one, not another of its name."""
    return model in _packaged_cards()


@functools.cache
def _packaged_cards() -> tuple[ussfc.ModelSpec, ...]:
    """Return the packaged cards; a batch would read them for each of its pairs."""
    return tuple(ussfc.find_model(name) for name in ussfc.list_models())


def _obstacle(model: ussfc.ModelSpec, infos: tuple[SceneInfo, SceneInfo], config: RunConfig) -> str:
    expected = [(band.name, band.common_name) for band in model.bands]
    names = ", ".join(band.name for band in model.bands)
    for info, chosen in zip(infos, (config.bands.before, config.bands.after), strict=True):
        try:
            _, notice = choose_bands(info, expected, chosen)
        except (ReadError, ConfigError):
            return f"{info.uri} has not all of its bands ({names})"
        if notice is not None:
            return f"the bands of {info.uri} have no names that lead to {names}"
        if obstacle := _range_obstacle(info, model):
            return obstacle
    metres = config.grid.resolution or metres_per_pixel(infos[config.grid.reference == "after"].geobox)
    if metres and model.resolution_m and not config.grid.resample_to_model and config.grid.crs is None:
        factor = metres / model.resolution_m
        if not 1 / RESOLUTION_TOLERANCE <= factor <= RESOLUTION_TOLERANCE:
            return f"pixels have {metres:.3g} m, and it was trained at {model.resolution_m:g} m"
    return ""


def _range_obstacle(info: SceneInfo, model: ussfc.ModelSpec) -> str:
    mapping, dtype = model.radiometry, np.dtype(info.dtype)
    if mapping.kind != "range":
        return ""
    largest = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else np.inf
    high = float(np.max(mapping.high))
    if largest < high:
        return f"{info.uri} holds {info.dtype}, too small for the numbers that it takes"
    if high == BYTE and largest > BYTE:
        return f"{info.uri} holds {info.dtype}, and it takes bytes"
    return ""
