"""The regions of one block: those that end in it are finished there, of others a piece stays open.

All that is left to do on one core is to join the open pieces over the seams (``regions``). What a block gives is a few
arrays, so that it may be found by another process and kept in a file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from ussfc.pipeline.polygons.arrays import Connectivity, Geometries, IntArray, geometry_array
from ussfc.pipeline.polygons.band_values import BandValues
from ussfc.pipeline.polygons.measure import Features
from ussfc.pipeline.polygons.pieces import Pieces, trace_block
from ussfc.pipeline.types import Box, ProbabilitySource

MEASURED = 1024
"""Regions that are measured together."""

NUMBERS = ("first", "last", "pixels", "total", "peak", "values")
"""Columns of pieces that hold numbers."""

SIDES = ("top", "bottom", "left", "right")
"""Borders of a block."""

MakeFeatures = Callable[[Pieces], Features]
"""Function that measures whole regions, filters them, and brings them to the grid's reference system."""


@dataclass(frozen=True, slots=True)
class BlockRegions:
    """The regions of one block. Open pieces go by number, from 1; 0 is none."""

    closed: Features
    """Regions that touch no other block."""
    open: Pieces
    """Pieces that touch another block."""
    top: IntArray
    """(cols,) number of the open piece at each pixel of the first row."""
    bottom: IntArray
    """(cols,) the same for the last row."""
    left: IntArray
    """(rows,) the same for the first column."""
    right: IntArray
    """(rows,) the same for the last column."""


def find_regions(
    source: ProbabilitySource,
    threshold: float,
    connectivity: Connectivity,
    make: MakeFeatures,
    box: Box,
    values: BandValues | None = None,
) -> BlockRegions:
    """Read a block and find its regions.

    Args:
        source: (rows, cols) probabilities.
        threshold: in [0, 1]; a probability of at least this is change.
        connectivity: 8 joins pixels that touch at a corner only.
        make: makes features of the regions that end in the block.
        box: the block on the grid of ``source``.
        values: bands that are added up below the regions; None: none are.
    """
    rows, cols = source.shape
    traced = trace_block(source, threshold, connectivity, box, values)
    pieces = traced.pieces
    is_open = np.zeros(len(pieces.first) + 1, np.bool_)
    for inner, edge in (
        (box.y0 > 0, traced.top),
        (box.y1 < rows, traced.bottom),
        (box.x0 > 0, traced.left),
        (box.x1 < cols, traced.right),
    ):
        if inner:
            is_open[edge] = True
    is_open[0] = False
    number = np.where(is_open, np.cumsum(is_open), 0)
    return BlockRegions(
        make_parts(pieces.take(~is_open[1:]), make),
        pieces.take(is_open[1:]),
        number[traced.top],
        number[traced.bottom],
        number[traced.left],
        number[traced.right],
    )


def make_parts(regions: Pieces, make: MakeFeatures) -> Features:
    """Make features of whole regions, a bounded number at a time: memory does not follow their number."""
    return Features.concatenate([make(part) for part in regions.parts(MEASURED)])


def to_arrays(found: BlockRegions) -> dict[str, npt.NDArray[Any]]:
    """Return the regions of a block as named arrays of numbers."""
    closed, opened = found.closed, found.open
    parts = [len(outlines) for outlines in opened.outlines]
    return {
        **{f"closed_{name}": getattr(closed.regions, name) for name in NUMBERS},
        "closed_area": closed.area,
        "closed_perimeter": closed.perimeter,
        **_wkb_arrays("closed", closed.geometry),
        **{f"open_{name}": getattr(opened, name) for name in NUMBERS},
        "open_parts": np.array(parts, np.int64),
        **_wkb_arrays("open", geometry_array(list(itertools.chain.from_iterable(opened.outlines)))),
        **{side: getattr(found, side) for side in SIDES},
    }


def of_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> BlockRegions:
    """Return the regions of a block that :func:`to_arrays` took apart."""
    outlines = iter(_geometries("open", arrays))
    opened = [tuple(itertools.islice(outlines, count)) for count in arrays["open_parts"].tolist()]
    return BlockRegions(
        Features(
            Pieces(outlines=[], **{name: arrays[f"closed_{name}"] for name in NUMBERS}),
            arrays["closed_area"],
            arrays["closed_perimeter"],
            _geometries("closed", arrays),
        ),
        Pieces(outlines=opened, **{name: arrays[f"open_{name}"] for name in NUMBERS}),
        **{side: arrays[side] for side in SIDES},
    )


def shift_numbers(found: BlockRegions, taken: int) -> BlockRegions:
    """Return the same with open pieces numbered from ``taken + 1``."""

    def shifted(side: IntArray) -> IntArray:
        return side + taken * (side > 0)

    top, bottom, left, right = (shifted(getattr(found, side)) for side in SIDES)
    return BlockRegions(found.closed, found.open, top, bottom, left, right)


def in_file_order(several: Sequence[Features]) -> Features:
    """Return features in one, ordered by their last pixel."""
    features = Features.concatenate(several)
    order: Any = np.argsort(features.regions.last)
    return features.take(order)


def _wkb_arrays(name: str, geometries: Geometries) -> dict[str, npt.NDArray[Any]]:
    texts = shapely.to_wkb(geometries, byte_order=1).tolist()
    return {
        f"{name}_sizes": np.array([len(text) for text in texts], np.int64),
        f"{name}_wkb": np.frombuffer(b"".join(texts), np.uint8),
    }


def _geometries(name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Geometries:
    content = arrays[f"{name}_wkb"].tobytes()
    ends = [0, *np.cumsum(arrays[f"{name}_sizes"]).tolist()]
    texts = [content[start:end] for start, end in itertools.pairwise(ends)]
    geometries: Geometries = shapely.from_wkb(geometry_array(texts))
    return geometries
