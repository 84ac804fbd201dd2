"""Small pictures of pairs, labels and results, (rows, cols, 3) uint8 each."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ussfc.local_files import replace_file
from ussfc.metrics import Confusion
from ussfc.training.data import BoolArray, FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = npt.NDArray[np.uint8]

GAP = 4
"""White pixels between pictures of a row."""

ERROR_COLOURS = {
    "found": (255, 255, 255),
    "claimed": (230, 75, 53),
    "missed": (60, 120, 216),
    "none": (0, 0, 0),
    "nodata": (128, 128, 128),
}
"""Colours of true positives, false positives, false negatives, true negatives and invalid pixels."""


def true_colour(image: npt.NDArray[np.uint8] | FloatArray) -> Picture:
    """Draw the first three bands of (bands, rows, cols), mapped between their 1st and 99th percentile.

    Of two bands or one, the first becomes grey.
    """
    shown = image[:3] if image.shape[0] >= 3 else image[[0, 0, 0]]
    low, high = np.percentile(shown, (1, 99))
    scaled = np.clip((shown.astype(np.float32) - low) / max(float(high - low), 1e-6), 0, 1)
    return np.ascontiguousarray((scaled * 255).astype(np.uint8).transpose(1, 2, 0))


def grey(values: BoolArray | FloatArray) -> Picture:
    """Draw (rows, cols) in [0, 1] from black to white."""
    return np.repeat((values.astype(np.float32) * 255).astype(np.uint8)[..., None], 3, axis=2)


def errors(answer: BoolArray, truth: BoolArray, valid: BoolArray | None = None) -> Picture:
    """Draw right and wrong by colour: change found white, claimed red, missed blue, none black, nodata grey."""
    table = np.array(
        [ERROR_COLOURS[name] for name in ("none", "claimed", "missed", "found", "nodata")], np.uint8
    )
    index = answer.astype(np.uint8) + 2 * truth.astype(np.uint8)
    if valid is not None:
        index[~valid] = 4
    picture: Picture = table[index]
    return picture


def row(pictures: list[Picture]) -> Picture:
    """Join pictures of one height side by side, with a white frame below and between."""
    padded = [np.pad(picture, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for picture in pictures]
    return np.concatenate(padded, axis=1)


def save(picture: Picture, path: Path) -> None:
    """Write a PNG; it appears only when complete."""
    from PIL import Image

    content = BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    replace_file(path, content.getvalue())


def precision_recall(points: Sequence[tuple[float, float, float]], chosen: Confusion, path: Path) -> None:
    """Draw a precision-recall curve as a PNG.

    Args:
        points: (threshold, precision, recall) of :meth:`ussfc.metrics.Tally.curve`.
        chosen: the confusion matrix of the threshold in use, marked on the curve.
        path: file of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([recall for _, _, recall in points], [precision for _, precision, _ in points], color="#3c78d8")
    axes.plot(chosen.recall, chosen.precision, "o", color="#e64b35", label=f"in use: F1 {chosen.f1:.3f}")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision", aspect="equal")
    axes.grid(color="#dddddd")
    axes.legend(loc="lower left")
    _save_figure(figure, path)


def reliability(points: Sequence[tuple[float, float, int]], path: Path) -> None:
    """Draw a reliability diagram as a PNG: share of change against probability, pixels of each interval below.

    Args:
        points: (mean probability, share of change, pixels) of :meth:`ussfc.metrics.Tally.reliability`.
        path: file of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot([0, 1], [0, 1], color="#999999", linestyle="--", label="calibrated")
    upper.plot([mean for mean, _, _ in points], [share for _, share, _ in points], "o-", color="#3c78d8")
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of pixels with change")
    upper.grid(color="#dddddd")
    upper.legend(loc="upper left")
    lower.bar([mean for mean, _, _ in points], [pixels for _, _, pixels in points], 0.06, color="#3c78d8")
    lower.set(yscale="log", xlabel="probability", ylabel="pixels")
    _save_figure(figure, path)


def _save_figure(figure: Figure, path: Path) -> None:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=110)
    replace_file(path, content.getvalue())
