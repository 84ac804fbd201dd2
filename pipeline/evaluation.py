"""Labelled data for training, and scores of a model on labelled data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.labelled import ScenePairs, find_scenes
from ussfc.data import Cached, Joined, LabelledPairs, open_split
from ussfc.recipe import InputSpec

GEOTIFF = "geotiff"


def parse_data(text: str) -> tuple[str, Path]:
    """``KIND:DIR`` as kind and folder.

    Raises:
        ConfigError: no colon in it.
    """
    kind, colon, folder = text.partition(":")
    if not colon or not folder:
        raise ConfigError(f"--data {text}: wanted KIND:DIR, for example geotiff:scenes or levir-cd:LEVIR-CD")
    return kind, Path(folder)


def training_sources(
    datas: Sequence[str], spec: InputSpec, validate_on: Sequence[str], memory: int
) -> tuple[LabelledPairs, LabelledPairs]:
    """Pairs to learn from, and pairs to validate on.

    Data sets of pictures bring their splits ``train`` and ``val``; of georeferenced scenes the named ones are
    held out for validation and the rest is learnt from.

    Args:
        datas: ``KIND:DIR``, one or more.
        spec: the network's input.
        validate_on: names of held-out scenes.
        memory: bytes of decoded pictures that may stay in memory.

    Raises:
        ConfigError, PipelineError, ussfc.errors.DataError: the data cannot be used; the message names what.
    """
    train: list[LabelledPairs] = []
    validation: list[LabelledPairs] = []
    missing = set(validate_on)
    for kind, folder in map(parse_data, datas):
        if kind == GEOTIFF:
            scenes = find_scenes(folder)
            held = [scene for scene in scenes if scene.name in validate_on]
            missing -= {scene.name for scene in held}
            train.append(ScenePairs([scene for scene in scenes if scene.name not in validate_on], spec))
            validation.append(ScenePairs(held, spec))
        else:
            _pictures_fit(kind, spec)
            train.append(Cached(open_split(kind, folder, "train"), memory // len(datas)))
            validation.append(open_split(kind, folder, "val"))
    if missing:
        raise ConfigError(
            f"--validate-on {', '.join(sorted(missing))}: no such scene in the data; check the names"
        )
    return Joined(tuple(train)), Joined(tuple(validation))


def _pictures_fit(kind: str, spec: InputSpec) -> None:
    if len(spec.bands) != 3 or spec.radiometry.kind != "range" or spec.radiometry.high != 255:
        names = ", ".join(band.name for band in spec.bands)
        raise ConfigError(
            f"{kind}: pictures of red, green, blue from 0 to 255, the recipe wants {names}; set input=rgb8"
        )
