"""Ranges of a network's activations, from which `int8` takes its steps: a JSON file beside the weights.

``benchmarks/int8_ranges.py`` measures them, once for each file of weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ussfc.errors import ModelError
from ussfc.files import is_uri, opened
from ussfc.spec import MOST_CARD_BYTES, ModelSpec, Text, faults

SUFFIX = ".int8.json"
"""Ending of the file's name, in place of the weights' own."""

REMEDY = "leave inference.precision to auto, or choose another one"

Activation = tuple[Annotated[int, Field(gt=0)], Annotated[float, Field(ge=1e-6, le=1e6)]]
"""Channels of what a convolution reads, and the number that becomes the highest of its 256 steps from 0."""


class Int8Ranges(BaseModel):
    """The content of a file of ranges."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the weights that they were measured with."""
    images: Text
    """Images that the network saw."""
    activations: tuple[Activation, ...] = Field(max_length=1000)
    """One for each input that is rounded, in the order of :func:`ussfc.engines.int8_graph.rounded_inputs`."""


def ranges_path(weights: str) -> Path:
    """Return where the ranges of a local file of weights are."""
    return Path(weights).with_suffix(SUFFIX)


def has_ranges(model: ModelSpec) -> bool:
    """Return whether a model can be computed in `int8`."""
    try:
        read_ranges(model)
    except ModelError:
        return False
    return True


def read_ranges(model: ModelSpec) -> tuple[tuple[int, float], ...]:
    """Return channels and highest number of every activation that `int8` rounds.

    Args:
        model: card of the weights.

    Raises:
        ModelError: there is no file of ranges beside the weights, it cannot be used, or it belongs to other weights.
    """
    weights = model.weights_path()
    path = ranges_path(weights)
    if is_uri(weights) or not path.exists():
        raise ModelError(
            f"precision int8: model {model.name} has no ranges for it (no local file {path.name} beside its weights); "
            f"{REMEDY}"
        )
    with opened(path, "int8 ranges") as file:
        content = file.read(MOST_CARD_BYTES + 1)
    where = f"int8 ranges {path}"
    if len(content) > MOST_CARD_BYTES:
        raise ModelError(f"{where}: larger than {MOST_CARD_BYTES >> 20} MiB; {REMEDY}")
    try:
        found = Int8Ranges.model_validate_json(content)
    except ValidationError as error:
        raise ModelError(f"{where}: {faults(error)}; {REMEDY}") from error
    if found.weights_sha256 != model.weights.sha256:
        raise ModelError(
            f"{where}: measured with weights of sha256 {found.weights_sha256}, the model card has "
            f"{model.weights.sha256}; {REMEDY}"
        )
    return found.activations
