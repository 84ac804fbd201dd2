"""Training throughput: the loop of `ussfc train` beside a plain one of the same network.

    python benchmarks/training.py --threads 1 --steps 6

The plain loop is in float32, in the default memory layout, with an optimiser that goes from tensor to tensor and
without a moving average. Ours does more (channels-last on CUDA, fused optimiser, clipping, moving average, batches made
ahead). The two take turns in one process, so that other work on the machine slows both alike; compare the ratio.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F

from ussfc.network import USSFCNet
from ussfc.preprocessing import to_network_range
from ussfc.training.crops import Batch
from ussfc.training.recipe import load_recipe
from ussfc.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="strong")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--crop", type=int, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sets = [
        f"sampling.{key}={value}"
        for key, value in (("batch_size", args.batch), ("crop_size", args.crop))
        if value
    ]
    recipe = load_recipe(args.recipe, sets)
    size, count, bands = recipe.sampling.crop_size, recipe.sampling.batch_size, len(recipe.input_spec.bands)
    rng = np.random.default_rng(0)
    shape = (count, size, size)
    images = rng.random((2, count, bands, size, size), np.float32)
    batch = Batch(images[0], images[1], rng.random(shape) < 0.1, np.ones(shape, bool))

    ours = Trainer(recipe, args.device)
    plain = USSFCNet(bands, recipe.network.ratio).to(args.device)
    optimiser = torch.optim.AdamW(plain.parameters(), lr=1e-3, foreach=False)
    before, after = (to_network_range(torch.from_numpy(image)).to(args.device) for image in images)
    target = torch.from_numpy(batch.label)[:, None].float().to(args.device)

    def plain_step() -> float:
        loss = F.binary_cross_entropy(plain(before, after), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for step in range(args.steps + 1):
        for name, run in (("ours", lambda step=step: ours.step(batch, step, 1000)), ("plain", plain_step)):
            start = time.perf_counter()
            run()
            if step:  # the first call of each compiles kernels and grows memory
                seconds[name].append(time.perf_counter() - start)
    best = {name: count / median(times) for name, times in seconds.items()}
    print(json.dumps({
        "device": args.device, "threads": args.threads, "crop": size, "batch": count,
        "ours_crops_per_s": round(best["ours"], 2), "plain_crops_per_s": round(best["plain"], 2),
        "ratio": round(best["ours"] / best["plain"], 2),
        "ours_mpx_per_s": round(best["ours"] * size**2 / 1e6, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
