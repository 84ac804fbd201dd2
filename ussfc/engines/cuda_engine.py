"""The network on a CUDA device: tiles go there once and come back blended."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ussfc.engines import PRECISIONS, BoolArray, FloatArray, OutOfMemory, RadiometricMapping, SourceArray
from ussfc.engines.tiles import ends_of, signed, tile_of
from ussfc.errors import ModelError
from ussfc.folded import FoldedUSSFCNet
from ussfc.network import USSFCNet
from ussfc.preprocessing import to_network_range

DTYPES = {"float32": torch.float32, "float16": torch.float16}


class Forward(Protocol):
    """A network that predicts batches of patches of a tile on the device."""

    def __call__(self, tile_2BHW: Tensor, corners: Tensor, patch: int) -> Tensor:
        """Predict a batch.

        Args:
            tile_2BHW: both dates, float32 in [0, 1].
            corners: (N, 2) int32, row and column where each patch begins.
            patch: side of a patch, pixels.

        Returns:
            ``(N, patch, patch)`` float32; the next call may overwrite it.
        """

    def accumulate(
        self,
        probability: Tensor,
        corners: Tensor,
        places: Sequence[tuple[int, int]],
        taper: Tensor,
        origin: tuple[int, int],
        total: Tensor,
        weight: Tensor,
    ) -> None:
        """Add the first patches of a batch, in their order, to the weighted sum over a core.

        Args:
            probability: result of a call.
            corners: argument of that call.
            places: the same corners on the host, without those of the patches that only fill the batch.
            taper: (patch, patch) blend weights.
            origin: row and column of the tile where the core begins.
            total: (rows, cols) float32, the sum of weighted probabilities over the core.
            weight: (rows, cols) float32, the sum of weights.
        """


@dataclass(frozen=True)
class _Uploaded:
    tile: Tensor
    """``(2, bands, rows, cols)``."""
    there: torch.cuda.Event


class _Pending:
    """A result on its way to the host."""

    def __init__(self, probability: Tensor, begun: torch.cuda.Event, there: torch.cuda.Event) -> None:
        self._probability = probability
        self._begun = begun
        self._there = there

    @property
    def seconds(self) -> float:
        """Time that the device took, seconds; known once there is a result."""
        return float(self._begun.elapsed_time(self._there)) / 1000

    def result(self) -> FloatArray:
        """Wait for the result and return it.

        Raises:
            ModelError: float16 was too narrow for the network's features.
        """
        self._there.synchronize()
        found: FloatArray = self._probability.numpy()
        # One NaN makes the sum NaN, and no sum of probabilities overflows.
        if not np.isfinite(found.sum()):
            raise ModelError(
                "the network's features left the range of float16; set inference.precision to float32 for these weights"
            )
        return found


class CudaEngine:
    """Run a network on the CUDA device of this process, as an :class:`ussfc.engines.TileEngine`.

    Copies to and from the device run beside the arithmetic, on a stream of their own.

    Args:
        network: the network; copied.
        shape: ``(N, bands, patch, patch)`` of a batch.
        engine: ``torch``: cuDNN and PyTorch's own kernels; ``triton``: :mod:`ussfc.engines.kernels`, which are
            compiled at the first start on a machine and need a C compiler for that.
        precision: ``float32`` (not ``triton``) or ``float16``: features and weights; sums, the statistics of
            SSFC and the blending are float32.

    Raises:
        ModelError: no device, or none for this engine, precision or network.
        OutOfMemory: the device has no room for a batch.
    """

    def __init__(
        self,
        network: USSFCNet,
        shape: tuple[int, int, int, int],
        engine: str = "torch",
        precision: str = "float32",
    ) -> None:
        if engine not in ("torch", "triton") or precision not in PRECISIONS[engine]:
            raise ModelError(f"engine {engine}, precision {precision}: not available on a CUDA device")
        if not torch.cuda.is_available():
            built = torch.version.cuda or "none"
            raise ModelError(
                f"device cuda: none found here (PyTorch {torch.__version__}, built for CUDA {built}); "
                "install a CUDA build of PyTorch and check that nvidia-smi lists a device, or take device cpu"
            )
        self._patch = shape[-1]
        self._stream, self._copying = torch.cuda.Stream(), torch.cuda.Stream()
        self._turn = threading.Lock()
        self._weights: tuple[FloatArray, Tensor] | None = None
        dtype = DTYPES[precision]
        with _computing(self._stream):
            folded = FoldedUSSFCNet(network)
            self._forward: Forward = (
                _fused(folded, shape, dtype) if engine == "triton" else _Library(folded, dtype)
            )

    @property
    def streams(self) -> int:
        """Batches that may run at the same time: one fills the device."""
        return 1

    def run(self, before_NBHW: FloatArray, after_NBHW: FloatArray) -> FloatArray:
        """Compute the change probability of a batch, see :meth:`ussfc.engines.Engine.run`."""
        count, _, rows, _ = before_NBHW.shape
        # Patches one above the other make a tile.
        before, after = (np.concatenate(list(image), axis=1) for image in (before_NBHW, after_NBHW))
        uploaded = self.upload(before, after)
        with self._turn, _computing(self._stream):
            self._stream.wait_event(uploaded.there)
            begun = _now()
            corners = _on_device([(number * rows, 0) for number in range(count)])
            probability = self._forward(uploaded.tile, corners, rows)
            return self._download(probability, begun).result()

    def upload(
        self,
        before_BHW: SourceArray,
        after_BHW: SourceArray,
        mappings: tuple[RadiometricMapping, RadiometricMapping] | None = None,
        seen: BoolArray | None = None,
    ) -> _Uploaded:
        """See :meth:`ussfc.engines.TileEngine.upload`."""
        with _errors(), torch.inference_mode(), torch.cuda.stream(self._copying):
            # Source numbers: the fewest bytes for the host to touch and to send.
            images = [_sent(signed(image)) for image in (before_BHW, after_BHW)]
            unsigned = before_BHW.dtype == np.uint16, after_BHW.dtype == np.uint16
            ends = None if mappings is None else _sent(ends_of(mappings))
            tile = tile_of(images, unsigned, ends, None if seen is None else _sent(seen))
            return _Uploaded(tile, _now())

    def blend(
        self,
        uploaded: object,
        corners: Sequence[tuple[int, int]],
        core: tuple[int, int, int, int],
        weights: FloatArray,
        batch_size: int,
    ) -> _Pending:
        """See :meth:`ussfc.engines.TileEngine.blend`."""
        given = cast("_Uploaded", uploaded)
        y0, x0, y1, x1 = core
        with self._turn, _computing(self._stream):
            self._stream.wait_event(given.there)
            # The tile was made on another stream: its memory must not be reused before this stream is done with it.
            given.tile.record_stream(self._stream)
            begun = _now()
            taper = self._taper(weights)
            total = torch.zeros((y1 - y0, x1 - x0), device="cuda")
            weight = torch.zeros_like(total)
            # All batches have one shape; the patches that fill the last are not added.
            filled = [*corners, *[corners[0]] * (-len(corners) % batch_size)]
            there = _on_device(filled)
            for start in range(0, len(corners), batch_size):
                batch = there[start : start + batch_size]
                probability = self._forward(given.tile, batch, self._patch)
                places = corners[start : start + batch_size]
                self._forward.accumulate(probability, batch, places, taper, (y0, x0), total, weight)
            # 0 / 0 where no patch lies.
            mean = torch.where(weight > 0, total / weight, 0.0).clamp_(0, 1)
            return self._download(mean, begun)

    def _taper(self, weights: FloatArray) -> Tensor:
        if self._weights is None or self._weights[0] is not weights:
            self._weights = weights, torch.from_numpy(weights).cuda()
        return self._weights[1]

    def _download(self, found: Tensor, begun: torch.cuda.Event) -> _Pending:
        host = torch.empty(found.shape, dtype=torch.float32, pin_memory=True)
        host.copy_(found, non_blocking=True)
        return _Pending(host, begun, _now())


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
        return
    except torch.cuda.OutOfMemoryError as error:
        # The sentences after the third are about debugging an allocator.
        reason = ". ".join(" ".join(str(error).split()).split(". ")[:3])
    # Not in the except clause: the error's traceback holds the forward's tensors.
    torch.cuda.empty_cache()
    raise OutOfMemory(f"device cuda: {reason}")


@contextmanager
def _computing(stream: torch.cuda.Stream) -> Iterator[None]:
    """Compute on a stream. One thread at a time: cuDNN's settings belong to the process."""
    # By default cuDNN computes float32 convolutions in TF32 (10 bits) and picks algorithms as it likes.
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with _errors(), torch.inference_mode(), torch.cuda.stream(stream), flags:
        yield


