"""USSFC-Net rewritten for inference: the same function of the same weights, with less arithmetic and memory traffic.

Three rewritings, each exact but for rounding:

* A batch norm in inference is an affine map; it is folded into the convolution before it (Jacob et al., CVPR 2018,
  section 3.2). The norms behind a concatenation act on the output of a ReLU and stay, as one scale and one shift.
* A transposed convolution of the decoder and the 1x1 convolution that first reads it follow each other directly, so the
  two become one transposed convolution.
* The channel shuffle before ``prim_shift`` is the swap of two pairs in every group of four.

Shape letters: N samples, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfc.layers import (
    CyclicMultiScaleConv,
    DoubleConv,
    MultiScaleDecoupledConv,
    spatial_spectral_cooperation,
)
from ussfc.network import LEVELS, USSFCNet


class Affine(NamedTuple):
    """A convolution with the norm behind it folded in, float32."""

    weight: Tensor
    """Weight in the convolution's own shape."""
    bias: Tensor
    """Bias, ``(out,)``."""


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a batch norm in inference, ``x * scale + shift``: ``(C,)`` float64 each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Affine:
    """Fold ``norm(conv(x))`` into one convolution."""
    # In float64: folding should not lose a digit that the arithmetic keeps.
    scale, shift = scale_and_shift(norm)
    bias = shift if conv.bias is None else conv.bias.detach().double() * scale + shift
    return Affine((conv.weight.detach().double() * scale[:, None, None, None]).float(), bias.float())


def composed(up: nn.ConvTranspose2d, reader: Affine, skips: int) -> tuple[Tensor, Affine]:
    """Compose a transposed convolution and the 1x1 convolution that reads ``concat(skip, up(x))``.

    Args:
        up: ``deep -> shallow`` channels, kernel and stride 2.
        reader: ``(out, skips + shallow, 1, 1)``.
        skips: channels of the skip.

    Returns:
        The 1x1 convolution of the skip, ``(out, skips, 1, 1)``, without bias, and the transposed convolution of x,
        ``(deep, out, 2, 2)``, whose bias is that of both. Their sum is ``reader(concat(skip, up(x)))``.
    """
    wide = reader.weight[:, skips:, 0, 0].double()
    assert up.bias is not None
    weight = torch.einsum("isyx,os->ioyx", up.weight.detach().double(), wide)
    bias = reader.bias.double() + wide @ up.bias.detach().double()
    return reader.weight[:, :skips].contiguous(), Affine(weight.float(), bias.float())


