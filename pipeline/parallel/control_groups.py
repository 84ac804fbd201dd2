"""Control groups that hold this process, of Linux, and the limits that they set (v1 and v2)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
"""Mount point of the control groups."""

MEMBERSHIP = Path("/proc/self/cgroup")
"""Groups of this process: a line ``ID:CONTROLLERS:PATH`` each."""


@dataclass(frozen=True, slots=True)
class Group:
    """The folder of a group, or of one above it."""

    folder: Path
    """Folder with the files of a controller."""
    version: int
    """1 or 2: the files have other names."""


def groups_of(controller: str, root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> list[Group]:
    """List this process's groups under a controller and those above; none where the system has no such thing.

    Args:
        controller: ``memory`` or ``cpu``.
        root: mount point of the control groups.
        membership: file that lists this process's groups.
    """
    try:
        lines = membership.read_text("utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, version = root, 2
        elif controller in controllers.split(","):
            base, version = root / controller, 1
        else:
            continue
        folder = base / path.lstrip("/")
        # In a container the path is that of the host, and the mount point is the group itself.
        found += [Group(place, version) for place in (folder, *folder.parents) if place.is_relative_to(base)]
    return found


def number_in(file: Path) -> int | None:
    """Return the number in a file; None where there is none or it holds no limit (``max``)."""
    try:
        return int(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def cpu_quota(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Return the cores' worth of time that groups leave to this process; None where none limits it.

    Args:
        root: mount point of the control groups.
        membership: file that lists this process's groups.
    """
    found = []
    for group in groups_of("cpu", root, membership):
        if group.version == 2:
            # "max 100000" where there is no limit.
            with suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = map(int, (group.folder / "cpu.max").read_text("utf-8").split())
                found.append(quota / period)
        else:
            limit, length = (number_in(group.folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            # -1 stands for no limit.
            if limit is not None and limit > 0 and length:
                found.append(limit / length)
    return min(found, default=None)
