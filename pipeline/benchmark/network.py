"""Speed and deviation of the network by each engine, beside the plain network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import ussfc
from ussfc import engines
from ussfc.pipeline.benchmark.demo_scene import demo_patches
from ussfc.pipeline.benchmark.samples import Samples
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.types import FloatArray

if TYPE_CHECKING:
    from ussfc.bench import PlainNetwork
    from ussfc.detector import DetectorSpec

CUDA_BATCHES = (1, 16, 32)
"""Batch sizes that are measured on CUDA; a CPU gains nothing from one."""


def engine_precisions(only_engines: Sequence[str], only_precisions: Sequence[str]) -> list[tuple[str, str]]:
    """Return the engines and precisions to measure.

    Args:
        only_engines: names of engines; none: all.
        only_precisions: names of precisions; none: all.

    Raises:
        ConfigError: a name is not known, or nothing is left.
    """
    every = [
        (engine, precision) for engine, precisions in engines.PRECISIONS.items() for precision in precisions
    ]
    for what, given, known in (
        ("engine", only_engines, {engine for engine, _ in every}),
        ("precision", only_precisions, {precision for _, precision in every}),
    ):
        for name in given:
            if name not in known:
                raise ConfigError(f"{what} {name!r}: not known; known: {', '.join(sorted(known))}")
    chosen = [
        (engine, precision)
        for engine, precision in every
        if engine in (only_engines or (engine,)) and precision in (only_precisions or (precision,))
    ]
    if not chosen:
        raise ConfigError(
            f"no engine of {', '.join(only_engines)} has a precision of {', '.join(only_precisions)}; leave out one"
        )
    return chosen


def plain_recipe(config: RunConfig, model: ussfc.ModelSpec, patch_size: int | None) -> DetectorSpec:
    """Return the recipe of the plain network, for :class:`ussfc.bench.PlainNetwork`."""
    inference = config.inference
    return ussfc.detector_spec(
        model,
        ussfc.DetectorOptions(
            patch_size=patch_size,
            ssfc=inference.ssfc,
            engine="torch",
            precision="float32",
            device=inference.device,
        ),
    )


@dataclasses.dataclass(frozen=True)
class Reference:
    """The plain network, the patches that every engine is measured on, and its answer."""

    network: PlainNetwork
    before: FloatArray
    after: FloatArray
    answers: FloatArray

    @classmethod
    def of(cls, model: ussfc.ModelSpec, recipe: DetectorSpec) -> Reference:
        """Build the plain network and compute its answer."""
        from ussfc.bench import PlainNetwork, answers

        network = PlainNetwork(recipe)
        before, after = demo_patches(model, recipe.patch_size)
        return cls(network, before, after, answers(network, before, after))


def measure_beside(reference: Reference, recipe: DetectorSpec, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure a detector in turns with the reference.

    Args:
        reference: the plain network and its answer.
        recipe: the detector.
        rounds: measurements of each.
        seconds: wall time of one measurement.

    Returns:
        Its row in ``network`` of the result of ``ussfc bench``, without engine, precision, patch and share of the roof.

    Raises:
        ussfc.ModelError: the detector cannot be built here.
    """
    from ussfc.bench import answers, speed

    detector = recipe.build()
    deviation = np.abs(answers(detector, reference.before, reference.after) - reference.answers).max()
    own, plain = [], []
    # One call of every stream first: work that is done once only is over then.
    speed(detector, reference.before, reference.after, 0.0)
    for _ in range(rounds):
        plain.append(speed(reference.network, reference.before, reference.after, seconds) / 1e6)
        own.append(speed(detector, reference.before, reference.after, seconds) / 1e6)
    measured, compared = Samples(tuple(own)), Samples(tuple(plain))
    return {
        "batch": detector.batch_size,
        "streams": detector.streams,
        "mpx_per_s": measured.record(),
        "reference_mpx_per_s": compared.record(),
        "ratio": measured.over(compared).record(),
        "largest_deviation": float(deviation),
    }
