"""Small labelled scenes for the tests: real pixels of the demo pair, labels made of them here."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from rasterio.windows import Window

from tests.support.paths import DEMO
from ussfc.files import sha256_of
from ussfc.network import USSFCNet
from ussfc.weights import save_weights


def bright_change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return a stand-in for a label: pixels where the red band differs most. It is no real change."""
    difference = np.abs(after[0].astype(float) - before[0])
    return (difference > np.percentile(difference, 92)).astype(np.uint8)


def write_scene(folder: Path, name: str, corner: tuple[int, int], side: int = 96, **options: Any) -> None:
    """Write ``side`` px squared of the demo; ``label`` replaces the label, ``shift`` moves the after grid."""
    label, shift = options.get("label"), options.get("shift", 0)
    images = {}
    for date, offset in (("before", 0), ("after", shift)):
        with rasterio.open(DEMO / f"beirut_{date}.tif") as source:
            window = Window(corner[1] + offset, corner[0], side, side)
            images[date] = source.read(window=window)
            profile = source.profile | {
                "width": side, "height": side, "transform": source.window_transform(window),
            }  # fmt: skip
            descriptions = source.descriptions
        if date == "before":
            first = profile
        with rasterio.open(folder / f"{name}_{date}.tif", "w", **profile) as target:
            target.write(images[date])
            target.descriptions = descriptions
    if label is None:
        label = bright_change(images["before"], images["after"])
    plain = {key: first[key] for key in ("driver", "width", "height", "crs", "transform")}
    with rasterio.open(folder / f"{name}_label.tif", "w", count=1, dtype="uint8", **plain) as target:
        target.write(label, 1)


def write_bare_weights(folder: Path) -> Path:
    """Write weights of the smallest network; as a bare file they are taken for a model of bytes."""
    file = folder / "tiny.safetensors"
    save_weights(_small_network(3, 0), file, {})
    return file


@functools.cache
def _small_network(bands: int, seed: int) -> USSFCNet:
    import torch

    torch.manual_seed(seed)
    return USSFCNet(bands, 0.125)


def write_toy_model(folder: Path, bands: int = 3, patch_size: int = 32, **card: Any) -> Path:
    """Write the card of a small network with random weights, which is no model of anything."""
    save_weights(_small_network(bands, 1), folder / "toy.safetensors", {})
    names = (("B04", "red"), ("B03", "green"), ("B02", "blue"), ("B08", "nir"))
    content = {
        "name": "toy", "title": "random weights, for tests",
        "weights": {"uri": "toy.safetensors", "sha256": sha256_of(folder / "toy.safetensors")},
        "bands": [{"name": name, "common_name": common} for name, common in names[:bands]],
        "patch_size": patch_size, "radiometry": {"kind": "range", "low": 0, "high": 3500},
        **card,
    }  # fmt: skip
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
