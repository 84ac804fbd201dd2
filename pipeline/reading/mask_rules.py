"""Numbers of a mask's pixels that hide the ground, by the kind of the mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.types import BoolArray, SourceArray


@dataclass(frozen=True)
class MaskRule:
    """Numbers that hide the ground: classes, or bits, or else all but zero."""

    kind: str
    """Name of the kind, or ``classes`` where they were given."""
    classes: tuple[int, ...] | None = None
    """Numbers that are masked."""
    bits: tuple[int, ...] | None = None
    """Bits of which any is masked, from 0."""

    def masked(self, values: SourceArray) -> BoolArray:
        """Return the pixels whose number hides the ground.

        Args:
            values: (rows, cols), any type.
        """
        if self.classes is not None:
            return np.asarray(np.isin(values, self.classes))
        if self.bits is not None:
            return np.asarray((_whole(values) & sum(1 << bit for bit in self.bits)) != 0)
        return np.asarray(values != 0)

    def missing(self, values: SourceArray) -> BoolArray:
        """Return the pixels that the sensor did not see, where the kind has a number for them.

        Args:
            values: (rows, cols), any type.
        """
        if self.kind == "scl":
            return np.asarray(values == 0)
        if self.kind == "qa_pixel":
            return np.asarray((_whole(values) & 1) != 0)
        return np.zeros(values.shape, np.bool_)


def _whole(values: SourceArray) -> npt.NDArray[np.integer]:
    """Return numbers whose bits can be looked at."""
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64, copy=False)
    return np.nan_to_num(values).astype(np.int64)


@dataclass(frozen=True)
class _Kind:
    """A kind of mask that sensors and programs write."""

    rule: MaskRule
    name: re.Pattern[str]
    """Words in the name of a file or of a band, in lower case."""
    bands: tuple[str, ...] = ()
    """Names of the band that is read; by default the first one whose name has the word, else the first."""
    numbers: frozenset[int] | None = None
    """Numbers that it has, and 255 for no data; None: any."""


def _word(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])")


KINDS = {
    # 0 no data, 1 saturated or defective, 3 shadow of a cloud, 8 and 9 cloud, 10 cirrus, 11 snow or ice.
    "scl": _Kind(
        MaskRule("scl", classes=(0, 1, 3, 8, 9, 10, 11)),
        _word("scl|scene[ _-]?classification(?:[ _-](?:map|layer))?"),
        numbers=frozenset({*range(12), 255}),
    ),
    # Landsat Collection 2: fill, dilated cloud, cirrus, cloud, shadow of a cloud, snow.
    "qa_pixel": _Kind(MaskRule("qa_pixel", bits=(0, 1, 2, 3, 4, 5)), _word("qa[ _-]?pixel")),
    # Planet: 0 in the first band is not clear.
    "udm2": _Kind(MaskRule("udm2", classes=(0,)), _word(r"udm2(?:[._-]?1)?|usable data mask"), ("clear",)),
    # 1 thick cloud, 2 thin cloud, 3 shadow of a cloud; 255 no data in files that fill it in.
    "omnicloudmask": _Kind(
        MaskRule("omnicloudmask", classes=(1, 2, 3, 255)),
        _word("omni[ _-]?cloud[ _-]?mask|ocm"),
        numbers=frozenset({0, 1, 2, 3, 255}),
    ),
    "nonzero": _Kind(MaskRule("nonzero"), _word("(?!)")),
}
"""Kinds of masks by the name that the configuration has for them."""

PLAIN = frozenset({0, 1, 255})
"""Numbers of a mask that marks hidden pixels and nothing else."""


def kind_of(names: Sequence[str]) -> str | None:
    """Return the kind that the names of a mask's file and bands state, None where they state none.

    Args:
        names: the file's and its bands', in any case.
    """
    for name in names:
        for kind, known in KINDS.items():
            if known.name.search(name.lower()):
                return kind
    return None


def band_of(kind: str, names: Sequence[str | None]) -> int | None:
    """Return the band that holds a kind of mask.

    Args:
        kind: of :data:`KINDS`.
        names: of the file's bands, None for one without.

    Returns:
        Its number from 1; None where several bands may be it.
    """
    known = KINDS[kind]
    labels = [(name or "").strip().lower() for name in names]
    for number, label in enumerate(labels, 1):
        if label in known.bands or known.name.search(label):
            return number
    # Planet's masks have the band in front, often without names.
    return 1 if len(labels) == 1 or known.bands else None


def rule_of(kind: str, classes: Sequence[int] | None) -> MaskRule:
    """Return the rule of a kind, with other classes where such are given.

    Args:
        kind: of :data:`KINDS`.
        classes: numbers that are masked instead.
    """
    if classes is None:
        return KINDS[kind].rule
    return MaskRule("classes" if kind == "nonzero" else kind, classes=tuple(classes))
