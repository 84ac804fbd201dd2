"""Fixtures of the fault tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.city import City


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """What a run that nobody disturbs leaves, and its file operations."""
    folder = tmp_path_factory.mktemp("undisturbed")
    city = City(str(folder / "out"), folder / "log")
    told = city.run()
    assert told["status"] == 0, told["error"]
    return city.content(), told["operations"]


@pytest.fixture
def city(tmp_path: Path) -> City:
    """A run into a fresh folder."""
    return City(str(tmp_path / "out"), tmp_path / "log")