def _sent(array: npt.NDArray[Any]) -> Tensor:
    """Start to copy an array to the device; the array may change afterwards."""
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    pinned = torch.empty(array.shape, dtype=dtype, pin_memory=True)
    pinned.numpy()[:] = array
    return pinned.to("cuda", non_blocking=True)


def _on_device(corners: Sequence[tuple[int, int]]) -> Tensor:
    """Copy corners to the device, (N, 2) int32."""
    pinned = torch.tensor(corners, dtype=torch.int32).pin_memory()
    return pinned.to("cuda", non_blocking=True)


def _now() -> torch.cuda.Event:
    """Record an event on the current stream."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class _Library:
    """A network computed by PyTorch's own kernels."""

    def __init__(self, network: FoldedUSSFCNet, dtype: torch.dtype) -> None:
        # The matrix units want channels last; without them (float32) the plain layout is quicker.
        self._layout = torch.channels_last if dtype == torch.float16 else torch.contiguous_format
        self._network = network.to("cuda", dtype).to(memory_format=self._layout)  # type: ignore[call-overload]
        self._dtype = dtype

    def __call__(self, tile_2BHW: Tensor, corners: Tensor, patch: int) -> Tensor:
        """See :class:`Forward`."""
        rows, cols = (
            corners[:, axis, None] + torch.arange(patch, device="cuda", dtype=torch.int32) for axis in (0, 1)
        )
        # (2, bands, N, patch, patch)
        cut = tile_2BHW[:, :, rows[:, :, None], cols[:, None, :]].transpose(1, 2)
        before, after = to_network_range(cut).to(self._dtype)
        probability: Tensor = self._network(
            before.contiguous(memory_format=self._layout), after.contiguous(memory_format=self._layout)
        )
        return probability[:, 0]

    def accumulate(
        self,
        probability: Tensor,
        corners: Tensor,
        places: Sequence[tuple[int, int]],
        taper: Tensor,
        origin: tuple[int, int],
        total: Tensor,
        weight: Tensor,
    ) -> None:
        """See :class:`Forward`."""
        patch = taper.shape[0]
        for (y, x), predicted in zip(places, probability, strict=False):
            at_y, at_x = y - origin[0], x - origin[1]
            top, left = max(at_y, 0), max(at_x, 0)
            bottom, right = min(at_y + patch, total.shape[0]), min(at_x + patch, total.shape[1])
            inside = slice(top - at_y, bottom - at_y), slice(left - at_x, right - at_x)
            target = slice(top, bottom), slice(left, right)
            total[target].addcmul_(taper[inside], predicted[inside])
            weight[target].add_(taper[inside])


def _fused(network: FoldedUSSFCNet, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Forward:
    try:
        from ussfc.engines.fused import FusedForward
    except ImportError as error:
        raise ModelError(
            f"engine triton: {error}; it comes with CUDA builds of PyTorch, or set inference.engine to torch"
        ) from error
    return FusedForward(network, shape, dtype)
