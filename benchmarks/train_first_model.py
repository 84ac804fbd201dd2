"""Train the first `ussfc-s2-rgb` weights: how the packaged file was made, in one script.

It reads a folder of `NAME_before.tif`, `NAME_after.tif`, `NAME_label.tif` (Sentinel-2 bands B04, B03, B02
first, label on the grid of before), keeps every scene but the held-out ones in memory and trains for a
fixed time: the learning rate follows the share of the time that has passed, so that the schedule always
completes. No choice (steps, threshold, checkpoint) looks at a held-out scene.

    python benchmarks/train_first_model.py DIR OUT.safetensors --hold-out beirut --seconds 1560
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from safetensors.torch import save_file

from ussfc.network import USSFCNet

BANDS = (1, 2, 3)
RANGE = (0.0, 3500.0)
"""Digital numbers (reflectance x 10000) that become -1 and 1."""

CROP = 128
BATCH = 8
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-2
EMA_DECAY = 0.998


def read_scene(folder: Path, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Before and after, (3, H, W) float32 in [-1, 1] by a fixed range of reflectance, and the label, (H, W) float32."""
    with rasterio.open(folder / f"{name}_label.tif") as src:
        label = src.read(1)
        grid = {"crs": src.crs, "transform": src.transform, "width": src.width, "height": src.height}
    images = []
    for date in ("before", "after"):
        with (
            rasterio.open(folder / f"{name}_{date}.tif") as src,
            WarpedVRT(src, resampling=Resampling.bilinear, **grid) as vrt,
        ):
            image = vrt.read(BANDS).astype(np.float32)
        scaled = np.clip((image - RANGE[0]) / (RANGE[1] - RANGE[0]), 0, 1)
        images.append(torch.from_numpy((scaled * 2 - 1).astype(np.float32)))
    return images[0], images[1], torch.from_numpy((label > 0).astype(np.float32))


class Crops:
    """Random crops, half of them around a changed pixel, turned, flipped and jittered per date."""

    def __init__(self, scenes: list[tuple[torch.Tensor, ...]], seed: int) -> None:
        self.scenes = scenes
        self.rng = np.random.default_rng(seed)
        self.changed = [np.argwhere(label.numpy() > 0) for _, _, label in scenes]
        pixels = np.array([label.numel() for _, _, label in scenes], dtype=float)
        changed = np.array([len(found) for found in self.changed], dtype=float)
        self.by_pixels, self.by_change = pixels / pixels.sum(), changed / changed.sum()

    def jitter(self, image: torch.Tensor) -> torch.Tensor:
        gain = self.rng.uniform(0.8, 1.2) * self.rng.uniform(0.93, 1.07, size=(3, 1, 1))
        bias = self.rng.uniform(-0.15, 0.15) + self.rng.uniform(-0.06, 0.06, size=(3, 1, 1))
        gain_t, bias_t = (torch.from_numpy(v.astype(np.float32)) for v in (gain, np.asarray(bias)))
        return (image * gain_t + bias_t).clamp(-1, 1)

    def one(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        around_change = self.rng.random() < 0.5
        index = self.rng.choice(len(self.scenes), p=self.by_change if around_change else self.by_pixels)
        before, after, label = self.scenes[index]
        h, w = label.shape
        if around_change:
            y, x = self.changed[index][self.rng.integers(len(self.changed[index]))]
            y, x = y - self.rng.integers(CROP), x - self.rng.integers(CROP)
        else:
            y, x = self.rng.integers(h - CROP + 1), self.rng.integers(w - CROP + 1)
        y, x = int(np.clip(y, 0, h - CROP)), int(np.clip(x, 0, w - CROP))
        window = (..., slice(y, y + CROP), slice(x, x + CROP))
        parts = [self.jitter(before[window]), self.jitter(after[window]), label[None][window]]
        turns, flip = int(self.rng.integers(4)), self.rng.random() < 0.5
        parts = [torch.rot90(part, turns, (1, 2)) for part in parts]
        if flip:
            parts = [part.flip(2) for part in parts]
        return parts[0], parts[1], parts[2]

    def batch(self) -> list[torch.Tensor]:
        samples = [self.one() for _ in range(BATCH)]
        return [torch.stack(parts).contiguous() for parts in zip(*samples, strict=True)]


def loss_of(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy plus the Dice loss of the change class over the batch."""
    probability = torch.sigmoid(logits)
    dice = 1 - (2 * (probability * label).sum() + 1) / (probability.sum() + label.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, label) + dice


def save(network: USSFCNet, path: Path, facts: dict[str, str]) -> None:
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, path, metadata={"bands": "3", "ratio": str(network.ratio), **facts})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hold-out", nargs="+", default=["beirut"])
    parser.add_argument("--seconds", type=float, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    names = sorted(path.name.removesuffix("_label.tif") for path in args.folder.glob("*_label.tif"))
    names = [name for name in names if name not in args.hold_out]
    crops = Crops([read_scene(args.folder, name) for name in names], args.seed)
    network = USSFCNet(3, 0.5).to(memory_format=torch.channels_last)
    network.hold_masked_kernels()
    average = USSFCNet(3, 0.5)
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    start, step, recent = time.monotonic(), 0, []
    while (passed := (time.monotonic() - start) / args.seconds) < 1:
        rate = LEARNING_RATE * min((step + 1) / 200, 0.5 * (1 + np.cos(np.pi * passed)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        before, after, label = crops.batch()
        before, after = (t.contiguous(memory_format=torch.channels_last) for t in (before, after))
        loss = loss_of(network.logits(before, after), label)
        if not torch.isfinite(loss):
            raise SystemExit(f"loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        recent.append(loss.item())
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for old, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                if old.dtype.is_floating_point:
                    old.lerp_(new, 1 - decay)
                else:
                    old.copy_(new)
        if step % 100 == 0:
            print(json.dumps({"step": step, "loss": float(np.mean(recent)), "passed": passed}), flush=True)
            recent = []
        if step % 500 == 0:
            save(average, args.out.with_suffix(".part.safetensors"), {"steps": str(step)})
    facts = {"steps": str(step), "trained_on": ",".join(names), "crop": str(CROP), "seed": str(args.seed)}
    save(average, args.out, facts)


if __name__ == "__main__":
    main()
