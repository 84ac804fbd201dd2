"""Memory of the machine and of control groups."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from ussfc.pipeline.parallel.memory_limit import available_memory

MB = 1 << 20


def groups(folder: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write a mount point of control groups and a membership."""
    root, membership = folder / "cgroup", folder / "membership"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    membership.write_text(lines)
    return root, membership


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        (
            "0::/job/step\n",
            {"job/step/memory.max": f"{100 * MB}\n", "job/step/memory.current": f"{40 * MB}\n"},
        ),
        ("0::/job/step\n", {"job/memory.max": f"{60 * MB}\n", "job/step/memory.max": "max\n"}),
        # In a container the mount point is the group itself.
        ("0::/host/name\n", {"memory.max": f"{60 * MB}\n"}),
        (
            "5:cpu:/job\n4:memory:/job\n",
            {
                "memory/job/memory.limit_in_bytes": f"{90 * MB}\n",
                "memory/job/memory.usage_in_bytes": f"{30 * MB}\n",
            },
        ),
    ],
    ids=["v2", "group above", "container", "v1"],
)
def test_limits_of_groups_count(tmp_path: Path, lines: str, files: dict[str, str]) -> None:
    assert available_memory(*groups(tmp_path, lines, files)) == 60 * MB


@pytest.mark.parametrize("lines", ["0::/\n", "3:cpu,cpuacct:/job\n"])
def test_machine_without_limits_has_its_own_memory(tmp_path: Path, lines: str) -> None:
    free = available_memory(*groups(tmp_path, lines, {"job/memory.max": "1\n"}))
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert available_memory(tmp_path / "absent", tmp_path / "absent") == pytest.approx(free, rel=0.2)
