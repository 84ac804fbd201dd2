"""Options of a detector, and the detector spec that they make of a model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ussfc import engine_selection
from ussfc.cores import has_cuda_driver
from ussfc.detector import DetectorSpec, engine_version
from ussfc.engines import DEVICES as ENGINE_DEVICES
from ussfc.engines import ONLY_BY_NAME, PRECISIONS
from ussfc.errors import ModelError
from ussfc.int8_ranges import read_ranges
from ussfc.programs import is_program
from ussfc.spec import ModelSpec

DEVICES = ("auto", "cpu", "cuda")

SSFC = ("patch", "local")

QUALITIES = {"fast": 1, "best": 4}
"""Quarter turns of a patch by quality: mirrored as well, for twice the work, it gains no more (docs/training.md)."""

STRIDE = 16
"""Divisor of every patch size, pixels: four poolings."""

BATCH_SIZE = {"cpu": 1, "cuda": 16}
"""Patches per call by device: a CPU gains nothing from a batch and loses cache; a CUDA device is idle without one."""


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """Choices that a user may make for a detector; each has a default."""

    patch_size: int | None = None
    """Side of a patch, pixels, a multiple of 16; None: the model card's recommendation."""
    ssfc: str | None = None
    """``patch`` or ``local``; None: the model card's recommendation."""
    engine: str = "auto"
    """``torch``, ``openvino``, ``triton``, or ``auto``: the fastest of this machine."""
    precision: str = "auto"
    """``float32``, ``bfloat16``, ``float16``, ``int8``, or ``auto``: the fastest of the first three likewise."""
    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto``: CUDA where this machine has it. A missing device is found where the spec is
    built, which may be another machine."""
    batch_size: int | None = None
    """Patches per call; None: 1 on the CPU, 16 on CUDA."""
    streams: int | None = None
    """Calls at the same time; None: one per core that the building process may use, 1 on CUDA."""
    quality: str = "fast"
    """``fast``, or ``best``: the mean over the four turns of a patch, for four times the arithmetic."""


AUTO = DetectorOptions()
"""Options that leave every choice to the model card and the machine."""


def detector_spec(
    model: ModelSpec,
    options: DetectorOptions = AUTO,
    *,
    choose: Callable[[Sequence[DetectorSpec]], DetectorSpec] | None = None,
) -> DetectorSpec:
    """Make the spec of a model's detector, with every choice that moves a probability made here and now.

    Args:
        model: the model card.
        options: choices that the card and the machine do not make.
        choose: picks one of two or more specs where engine or precision are left open; None: the one that this
            machine computes fastest, see :func:`ussfc.fastest`. For a network that runs on other machines see
            :func:`ussfc.anywhere`.

    Raises:
        ModelError: an unknown engine, precision, device, SSFC or quality, a combination that is not available, ``int8``
            for a model without ranges for it, or a patch size, batch size or number of streams out of range.
    """
    _check_names(options)
    if is_program(model.weights_path()):
        options = _for_programs(options, model)
    device = _device_here() if options.device == "auto" else options.device
    patch_size = options.patch_size or model.tiling.patch_size or model.patch_size
    _check_numbers(options, patch_size, device)

    def spec(engine: str, precision: str) -> DetectorSpec:
        return DetectorSpec(
            weights_uri=model.weights_path(),
            weights_sha256=model.weights.sha256,
            bands=len(model.bands),
            ratio=model.network.ratio,
            patch_size=patch_size,
            ssfc_window=model.patch_size if (options.ssfc or model.tiling.ssfc) == "local" else None,
            engine=engine,
            precision=precision,
            device=device,
            batch_size=BATCH_SIZE[device] if options.batch_size is None else options.batch_size,
            streams=options.streams,
            engine_version=engine_version(engine),
            turns=QUALITIES[options.quality],
            activations=read_ranges(model) if precision == "int8" else None,
        )

    installed, missing = [], None
    for engine, precision in _combinations(options, device):
        try:
            installed.append(spec(engine, precision))
        except ModelError as error:
            missing = error
    if missing is not None and not installed:
        raise missing
    if len(installed) == 1:
        return installed[0]
    return (choose or engine_selection.fastest)(installed)


def _for_programs(options: DetectorOptions, model: ModelSpec) -> DetectorOptions:
    """Return the options with OpenVINO, which alone runs programs."""
    for option, value, known in (
        ("engine", options.engine, "openvino"),
        ("device", options.device, "cpu"),
        ("ssfc", options.ssfc or "patch", "patch"),
    ):
        if value not in ("auto", known):
            raise ModelError(
                f"{option} {value!r}: model {model.name} is an ONNX program, which has {known} alone; leave it out"
            )
    return replace(options, engine="openvino", device="cpu")


def _check_names(options: DetectorOptions) -> None:
    every_precision = tuple(dict.fromkeys(name for names in PRECISIONS.values() for name in names))
    for option, value, known in (
        ("engine", options.engine, ("auto", *PRECISIONS)),
        ("precision", options.precision, ("auto", *(PRECISIONS.get(options.engine, every_precision)))),
        ("device", options.device, DEVICES),
        ("ssfc", options.ssfc, (None, *SSFC)),
        ("quality", options.quality, tuple(QUALITIES)),
    ):
        if value not in known:
            names = ", ".join(name for name in known if name)
            raise ModelError(f"{option} {value!r}: not known; known: {names}")


def _check_numbers(options: DetectorOptions, patch_size: int, device: str) -> None:
    if patch_size < STRIDE or patch_size % STRIDE:
        raise ModelError(f"patch_size {patch_size}: expected a positive multiple of {STRIDE}")
    if options.batch_size is not None and options.batch_size < 1:
        raise ModelError(f"batch_size {options.batch_size}: expected at least 1")
    streams = options.streams
    if streams is not None and (streams < 1 or (device == "cuda" and streams > 1)):
        raise ModelError(f"streams {streams}: expected {'1 on cuda' if device == 'cuda' else 'at least 1'}")


def _combinations(options: DetectorOptions, device: str) -> list[engine_selection.Choice]:
    """Return engines and precisions that the options leave open and the device has."""
    asked = {
        (engine, precision): devices
        for (engine, precision), devices in ENGINE_DEVICES.items()
        if options.engine in ("auto", engine) and _admits(options.precision, precision)
    }
    found = [choice for choice, devices in asked.items() if device in devices]
    if not found:
        others = sorted({other for devices in asked.values() for other in devices})
        there = f"it computes on {' and '.join(others)} alone; " if others else ""
        raise ModelError(
            f"engine {options.engine}, precision {options.precision}: not available on device {device}; {there}"
            "leave inference.engine and inference.precision to auto, or choose another device"
        )
    return found


def _admits(asked: str, precision: str) -> bool:
    return asked == precision or (asked == "auto" and precision not in ONLY_BY_NAME)


def detector_choices(identity: str) -> dict[str, str]:
    """Return engine, precision and device by these names, as far as :attr:`DetectorSpec.identity` has them."""
    facts = dict(part.split("=", 1) for part in identity.split() if "=" in part)
    return {name: facts[name] for name in ("engine", "precision", "device") if name in facts}


def gpus() -> int:
    """Return the number of CUDA devices that this process may use."""
    if not has_cuda_driver():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _device_here() -> str:
    if not has_cuda_driver():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