def _kept(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


class FoldedConv(nn.Module):
    """A convolution with bias and a ReLU behind it."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        weight, bias = folded(conv, norm)
        self.weight, self.bias = _kept(weight), _kept(bias)
        self.padding = conv.kernel_size[0] // 2

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return torch.relu(F.conv2d(x_NCHW, self.weight, self.bias, padding=self.padding))


class FoldedUpNative(nn.Module):
    """The decoder's first ``native``: it reads a skip and the deeper level, without the upsampled map between."""

    def __init__(self, up: nn.ConvTranspose2d, native: nn.Sequential) -> None:
        super().__init__()
        reader = folded(cast("nn.Conv2d", native[0]), cast("nn.BatchNorm2d", native[1]))
        self.skips = reader.weight.shape[1] - up.out_channels
        skip, (weight, bias) = composed(up, reader, self.skips)
        self.skip, self.weight, self.bias = _kept(skip), _kept(weight), _kept(bias)

    def forward(self, skip_NCHW: Tensor, deep_NCHW: Tensor) -> Tensor:
        up = F.conv_transpose2d(deep_NCHW, self.weight, self.bias, stride=2)
        return torch.relu(up + F.conv2d(skip_NCHW, self.skip))


class FoldedCooperation(nn.Module):
    """The part of an MSDConv after ``native``, with the norm and ReLU behind it, ``(N, C, H, W) -> (N, 2 C, H, W)``."""

    prim: nn.Parameter
    prim_shift: nn.Parameter
    conv: nn.Parameter

    def __init__(self, source: MultiScaleDecoupledConv, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.window = source.ssfc_window
        cyclic = cast("CyclicMultiScaleConv", source.aux[0])
        inner = cast("nn.BatchNorm2d", source.aux[1])
        for name in ("prim", "prim_shift", "conv"):
            weight, bias = folded(getattr(cyclic, name), inner)
            setattr(self, name, _kept(weight))
        self.bias = _kept(bias)  # the norm's: none of the three has one of its own
        scale, shift = scale_and_shift(norm)
        self.scale, self.shift = (_kept(x.float()[:, None, None]) for x in (scale, shift))

    def forward(self, native_NCHW: Tensor) -> Tensor:
        n, c, h, w = native_NCHW.shape
        groups = native_NCHW.view(n, c // 4, 2, 2, h, w)
        shifted = groups.flip(2).reshape(n, c, h, w)
        aux = (
            F.conv2d(native_NCHW, self.conv, self.bias, padding=1, groups=c // 4)
            + F.conv2d(native_NCHW, self.prim, padding=3, dilation=3, groups=c)
            + F.conv2d(shifted, self.prim_shift, padding=6, dilation=6, groups=c)
        )
        aux = spatial_spectral_cooperation(torch.relu(aux), self.window)
        return torch.relu(torch.cat((native_NCHW, aux), 1) * self.scale + self.shift)


class FoldedDoubleConv(nn.Module):
    """A :class:`ussfc.layers.DoubleConv` behind ``first``, which computes the first ``native``."""

    def __init__(self, source: DoubleConv, first: FoldedConv | FoldedUpNative) -> None:
        super().__init__()
        one, norm_one, _, two, norm_two, _ = source.Conv
        one, two = cast("MultiScaleDecoupledConv", one), cast("MultiScaleDecoupledConv", two)
        self.first = first
        self.one = FoldedCooperation(one, cast("nn.BatchNorm2d", norm_one))
        self.native = FoldedConv(cast("nn.Conv2d", two.native[0]), cast("nn.BatchNorm2d", two.native[1]))
        self.two = FoldedCooperation(two, cast("nn.BatchNorm2d", norm_two))

    def forward(self, *inputs_NCHW: Tensor) -> Tensor:
        features: Tensor = self.two(self.native(self.one(self.first(*inputs_NCHW))))
        return features


class FoldedUSSFCNet(nn.Module):
    """A trained :class:`ussfc.network.USSFCNet`, rewritten; for inference alone.

    Args:
        network: the trained network; its weights are copied.
    """

    def __init__(self, network: USSFCNet) -> None:
        super().__init__()
        self.bands = network.bands
        self.encoders = nn.ModuleList(_encoder(network, encoder) for encoder in (1, 2))
        self.decoders = nn.ModuleList()
        for level in range(LEVELS, 1, -1):
            source = cast("DoubleConv", network.get_submodule(f"Up_conv{level}"))
            up = cast("nn.ConvTranspose2d", network.get_submodule(f"Up{level}"))
            native = cast("MultiScaleDecoupledConv", source.Conv[0]).native
            self.decoders.append(FoldedDoubleConv(source, FoldedUpNative(up, native)))
        self.head = nn.Conv2d(network.Conv_1x1.in_channels, 1, 1)
        self.head.load_state_dict(network.Conv_1x1.state_dict())
        self.requires_grad_(False)
        self.eval()

    def forward(self, before_NBHW: Tensor, after_NBHW: Tensor) -> Tensor:
        """Compute the change probability, ``(N, 1, H, W)``; see :meth:`ussfc.network.USSFCNet.forward`."""
        skips = [
            torch.abs(before - after)
            for before, after in zip(
                _features(self.encoders[0], before_NBHW), _features(self.encoders[1], after_NBHW), strict=True
            )
        ]
        x = skips.pop()
        for decoder in self.decoders:
            x = decoder(skips.pop(), x)
        return torch.sigmoid(self.head(x).float())


def _encoder(network: USSFCNet, number: int) -> nn.ModuleList:
    conv = cast("nn.Sequential", network.get_submodule(f"Conv1_{number}.conv"))
    stem = nn.Sequential(
        *(FoldedConv(cast("nn.Conv2d", conv[at]), cast("nn.BatchNorm2d", conv[at + 1])) for at in (0, 3))
    )
    levels: list[nn.Module] = [stem]
    for level in range(2, LEVELS + 1):
        source = cast("DoubleConv", network.get_submodule(f"Conv{level}_{number}"))
        native = cast("MultiScaleDecoupledConv", source.Conv[0]).native
        first = FoldedConv(cast("nn.Conv2d", native[0]), cast("nn.BatchNorm2d", native[1]))
        levels.append(FoldedDoubleConv(source, first))
    return nn.ModuleList(levels)


def _features(encoder: nn.Module, image_NBHW: Tensor) -> list[Tensor]:
    levels = list(cast("nn.ModuleList", encoder))
    features: list[Tensor] = [levels[0](image_NBHW)]
    for level in levels[1:]:
        features.append(level(F.max_pool2d(features[-1], 2)))
    return features
