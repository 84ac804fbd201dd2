"""Detectors: a network with its weights, its engine and its batch shape, ready for patches.

The pipeline knows them through its Protocols ``Detector`` and ``DetectorSpec`` alone.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ussfc.addresses import shown_address
from ussfc.cores import cores
from ussfc.engines import (
    CPU_ENGINES,
    BoolArray,
    Engine,
    FloatArray,
    OutOfMemory,
    Pending,
    RadiometricMapping,
    SourceArray,
    TileEngine,
)
from ussfc.engines.turned_engine import TurnedEngine
from ussfc.errors import ModelError
from ussfc.files import check_digest
from ussfc.programs import is_program, read_program

if TYPE_CHECKING:
    from ussfc.network import USSFCNet

Result = TypeVar("Result")


class PatchDetector:
    """Compute the change probability of patches of one size.

    If the device has no room for a batch, half as many patches go through the network at a time from then on. That
    changes no more than the last bits of a probability, as any other shape of a batch does.

    Args:
        engine: the network, ready to run.
        bands: bands of each date.
        patch_size: side of a patch, pixels.
        batch_size: patches per call.
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
        """Patches per call; every call has exactly this many, since the batch's shape moves last bits."""
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
        """Compute the change probability.

        Args:
            before: ``(batch_size, bands, patch_size, patch_size)`` float32 in [0, 1].
            after: the same shape.

        Returns:
            ``(batch_size, patch_size, patch_size)`` float32 in [0, 1].

        Raises:
            ValueError: another shape or dtype.
            ModelError: the device has no room for a single patch.
        """
        expected = (self._batch_size, self._bands, self._patch_size, self._patch_size)
        for name, image in (("before", before), ("after", after)):
            if image.shape != expected or image.dtype != "float32":
                raise ValueError(f"{name} is {image.dtype} {image.shape}, expected float32 {expected}")
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
                # A concurrent call may have gone further down.
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
    """Cut and blend whole tiles on a device with memory of its own.

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
        """Start to copy a tile to the device, see :meth:`ussfc.engines.TileEngine.upload`.

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
        """Start to compute a tile, see :meth:`ussfc.engines.TileEngine.blend`.

        Raises:
            ModelError: the device has no room for a single patch.
        """
        return self._as_many_as_fit(
            lambda at_once: self._tiles.blend(uploaded, corners, core, weights, at_once)
        )


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """Everything that a worker needs to build its detector: small, picklable, hashable.

    :func:`ussfc.detector_spec` makes it.
    """

    weights_uri: str = field(repr=False)
    """Absolute path or URI, as the workers see it."""
    weights_sha256: str
    """Digest that the file must have there."""
    bands: int
    """Bands of each date on the model card."""
    ratio: float | None
    """Width of level 1 over 64 on the model card; None: not given there."""
    patch_size: int
    """Side of a patch, pixels."""
    ssfc_window: int | None
    """Side of the window of the SSFC means, pixels; None: the whole patch."""
    engine: str
    """``torch``, ``openvino`` or ``triton``."""
    precision: str
    """``float32``, ``bfloat16``, ``float16`` or ``int8``."""
    device: str
    """``cpu`` or ``cuda``, the same on every worker."""
    batch_size: int
    """Patches per call."""
    streams: int | None
    """Calls at the same time; None: one per core that the process may use, 1 on CUDA. Moves no probability."""
    engine_version: str
    """Version of the engine where the spec was made; every worker must have the same."""
    turns: int = 1
    """Quarter turns of a patch whose probabilities are averaged: 1, the patch as it is, or 4."""
    activations: tuple[tuple[int, float], ...] | None = field(default=None, repr=False)
    """Ranges for ``int8``, see :func:`ussfc.int8_ranges.read_ranges`; None: another precision."""

    @property
    def identity(self) -> str:
        """Text that names everything that moves a probability; the same for all ``streams`` and all paths."""
        return (
            f"weights={self.weights_sha256} engine={self.engine} precision={self.precision} "
            f"device={self.device} batch={self.batch_size} patch={self.patch_size} "
            f"ssfc={self.ssfc_window or 'patch'} version={self.engine_version}"
            # Left out of the usual one, so that its text is that of earlier versions.
            f"{f' turns={self.turns}' if self.turns > 1 else ''}"
            f"{f' ranges={self._ranges_digest}' if self.activations is not None else ''}"
        )

    @property
    def _ranges_digest(self) -> str:
        return hashlib.sha256(repr(self.activations).encode()).hexdigest()[:16]

    @property
    def speed_key(self) -> str:
        """Text that names everything that decides which engine is fastest on one machine.

        Weights, streams and turns do not.
        """
        facts = (
            self.engine, self.precision, self.engine_version, self.device, self.bands, self.ratio, self.patch_size,
            self.ssfc_window, self.batch_size,
        )  # fmt: skip
        return str(list(facts))

    def build(self, streams: int | None = None) -> PatchDetector:
        """Load the weights and return the detector.

        Args:
            streams: calls at the same time on a CPU, instead of the spec's.

        Raises:
            ModelError: the weights cannot be used or differ from the model card; or this machine lacks the device, the
                engine or its version; or the device has no room.
        """
        found = engine_version(self.engine)
        if found != self.engine_version:
            raise ModelError(
                f"engine {self.engine}: version {found} here, {self.engine_version} where the run began; every worker "
                "needs the same"
            )
        if is_program(self.weights_uri):
            return self._build_program(streams)
        if self.engine == "openvino":
            return self._of_patches(self._openvino_engine(self._streams(streams)))
        network = self._network()
        # Engines are imported where a network runs, not where a run is planned.
        if self.device == "cuda":
            from ussfc.engines.cuda_engine import CudaEngine

            try:
                engine = CudaEngine(network, self._shape, self.engine, self.precision)
            except OutOfMemory as error:
                raise ModelError(f"{error}; take a smaller inference.batch_size or another device") from error
            if self.turns > 1:
                # Patches are turned on the host, where tiles are cut and blended then.
                return self._of_patches(engine)
            return TileDetector(engine, self.bands, self.patch_size, self.batch_size)
        module = import_module(CPU_ENGINES[self.engine])
        return self._of_patches(
            module.build_engine(network, self._shape, self.precision, self._streams(streams))
        )

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return self.batch_size, self.bands, self.patch_size, self.patch_size

    def _network(self) -> USSFCNet:
        """Load the weights and compare them with the model card."""
        from ussfc.weights import load_weights

        network = load_weights(self.weights_uri, sha256=self.weights_sha256)
        where = f"weights {shown_address(self.weights_uri)}"
        if network.bands != self.bands:
            raise ModelError(
                f"{where}: for {network.bands} bands, the model card lists {self.bands}; correct it"
            )
        if self.ratio is not None and network.ratio != self.ratio:
            raise ModelError(f"{where}: ratio {network.ratio}, the model card lists {self.ratio}; correct it")
        if self.ssfc_window is not None:
            network.use_local_statistics(self.ssfc_window)
        return network

    def _openvino_engine(self, streams: int) -> Engine:
        """Return the engine with a graph from the cache, or with one that is built and kept there."""
        from ussfc.engines.graph_cache import GraphCache, code_digest
        from ussfc.engines.openvino_engine import OpenVINOEngine

        facts = (
            self.engine_version, code_digest(), self.weights_sha256, self.bands, self.ratio, self.ssfc_window,
            self._shape,
        )  # fmt: skip
        cache = GraphCache()
        graph = cache.get(str(facts))
        if graph is None:
            from ussfc.engines.openvino_graph import network_graph

            graph = network_graph(self._network(), self._shape)
            cache.put(str(facts), graph)
        else:
            # The file may have been replaced since.
            check_digest(self.weights_uri, self.weights_sha256)
        if self.activations is not None:
            from ussfc.engines.int8_graph import round_convolutions

            # Behind the cache: one graph serves every precision, and rounding takes a moment.
            round_convolutions(graph, self.activations)
        return OpenVINOEngine(graph, self.precision, streams)

    def _streams(self, streams: int | None) -> int:
        if streams is not None:
            return streams
        return cores() if self.streams is None else self.streams

    def _build_program(self, streams: int | None) -> PatchDetector:
        from ussfc.engines.openvino_engine import program_engine

        program = read_program(self.weights_uri, sha256=self.weights_sha256)
        if program.bands != self.bands:
            raise ModelError(
                f"model {shown_address(self.weights_uri)}: for {program.bands} bands, the model card lists "
                f"{self.bands}; correct it"
            )
        shape = (self.batch_size, self.bands, self.patch_size, self.patch_size)
        try:
            engine = program_engine(program.data, shape, self.precision, self._streams(streams))
        except ModelError as error:
            raise ModelError(f"model {shown_address(self.weights_uri)}: {error}") from error
        return self._of_patches(engine)

    def _of_patches(self, engine: Engine) -> PatchDetector:
        turned = engine if self.turns == 1 else TurnedEngine(engine, self.turns)
        return PatchDetector(turned, self.bands, self.patch_size, self.batch_size)


def engine_version(engine: str) -> str:
    """Return the version of the library that an engine computes with.

    Raises:
        ModelError: the library is not installed.
    """
    versions = []
    for name in ("triton", "torch") if engine == "triton" else (engine,):
        try:
            versions.append(version(name))
        except PackageNotFoundError as error:
            raise ModelError(
                f"engine {engine}: not installed here; choose another inference.engine"
            ) from error
    return "+".join(versions)
