"""Validation: prediction by patches, valid pixels, and the patches of the picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tests.support.training import SIZE, VILLAGES, Listed, small_recipe, squares
from ussfc.metrics import Tally
from ussfc.preprocessing import to_network_range
from ussfc.training.trainer import Trainer
from ussfc.training.validation import most_changed_crop, predict, scores_of, tally, validation_picture


def test_large_pairs_are_predicted_by_patches(one_thread: None) -> None:
    network = Trainer(small_recipe(), "cpu").network.eval()
    (pair,) = squares(1, "city", 80).pairs
    found = predict(network, pair, SIZE)

    def alone(row: int, col: int) -> Any:
        before, after = (
            to_network_range(
                torch.from_numpy(image[:, row : row + SIZE, col : col + SIZE] / np.float32(255))
            )[None]
            for image in (pair.before, pair.after)
        )
        with torch.inference_mode():
            return network(before, after)[0, 0].numpy()

    # Starts at 0, 32 and 48; the last one is written last.
    for row, rows in ((0, 32), (32, 16), (48, 32)):
        for col, cols in ((0, 32), (32, 16), (48, 32)):
            np.testing.assert_allclose(
                found[row : row + rows, col : col + cols], alone(row, col)[:rows, :cols], atol=1e-6
            )


def test_invalid_pixels_are_not_scored() -> None:
    network = Trainer(small_recipe(), "cpu").network
    valid = np.zeros((SIZE, SIZE), bool)
    valid[:5] = True
    pairs = Listed([replace(pair, valid=valid) for pair in VILLAGES.pairs])
    assert tally(network, pairs, SIZE).at(0.5).total == 2 * 5 * SIZE


def test_picture_shows_the_most_changed_patch() -> None:
    pair = replace(squares(1, "city", 80).pairs[0], label=np.zeros((80, 80), bool))
    pair.label[70:, 40:44] = True
    crop = most_changed_crop(pair, SIZE)
    assert np.array_equal(crop.after, pair.after[:, 48:, 32:64])
    assert crop.label.sum() == 40


def test_picture_has_a_row_per_pair() -> None:
    network = Trainer(small_recipe(), "cpu").network.eval()
    pairs = squares(6)
    # Before, after, label and probability with frames of 4, of four pairs at most.
    assert validation_picture(network, pairs, SIZE).shape == (4 * (SIZE + 4), 4 * (SIZE + 4), 3)
    assert validation_picture(network, VILLAGES, SIZE).shape == (2 * (SIZE + 4), 4 * (SIZE + 4), 3)


def test_scores_are_those_of_the_best_threshold() -> None:
    probability, label = np.array([0.1, 0.4, 0.6, 0.9], np.float32), np.array([False, True, True, True])
    scores = scores_of(Tally.of(probability, label))
    assert (scores["f1"], scores["precision"], scores["recall"], scores["iou"]) == (1, 1, 1, 1)
    assert 0.1 < scores["threshold"] <= 0.4
    assert scores["f1_at_0.5"] == 0.8
    assert scores["average_precision"] == 1
    assert scores_of(Tally.of(probability * 0, ~np.ones(4, bool)))["f1"] == 0
