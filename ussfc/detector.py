"""Detectors: a network with its weights, its engine and its batch shape, ready for patches.

The pipeline knows these only by their form (its Protocols ``Detector`` and ``DetectorSpec``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import numpy as np

from ussfc.cores import cores
from ussfc.engines import DEVICES as ENGINE_DEVICES
from ussfc.engines import (
    PRECISIONS,
    BoolArray,
    Engine,
    FloatArray,
    OutOfMemory,
    Pending,
    RadiometricMapping,
    SourceArray,
    TileEngine,
)
from ussfc.errors import ModelError
from ussfc.files import shown
from ussfc.spec import ModelSpec

DEVICES = ("auto", "cpu", "cuda")

SSFC = ("patch", "local")

STRIDE = 16
"""Patches are multiples of this: four poolings."""

BATCH_SIZE = {"cpu": 1, "cuda": 16}
"""A CPU gains nothing from a batch and loses cache; a CUDA device is idle without one."""

Result = TypeVar("Result")


class PatchDetector:
    """Change probability of patches of one size.

    Where the device has no room for a batch, half as many patches go through the network at a time from then
    on. That moves no more than the last bits of a probability: those that the batch's shape moves.

    Args:
        engine: the network, ready to run.
        bands: bands of each date.
        patch_size: side of a patch, pixels.
        batch_size: patches of one call.
    """

    def __init__(self, engine: Engine, bands: int, patch_size: int, batch_size: int) -> None:
        self._engine = engine
        self._bands = bands
        self._patch_size = patch_size
        self._batch_size = batch_size
        self._patches_at_once = batch_size
        self._halving = threading.Lock()

    @property
    def bands(self) -> int:
        """Bands of each date."""
        return self._bands

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""
        return self._patch_size

    @property
    def batch_size(self) -> int:
        """Patches of one call; every call has exactly this many, since the batch's shape moves last bits."""
        return self._batch_size

    @property
    def patches_at_once(self) -> int:
        """Patches that go through the network together; below ``batch_size`` once the device ran out of memory."""
        return self._patches_at_once

    @property
    def streams(self) -> int:
        """Calls that may run at the same time."""
        return self._engine.streams

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Change probability.

        Args:
            before: ``(batch_size, bands, patch_size, patch_size)`` float32 in [0, 1].
            after: the same shape.

        Returns:
            ``(batch_size, patch_size, patch_size)`` float32 in [0, 1].

        Raises:
            ValueError: another shape or dtype.
            ModelError: the device has no room for a single patch.
        """
        wanted = (self._batch_size, self._bands, self._patch_size, self._patch_size)
        for name, image in (("before", before), ("after", after)):
            if image.shape != wanted or image.dtype != "float32":
                raise ValueError(f"{name} is {image.dtype} {image.shape}, wanted float32 {wanted}")
        return self._as_many_as_fit(lambda at_once: self._in_parts((before, after), at_once))

    def _as_many_as_fit(self, compute: Callable[[int], Result]) -> Result:
        while True:
            at_once = self._patches_at_once
            try:
                return compute(at_once)
            except OutOfMemory as error:
                if at_once == 1:
                    raise ModelError(
                        f"{error}; not even batch size 1 fits, a patch of {self._patch_size} px: take a smaller "
                        "tiling.patch_size or another device"
                    ) from error
            with self._halving:
                # Another call, side by side with this one, may have gone further down.
                self._patches_at_once = min(self._patches_at_once, (at_once + 1) // 2)

    def _in_parts(self, pair: tuple[FloatArray, FloatArray], at_once: int) -> FloatArray:
        if at_once == self._batch_size:
            return self._engine.run(*pair)
        predicted = []
        for start in range(0, self._batch_size, at_once):
            part = [image[start : start + at_once] for image in pair]
            missing = at_once - len(part[0])
            # One shape for every part, for the reason that every batch has one.
            padded = [np.pad(image, ((0, missing), (0, 0), (0, 0), (0, 0))) for image in part]
            predicted.append(self._engine.run(*padded)[: len(part[0])])
        return np.concatenate(predicted)


class TileDetector(PatchDetector):
    """A detector on a device with memory of its own, which cuts and blends whole tiles there.

    Args:
        engine: the network, ready to run.
        bands: bands of each date.
        patch_size: side of a patch, pixels.
        batch_size: patches that go through the network together.
    """

    def __init__(self, engine: TileEngine, bands: int, patch_size: int, batch_size: int) -> None:
        super().__init__(engine, bands, patch_size, batch_size)
        self._tiles = engine

    def upload(
        self,
        before: SourceArray,
        after: SourceArray,
        mappings: tuple[RadiometricMapping, RadiometricMapping] | None = None,
        seen: BoolArray | None = None,
    ) -> object:
        """Begin to copy a tile to the device, see :meth:`ussfc.engines.TileEngine.upload`.

        Raises:
            ModelError: the device has no room for it.
        """
        try:
            return self._tiles.upload(before, after, mappings, seen)
        except OutOfMemory as error:
            raise ModelError(f"{error}; take a smaller tiling.tile_size or fewer cluster.threads") from error

    def blend(
        self,
        uploaded: object,
        corners: Sequence[tuple[int, int]],
        core: tuple[int, int, int, int],
        weights: FloatArray,
    ) -> Pending:
        """Begin to compute a tile, see :meth:`ussfc.engines.TileEngine.blend`.

        Raises:
            ModelError: the device has no room for a single patch.
        """
        return self._as_many_as_fit(
            lambda at_once: self._tiles.blend(uploaded, corners, core, weights, at_once)
        )


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """How a worker makes its detector: small, picklable, hashable. See :func:`detector_spec`."""

    weights_uri: str
    """Absolute path or URI, as the workers see it."""
    weights_sha256: str
    """Digest that the file must have there."""
    bands: int
    """Bands of each date, as the model card says."""
    ratio: float | None
    """Width of level 1 over 64 as the model card says; None: not said."""
    patch_size: int
    """Side of a patch, pixels."""
    ssfc_window: int | None
    """Side of the window of the SSFC means, pixels; None: the whole patch."""
    engine: str
    """``torch``, ``openvino`` or ``triton``."""
    precision: str
    """``float32``, ``bfloat16`` or ``float16``."""
    device: str
    """``cpu`` or ``cuda``, the same on every worker."""
    batch_size: int
    """Patches of one call."""
    streams: int | None
    """Calls at the same time; None: one a core that the process may use, 1 on CUDA. Moves no probability."""
    engine_version: str
    """Version of the engine where the recipe was made; every worker must have the same."""

    @property
    def identity(self) -> str:
        """Names everything that moves a probability; equal for all values of ``streams`` and all paths."""
        return (
            f"weights={self.weights_sha256} engine={self.engine} precision={self.precision} "
            f"device={self.device} batch={self.batch_size} patch={self.patch_size} "
            f"ssfc={self.ssfc_window or 'patch'} version={self.engine_version}"
        )

    def build(self) -> PatchDetector:
        """Load the weights and return the detector.

        Raises:
            ModelError: the weights cannot be used or are not what the model card says, or this machine has
                no such device or engine, or not in the version that the recipe was made with, or no room on the
                device.
        """
        # Engines are imported where a network runs, not where a run is planned.
        from ussfc.weights import load_weights

        found = engine_version(self.engine)
        if found != self.engine_version:
            raise ModelError(
                f"engine {self.engine}: version {found} here, {self.engine_version} where the run began; every worker "
                "needs the same"
            )
        network = load_weights(self.weights_uri, sha256=self.weights_sha256)
        where = f"weights {shown(self.weights_uri)}"
        if network.bands != self.bands:
            raise ModelError(
                f"{where}: for {network.bands} bands, the model card lists {self.bands}; correct it"
            )
        if self.ratio is not None and network.ratio != self.ratio:
            raise ModelError(f"{where}: ratio {network.ratio}, the model card says {self.ratio}; correct it")
        if self.ssfc_window is not None:
            network.use_local_statistics(self.ssfc_window)
        shape = (self.batch_size, self.bands, self.patch_size, self.patch_size)
        of_detector = self.bands, self.patch_size, self.batch_size
        if self.device == "cuda":
            from ussfc.engines.cuda_engine import CudaEngine

            try:
                engine = CudaEngine(network, shape, self.engine, self.precision)
            except OutOfMemory as error:
                raise ModelError(f"{error}; take a smaller inference.batch_size or another device") from error
            return TileDetector(engine, *of_detector)
        streams = self.streams if self.streams is not None else cores()
        if self.engine == "openvino":
            from ussfc.engines.openvino_engine import OpenVINOEngine

            return PatchDetector(OpenVINOEngine(network, shape, self.precision, streams), *of_detector)
        from ussfc.engines.torch_engine import TorchEngine
        from ussfc.folded import FoldedUSSFCNet

        return PatchDetector(TorchEngine(FoldedUSSFCNet(network), streams), *of_detector)


def engine_version(engine: str) -> str:
    """The version of what an engine computes with.

    Raises:
        ModelError: it is not installed.
    """
    versions = []
    for name in ("triton", "torch") if engine == "triton" else (engine,):
        try:
            versions.append(version(name))
        except PackageNotFoundError as error:
            raise ModelError(f"engine {engine}: not installed here; choose another --engine") from error
    return "+".join(versions)


def detector_spec(
    spec: ModelSpec,
    *,
    patch_size: int | None = None,
    ssfc: str | None = None,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    batch_size: int | None = None,
    streams: int | None = None,
    choose: Callable[[Sequence[DetectorSpec]], DetectorSpec] | None = None,
) -> DetectorSpec:
    """The recipe of a model's detector, every choice that moves a probability made here and now.

    Args:
        spec: the model card.
        patch_size: side of a patch, pixels, a multiple of 16; None: what the card recommends.
        ssfc: ``patch`` or ``local``; None: what the card recommends.
        engine: ``torch``, ``openvino``, ``triton``, or ``auto``: the fastest of this machine, see
            :func:`ussfc.engine_selection.fastest`.
        precision: ``float32``, ``bfloat16``, ``float16``, or ``auto``: the fastest likewise.
        device: ``cpu``, ``cuda``, or ``auto``: CUDA where this machine has it. Whether a named device exists
            shows where the recipe is built, which may be another machine.
        batch_size: patches of one call; None: 1 on the CPU, 16 on CUDA.
        streams: calls at the same time; None: one a core that the building process may use, 1 on CUDA.
        choose: what ``auto`` comes to where engine or precision are left open, of two recipes or more; None: what this
            machine computes fastest. For a network that runs on other machines see
            :func:`ussfc.anywhere`.

    Raises:
        ModelError: an engine, precision, device, patch or batch size or number of streams that there is not.
    """
    patch_size = patch_size or spec.tiling.patch_size or spec.patch_size
    ssfc = ssfc or spec.tiling.ssfc
    if patch_size < STRIDE or patch_size % STRIDE:
        raise ModelError(f"patch_size {patch_size}: wanted a positive multiple of {STRIDE}")
    every_precision = tuple(dict.fromkeys(name for names in PRECISIONS.values() for name in names))
    for what, value, known in (
        ("engine", engine, ("auto", *PRECISIONS)),
        ("precision", precision, ("auto", *(PRECISIONS.get(engine, every_precision)))),
        ("device", device, DEVICES),
        ("ssfc", ssfc, SSFC),
    ):
        if value not in known:
            raise ModelError(f"{what} {value!r}: not known; known: {', '.join(known)}")
    kind = _kind_here() if device == "auto" else device
    if batch_size is not None and batch_size < 1:
        raise ModelError(f"batch_size {batch_size}: wanted at least 1")
    if streams is not None and (streams < 1 or (kind == "cuda" and streams > 1)):
        raise ModelError(f"streams {streams}: wanted {'1 on cuda' if kind == 'cuda' else 'at least 1'}")
    candidates = [
        (name, numbers)
        for (name, numbers), kinds in ENGINE_DEVICES.items()
        if kind in kinds and engine in ("auto", name) and precision in ("auto", numbers)
    ]
    if not candidates:
        raise ModelError(f"engine {engine}, precision {precision}: there is no such thing on device {kind}")

    def recipe(engine: str, precision: str) -> DetectorSpec:
        return DetectorSpec(
            weights_uri=spec.weights_path(),
            weights_sha256=spec.weights.sha256,
            bands=len(spec.bands),
            ratio=spec.network.ratio,
            patch_size=patch_size,
            ssfc_window=spec.patch_size if ssfc == "local" else None,
            engine=engine,
            precision=precision,
            device=kind,
            batch_size=BATCH_SIZE[kind] if batch_size is None else batch_size,
            streams=streams,
            engine_version=engine_version(engine),
        )

    made, missing = [], None
    for candidate in candidates:
        try:
            made.append(recipe(*candidate))
        except ModelError as error:
            missing = error
    if missing is not None and not made:
        raise missing
    if len(made) == 1:
        return made[0]
    if choose is not None:
        return choose(made)
    from ussfc.engine_selection import fastest

    return fastest(made)


def detector_choices(identity: str) -> dict[str, str]:
    """What :attr:`DetectorSpec.identity` says of engine, precision and device, by these names; {} of none."""
    facts = dict(part.split("=", 1) for part in identity.split() if "=" in part)
    return {name: facts[name] for name in ("engine", "precision", "device") if name in facts}


def gpus() -> int:
    """CUDA devices that this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _kind_here() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
