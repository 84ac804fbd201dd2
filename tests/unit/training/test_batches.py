"""The batches of a recipe, by the kind of its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.mask_tiles import write_tiles
from tests.support.training import TOWNS, small_recipe
from ussfc.errors import DataError, TrainingError
from ussfc.training.batches import make_batches
from ussfc.training.checkpoints import fingerprint_of
from ussfc.training.crops import FixedCrops, RandomCrops
from ussfc.training.data import TrainingData
from ussfc.training.synthesis.batches import GeneratedPairs, MaskBatches
from ussfc.training.synthesis.settings import SynthesisSection
from ussfc.training.synthesis.tiles import MaskTiles, open_masks

FIXED = {"sampling": {"kind": "fixed"}, "steps": None, "epochs": 1}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> MaskTiles:
    return open_masks(write_tiles(tmp_path_factory.mktemp("masks")))


def test_data_and_recipe_choose_the_batches(tiles: MaskTiles) -> None:
    assert isinstance(make_batches(small_recipe(), tiles), MaskBatches)
    assert isinstance(make_batches(small_recipe(), TOWNS), RandomCrops)
    assert isinstance(make_batches(small_recipe(**FIXED), TOWNS), FixedCrops)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (FIXED, "sampling.kind fixed: pairs generated"),
        ({"augmentation": {"flip": True}}, "augmentation: is for"),
    ],
)
def test_what_generated_pairs_lack_is_refused(
    tiles: MaskTiles, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        make_batches(small_recipe(**changes), tiles)


def test_no_tile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pairs in it"):
        make_batches(small_recipe(), MaskTiles(tmp_path, ()))


def test_a_training_is_the_same_by_tiles_and_synthesis(tiles: MaskTiles) -> None:
    training, held_out = tiles.split(["hill", "field"])
    validation = GeneratedPairs(held_out, 32, SynthesisSection(), 0, 2)
    fewer = GeneratedPairs(held_out.without(["field"]), 32, SynthesisSection(), 0, 2)
    recipe, other = small_recipe(), small_recipe(synthesis={"paste": 0.1})

    def odd(data: TrainingData, recipe: Any = recipe) -> set[str]:
        facts = fingerprint_of(recipe, data, "cpu")
        return {name for name, fact in facts.items() if fact != plain[name]}

    plain = fingerprint_of(recipe, TrainingData(training, validation), "cpu")
    assert odd(TrainingData(training, fewer)) == {"validation pairs"}
    assert odd(TrainingData(training.without(["forest"]), validation)) == {"training pairs"}
    assert odd(TrainingData(training, validation), other) == {"recipe"}
    # Labelled pairs are not generated.
    plain = fingerprint_of(recipe, TrainingData(TOWNS, TOWNS), "cpu")
    assert odd(TrainingData(TOWNS, TOWNS), other) == set()
