"""A run in one line, as its first notice and its log have it."""

from __future__ import annotations

from importlib import metadata

from ussfc.pipeline.runs.model_choice import AUTO
from ussfc.pipeline.runs.plan import RunPlan, advice
from ussfc.pipeline.tiling.grid import crs_name


def opening_notices(plan: RunPlan, network: bool = True) -> list[str]:
    """Return the lines that a run begins with: its headline, and a model that scored higher.

    Args:
        plan: of the run.
        network: False where another detector than the model's network answers.
    """
    return [headline(plan), *filter(None, [advice(plan.pair) if network else None])]


def headline(plan: RunPlan) -> str:
    """Return version, model with its licence and score, threshold, bands and grid of a run, one line."""
    model = plan.model
    restriction = model.licence.restriction if model.licence else None
    facts = "; ".join(filter(None, (f"weights: {restriction}" if restriction else None, model.scored)))
    terms = f" ({facts})" if facts else ""
    chosen = " (auto)" if plan.config.model == AUTO else ""
    rows, cols = plan.tiles.shape
    return (
        f"ussfc {metadata.version('ussfc')}: model {model.name}{chosen}{terms}, threshold {plan.threshold:g}, "
        f"bands {bands_taken(plan)}, grid {rows} x {cols} px {crs_name(plan.pair.grid) or 'without CRS'}, "
        f"{plan.tiles.tile_count} tile(s), {plan.executor}"
    )


def bands_taken(plan: RunPlan) -> str:
    """Return the model's bands and the numbers of the files' bands that it gets, in words."""
    names = ", ".join(band.name for band in plan.model.bands)
    before, after = (", ".join(map(str, recipe.bands)) for recipe in plan.pair.recipes)
    numbers = before if before == after else f"{before} of before and {after} of after"
    return f"{names} = {numbers}"
