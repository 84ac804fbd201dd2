"""Memory that this process may use: of the machine, or of the cgroup that holds it."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import psutil

from ussfc.pipeline.errors import InsufficientMemoryError
from ussfc.pipeline.parallel.control_groups import CGROUPS, MEMBERSHIP, groups_of, number_in

FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}
"""Names of limit and usage, by the version of the group."""

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
    for group in groups_of("memory", root, membership):
        limit, usage = (number_in(group.folder / name) for name in FILES[group.version])
        if limit is not None:
            free.append(max(0, limit - (usage or 0)))
    return min(free)


def group_limit(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> tuple[int, int] | None:
    """Return the least memory that a group leaves to its processes, bytes, and the version of the group.

    Args:
        root: mount point of the control groups.
        membership: file that lists this process's groups.

    Returns:
        None where no group leaves less than the machine has.
    """
    machine = int(psutil.virtual_memory().total)
    found = [
        (limit, group.version)
        for group in groups_of("memory", root, membership)
        if (limit := number_in(group.folder / FILES[group.version][0])) is not None and limit < machine
    ]
    return min(found, default=None)


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
