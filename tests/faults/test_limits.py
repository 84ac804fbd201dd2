"""Runs under limits of addresses and of file sizes: refused at the start or ended at once, in one line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.city import TALLY
from tests.support.command import ussfc
from tests.support.scenes import write_scene, write_toy_model


@pytest.mark.parametrize(
    ("limits", "status", "message"),
    [
        ("ulimit -v 400000", 5, "would need about 0.60 GB of addresses and may have 0.41 GB"),
        ("ulimit -v 2000000", 5, "GB of addresses and may have 2.05 GB; raise `ulimit -v`"),
        ("ulimit -f 1", 4, "cannot be written (File too large); raise the limit of file sizes"),
    ],
)
def test_a_limit_is_one_line(limits: str, status: int, message: str, tmp_path: Path) -> None:
    write_scene(tmp_path, "city", (200, 200))
    model = write_toy_model(tmp_path)
    TALLY.injected(f"limit {limits.split()[1]}")
    start = time.monotonic()
    result = ussfc(
        "run", "city_before.tif", "city_after.tif", "--out", "out", "--model", model, "--quiet",
        cwd=tmp_path, limits=limits,
    )  # fmt: skip
    assert result.returncode == status, result.stderr
    (line,) = result.stderr.decode().splitlines()
    assert message in line
    # Not tried again and again.
    assert time.monotonic() - start < 40
