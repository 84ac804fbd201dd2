"""Runs whose standard streams are closed or full: text may be lost, work may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.city import TALLY
from tests.support.command import ussfc
from tests.support.scenes import write_scene, write_toy_model


@pytest.mark.parametrize(
    ("redirection", "status"),
    [("2>&-", 0), pytest.param("2>/dev/full", 0, marks=pytest.mark.soak), (">/dev/full 2>/dev/full", 4)],
)
def test_streams_do_not_stop_a_run(redirection: str, status: int, tmp_path: Path) -> None:
    write_scene(tmp_path, "city", (200, 200))
    model = write_toy_model(tmp_path)
    TALLY.injected("standard stream closed or full")
    result = ussfc(
        "run", "city_before.tif", "city_after.tif", "--out", "out", "--model", model, "--verbose",
        cwd=tmp_path, redirection=redirection,
    )  # fmt: skip
    assert result.returncode == status
    assert (tmp_path / "out/run.json").exists()
    assert (tmp_path / "out/change.tif").read_bytes()[:2] == b"II"
    assert ussfc("validate", "out", cwd=tmp_path).returncode == 0
