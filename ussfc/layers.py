"""Building blocks of USSFC-Net.

Source: Lei et al., "Ultralightweight Spatial-Spectral Feature Cooperation Network for Change
Detection in Remote Sensing Images", IEEE TGRS 61, 2023, doi 10.1109/TGRS.2023.3261273; the cyclic
multi-scale convolution follows Li et al., "PSConv", ECCV 2020.

Shape letters: N samples, C channels, G = C / 4 groups, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SSFC_EPS = torch.finfo(torch.float32).eps


def spatial_spectral_cooperation(x_NCHW: Tensor, window: int | None = None) -> Tensor:
    """Apply spatial-spectral feature cooperation (SSFC, paper section III-C): attention without parameters.

    Per sample and channel over the whole patch: ``d = (x - mean)^2``,
    ``s = d / (2 mean(d) + eps) + 0.5``, result ``x * sigmoid(s)``.

    Args:
        x_NCHW: features, ``(N, C, H, W)``, any floating dtype.
        window: take both means over the square of this side around each pixel instead (test-time local
            converter, Chu et al., ECCV 2022, arXiv 2112.04491). None, or at least H and W: the whole patch.

    Returns:
        The reweighted features, same shape and dtype.
    """
    # Both means are in float32 at least: a float16 sum over a patch overflows, and bf16 statistics turn NaN
    # in training. Under autocast these operators would otherwise run in the reduced dtype.
    x_32 = x_NCHW if x_NCHW.dtype == torch.float64 else x_NCHW.float()
    deviation = (x_32 - _mean(x_32, window)).square()
    saliency = deviation / (2 * _mean(deviation, window) + SSFC_EPS) + 0.5
    return (x_32 * torch.sigmoid(saliency)).to(x_NCHW.dtype)


def _mean(x_NCHW: Tensor, window: int | None) -> Tensor:
    """Compute the mean over the patch, ``(N, C, 1, 1)``, or around each pixel, ``(N, C, H, W)``."""
    if window is None or window >= max(x_NCHW.shape[2:]):
        return x_NCHW.mean(dim=(2, 3), keepdim=True)
    return _box_mean(_box_mean(x_NCHW, 2, window), 3, window)


def _box_mean(x_NCHW: Tensor, dim: int, window: int) -> Tensor:
    """Compute the mean over ``window`` neighbours along one axis; at the border the window is shifted inward.

    Sums of 1, 2, 4, ... neighbours are doubled up to the window. Differences of one running sum would be
    cheaper still, but lose digits with the distance from the border, so that they depend on the position.
    """
    length = x_NCHW.shape[dim]
    if window >= length:
        return x_NCHW.mean(dim=dim, keepdim=True).expand_as(x_NCHW)
    doubled, size = x_NCHW, 1
    total: Tensor | None = None
    covered = 0
    while True:
        if window & size:
            part = doubled.narrow(dim, covered, doubled.shape[dim] - covered)
            if total is None:
                total = part
            else:
                shared = min(total.shape[dim], part.shape[dim])
                total = total.narrow(dim, 0, shared) + part.narrow(dim, 0, shared)
            covered += size
        if covered == window:
            break
        reach = doubled.shape[dim] - size
        doubled = doubled.narrow(dim, 0, reach) + doubled.narrow(dim, size, reach)
        size *= 2
    assert total is not None
    inner = total.narrow(dim, 0, length - window + 1) / window
    # Pixel i sees the window that starts at i - window // 2, kept inside the patch.
    before = window // 2
    index = torch.arange(length, device=inner.device).sub_(before).clamp_(0, length - window)
    return inner.index_select(dim, index)


class CyclicMultiScaleConv(nn.Module):
    """CMConv: three dilations mixed over channels, ``(N, C, H, W) -> (N, C, H, W)`` (paper section III-B).

    ``conv`` sees a 3x3 neighbourhood of its group of four channels, ``prim`` a depthwise 3x3 of
    dilation 3, ``prim_shift`` a depthwise 3x3 of dilation 6 on channels permuted [2, 3, 0, 1] inside
    every group of four; the three are summed. None has a bias.

    Args:
        channels: C, a multiple of 4.

    Raises:
        ValueError: ``channels`` is not a positive multiple of 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels < 4 or channels % 4:
            raise ValueError(f"CMConv works on groups of four channels, got {channels}")
        self.prim = nn.Conv2d(channels, channels, 3, padding=3, dilation=3, groups=channels, bias=False)
        self.prim_shift = nn.Conv2d(channels, channels, 3, padding=6, dilation=6, groups=channels, bias=False)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels // 4, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        n, c, h, w = x_NCHW.shape
        # [0, 1 | 2, 3] -> [2, 3 | 0, 1] inside every group of four is one flip of the pairs.
        shifted = x_NCHW.view(n, c // 4, 2, 2, h, w).flip(2).reshape(n, c, h, w)
        return _depthwise(self.prim, x_NCHW) + _depthwise(self.prim_shift, shifted) + self._grouped(x_NCHW)

    def _grouped(self, x_NCHW: Tensor) -> Tensor:
        if x_NCHW.device.type != "cpu" or not x_NCHW.is_contiguous():
            return cast("Tensor", self.conv(x_NCHW))
        # On CPUs both passes of this one convolution are two to three times faster on channels-last maps.
        channels_last = x_NCHW.contiguous(memory_format=torch.channels_last)
        return cast("Tensor", self.conv(channels_last)).contiguous()


def _depthwise(conv: nn.Conv2d, x_NCHW: Tensor) -> Tensor:
    if torch.is_grad_enabled() and x_NCHW.requires_grad and x_NCHW.device.type == "cpu":
        apply = cast("Callable[..., Tensor]", DepthwiseConv.apply)
        return apply(x_NCHW, conv.weight, conv.dilation[0])
    return cast("Tensor", conv(x_NCHW))


class DepthwiseConv(torch.autograd.Function):
    """A depthwise 3x3 convolution padded by its dilation, ``(N, C, H, W) -> (N, C, H, W)``, for training on CPUs.

    Backward passes of dilated depthwise convolutions take up to twenty times the forward pass in PyTorch 2.13. Here
    the gradient of the maps is a forward pass with turned kernels, that of each weight a sum over shifted maps:
    together a quarter of the time.
    """

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, weight_C133: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x_NCHW, weight_C133)
        ctx.dilation = dilation
        return _convolve(x_NCHW, weight_C133, dilation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient_NCHW: Tensor) -> tuple[Tensor, Tensor, None]:
        x_NCHW, weight_C133 = ctx.saved_tensors
        dilation = ctx.dilation
        of_weight = torch.zeros_like(weight_C133)
        rows, cols = x_NCHW.shape[2:]
        for i in range(3):
            for j in range(3):
                # This weight reads the map `down` and `right` of the pixel that it contributes to.
                down, right = (i - 1) * dilation, (j - 1) * dilation
                height, width = rows - abs(down), cols - abs(right)
                if height > 0 and width > 0:
                    seen = x_NCHW[:, :, max(down, 0) :, max(right, 0) :][:, :, :height, :width]
                    made = gradient_NCHW[:, :, max(-down, 0) :, max(-right, 0) :][:, :, :height, :width]
                    of_weight[:, 0, i, j] = (seen * made).sum(dim=(0, 2, 3))
        return _convolve(gradient_NCHW, weight_C133.flip(2, 3), dilation), of_weight, None


