"""Recipes: the packaged ones, settings, and messages about faults."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from ussfc.errors import TrainingError
from ussfc.network import USSFCNet
from ussfc.spec import RangeRadiometry, find_model
from ussfc.training.recipe import (
    AugmentationSection,
    LossSection,
    NetworkSection,
    OptimiserSection,
    SamplingSection,
    TrainingRecipe,
    find_input,
    list_recipes,
    load_recipe,
    started_from,
)

SMALLEST = "steps: 3\nvalidate_every: 1\n"


def written(folder: Path, content: str | bytes = SMALLEST) -> str:
    path = folder / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def refusal(name_or_file: str, *sets: str) -> str:
    """Return the message about an unusable recipe: one line."""
    with pytest.raises(TrainingError) as caught:
        load_recipe(name_or_file, sets)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_packaged_recipes_load_with_their_input() -> None:
    assert list_recipes() == ("paper", "strong", "vhr")
    for name in list_recipes():
        assert load_recipe(name).input_spec.bands


def test_paper_is_the_reference_recipe() -> None:
    """Whole sections are compared, so that a new default cannot slip into the paper's recipe."""
    recipe = load_recipe("paper")
    assert recipe.input == "rgb8"
    assert recipe.network == NetworkSection(ratio=0.5, masked_kernels=True)
    assert recipe.optimiser == OptimiserSection(
        name="adam", learning_rate=1e-4, weight_decay=5e-4, schedule="constant", warmup_steps=0, clip=None,
        average=None,
    )  # fmt: skip
    assert recipe.sampling == SamplingSection(
        kind="fixed", crop_size=256, batch_size=32, crops=10_000, change_share=0
    )
    assert recipe.loss == LossSection(cross_entropy=1, dice=0, change_weight=1)
    amplitudes = AugmentationSection().model_dump().values()
    assert recipe.augmentation == AugmentationSection()
    assert not any(amplitudes)
    assert (recipe.epochs, recipe.steps, recipe.patience) == (200, None, None)
    assert recipe.precision == "float32"


def test_strong_averages_augments_and_redraws() -> None:
    recipe = load_recipe("strong")
    assert recipe.sampling.kind == "random"
    assert recipe.optimiser.average is not None
    assert recipe.augmentation.model_dump().keys() == {
        key for key, amplitude in recipe.augmentation.model_dump().items() if amplitude
    }


def test_files_and_defaults(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path)) == TrainingRecipe(steps=3, validate_every=1)


def test_a_recipe_survives_its_own_file(tmp_path: Path) -> None:
    for recipe in (load_recipe("paper"), load_recipe("strong", ["input={bands: [{name: a}]}"])):
        assert load_recipe(written(tmp_path, yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("optimiser.learning_rate=0.0005", lambda r: r.optimiser.learning_rate == 0.0005),
        # YAML 1.1 reads this as a text; a user means a number.
        ("optimiser.learning_rate=5e-4", lambda r: r.optimiser.learning_rate == 0.0005),
        ("optimiser.average=null", lambda r: r.optimiser.average is None),
        (" sampling.crop_size = 32 ", lambda r: r.sampling.crop_size == 32),
        ("network.masked_kernels=false", lambda r: r.network.masked_kernels is False),
        ("input=rgb8", lambda r: r.input_spec == find_input("rgb8")),
        ("input={bands: [{name: B}]}", lambda r: [band.name for band in r.input_spec.bands] == ["B"]),
        ("steps=7", lambda r: r.steps == 7),
    ],
)
def test_keys_can_be_set(setting: str, found: Any) -> None:
    assert not found(load_recipe("strong"))
    assert found(load_recipe("strong", [setting]))


def test_a_setting_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    strong = load_recipe("strong")
    changed = load_recipe("strong", ["optimiser.clip=2"])
    assert changed.optimiser == strong.optimiser.model_copy(update={"clip": 2.0})
    assert changed.model_copy(update={"optimiser": strong.optimiser}) == strong
    # A section that the file does not have, and the last of two settings.
    twice = load_recipe(written(tmp_path), ["loss.dice=1", "loss.dice=2"])
    assert twice.loss == LossSection(dice=2)


