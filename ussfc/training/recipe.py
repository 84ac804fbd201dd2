"""Training recipes: every choice that decides the result of a training, as a file.

The packaged ones lie in ``configs/training``, the inputs that they name in ``configs/inputs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from ussfc.errors import TrainingError
from ussfc.spec import Band, ModelSpec, Radiometry, RangeRadiometry
from ussfc.training.synthesis.settings import SynthesisSection
from ussfc.yaml_text import parse_yaml, read_yaml

if TYPE_CHECKING:
    from ussfc.network import USSFCNet


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputSpec(_Section):
    """Input of the network; it becomes part of the model card."""

    bands: tuple[Band, ...] = Field(min_length=1)
    """Bands of the input, in the network's order."""
    resolution_m: PositiveFloat | None = None
    """Ground size of a pixel, metres; None where it varies."""
    radiometry: Radiometry = RangeRadiometry()
    """Mapping of source numbers to [0, 1]."""


class NetworkSection(_Section):
    """Architecture and constraints of the network."""

    ratio: float = Field(0.5, gt=0)
    """Width of level 1 over 64."""
    masked_kernels: bool = True
    """True to hold the kernels at zero that the reference's training never moves."""
    tied: bool = False
    """True to let both dates share one encoder in training: their order means nothing then, and identical dates have no
    difference. Stored weights have two equal encoders; weights to begin with whose encoders differ keep them."""


class SamplingSection(_Section):
    """Choice of the crops of a batch."""

    kind: Literal["fixed", "random"] = "random"
    """``fixed``: one set of crops, shuffled each epoch; ``random``: new ones at every step."""
    crop_size: int = Field(256, gt=0, multiple_of=16)
    """Side of a crop, pixels; it becomes the model's patch size."""
    batch_size: PositiveInt = 8
    """Crops per step."""
    crops: PositiveInt = 10_000
    """Fixed crops drawn once from pairs larger than a crop; pairs of the crop's size are used whole, once each."""
    change_share: float = Field(0.5, ge=0, le=1)
    """Share of random crops placed around a changed pixel."""
    balance: Literal["pixels", "root"] = "pixels"
    """Choice of the pair of a crop around change: by its changed ``pixels``, or by their square ``root``, which shows
    pairs with little change more often."""


class AugmentationSection(_Section):
    """Random changes to a crop. Gains act about the middle of [0, 1]; amplitudes are of uniform distributions."""

    flip: bool = False
    """True to mirror half of the crops."""
    turn: bool = False
    """True to rotate crops by quarter turns."""
    swap: float = Field(0.0, ge=0, le=1)
    """Probability that the dates change places."""
    gain: float = Field(0.0, ge=0, lt=1)
    """Amplitude of the contrast of a date, all bands alike."""
    band_gain: float = Field(0.0, ge=0, lt=1)
    """Amplitude of the contrast of each band."""
    bias: float = Field(0.0, ge=0, lt=1)
    """Amplitude of the brightness of a date, all bands alike."""
    band_bias: float = Field(0.0, ge=0, lt=1)
    """Amplitude of the brightness of each band."""
    noise: float = Field(0.0, ge=0, lt=1)
    """Largest standard deviation of Gaussian noise."""
    unchanged: float = Field(0.0, ge=0, lt=1)
    """Share of crops that show one date twice, differently jittered, and no change."""
    paste: float = Field(0.0, ge=0, le=1)
    """Share of random crops into whose later date changed ground of another pair is pasted."""
    scale: float = Field(0.0, ge=0, le=1)
    """Share of random crops that show 0.7 to 1.4 times the ground, resampled to the crop's size."""


class LossSection(_Section):
    """Loss over the valid pixels of a batch."""

    cross_entropy: float = Field(1.0, ge=0)
    """Weight of the binary cross-entropy."""
    dice: float = Field(0.0, ge=0)
    """Weight of one minus the Dice coefficient of the change class."""
    change_weight: float = Field(1.0, gt=0)
    """Weight of a changed pixel in the cross-entropy."""


class OptimiserSection(_Section):
    """Optimiser and learning rate."""

    name: Literal["adam", "adamw"] = "adamw"
    """``adam`` couples the weight decay to the gradient, ``adamw`` does not."""
    learning_rate: PositiveFloat = 1e-3
    """Largest learning rate."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """``cosine`` falls to zero at the last step."""
    finetuning_rate: PositiveFloat = 1e-4
    """Largest learning rate of a training that begins with the weights of a model."""
    freeze_statistics: bool = False
    """True to keep the statistics of the batch norms as they are, for trainings with few crops a step."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the rate rises from zero."""
    clip: PositiveFloat | None = None
    """Largest norm of a gradient; null: not limited."""
    average: float | None = Field(None, gt=0, lt=1)
    """Decay of the moving average of the weights, which is validated and kept; null: the weights themselves are."""


class StartSection(_Section):
    """Weights that a training begins with."""

    model: str
    """Name of the model, or its card or weights file."""
    sha256: str
    """Digest of its weights."""


