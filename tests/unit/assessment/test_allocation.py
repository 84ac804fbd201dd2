"""Sizes of samples and of their strata."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.assessment.allocation import allocate, optimal_size
from ussfc.pipeline.errors import ConfigError


def shared(points: int, *units: int) -> list[int]:
    return allocate(points, np.array(units, float), np.array(units)).tolist()


@pytest.mark.parametrize(
    ("points", "units", "expected"),
    [
        (300, (22_598, 52_246, 514_980), [50, 50, 200]),
        (1000, (20_000, 180_000, 800_000), [50, 174, 776]),
        (300, (7, 1_000, 99_000), [7, 50, 243]),
        (300, (0, 0, 99_000), [0, 0, 300]),
        (30, (100, 1_000, 99_000), [10, 10, 10]),
        (300, (20, 30, 40), [20, 30, 40]),
        (6, (100, 1_000, 99_000), [2, 2, 2]),
    ],
)
def test_rare_strata_get_enough_points(points: int, units: tuple[int, ...], expected: list[int]) -> None:
    assert shared(points, *units) == expected


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 points cannot be shared by 3 strata; each needs 2 or more"):
        shared(5, 100, 1_000, 99_000)


@given(
    st.integers(6, 3000),
    st.lists(st.integers(0, 10_000), min_size=3, max_size=3).filter(lambda units: sum(units) > 0),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_points_sum_up_and_no_stratum_has_more_than_its_units(
    points: int, units: list[int], wanted: list[float]
) -> None:
    found = allocate(points, np.array(wanted), np.array(units))
    assert found.sum() == min(points, sum(units))
    assert (found <= np.array(units)).all()
    assert all(count >= min(2, size) for count, size in zip(found, units, strict=True))


def test_size_for_a_standard_error_is_that_of_olofsson_2014() -> None:
    """Equation 13 with the figures of its table 5: 641 points."""
    units = np.array([200_000, 150_000, 3_200_000, 6_450_000])
    points, _ = optimal_size(units, np.array([0.70, 0.60, 0.90, 0.95]), 0.01)
    assert points == 641
