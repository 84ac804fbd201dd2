"""Memory of the machine and of control groups."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import psutil
import pytest

from ussfc.pipeline.errors import InsufficientMemoryError
from ussfc.pipeline.parallel.memory_limit import (
    address_limit,
    available_memory,
    check_address_space,
    group_limit,
    is_out_of_memory,
)

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


@pytest.mark.parametrize(
    ("lines", "files", "limit"),
    [
        ("0::/a/b\n", {"a/memory.max": f"{60 * MB}\n", "a/b/memory.max": f"{90 * MB}\n"}, (60 * MB, 2)),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": f"{60 * MB}\n"}, (60 * MB, 1)),
        # Of v1 where there is none.
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/a\n", {"a/memory.max": "max\n"}, None),
    ],
)
def test_least_limit_of_the_groups(
    tmp_path: Path, lines: str, files: dict[str, str], limit: tuple[int, int] | None
) -> None:
    assert group_limit(*groups(tmp_path, lines, files)) == limit


@pytest.mark.parametrize("lines", ["0::/\n", "3:cpu,cpuacct:/job\n"])
def test_machine_without_limits_has_its_own_memory(tmp_path: Path, lines: str) -> None:
    free = available_memory(*groups(tmp_path, lines, {"job/memory.max": "1\n"}))
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert available_memory(tmp_path / "absent", tmp_path / "absent") == pytest.approx(free, rel=0.2)


@pytest.mark.parametrize("limit", [1_000_000_000, resource.RLIM_INFINITY])
def test_addresses_are_limited(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    check_address_space(100_000_000, reserved=800_000_000)
    if limit == resource.RLIM_INFINITY:
        assert address_limit() is None
        check_address_space()
    else:
        assert address_limit() == limit
        with pytest.raises(
            InsufficientMemoryError, match=r"about 1\.10 GB of addresses and may have 1\.00 GB"
        ):
            check_address_space(300_000_000, reserved=800_000_000)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOENT, "No such file"), False),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("No module named torch"), False),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("a defect"), False),
        (ValueError("failed to map segment"), False),
    ],
)
def test_want_of_memory_is_known_by_its_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
