"""The pieces of a block: counts, sums and places on its border."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from tests.support.layers import Connectivity, mask
from tests.support.probabilities import ArraySource
from ussfc.pipeline.polygons.pieces import FIXED_POINT, Pieces, trace_block
from ussfc.pipeline.types import Box

CHANGED = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 0, 1], [1, 0, 0, 1, 0]])
BLOCK = Box(0, 1, 3, 5)


@pytest.mark.parametrize(("connectivity", "pixels"), [(4, [3, 1, 1]), (8, [5])])
def test_a_block_is_cut_into_its_pieces(connectivity: Connectivity, pixels: list[int]) -> None:
    traced = trace_block(ArraySource(mask(CHANGED)), 0.5, connectivity, BLOCK)
    pieces = traced.pieces
    assert pieces.pixels.tolist() == pixels
    assert (pieces.first[0], pieces.last.max()) == (1, 13)
    np.testing.assert_array_equal(pieces.total, np.rint(pieces.pixels * np.float32(200 / 254) * FIXED_POINT))
    np.testing.assert_array_equal(pieces.peak, np.float32(200 / 254))
    assert sum(outline.area for (outline,) in pieces.outlines) == 5
    assert shapely.union_all([outline for (outline,) in pieces.outlines]).bounds == (1, 0, 5, 3)


def test_the_border_names_its_pieces() -> None:
    traced = trace_block(ArraySource(mask(CHANGED)), 0.5, 4, BLOCK)
    assert [side.tolist() for side in (traced.top, traced.bottom, traced.left, traced.right)] == [
        [1, 1, 0, 0], [0, 0, 3, 0], [1, 0, 0], [0, 2, 0],
    ]  # fmt: skip


def test_a_block_without_change_has_no_pieces() -> None:
    traced = trace_block(ArraySource(mask(np.zeros((3, 5)))), 0.5, 4, Box(0, 0, 3, 5))
    assert traced.pieces.outlines == []
    assert [len(side) for side in (traced.top, traced.bottom, traced.left, traced.right)] == [5, 5, 3, 3]
    assert not traced.top.any()


def test_parts_and_selections_keep_the_order() -> None:
    pieces = trace_block(ArraySource(mask(CHANGED)), 0.5, 4, BLOCK).pieces
    parts = list(pieces.parts(2))
    assert [len(part.first) for part in parts] == [2, 1]
    assert Pieces.concatenate(parts).first.tolist() == pieces.first.tolist()
    assert Pieces.concatenate([]).outlines == []
    taken = pieces.take(np.array([True, False, True]))
    assert taken.first.tolist() == pieces.first[[0, 2]].tolist()
    assert taken.outlines == [pieces.outlines[0], pieces.outlines[2]]


def test_united_pieces_add_up() -> None:
    pieces = trace_block(ArraySource(mask(CHANGED)), 0.5, 4, BLOCK).pieces
    box = (shapely.box(0, 0, 1, 1),)
    united = pieces.unite(np.array([1, 0, 1]), 2, [box, box])
    assert united.pixels.tolist() == [1, 4]
    assert united.total.tolist() == [pieces.total[1], pieces.total[0] + pieces.total[2]]
    assert (united.first.tolist(), united.last.tolist()) == ([9, 1], [9, 13])
