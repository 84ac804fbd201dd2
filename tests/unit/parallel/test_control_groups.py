"""Limits of control groups on the time of cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from ussfc.pipeline.parallel.control_groups import cpu_quota


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        pytest.param("0::/job/step\n", {"job/step/cpu.max": "150000 100000\n"}, 1.5, id="v2"),
        pytest.param(
            "0::/job/step\n", {"job/cpu.max": "50000 100000\n", "job/step/cpu.max": "max 100000\n"}, 0.5, id="above"
        ),
        pytest.param(
            "5:cpu,cpuacct:/job\n", {"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000"}, 3.0,
            id="v1",
        ),
        pytest.param(
            "5:cpu:/job\n", {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"}, None,
            id="v1 without limit",
        ),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, None, id="v2 without limit"),
        pytest.param("0::/\n", {"cpu.max": "unknown\n"}, None, id="of another kind"),
        pytest.param("0::/\n", {"cpu.max": "100000 0\n"}, None, id="without period"),
        pytest.param("4:memory:/job\n", {}, None, id="another controller"),
    ],
)  # fmt: skip
def test_quota_of_time(tmp_path: Path, lines: str, files: dict[str, str], quota: float | None) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    membership.write_text(lines)
    assert cpu_quota(root, membership) == quota


def test_system_without_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "none") is None