class TrainingRecipe(_Section):
    """Every choice that decides a training, but its data."""

    input: str | InputSpec = "rgb8"
    """Name of a packaged input, or the input itself."""
    network: NetworkSection = NetworkSection()
    sampling: SamplingSection = SamplingSection()
    augmentation: AugmentationSection = AugmentationSection()
    synthesis: SynthesisSection = SynthesisSection()
    """Generation of pairs from images and masks of one date; labelled pairs have no use for it."""
    loss: LossSection = LossSection()
    optimiser: OptimiserSection = OptimiserSection()
    steps: PositiveInt | None = None
    """Optimiser steps; give this or epochs."""
    epochs: PositiveInt | None = None
    """Passes over the fixed crops."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the forward pass; ``auto`` takes bfloat16 on CUDA, float32 on the CPU."""
    validate_every: PositiveInt | None = None
    """Steps between validations; null: one per epoch."""
    patience: PositiveInt | None = None
    """Validations without a better score after which training stops; null: never."""
    save_every: PositiveInt = 100
    """Steps between states to resume from."""
    seed: int = Field(0, ge=0)
    """Seed of weights, crops and augmentation."""
    start: StartSection | None = None
    """Weights to begin with, see :func:`started_from`; null: random ones."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, one of the two")
        if self.sampling.kind == "random" and (self.epochs is not None or self.validate_every is None):
            raise ValueError("random crops have no epochs: give steps and validate_every")
        if self.sampling.kind == "fixed" and (
            self.augmentation.paste or self.augmentation.scale or self.sampling.balance != "pixels"
        ):
            raise ValueError(
                "augmentation.paste, augmentation.scale and sampling.balance are for random crops alone: "
                "leave them out, or set sampling.kind=random"
            )
        if self.loss.cross_entropy == 0 and self.loss.dice == 0:
            raise ValueError("loss: cross_entropy and dice are both 0")
        return self

    @property
    def input_spec(self) -> InputSpec:
        """Input of the network, looked up if it is a name.

        Raises:
            TrainingError: an unknown name.
        """
        return find_input(self.input) if isinstance(self.input, str) else self.input


def started_from(recipe: TrainingRecipe, model: ModelSpec, network: USSFCNet) -> TrainingRecipe:
    """Return a recipe that begins with the weights of a model, at the recipe's rate for that.

    Args:
        recipe: of the training; its input stays, its network becomes that of the weights.
        model: card of the weights.
        network: the weights themselves.

    Raises:
        TrainingError: the weights are for another number of bands.
    """
    bands = recipe.input_spec.bands
    if network.bands != len(bands):
        known = ", ".join(band.name for band in model.bands)
        raise TrainingError(
            f"model {model.name}: has {network.bands} bands ({known}), the recipe's input has {len(bands)} "
            f"({', '.join(band.name for band in bands)}); set input to one of the model's bands, or take another model"
        )
    return recipe.model_copy(
        update={
            "start": StartSection(model=model.name, sha256=model.weights.sha256),
            "network": recipe.network.model_copy(update={"ratio": network.ratio}),
            "optimiser": recipe.optimiser.model_copy(
                update={"learning_rate": recipe.optimiser.finetuning_rate}
            ),
        }
    )


def find_input(name: str) -> InputSpec:
    """Return a packaged input.

    Raises:
        TrainingError: an unknown input (the known ones are listed).
    """
    folder = files("ussfc.configs") / "inputs"
    known = {Path(entry.name).stem: entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    if name not in known:
        raise TrainingError(
            f"input {name!r}: not known; known: {', '.join(sorted(known))}; or give bands and radiometry"
        )
    return InputSpec.model_validate(yaml.safe_load(known[name].read_text("utf-8")))


def list_recipes() -> tuple[str, ...]:
    """Return the names of the packaged recipes, sorted."""
    folder = files("ussfc.configs") / "training"
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_recipe(
    name_or_file: str, sets: Sequence[str] = (), taken: InputSpec | None = None
) -> TrainingRecipe:
    """Load a packaged recipe or one in a file, with keys set.

    Args:
        name_or_file: ``paper``, ``strong``, ``vhr``, or a YAML file.
        sets: ``a.b=c`` settings, c in YAML.
        taken: input instead of the recipe's; ``sets`` may name another. None: the recipe's.

    Raises:
        TrainingError: an unknown recipe, not YAML, or an unknown or wrong key (named).
    """
    where = name_or_file
    packaged = files("ussfc.configs") / "training" / f"{name_or_file}.yaml"
    try:
        content = read_yaml(str(packaged) if name_or_file in list_recipes() else name_or_file)
    except OSError as error:
        known = ", ".join(list_recipes())
        nearest = get_close_matches(name_or_file[:80].lower(), list_recipes(), 1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise TrainingError(
            f"recipe {where}: cannot be read ({error.strerror}){hint}; packaged ones: {known}; or give a YAML file"
        ) from error
    except ValueError as error:
        raise TrainingError(f"recipe {where}: not YAML ({error})") from error
    if not isinstance(content, dict):
        raise TrainingError(f"recipe {where}: holds a {type(content).__name__}, expected keys and values")
    if taken is not None:
        content["input"] = taken.model_dump()
    for setting in sets:
        key, equals, value = setting.partition("=")
        if not equals:
            raise TrainingError(
                f"--set {setting}: expected key=value, for example --set optimiser.learning_rate=0.0005"
            )
        try:
            _put(content, key.strip().split("."), parse_yaml(value))
        except ValueError:
            _put(content, key.strip().split("."), value)
    try:
        return TrainingRecipe.model_validate(content)
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False):
            key = ".".join(str(part) for part in fault["loc"])
            message = fault["msg"].removeprefix("Value error, ")
            message = "unknown key" if fault["type"] == "extra_forbidden" else message
            faults.append(f"{key}: {message}" if key else message)
        raise TrainingError(f"recipe {where}: {'; '.join(faults)}") from error


def _put(content: dict[str, Any], key: list[str], value: Any) -> None:
    for part in key[:-1]:
        inner = content.get(part)
        content[part] = dict(inner) if isinstance(inner, dict) else {}
        content = content[part]
    content[key[-1]] = value
