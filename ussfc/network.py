"""USSFC-Net: two encoders, absolute feature differences as skips, one decoder.

Source: Lei et al., IEEE TGRS 61, 2023, doi 10.1109/TGRS.2023.3261273, Fig. 2. Module names are the
state-dict names of the authors' checkpoints, so those load one to one.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfc.layers import (
    CyclicMultiScaleConv,
    DoubleConv,
    FirstConv,
    MultiScaleDecoupledConv,
    cyclic_kernel_mask,
)

LEVELS = 5
"""Resolution levels."""

STRIDE = 2 ** (LEVELS - 1)
"""Divisor of H and W, pixels."""


class USSFCNet(nn.Module):
    """USSFC-Net, with weights drawn at random until a checkpoint is loaded.

    The encoders do not share weights: before and after cannot be swapped.

    Args:
        bands: bands of each image.
        ratio: width of level 1 over 64; ``int(64 * ratio)`` must be a multiple of 8. The paper uses 0.5
            (1,518,977 parameters for 3 bands).

    Raises:
        ValueError: ``bands`` < 1 or a width that the groups of four channels cannot divide.
    """

    def __init__(self, bands: int = 3, ratio: float = 0.5) -> None:
        super().__init__()
        width = int(64 * ratio)
        if bands < 1:
            raise ValueError(f"bands must be at least 1, got {bands}")
        if width < 8 or width % 8:
            raise ValueError(f"ratio {ratio} gives a width of {width}; it must be a positive multiple of 8")
        self.bands = bands
        self.ratio = ratio
        widths = [width * 2**level for level in range(LEVELS)]
        for encoder in (1, 2):
            self.add_module(f"Conv1_{encoder}", FirstConv(bands, widths[0]))
            for level in range(2, LEVELS + 1):
                self.add_module(f"Conv{level}_{encoder}", DoubleConv(widths[level - 2], widths[level - 1]))
        for level in range(LEVELS, 1, -1):
            deep, shallow = widths[level - 1], widths[level - 2]
            self.add_module(f"Up{level}", nn.ConvTranspose2d(deep, shallow, 2, stride=2))
            self.add_module(f"Up_conv{level}", DoubleConv(deep, shallow))
        self.Conv_1x1 = nn.Conv2d(widths[0], 1, 1)

    def _encode(self, image_NBHW: Tensor, encoder: int) -> list[Tensor]:
        features = [self.get_submodule(f"Conv1_{encoder}")(image_NBHW)]
        for level in range(2, LEVELS + 1):
            pooled = F.max_pool2d(features[-1], 2)
            features.append(self.get_submodule(f"Conv{level}_{encoder}")(pooled))
        return features

    def logits(self, before_NBHW: Tensor, after_NBHW: Tensor) -> Tensor:
        """Compute the change logits, ``(N, 1, H, W)``; see :meth:`forward` for the inputs."""
        skips = [
            torch.abs(before - after)
            for before, after in zip(self._encode(before_NBHW, 1), self._encode(after_NBHW, 2), strict=True)
        ]
        x = skips[-1]
        for level in range(LEVELS, 1, -1):
            up = self.get_submodule(f"Up{level}")(x)
            x = self.get_submodule(f"Up_conv{level}")(torch.cat((skips[level - 2], up), dim=1))
        logits: Tensor = self.Conv_1x1(x)
        return logits

    def forward(self, before_NBHW: Tensor, after_NBHW: Tensor) -> Tensor:
        """Compute the change probability of every pixel.

        Args:
            before_NBHW: earlier image, ``(N, bands, H, W)`` floating, in [-1, 1] (``uint8 / 127.5 - 1``);
                H and W multiples of 16.
            after_NBHW: later image, same shape.

        Returns:
            ``(N, 1, H, W)`` in [0, 1].
        """
        return torch.sigmoid(self.logits(before_NBHW, after_NBHW))

    def use_local_statistics(self, window: int) -> None:
        """Take the means of SSFC around each pixel instead of over the whole patch.

        A probability then no longer depends on the position of its patch, except near the patch's border.

        Args:
            window: side of the window at level 1, pixels, a multiple of 16; the size of the training crops, so
                that the means are those that the weights were trained with. Halved at every level.

        Raises:
            ValueError: the window is not a positive multiple of 16.
        """
        if window < STRIDE or window % STRIDE:
            raise ValueError(f"window must be a positive multiple of {STRIDE}, got {window}")
        for name, module in self.named_modules():
            if isinstance(module, MultiScaleDecoupledConv):
                # Conv4_1.Conv.0 works at level 4, Up_conv4.Conv.3 at level 3, where its output goes.
                level = int(name.removeprefix("Up_conv").removeprefix("Conv")[0]) - name.startswith("Up_")
                module.ssfc_window = window >> (level - 1)

    def tie_encoders(self) -> None:
        """Let both dates share the encoder of the later one, in training; the state dict keeps its names."""
        for level in range(1, LEVELS + 1):
            self.add_module(f"Conv{level}_1", self.get_submodule(f"Conv{level}_2"))

    @property
    def encoders_are_equal(self) -> bool:
        """True where both dates have the same encoder, as :meth:`tie_encoders` leaves them."""
        state = self.state_dict()
        return all(
            torch.equal(value, state[re.sub(r"^(Conv\d)_1\.", r"\1_2.", name)])
            for name, value in state.items()
        )

    @property
    def masked_kernels_are_zero(self) -> bool:
        """True where every kernel is zero that :meth:`hold_masked_kernels` holds there."""
        return all(
            not module.conv.weight[~cyclic_kernel_mask(module.conv.weight.shape[0])].any()
            for module in self.modules()
            if isinstance(module, CyclicMultiScaleConv)
        )

    def hold_masked_kernels(self) -> None:
        """Zero the kernels that :func:`ussfc.layers.cyclic_kernel_mask` masks and keep them zero in training.

        For training from scratch as the reference does; never for inference on a checkpoint.
        """
        for module in self.modules():
            if isinstance(module, CyclicMultiScaleConv):
                weight = module.conv.weight
                mask = cyclic_kernel_mask(weight.shape[0])[:, :, None, None].to(weight.device)
                with torch.no_grad():
                    weight.mul_(mask)
                weight.register_hook(lambda grad, mask=mask: grad * mask)
