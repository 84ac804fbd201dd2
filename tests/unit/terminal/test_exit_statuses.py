"""Exit statuses of errors."""

from __future__ import annotations

import pytest

from ussfc import errors as network_errors
from ussfc.pipeline import errors
from ussfc.pipeline.terminal.exit_statuses import STATUSES, ExitStatus, status_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ConfigError("x"), 2),
        (network_errors.TrainingError("x"), 2),
        (errors.ReadError("x"), 3),
        (errors.GridError("x"), 3),
        (errors.TileError("x"), 3),
        (network_errors.ModelError("x"), 3),
        (network_errors.DataError("x"), 3),
        (errors.StoreError("x"), 4),
        (errors.DamagedTiles("x", ((0, 0),)), 4),
        (errors.InsufficientMemoryError("x"), 5),
        (errors.ClusterError("x"), 7),
        (RuntimeError("x"), 1),
    ],
)
def test_status_follows_from_the_error(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_no_error_hides_a_later_one() -> None:
    kinds = [kind for kind, _ in STATUSES]
    for number, kind in enumerate(kinds):
        assert not any(issubclass(later, kind) for later in kinds[number + 1 :])


def test_statuses_are_documented_numbers() -> None:
    assert [int(status) for status in ExitStatus] == [*range(9), 130, 143]
    assert all(status.meaning for status in ExitStatus)
