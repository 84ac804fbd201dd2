"""Batches of a training, by its recipe and the kind of its data."""

from __future__ import annotations

from ussfc.errors import DataError, TrainingError
from ussfc.training.crops import Batches, FixedCrops, RandomCrops
from ussfc.training.data import LabelledPairs
from ussfc.training.recipe import AugmentationSection, TrainingRecipe
from ussfc.training.synthesis.batches import MaskBatches
from ussfc.training.synthesis.tiles import MaskTiles


def make_batches(recipe: TrainingRecipe, source: LabelledPairs | MaskTiles) -> Batches:
    """Prepare the batches of a recipe: crops of labelled pairs, or pairs generated from masks.

    Raises:
        DataError: no pairs, a pair smaller than a crop, no changed pixel to place crops around, or tiles that cannot be
            used.
        TrainingError: the recipe asks for what generated pairs do not have.
    """
    if not source.names:
        raise DataError(
            "training data: no pairs in it; check the folders and the names held out for validation"
        )
    if isinstance(source, MaskTiles):
        if recipe.sampling.kind == "fixed":
            raise TrainingError(
                "sampling.kind fixed: pairs generated from masks are new at every step; take the recipe vhr, or set "
                "sampling.kind=random, epochs=null, steps and validate_every"
            )
        if recipe.augmentation != AugmentationSection():
            raise TrainingError(
                "augmentation: is for labelled pairs, those generated from masks differ by the section synthesis; set "
                "augmentation={}, or take the recipe vhr"
            )
        return MaskBatches(source, recipe.sampling, recipe.synthesis, recipe.seed)
    if recipe.sampling.kind == "fixed":
        return FixedCrops(source, recipe.sampling, recipe.augmentation, recipe.seed)
    return RandomCrops(source, recipe.sampling, recipe.augmentation, recipe.seed)
