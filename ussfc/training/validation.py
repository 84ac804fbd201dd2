"""Validation: probabilities of whole pairs, their scores, and a picture of them."""

from __future__ import annotations

import math

import numpy as np
import torch

from ussfc.metrics import Tally
from ussfc.network import USSFCNet
from ussfc.preprocessing import to_network_range
from ussfc.training.crops import as_unit_range
from ussfc.training.data import FloatArray, LabelledPair, LabelledPairs
from ussfc.training.pictures import Picture, grey, row, true_colour

PICTURED_PAIRS = 4
"""Validation pairs in the picture."""


@torch.inference_mode()
def predict(network: USSFCNet, pair: LabelledPair, patch_size: int) -> FloatArray:
    """Compute the change probability of a pair by patches that do not overlap, the last ones shifted inward.

    The published scores of data sets are counted so; scenes go through the pipeline instead.

    Args:
        network: in eval mode, on any device.
        pair: a pair at least as large as a patch.
        patch_size: side of a patch, pixels.

    Returns:
        (rows, cols) float32 in [0, 1].
    """
    device = next(network.parameters()).device
    images = [
        to_network_range(torch.from_numpy(np.ascontiguousarray(as_unit_range(image)))).to(device)[None]
        for image in (pair.before, pair.after)
    ]
    rows, cols = pair.shape
    result = np.empty((rows, cols), np.float32)
    for y in _patch_starts(rows, patch_size):
        for x in _patch_starts(cols, patch_size):
            window = (..., slice(y, y + patch_size), slice(x, x + patch_size))
            before, after = (image[window].contiguous(memory_format=torch.channels_last) for image in images)
            result[window] = network(before, after)[0, 0].cpu().numpy()
    return result


def _patch_starts(length: int, patch_size: int) -> list[int]:
    return [*range(0, length - patch_size, patch_size), length - patch_size]


def tally(network: USSFCNet, pairs: LabelledPairs, patch_size: int) -> Tally:
    """Count the pixels of a whole set by truth and probability; sets the network to eval mode."""
    network.eval()
    total = Tally.empty()
    for index in range(len(pairs.names)):
        pair = pairs.pair(index)
        total += Tally.of(predict(network, pair, patch_size), pair.label, pair.valid)
    return total


def scores_of(counted: Tally) -> dict[str, float]:
    """Return the scores of a validation at its best threshold, by the names of the log; F1 is 0 without change."""
    threshold = counted.best_threshold()
    found = counted.at(threshold)
    return {
        "f1": 0.0 if math.isnan(found.f1) else found.f1,
        "threshold": threshold,
        "f1_at_0.5": counted.at(0.5).f1,
        "precision": found.precision,
        "recall": found.recall,
        "iou": found.iou,
        "average_precision": counted.average_precision(),
    }


def validation_picture(network: USSFCNet, pairs: LabelledPairs, patch_size: int) -> Picture:
    """Draw before, after, label and probability of the first pairs, each around its most changed patch."""
    rows = []
    for index in range(min(PICTURED_PAIRS, len(pairs.names))):
        crop = most_changed_crop(pairs.pair(index), patch_size)
        probability = predict(network, crop, patch_size)
        rows.append(
            row([true_colour(crop.before), true_colour(crop.after), grey(crop.label), grey(probability)])
        )
    return np.concatenate(rows)


def most_changed_crop(pair: LabelledPair, size: int) -> LabelledPair:
    """Return the patch of a pair, on the grid of patches, with the most changed pixels."""
    counts = {
        (y, x): np.count_nonzero(pair.label[y : y + size, x : x + size])
        for y in _patch_starts(pair.shape[0], size)
        for x in _patch_starts(pair.shape[1], size)
    }
    y, x = max(counts, key=lambda place: counts[place])
    window = (..., slice(y, y + size), slice(x, x + size))
    return LabelledPair(pair.name, pair.before[window], pair.after[window], pair.label[window])
