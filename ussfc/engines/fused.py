"""The network as a chain of Triton kernels, recorded once as a CUDA graph and replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ussfc.engines import kernels
from ussfc.errors import ModelError
from ussfc.folded import FoldedConv, FoldedCooperation, FoldedDoubleConv, FoldedUpNative, FoldedUSSFCNet
from ussfc.layers import SSFC_EPS

BLOCK_CHANNELS = 16
"""Channels that the kernels process together: the least that matrix units multiply."""

# The sizes of the kernels' programs were chosen on an H100 (docs/performance.md). They decide the order of sums, hence
# the last bits: they may not depend on the device.

CYCLIC_TILE = (8, 16)
"""Rows and columns of a program of :func:`ussfc.engines.kernels.cyclic`; four warps."""

FIRST_TILE = (8, 16)
"""Rows and columns of the pooled map of a program of :func:`ussfc.engines.kernels.first_level`."""

ACCUMULATED_SIDE = 32
"""Rows and columns of a program of :func:`ussfc.engines.kernels.accumulate`."""

STATISTICS_BLOCK = 64
"""Partial sums that are added side by side."""


@dataclass(frozen=True)
class _Cooperation:
    """Weights of an MSDConv behind its ``native``, for one encoder or both."""

    cyclic: Tensor
    """(sets, half / 16, 25 x 16, 16)."""
    bias: Tensor
    """(sets, half) float32."""
    affine: Tensor
    """(sets, 2, 2 half) float32."""


@dataclass(frozen=True)
class _Native:
    """A 1x1 convolution: (sets, in, out) and (sets, out) float32."""

    weight: Tensor
    bias: Tensor


@dataclass
class _Halves:
    """An MSDConv's output on the device."""

    native: Tensor
    aux: Tensor
    partial: Tensor
    statistics: Tensor
    affine: Tensor | None = None


