"""Memory that this process may use: of the machine, or of the cgroup that holds it."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import psutil

from ussfc.pipeline.errors import InsufficientMemoryError

CGROUPS = Path("/sys/fs/cgroup")
"""Mount point of the control groups."""

MEMBERSHIP = Path("/proc/self/cgroup")
"""Groups of this process: a line ``ID:CONTROLLERS:PATH`` each."""

RESERVED_ADDRESSES = 1_900_000_000
"""Addresses that libraries (torch, GDAL, Arrow) and threads reserve beside the memory that they use, bytes."""

LEAST_RESIDENT = 500_000_000
"""Memory of a process that has computed a patch, bytes."""

NO_MEMORY = (
    "failed to map segment", "annot allocate memory", "can't allocate memory", "can't start new thread", "can't alloc",
)  # fmt: skip
"""Words of libraries that got no memory, no addresses or no thread."""


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


def address_limit() -> int | None:
    """Return the bytes of addresses that a process may have (``ulimit -v``), used or not; None where unlimited."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


def check_address_space(resident: int = LEAST_RESIDENT, reserved: int = RESERVED_ADDRESSES) -> None:
    """Refuse work that a limit of addresses would end somewhere within a library, often without a word.

    Args:
        resident: memory that the largest process of the work will use, bytes.
        reserved: addresses that libraries take beside it, bytes.

    Raises:
        InsufficientMemoryError: names both numbers.
    """
    limit, needed = address_limit(), resident + reserved
    if limit is not None and limit < needed:
        raise InsufficientMemoryError(
            f"a process would need about {needed / 1e9:.2f} GB of addresses and may have {limit / 1e9:.2f} GB; raise "
            "`ulimit -v`, or limit its memory by a control group instead"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a library failed for want of memory, addresses or threads."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, ImportError | RuntimeError) and any(words in str(error) for words in NO_MEMORY)
