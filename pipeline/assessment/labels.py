"""Labels of a sample: the classes that stand in its field ``reference``, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ussfc.pipeline.assessment.estimators import IntArray
from ussfc.pipeline.errors import SampleError

UNCLEAR = "unclear"
"""Label of a point that cannot be judged, under a cloud for example; it is left out."""

NUMBERS = {
    "change": 1, "changed": 1, "1": 1,
    "no change": 0, "no_change": 0, "nochange": 0, "unchanged": 0, "stable": 0, "0": 0,
    UNCLEAR: -1,
}  # fmt: skip
"""Class of each label, -1 for points that are left out."""

MOST_NAMED = 3
"""Labels or points that a message names."""


def label_numbers(labels: Sequence[str], ids: Sequence[int], where: str) -> IntArray:
    """Return the class of each label, -1 where it is unclear, (n,).

    Args:
        labels: (n,) text, lower case.
        ids: (n,) numbers of the points, for the messages.
        where: the file, for the messages.

    Raises:
        SampleError: points without a label, or labels that are no class.
    """
    missing = [number for number, label in zip(ids, labels, strict=True) if not label]
    if missing:
        raise SampleError(
            f"{where}: {len(missing)} of {len(labels)} points have no reference (id {_few(missing)}); label them, and "
            f"give those that cannot be judged '{UNCLEAR}'"
        )
    foreign = sorted({label for label in labels if label not in NUMBERS})
    if foreign:
        raise SampleError(
            f"{where}: reference holds {_few([repr(label) for label in foreign])}; expected 'change', 'no change' or "
            f"'{UNCLEAR}' (or 1 and 0)"
        )
    return np.array([NUMBERS[label] for label in labels], np.int64)


def _few(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:MOST_NAMED]))
    return f"{shown}, ..." if len(values) > MOST_NAMED else shown
