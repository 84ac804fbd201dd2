"""Speed of this machine: the network, the limits of memory and arithmetic, the whole way from pair to products.

Every speed is measured beside a plain reference, turn by turn in one run, so that a ratio holds on a machine that
others use as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import ussfc
from ussfc.pipeline.benchmark.end_to_end import measure_end_to_end
from ussfc.pipeline.benchmark.machine import LoadClock, describe_machine, measure_roof
from ussfc.pipeline.benchmark.network import (
    CUDA_BATCHES,
    Reference,
    engine_precisions,
    measure_beside,
    plain_recipe,
)
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.runs.model_choice import named_model
from ussfc.pipeline.runs.resolve import resolve_config

if TYPE_CHECKING:
    from ussfc.detector import DetectorSpec

FORMAT = 1
"""Version of the result's layout."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Extent of a measurement."""

    engines: Sequence[str] = ()
    """Engines to measure the network by; none: all."""
    precisions: Sequence[str] = ()
    """Precisions to measure the network in; none: all."""
    patches: Sequence[int] = ()
    """Sides of the network's patches, pixels; none: the configuration's, or else the model's."""
    size: int | None = 2048
    """Side of the pair of the whole way, pixels; None leaves that out."""
    rounds: int = 3
    """Number of measurements of each quantity."""
    seconds: float = 1.0
    """Wall time of one measurement of the network or the machine, seconds."""


def bench(
    config: RunConfig, measurement: Measurement = Measurement(), subscriber: Subscriber = ignore
) -> dict[str, Any]:
    """Measure this machine.

    Args:
        config: model and device; for the whole way also everything that ``ussfc run`` takes.
        measurement: what to measure, how often and how long.
        subscriber: receives a notice before each step.

    Returns:
        What ``ussfc bench --json`` writes. A *sampled* number is an object of ``median``, ``least``, ``largest`` and
        ``samples``, the numbers of all rounds in their order. *Reference* is the plain network: float32, eager, a patch
        at a time, all cores. Ratios are taken round by round and above 1 where ussfc does better.

        - ``format``: 1. ``made``: time of the start, ISO 8601.
        - ``machine``: ``processor``, ``cores`` (that this process may use), ``memory_bytes``, ``gpu`` (a name,
          or null), ``system``, ``python``, ``versions`` by package, ``others_share``: share of the machine's processor
          time that other programs took while this ran.
        - ``settings``: ``model``, ``weights_sha256``, ``device``, ``patches``, ``size``, ``rounds``, ``seconds``.
        - ``roof``: ``copy_bytes_per_s``, sampled; ``flop_per_s``: precision to sampled, or to null where the
          processor lacks such arithmetic; ``flop_per_pixel``; ``bytes_per_pixel`` and ``mpx_per_s``, each by precision:
          what a well fused network moves, and the speed that the scarcer of memory and arithmetic allows it.
        - ``network``: a list with an object for each engine, precision, patch and batch size: ``engine``,
          ``precision``, ``patch`` (pixels), then ``not_here`` (the reason) alone, or ``batch``, ``streams``;
          ``mpx_per_s``, ``reference_mpx_per_s`` and ``ratio``, sampled; ``largest_deviation`` of a probability from
          the reference's, over all measured patches; ``roof_share``: share of the roof's Mpx/s for the precision,
          null for int8.
        - ``end_to_end``: null, or ``pixels``, ``patch`` (pixels), ``overlap`` (share of the patch); ``ussfc`` and
          ``monai``, each with ``seconds``, ``mpx_per_s``, ``peak_memory_bytes`` and ``process_seconds`` (with the start
          of Python and its imports), all sampled, or with ``not_here`` (the reason) alone; ``ussfc`` also with
          ``engine``, ``precision``, ``detector`` (all that moves a probability) and ``executor`` (name, processes,
          threads); ``speed_ratio`` and
          ``memory_ratio``, sampled, or null where one is not here.
        - ``stages``: null, or of the runs of ``end_to_end`` the seconds of ``read``, ``network`` (both over the number
          of processes that share them), ``mosaic``, ``vectorise``, and ``share_outside_network`` of the wall time; all
          sampled.

    Raises:
        ConfigError: an engine or precision that is not known.
        ussfc.ModelError: the model cannot be used, or not with such patches, or the device is not available.
        PipelineError: a run of the whole way failed; the message is the run's.
    """

    def notify(message: str) -> None:
        subscriber(Notice(message, warning=False))

    kinds = engine_precisions(measurement.engines, measurement.precisions)
    model = named_model(config.model)
    config = resolve_config(config, model)
    rounds, seconds, size = measurement.rounds, measurement.seconds, measurement.size
    # All of them before anything is measured: a patch size may be refused.
    plain = [
        plain_recipe(config, model, patch) for patch in measurement.patches or (config.tiling.patch_size,)
    ]
    device = plain[0].device
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = LoadClock()
    notify("what memory and arithmetic allow")
    roof = measure_roof(plain[0], rounds, seconds)
    network = [
        row
        for recipe in plain
        for row in _network_rows(config, model, recipe, kinds, measurement, roof["mpx_per_s"], notify)
    ]
    end_to_end, stages = (
        (None, None) if size is None else measure_end_to_end(config, model, size, rounds, notify)
    )
    return {
        "format": FORMAT,
        "made": started,
        "machine": describe_machine(device) | {"others_share": clock.others_share()},
        "settings": {
            "model": model.name,
            "weights_sha256": model.weights.sha256,
            "device": device,
            "patches": [recipe.patch_size for recipe in plain],
            "size": size,
            "rounds": rounds,
            "seconds": seconds,
        },
        "roof": roof,
        "network": network,
        "end_to_end": end_to_end,
        "stages": stages,
    }


def _network_rows(
    config: RunConfig,
    model: ussfc.ModelSpec,
    plain: DetectorSpec,
    kinds: Sequence[tuple[str, str]],
    measurement: Measurement,
    allowed: dict[str, float],
    notify: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one patch size: every engine and precision, on CUDA every batch size."""
    reference = Reference.of(model, plain)
    for engine, precision in kinds:
        for batch in CUDA_BATCHES if plain.device == "cuda" else (None,):
            calls = f", {batch} a call" if batch else ""
            notify(f"network: {engine} {precision}, patches of {plain.patch_size} px{calls}")
            row: dict[str, Any] = {"engine": engine, "precision": precision, "patch": plain.patch_size}
            try:
                recipe = ussfc.detector_spec(
                    model,
                    ussfc.DetectorOptions(
                        patch_size=plain.patch_size,
                        ssfc=config.inference.ssfc,
                        engine=engine,
                        precision=precision,
                        device=plain.device,
                        batch_size=batch,
                    ),
                )
                row |= measure_beside(reference, recipe, measurement.rounds, measurement.seconds)
            except ussfc.ModelError as error:
                yield row | {"not_here": str(error)}
                break
            # The rate of products of integers is not measured.
            share = row["mpx_per_s"]["median"] / allowed[precision] if precision in allowed else None
            yield row | {"roof_share": share}
