"""Views of a tile: pieces of any size, direction and ground size of a pixel."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from ussfc.training.data import FloatArray

ByteArray = npt.NDArray[np.uint8]
Point = npt.NDArray[np.float64]
"""(row, col), or a distance in rows and columns."""


class View(NamedTuple):
    """A resampled piece of a tile."""

    image: FloatArray
    """(side, side, 3) in [0, 1]."""
    stands: FloatArray
    """(side, side): share of the pixel that instances cover."""
    chosen: FloatArray
    """(side, side): share of the pixel that one instance covers; all of them where none is chosen."""


class Frame(NamedTuple):
    """Position of a view in its tile."""

    centre: Point
    """Middle of the view, pixels of the tile."""
    step: float
    """Pixels of the tile for each pixel of the view."""
    side: int
    """Side of the view, pixels."""
    degrees: float
    """Rotation, between -45 and 45."""
    quarters: int
    """Quarter turns after it."""
    mirrored: bool
    """True if left and right are exchanged at the end."""

    @classmethod
    def draw(cls, centre: Point, step: float, side: int, rng: np.random.Generator) -> Frame:
        """Draw a direction: a multiple of 90 degrees as often as any other angle."""
        degrees = float(rng.uniform(-45, 45)) if rng.random() < 0.5 else 0.0
        return cls(centre, step, side, degrees, int(rng.integers(4)), bool(rng.random() < 0.5))


def cut_view(pixels: ByteArray, numbers: npt.NDArray[np.integer], frame: Frame, number: int | None) -> View:
    """Cut, resample and rotate a piece of a tile; beyond its border the tile is mirrored.

    Args:
        pixels: image of the tile, (rows, cols, 3) uint8.
        numbers: number of the instance that a pixel belongs to, (rows, cols), 0 for none.
        frame: position of the piece.
        number: number of one instance that the view shows by itself; None: none is chosen.
    """
    turn = math.radians(abs(frame.degrees))
    spare = math.ceil(frame.side * (math.cos(turn) + math.sin(turn) - 1) / 2) + 1 if frame.degrees else 0
    side = frame.side + 2 * spare
    low = frame.centre - side * frame.step / 2
    start = np.floor(low).astype(int)
    stop = np.ceil(low + side * frame.step).astype(int)
    box = (*(low - start)[::-1], *(low - start + side * frame.step)[::-1])
    window = np.ix_(*(_mirror(start[i], stop[i], numbers.shape[i]) for i in (0, 1)))
    seen_numbers = numbers[window]
    layers = [pixels[window], (seen_numbers > 0) * np.uint8(255)]
    if number is not None:
        layers.append((seen_numbers == number) * np.uint8(255))
    # Pillow's bilinear filter widens with the step, so coarse views are averaged and not sampled.
    how = Image.Resampling.BILINEAR if frame.step > 1 else Image.Resampling.BICUBIC

    def seen(layer: ByteArray) -> FloatArray:
        image = Image.fromarray(layer).resize((side, side), how, box)
        if frame.degrees:
            inner = (spare, spare, spare + frame.side, spare + frame.side)
            image = image.rotate(frame.degrees, Image.Resampling.BICUBIC).crop(inner)
        turned = np.rot90(np.asarray(image), frame.quarters)
        turned = turned[:, ::-1] if frame.mirrored else turned
        return turned.astype(np.float32) / np.float32(255)

    views = [seen(layer) for layer in layers]
    return View(views[0], views[1], views[-1])


def _mirror(start: int, stop: int, length: int) -> npt.NDArray[np.int64]:
    """List indices from ``start`` to ``stop``, mirrored at both ends of the length."""
    index = np.arange(start, stop) % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)
