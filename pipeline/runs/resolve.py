"""The parts of the configuration that it leaves to the model, filled in from the model's card."""

from __future__ import annotations

from dataclasses import dataclass

import ussfc
from ussfc.pipeline.choices import Smoothing, Taper
from ussfc.pipeline.config.schema import RunConfig
from ussfc.spec import AlterationTerms


@dataclass(frozen=True)
class PatchLayout:
    """Tile and patch sizes, overlap and blend weights of a run."""

    tile_size: int
    """Side of a tile's core, pixels."""
    patch_size: int
    """Side of a patch, pixels."""
    overlap: float
    """Overlap of neighbouring patches, share of their side, in [0, 1)."""
    taper: Taper
    """Blend weights of a patch."""
    ssfc: str
    """Means of SSFC: ``patch`` or ``local``."""


def resolve_layout(config: RunConfig, model: ussfc.ModelSpec) -> PatchLayout:
    """Return the layout that the configuration asks for, by default the model's."""
    tiling, card = config.tiling, model.tiling
    return PatchLayout(
        tile_size=tiling.tile_size,
        patch_size=tiling.patch_size or card.patch_size or model.patch_size,
        overlap=card.overlap if tiling.overlap is None else tiling.overlap,
        taper=tiling.taper or card.taper,
        ssfc=config.inference.ssfc or card.ssfc,
    )


def resolve_smoothing(config: RunConfig, model: ussfc.ModelSpec) -> Smoothing:
    """Return the filter of the probabilities that the configuration asks for, by default the model's."""
    return config.output.smoothing or model.smoothing


def alteration_terms(config: RunConfig, model: ussfc.ModelSpec) -> AlterationTerms | None:
    """Return the terms of a model's card; None where the network alone is to answer."""
    return None if config.inference.alteration == "off" else model.alteration


def resolve_config(config: RunConfig, model: ussfc.ModelSpec, network: bool = True) -> RunConfig:
    """Return the configuration with what it leaves to the model filled in, but for the threshold.

    Args:
        config: of the run.
        model: its card.
        network: False where another detector than the model's network answers: the terms of IR-MAD are not its own.
    """
    layout = resolve_layout(config, model)
    tiling = config.tiling.model_copy(
        update={"patch_size": layout.patch_size, "overlap": layout.overlap, "taper": layout.taper}
    )
    alteration = config.inference.alteration if network and model.alteration is not None else "off"
    inference = config.inference.model_copy(update={"ssfc": layout.ssfc, "alteration": alteration})
    output = config.output.model_copy(update={"smoothing": resolve_smoothing(config, model)})
    return config.model_copy(update={"tiling": tiling, "inference": inference, "output": output})