def _convolve(x_NCHW: Tensor, weight_C133: Tensor, dilation: int) -> Tensor:
    return F.conv2d(x_NCHW, weight_C133, padding=dilation, dilation=dilation, groups=x_NCHW.shape[1])


def cyclic_kernel_mask(channels: int) -> Tensor:
    """Mark the kernels of ``CyclicMultiScaleConv.conv`` that take part in training, ``(C, 4)`` bool.

    PSConv means to train only part of the grouped kernels; an index error in its reference code, inherited by
    USSFC-Net's, makes the masked set smaller than intended. Published scores come from networks trained so, hence
    training from scratch repeats it. Inference never applies it.

    Args:
        channels: C, a multiple of 4.

    Returns:
        False where the kernel (output row, input column of its group) is held at zero.
    """
    mask = torch.ones(channels, 4, dtype=torch.bool)
    groups = channels // 4
    for i in range(4):
        for j in range(groups):
            for row in (i + j * groups, (i + 2) % 4 + j * groups):
                if row < channels:
                    mask[row, i] = False
    return mask


class MultiScaleDecoupledConv(nn.Module):
    """MSDConv with SSFC, ``(N, in, H, W) -> (N, out, H, W)`` (paper section III-B and Fig. 3).

    Half of the features come from a 1x1 convolution (``native``), the other half from a CMConv of
    them (``aux``) weighted by SSFC.
    """

    ssfc_window: int | None = None
    """Side of the window of the SSFC means at this level; None: the whole patch."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        half = (out_channels + 1) // 2
        self.native = nn.Sequential(
            nn.Conv2d(in_channels, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()
        )
        self.aux = nn.Sequential(CyclicMultiScaleConv(half), nn.BatchNorm2d(half), nn.ReLU())

    def forward(self, x_NCHW: Tensor) -> Tensor:
        native = self.native(x_NCHW)
        aux = spatial_spectral_cooperation(self.aux(native), self.ssfc_window)
        features = torch.cat((native, aux), dim=1)
        # A slice that takes all would copy the gradients.
        return features if features.shape[1] == self.out_channels else features[:, : self.out_channels]


class DoubleConv(nn.Module):
    """[MSDConv with SSFC, batch norm, ReLU] twice, ``(N, in, H, W) -> (N, out, H, W)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.Conv = nn.Sequential(
            MultiScaleDecoupledConv(in_channels, out_channels),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            MultiScaleDecoupledConv(out_channels, out_channels),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features: Tensor = self.Conv(x_NCHW)
        return features


class FirstConv(nn.Module):
    """Level 1: [3x3 convolution with bias, batch norm, ReLU] twice, ``(N, in, H, W) -> (N, out, H, W)``."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features: Tensor = self.conv(x_NCHW)
        return features
