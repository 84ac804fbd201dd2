"""Memory that this process may use: of the machine, or of the cgroup that holds it."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
"""Mount point of the control groups."""

MEMBERSHIP = Path("/proc/self/cgroup")
"""Groups of this process: a line ``ID:CONTROLLERS:PATH`` each."""


def available_memory(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the bytes that are free for this process: the machine's, or fewer where a cgroup limits it (v1 and v2).

    Args:
        root: mount point of the control groups.
        membership: file that lists this process's groups.
    """
    free = [int(psutil.virtual_memory().available)]
    for folder, limit_name, usage_name in _groups(root, membership):
        limit, usage = (_number(folder / name) for name in (limit_name, usage_name))
        if limit is not None:
            free.append(max(0, limit - (usage or 0)))
    return min(free)


def _groups(root: Path, membership: Path) -> list[tuple[Path, str, str]]:
    """List the folders of this process's groups and of those above, with the names of limit and usage."""
    try:
        lines = membership.read_text("utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = root, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = base / path.lstrip("/")
        # In a container the path is that of the host, and the mount point is the group itself.
        found += [(place, *names) for place in (folder, *folder.parents) if place.is_relative_to(base)]
    return found


def _number(file: Path) -> int | None:
    """Return the bytes in a file; None where there is none or it holds no limit (``max``)."""
    try:
        return int(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
