"""Labelled data by name: ``KIND:DIR`` to pairs for training, and the check of a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ussfc
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.evaluation.labelled_scenes import ScenePairs, find_scenes, match_scenes
from ussfc.training.data import (
    SPLITS,
    Cached,
    Joined,
    LabelledPairs,
    SplitReport,
    check_pairs,
    match_split,
    open_split,
    splits_folder,
)
from ussfc.training.recipe import InputSpec, TrainingRecipe
from ussfc.training.synthesis.batches import GeneratedPairs
from ussfc.training.synthesis.check import PlaceReport, check_masks
from ussfc.training.synthesis.tiles import MaskTiles, open_masks

GEOTIFF = "geotiff"
"""Kind of data whose pairs are georeferenced scenes."""

MASKS = "masks"
"""Kind of data that holds images and masks of one date, from which pairs are generated."""

NO_VALIDATION = ("none",)
"""Names to validate on of a training that keeps its last weights."""

GENERATED_PAIRS = 96
"""Pairs that validation generates from the places held out."""

GENERATED_SEED = 0
"""Seed of these pairs: the same for every recipe, so that scores compare."""


def parse_data(text: str) -> tuple[str, Path]:
    """Split ``KIND:DIR`` into kind and folder.

    Raises:
        ConfigError: no colon in it.
    """
    kind, colon, folder = text.partition(":")
    if not colon or not folder:
        raise ConfigError(f"data {text}: expected KIND:DIR, for example geotiff:scenes or levir-cd:LEVIR-CD")
    return kind, Path(folder)


def describe(datas: Sequence[str]) -> str:
    """Describe the data of a training for its model card: the kinds of ``KIND:DIR``, one or more."""
    kinds = [parse_data(text)[0] for text in datas]
    return ", ".join("pairs generated from masks" if kind == MASKS else kind for kind in kinds)


def reading_of(datas: Sequence[str]) -> str:
    """Name the way in which pairs are read, where earlier versions had another: scenes are registered now."""
    return "registered" if any(parse_data(text)[0] == GEOTIFF for text in datas) else ""


def training_sources(
    datas: Sequence[str],
    recipe: TrainingRecipe,
    validate_on: Sequence[str],
    memory: int,
    notify: Callable[[str], None] = lambda line: None,
) -> tuple[LabelledPairs | MaskTiles, LabelledPairs | None]:
    """Return pairs to learn from, or tiles to generate them from, and pairs to validate on.

    Data sets of pictures bring their splits ``train`` and ``val``; of georeferenced scenes and of places with masks the
    named ones are held out for validation and the rest is trained on.

    Args:
        datas: ``KIND:DIR``, one or more; only one if it is ``masks``.
        recipe: its input is that of the network, its section synthesis generates pairs.
        validate_on: names of held-out scenes or places; :data:`NO_VALIDATION` to learn from all.
        memory: bytes of decoded pictures that may stay in memory, of each data set.
        notify: receives what a run would warn of about the dates of a scene, a line each, once it is read.

    Returns:
        What to learn from, and pairs to validate on; None instead of these for :data:`NO_VALIDATION`.

    Raises:
        ConfigError, PipelineError, ussfc.errors.DataError: the data cannot be used; the message names what.
    """
    parsed = [parse_data(text) for text in datas]
    if masks := [folder for kind, folder in parsed if kind == MASKS]:
        if len(parsed) > 1:
            raise ConfigError(
                "data masks: pairs are generated from one folder, not beside other data; give it alone, and put all "
                "places below its folder"
            )
        return _generated_sources(masks[0], recipe, validate_on, memory)
    spec = recipe.input_spec
    validated = tuple(validate_on) != NO_VALIDATION
    train: list[LabelledPairs] = []
    validation: list[LabelledPairs] = []
    known: set[str] = set()
    for kind, folder in parsed:
        if kind == GEOTIFF:
            scenes = find_scenes(folder)
            held = [scene for scene in scenes if scene.name in validate_on]
            known |= {scene.name for scene in scenes}
            ScenePairs(scenes, spec).refuse_beyond_memory()
            learnt = [scene for scene in scenes if scene.name not in validate_on]
            train.append(Cached(ScenePairs(learnt, spec, notify=notify)))
            validation.append(Cached(ScenePairs(held, spec, notify=notify)))
        else:
            train.append(Cached(open_split(kind, folder, "train"), memory))
            if validated:
                validation.append(open_split(kind, folder, "val"))
            check_pictures_fit(kind, spec)
    if validated and (missing := sorted(set(validate_on) - known)):
        there = (
            f"there are {', '.join(sorted(known))}" if known else "pictures bring their own validation split"
        )
        raise ConfigError(f"{', '.join(missing)}: no such scene in the data to validate on; {there}")
    return Joined(tuple(train)), Joined(tuple(validation)) if validated else None


def _generated_sources(
    folder: Path, recipe: TrainingRecipe, validate_on: Sequence[str], memory: int
) -> tuple[MaskTiles, GeneratedPairs | None]:
    check_pictures_fit(MASKS, recipe.input_spec)
    tiles = open_masks(folder, memory)
    if tuple(validate_on) == NO_VALIDATION:
        return tiles, None
    if odd := [place for place in validate_on if place not in tiles.places]:
        raise ConfigError(
            f"{', '.join(odd)}: no such place in {folder} to validate on; its places: {', '.join(tiles.places)}"
        )
    if not validate_on:
        raise ConfigError(
            f"validation: no place of {folder} is held out; name some to validate on, or none to keep the last "
            f"weights: {', '.join(tiles.places)}"
        )
    training, held_out = tiles.split(validate_on)
    size = recipe.sampling.crop_size
    return training, GeneratedPairs(held_out, size, recipe.synthesis, GENERATED_SEED, GENERATED_PAIRS)


def check_pictures_fit(kind: str, spec: InputSpec | ussfc.ModelSpec) -> None:
    """Refuse a network that does not take pictures of red, green and blue.

    Raises:
        ConfigError: names its bands.
    """
    if len(spec.bands) != 3 or spec.radiometry.kind != "range" or spec.radiometry.high != 255:
        names = ", ".join(band.name for band in spec.bands)
        raise ConfigError(
            f"{kind}: pictures of red, green, blue from 0 to 255, the network's input is {names} of other numbers; "
            "train with input=rgb8, or give geotiff data"
        )


def check_data(kind: str, folder: Path) -> Sequence[SplitReport | PlaceReport]:
    """Read every file of a data set: counts, sizes, changed share or that of the masks, and every broken file.

    Args:
        kind: ``levir-cd``, ``cdd``, ``dsifn-cd``, ``geotiff`` or ``masks``.
        folder: the data set; missing splits are left out.

    Raises:
        PipelineError, ussfc.errors.DataError: nothing to check there.
    """
    if kind == MASKS:
        return check_masks(folder)
    if kind == GEOTIFF:
        # One band: geometry and labels do not depend on how many a model takes.
        spec = InputSpec.model_validate({"bands": [{"name": "1"}], "radiometry": {"kind": "percentiles"}})
        scenes, lone = match_scenes(folder)
        config = load_config().model_copy(update={"registration": "off"})
        return [check_pairs("scenes", ScenePairs(scenes, spec, config), lone)]
    splits = [split for split in SPLITS if (splits_folder(kind, folder) / split).is_dir()]
    return [check_pairs(split, *match_split(kind, folder, split)) for split in splits or SPLITS[:1]]