def test_recipes_with_epochs_can_be_set_to_steps() -> None:
    recipe = load_recipe("paper", ["epochs=null", "steps=100"])
    assert (recipe.steps, recipe.epochs) == (100, None)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (SMALLEST + "sede: 1", ["sede", "unknown key"]),
        (SMALLEST + "optimiser: {learning_rat: 1}", ["optimiser.learning_rat", "unknown key"]),
        (SMALLEST + "sampling: {crop_size: big}", ["sampling.crop_size", "integer"]),
        (SMALLEST + "sampling: {crop_size: 20}", ["sampling.crop_size", "multiple of 16"]),
        (SMALLEST + "sampling: 3", ["sampling", "dictionary"]),
        (SMALLEST + "optimiser: {name: sgd}", ["optimiser.name", "'adam'", "'adamw'"]),
        (SMALLEST + "optimiser: {learning_rate: .nan}", ["optimiser.learning_rate"]),
        (SMALLEST + "loss: {cross_entropy: 0}", ["cross_entropy", "dice", "both 0"]),
        (SMALLEST + "augmentation: {swap: 2}\nseed: -1", ["augmentation.swap", "; seed:"]),
        (SMALLEST + "input: {bands: []}", ["input", "bands", "at least 1"]),
        ("steps: 3.5\nvalidate_every: 1", ["steps", "fractional"]),
        ("steps: 0\nvalidate_every: 1", ["steps", "greater than 0"]),
        (SMALLEST + "epochs: 2", ["steps or epochs", "one of the two"]),
        ("sampling: {kind: fixed}", ["steps or epochs", "one of the two"]),
        ("epochs: 2\nvalidate_every: 1", ["random crops have no epochs", "give steps"]),
        ("steps: 2", ["random crops have no epochs", "validate_every"]),
        (
            "epochs: 2\nsampling: {kind: fixed, balance: root}\naugmentation: {paste: 0.5}",
            ["augmentation.paste", "sampling.balance", "random crops alone", "sampling.kind"],
        ),
        ("1: 2\n" + SMALLEST, ["1: "]),
        ("steps: [", ["not YAML"]),
        (b"\x01", ["not YAML"]),
        ("- 1", ["holds a list"]),
        ("", ["holds a NoneType"]),
        (b"\xff\xfe\0", ["not YAML", "byte 0 is not UTF-8"]),
    ],
)
def test_faults_name_the_file_and_the_key(tmp_path: Path, content: str | bytes, parts: list[str]) -> None:
    path = written(tmp_path, content)
    message = refusal(path)
    assert all(part in message for part in [path, *parts]), message


def test_absent_recipes_list_the_packaged_ones(tmp_path: Path) -> None:
    for place in ("papper", str(tmp_path / "none.yaml"), str(tmp_path)):
        message = refusal(place)
        assert all(part in message for part in [place, "paper, strong"]), message
    assert "did you mean strong?" in refusal("strogn")
    assert "did you mean" not in refusal(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("seed", ["--set seed", "key=value"]),
        ("", ["--set", "key=value"]),
        ("seed=[", ["strong", "seed", "integer"]),
        ("loss.dice=much", ["strong", "loss.dice", "number"]),
        ("loss.dise=1", ["strong", "loss.dise", "unknown key"]),
        ("loss.dice.weight=1", ["strong", "loss.dice"]),
        ("epochs=2", ["strong", "steps or epochs"]),
        ("input.resolution_m=5", ["strong", "input", "bands", "required"]),
    ],
)
def test_bad_settings_are_named(setting: str, parts: list[str]) -> None:
    message = refusal("strong", setting)
    assert all(part in message for part in parts), message


def test_unknown_inputs_list_the_known() -> None:
    recipe = load_recipe("paper", ["input=rgb16"])
    with pytest.raises(TrainingError, match="'rgb16': not known; known: rgb8, sentinel2-rgb, sentinel2-rgbn"):
        _ = recipe.input_spec


@pytest.mark.parametrize(
    ("name", "bands", "common", "resolution", "high"),
    [
        ("rgb8", "R G B", "red green blue", None, 255),
        ("sentinel2-rgb", "B04 B03 B02", "red green blue", 10, 3500),
        ("sentinel2-rgbn", "B04 B03 B02 B08", "red green blue nir", 10, (3500, 3500, 3500, 5000)),
    ],
)
def test_packaged_inputs(name: str, bands: str, common: str, resolution: float | None, high: Any) -> None:
    spec = find_input(name)
    assert " ".join(band.name for band in spec.bands) == bands
    assert " ".join(band.common_name or "" for band in spec.bands) == common
    assert spec.resolution_m == resolution
    reflectance = None if name == "rgb8" else 10000
    assert spec.radiometry == RangeRadiometry(low=0, high=high, reflectance=reflectance)


def test_every_packaged_input_is_tested() -> None:
    names = {
        entry.name for entry in (files("ussfc.configs") / "inputs").iterdir() if entry.name.endswith(".yaml")
    }
    assert names == {"rgb8.yaml", "sentinel2-rgb.yaml", "sentinel2-rgbn.yaml"}


def test_a_recipe_that_begins_with_a_model_takes_its_width_and_the_rate_for_it() -> None:
    recipe = load_recipe("strong", ["optimiser.finetuning_rate=3e-5"])
    model = find_model("ussfc-s2-rgb")
    found = started_from(recipe, model, USSFCNet(3, 0.25))
    assert found.network.ratio == 0.25
    assert found.optimiser.learning_rate == 3e-5
    assert found.start is not None
    assert found.start.sha256 == model.weights.sha256
    assert found.input == recipe.input
    assert recipe.optimiser.learning_rate == 1e-3


def test_weights_of_other_bands_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"has 4 bands \(B04, B03, B02, B08\), the recipe's input has 3"):
        started_from(load_recipe("strong"), find_model("ussfc-s2-rgbn"), USSFCNet(4, 0.125))
