"""Tiles with masks: dark ground and bright houses in grey, so that an image alone shows where instances stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

TILE = 96
"""Side of a tile, pixels."""


def save(file: Path, levels: np.ndarray) -> Path:
    """Write a picture, (rows, cols, 3) or (rows, cols)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels.astype(np.uint8)).save(file)
    return file


def ground(rng: np.random.Generator) -> np.ndarray:
    """Draw dark noise, the same in all bands."""
    return rng.integers(30, 60, (TILE, TILE, 1)).repeat(3, axis=2)


def village(rng: np.random.Generator, houses: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image and its mask: some bright rectangles, none of which touches the border."""
    image, mask = ground(rng), np.zeros((TILE, TILE), np.uint8)
    for row, col in rng.integers(4, TILE - 20, (houses, 2)):
        box = np.s_[row : row + rng.integers(8, 14), col : col + rng.integers(8, 14)]
        image[box], mask[box] = 235, 255
    return image, mask


def write_tiles(folder: Path) -> Path:
    """Write two places, one of them at two zooms, and two folders of backgrounds, of three tiles each."""
    rng = np.random.default_rng(0)
    for place in ("hill_z19", "hill_z20", "shore_z19_96"):
        for number in range(3):
            image, mask = village(rng)
            save(folder / "buildings" / place / "image" / f"tile{number}.png", image)
            save(folder / "buildings" / place / "mask" / f"tile{number}.png", mask)
    for kind in ("field", "forest"):
        for number in range(3):
            save(folder / "background" / kind / f"{kind}{number}.png", ground(rng))
    return folder
