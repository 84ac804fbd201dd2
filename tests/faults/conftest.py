"""Fixtures of the fault tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.city import City


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """Files that an undisturbed run leaves, and the number of its file operations."""
    folder = tmp_path_factory.mktemp("undisturbed")
    city = City(str(folder / "out"), folder / "log")
    result = city.run()
    assert result["status"] == 0, result["error"]
    return city.content(), result["operations"]


@pytest.fixture
def city(tmp_path: Path) -> City:
    """A run into a fresh folder."""
    return City(str(tmp_path / "out"), tmp_path / "log")