def cyclic_weights(cooperation: FoldedCooperation) -> Tensor:
    """Arrange the three convolutions of a CMConv for :func:`ussfc.engines.kernels.cyclic`.

    Returns:
        (C / 16, 25 x 16, 16).
    """
    channels = cooperation.bias.shape[0]
    out = torch.arange(channels)
    # (3, 3, in, out) of each dilation.
    near, middle, far = torch.zeros(3, 3, 3, channels, channels)
    for row in range(4):
        near[:, :, out // 4 * 4 + row, out] = cooperation.conv[:, row].permute(1, 2, 0)
    middle[:, :, out, out] = cooperation.prim[:, 0].permute(1, 2, 0)
    # prim_shift sees its channels permuted [2, 3, 0, 1] in every group of four.
    far[:, :, out ^ 2, out] = cooperation.prim_shift[:, 0].permute(1, 2, 0)
    around = [dilation.flatten(0, 1)[torch.arange(9) != 4] for dilation in (near, middle, far)]
    taps = torch.cat((near[1, 1, None] + middle[1, 1] + far[1, 1], *around))
    size = BLOCK_CHANNELS
    # The groups of four lie in the blocks on the diagonal: (tap, in, out, block) to (block, tap, in, out).
    blocks = (
        taps.unflatten(1, (-1, size)).unflatten(3, (-1, size)).diagonal(dim1=1, dim2=3).permute(3, 0, 1, 2)
    )
    fours = blocks[:, 1:].unflatten(1, (6, 4)).transpose(2, 3)
    return torch.cat((blocks[:, 0], fours.reshape(-1, 24 * size, size)), 1)


class FusedNetwork:
    """The kernels of one network for patches of one shape, with the buffers between them.

    Args:
        network: the folded network; its SSFC means are of the whole patch.
        patches: patches of a batch.
        height: rows of a patch, a multiple of 16.
        width: columns of a patch, a multiple of 16.
        dtype: float16 or bfloat16, of features and weights.
        device: a CUDA device.
    """

    def __init__(
        self,
        network: FoldedUSSFCNet,
        patches: int,
        height: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.patches, self.height, self.width = patches, height, width
        self.dtype, self.device = dtype, device
        self.bands = network.bands
        encoders = [list(cast("nn.ModuleList", encoder)) for encoder in network.encoders]
        stems = [cast("nn.Sequential", encoder[0]) for encoder in encoders]
        self._stem = self._stem_weights([cast("FoldedConv", stem[0]) for stem in stems])
        second = [cast("FoldedConv", stem[1]) for stem in stems]
        self.wide = second[0].weight.shape[0]
        self._second = _Native(
            self._weight(torch.stack([conv.weight.permute(2, 3, 1, 0).flatten(0, 1) for conv in second])),
            self._exact(torch.stack([conv.bias for conv in second])),
        )
        self._levels = [
            self._double([cast("FoldedDoubleConv", encoder[level]) for encoder in encoders])
            for level in range(1, len(encoders[0]))
        ]
        self._decoders = [self._double([cast("FoldedDoubleConv", decoder)]) for decoder in network.decoders]
        self._ups = [self._up(cast("FoldedUpNative", decoder.first)) for decoder in network.decoders]
        self._head = (
            self._exact(network.head.weight.flatten()),
            self._exact(cast("Tensor", network.head.bias)),
        )
        self._allocate()

    def _weight(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous().to(self.device, self.dtype)

    def _exact(self, tensor: Tensor) -> Tensor:
        return tensor.detach().contiguous().to(self.device, torch.float32)

    def _stem_weights(self, stems: list[FoldedConv]) -> _Native:
        wide, taps = stems[0].weight.shape[0], 9 * self.bands
        weight = torch.zeros(2, max(16, 1 << (taps - 1).bit_length()), wide)
        for encoder, stem in enumerate(stems):
            weight[encoder, :taps] = stem.weight.flatten(1).T
        return _Native(self._weight(weight), self._exact(torch.stack([stem.bias for stem in stems])))

    def _native(self, convs: list[FoldedConv]) -> _Native:
        return _Native(
            self._weight(torch.stack([conv.weight[:, :, 0, 0].T for conv in convs])),
            self._exact(torch.stack([conv.bias for conv in convs])),
        )

    def _cooperation(self, parts: list[FoldedCooperation]) -> _Cooperation:
        return _Cooperation(
            self._weight(torch.stack([cyclic_weights(part) for part in parts])),
            self._exact(torch.stack([part.bias for part in parts])),
            self._exact(
                torch.stack([torch.stack((part.scale.flatten(), part.shift.flatten())) for part in parts])
            ),
        )

    def _double(
        self, parts: list[FoldedDoubleConv]
    ) -> tuple[_Native | None, _Cooperation, _Native, _Cooperation]:
        first = [part.first for part in parts]
        plain = [conv for conv in first if isinstance(conv, FoldedConv)]
        return (
            self._native(plain) if plain else None,
            self._cooperation([part.one for part in parts]),
            self._native([part.native for part in parts]),
            self._cooperation([part.two for part in parts]),
        )

    def _up(self, up: FoldedUpNative) -> tuple[Tensor, Tensor, Tensor]:
        return (
            self._weight(up.skip[:, :, 0, 0].T),
            self._weight(up.weight.permute(2, 3, 0, 1).flatten(0, 1)),
            self._exact(up.bias),
        )

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def _numbers(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def _allocate(self) -> None:
        both, n, h, w = 2 * self.patches, self.patches, self.height, self.width
        self.features = self._empty(both, h, w, self.wide)
        self.probability = self._numbers(n, h, w)
        self._skips = [self._empty(n, h >> level, w >> level, self.wide << level) for level in range(5)]
        self._pooled = [
            self._empty(both, h >> level, w >> level, self.wide << (level - 1)) for level in range(1, 5)
        ]
        self._encoder_halves = [
            [self._halves(both, level, (self.wide << level) // 2) for _ in range(2)] for level in range(1, 5)
        ]
        self._decoder_halves = [
            [self._halves(n, level, (self.wide << level) // 2) for _ in range(2)]
            for level in range(3, -1, -1)
        ]

    def _halves(self, images: int, level: int, half: int) -> _Halves:
        h, w = self.height >> level, self.width >> level
        parts = _programs((h, w), CYCLIC_TILE)
        return _Halves(
            self._empty(images, h, w, half),
            self._empty(images, h, w, half),
            self._numbers(images, parts, half, 2),
            self._numbers(images, half, 2),
        )

    def stem(self, tile_2BHW: Tensor, corners: Tensor) -> None:
        """Run the first convolution of a batch.

        Args:
            tile_2BHW: both dates of a tile, float32 in [0, 1], contiguous.
            corners: (patches, 2) int32, row and column of the tile where each patch begins.
        """
        date_stride, band_stride, row_stride, _ = tile_2BHW.stride()
        both, height, width, wide = self.features.shape
        block = 128
        kernels.stem[(-(-height * width // block), both)](
            tile_2BHW, corners, self._stem.weight, self._stem.bias, self.features, self.patches, height, width,
            date_stride, band_stride, row_stride,
            BANDS=self.bands, TAPS=self._stem.weight.shape[1], OUT=wide, BLOCK=block, num_warps=4,
        )  # fmt: skip

    def rest(self) -> Tensor:
        """Run everything after :meth:`stem`; return (patches, height, width) float32, overwritten by the next batch."""
        self._first_level(self._skips[0], self._pooled[0])
        for level, (first, one, native, two) in enumerate(self._levels):
            halves, again = self._encoder_halves[level]
            assert first is not None
            self._native_plain(self._pooled[level], first, halves.native)
            self._cooperate(halves, one)
            self._native_activated(halves, native, again.native)
            self._cooperate(again, two)
            deeper = self._pooled[level + 1] if level + 1 < len(self._pooled) else None
            self._encoder_output(again, self._skips[level + 1], deeper)
        low: _Halves | None = None
        for at, ((_, one, native, two), up) in enumerate(zip(self._decoders, self._ups, strict=True)):
            halves, again = self._decoder_halves[at]
            self._native_upsampled(self._skips[3 - at], low, up, halves.native)
            self._cooperate(halves, one)
            self._native_activated(halves, native, again.native)
            self._cooperate(again, two)
            low = again
        assert low is not None
        self._finish(low)
        return self.probability

    def _first_level(self, skip: Tensor, pooled: Tensor) -> None:
        patches, height, width, wide = skip.shape
        rows, cols = FIRST_TILE
        kernels.first_level[(_programs((height // 2, width // 2), FIRST_TILE), patches)](
            self.features, self._second.weight, self._second.bias, skip, pooled, patches, height, width,
            C=wide, ROWS=rows, COLS=cols, num_warps=8, num_stages=1,
        )  # fmt: skip

    def _native_plain(self, features: Tensor, conv: _Native, out: Tensor) -> None:
        images, height, width, half = out.shape
        channels = features.shape[-1]
        block, block_out = 128, min(half, 128)
        kernels.native_plain[(-(-height * width // block), half // block_out, images)](
            features, conv.weight, conv.bias, out, self.patches, height * width,
            IN=channels, OUT=half, BLOCK=block, BLOCK_IN=min(channels, 64), BLOCK_OUT=block_out, num_warps=4,
        )  # fmt: skip

    def _native_activated(self, halves: _Halves, conv: _Native, out: Tensor) -> None:
        images, height, width, half = out.shape
        block, block_out = (128 if half <= 64 else 64), min(half, 256)
        kernels.native_activated[(-(-height * width // block), half // block_out, images)](
            halves.native, halves.aux, halves.statistics, halves.affine, conv.weight, conv.bias, out, self.patches,
            height * width, HALF=half, OUT=half, BLOCK=block, BLOCK_IN=min(half, 32), BLOCK_OUT=block_out,
            num_warps=8 if half >= 128 else 4,
        )  # fmt: skip

    def _native_upsampled(
        self, skip: Tensor, low: _Halves | None, up: tuple[Tensor, Tensor, Tensor], out: Tensor
    ) -> None:
        patches, height, width, half = out.shape
        block, block_out = 128, min(half, 128)
        # The deepest level is a ready map; it also stands for the arguments that the kernel does not read then.
        deepest = self._skips[-1]
        parts = (low.native, low.aux, low.statistics, low.affine) if low else (deepest,) * 4
        deep = deepest.shape[-1] // 2 if low is None else low.native.shape[-1]
        weight_skip, weight_up, bias = up
        # One stage: pipelined loops of a single round came out wrong (Triton 3.6).
        kernels.native_upsampled[(-(-height * width // 4 // block), 4 * (half // block_out), patches)](
            skip, *parts, weight_skip, weight_up, bias, out, height, width,
            SKIP=skip.shape[-1], HALF=deep, PLAIN=low is None, OUT=half, BLOCK=block, BLOCK_IN=min(deep, 32),
            BLOCK_SKIP=min(skip.shape[-1], 32), BLOCK_OUT=block_out, num_warps=4, num_stages=1,
        )  # fmt: skip

    def _cooperate(self, halves: _Halves, weights: _Cooperation) -> None:
        images, height, width, half = halves.native.shape
        rows, cols = CYCLIC_TILE
        parts = _programs((height, width), CYCLIC_TILE)
        blocks = half // BLOCK_CHANNELS
        halves.affine = weights.affine
        kernels.cyclic[(parts, blocks, images)](
            halves.native, weights.cyclic, weights.bias, halves.aux, halves.partial, self.patches,
            height, width, HALF=half, C=BLOCK_CHANNELS, ROWS=rows, COLS=cols, num_warps=4,
        )  # fmt: skip
        kernels.finish_statistics[(images, blocks)](
            halves.partial, halves.statistics, parts, height * width, SSFC_EPS,
            HALF=half, C=BLOCK_CHANNELS, BLOCK=STATISTICS_BLOCK, num_warps=4,
        )  # fmt: skip

    def _encoder_output(self, halves: _Halves, skip: Tensor, pooled: Tensor | None) -> None:
        patches, height, width, _ = skip.shape
        half = halves.native.shape[-1]
        block, channels = 32, min(half, 64)
        kernels.encoder_output[(-(-height * width // 4 // block), 2 * half // channels, patches)](
            halves.native, halves.aux, halves.statistics, halves.affine, skip, skip if pooled is None else pooled,
            patches, height, width, HALF=half, POOL=pooled is not None, C=channels, BLOCK=block,
            num_warps=4, num_stages=1,
        )  # fmt: skip

    def _finish(self, halves: _Halves) -> None:
        patches, height, width = self.probability.shape
        block = 128
        kernels.head[(-(-height * width // block), patches)](
            halves.native, halves.aux, halves.statistics, halves.affine, *self._head, self.probability,
            height * width, HALF=halves.native.shape[-1], BLOCK=block, num_warps=4,
        )  # fmt: skip


def _programs(shape: tuple[int, int], tile: tuple[int, int]) -> int:
    """Return the number of programs that cover a map by tiles."""
    return -(-shape[0] // tile[0]) * -(-shape[1] // tile[1])


class FusedForward:
    """Run a :class:`FusedNetwork` on patches anywhere in a tile, as a :class:`ussfc.engines.cuda_engine.Forward`.

    Args:
        network: the folded network.
        shape: ``(N, bands, H, W)`` of a batch; other shapes are prepared at their first batch.
        dtype: float16.

    Raises:
        ModelError: the kernels are not made for this network, or the machine cannot compile or run them.
    """

    def __init__(self, network: FoldedUSSFCNet, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        last = cast("FoldedDoubleConv", network.decoders[-1])
        narrowest = last.one.bias.shape[0]
        local = [part for part in network.modules() if isinstance(part, FoldedCooperation) and part.window]
        # The kernels' ranges of channels are powers of two.
        if narrowest < BLOCK_CHANNELS or narrowest.bit_count() != 1 or local:
            found = "local SSFC means" if local else f"{narrowest} channels in its narrowest convolution"
            raise ModelError(
                f"engine triton: made for SSFC means over the patch and powers of two from {BLOCK_CHANNELS} channels, "
                f"the network has {found}; set inference.engine to torch"
            )
        self._network = network
        self._dtype = dtype
        self._ready: dict[tuple[int, int], tuple[FusedNetwork, torch.cuda.CUDAGraph]] = {}
        count, bands, rows, _ = shape
        try:
            tile = torch.zeros((2, bands, rows, rows), device="cuda")
            corners = torch.zeros((count, 2), dtype=torch.int32, device="cuda")
            taper, total, weight = (torch.zeros((rows, rows), device="cuda") for _ in range(3))
            self.accumulate(self(tile, corners, rows), corners, [(0, 0)], taper, (0, 0), total, weight)
        except torch.cuda.OutOfMemoryError:
            raise
        # Triton raises errors of many kinds for a missing compiler or too small a device.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ModelError(
                f"engine triton: its kernels do not run here ({reason}); they need a C compiler and a device with "
                "100 kB of shared memory; set inference.engine to torch"
            ) from error

    def __call__(self, tile_2BHW: Tensor, corners: Tensor, patch: int) -> Tensor:
        """Predict the patches, ``(N, patch, patch)`` float32; the next call overwrites the result."""
        network, graph = self._prepared(tile_2BHW, corners, patch)
        network.stem(tile_2BHW, corners)
        graph.replay()
        return network.probability

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
        """See :meth:`ussfc.engines.cuda_engine.Forward.accumulate`."""
        rows, cols = total.shape
        side = ACCUMULATED_SIDE
        kernels.accumulate[(-(-rows // side), -(-cols // side))](
            probability, corners, taper, total, weight, len(places), rows, cols, *origin, taper.shape[0],
            ROWS=side, COLS=side, num_warps=4,
        )  # fmt: skip

    def _prepared(
        self, tile_2BHW: Tensor, corners: Tensor, patch: int
    ) -> tuple[FusedNetwork, torch.cuda.CUDAGraph]:
        count = len(corners)
        if (count, patch) not in self._ready:
            network = FusedNetwork(self._network, count, patch, patch, self._dtype, torch.device("cuda"))
            # Once outside the graph, where kernels are compiled.
            network.stem(tile_2BHW, corners)
            network.rest()
            torch.cuda.current_stream().synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads allocate memory meanwhile, which only a recording of this thread alone permits.
            with torch.cuda.graph(
                graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
            ):
                network.rest()
            self._ready[count, patch] = network, graph
        return self._ready[count, patch]
