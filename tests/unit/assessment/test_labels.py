"""Labels of a sample."""

from __future__ import annotations

import pytest

from ussfc.pipeline.assessment.labels import label_numbers
from ussfc.pipeline.assessment.sample_files import as_text
from ussfc.pipeline.errors import SampleError


def test_labels_become_classes() -> None:
    labels = as_text(["Change", "no change ", 1, 0.0, "unclear", "Stable", True])
    assert label_numbers(labels[:6], range(6), "a").tolist() == [1, 0, 1, 0, -1, 0]
    assert as_text([None, float("nan"), " "]) == ["", "", ""]


def test_messages_name_few_of_many() -> None:
    with pytest.raises(
        SampleError, match=r"a: 5 of 6 points have no reference \(id 2, 3, 4, \.\.\.\); label them"
    ):
        label_numbers(["change", *[""] * 5], [1, 2, 3, 4, 5, 6], "a")
    with pytest.raises(
        SampleError, match=r"reference holds 'b', 'c', 'd', \.\.\.; expected 'change', 'no change'"
    ):
        label_numbers(["c", "b", "e", "d"], [1, 2, 3, 4], "a")
