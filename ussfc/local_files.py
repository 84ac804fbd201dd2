"""Local files opened with care: no special file is waited for, and no link is written through."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

ATTEMPTS = 100
"""Times that a name is taken again by others before the folder is given up."""

UNDECODABLE = "holds bytes that are no UTF-8; rename the file or folder, or give a link to it"
"""Finding and remedy for a name that :func:`undecodable` returns."""

KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)


def check_regular(path: str | Path, state: os.stat_result | None = None) -> None:
    """Refuse a special file, which a reader might wait for without end; one that does not exist is not reported here.

    Args:
        path: of the file.
        state: of the file, where it is known.

    Raises:
        OSError: it is a named pipe, a device or a socket; ``strerror`` names the kind.
    """
    try:
        mode = (Path(path).stat() if state is None else state).st_mode
    except (OSError, ValueError):
        return
    _check_mode(mode, path)


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading bytes, without waiting.

    Raises:
        OSError: it cannot be opened, or is a folder or a special file; ``strerror`` names the kind.
    """
    check_regular(path)
    # A name that becomes a named pipe in between still does not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        _check_mode(mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def create_file(path: str | Path) -> BinaryIO:
    """Create a file for writing bytes in place of what has its name; a link there is removed, not followed.

    In a folder that others may write to, a link under a name that is known beforehand would lead to any file of ours.

    Raises:
        OSError: it cannot be created.
    """
    for _ in range(ATTEMPTS):
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.fdopen(os.open(path, flags, 0o666), "wb")
        except FileExistsError:
            Path(path).unlink(missing_ok=True)
    raise FileExistsError(errno.EEXIST, "others create it again and again", str(path))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when complete, also where others write it at the same time.

    Raises:
        OSError: it cannot be written; what had its name is still there.
    """
    # In the same folder, since a rename is atomic only within one file system.
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with create_file(aside) as file:
            file.write(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def open_lock(path: Path) -> int:
    """Wait until no other process holds the lock of a file, and return the descriptor that holds it until it is closed.

    Where the file system has no locks, nothing is waited for. A link in place of the file is not followed.

    Raises:
        OSError: it cannot be created.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def users_cache() -> Path | None:
    """Return the folder ``ussfc`` in the user's cache, ``XDG_CACHE_HOME`` or ``~/.cache``; None: the user has no home.

    A relative path is ignored, as the XDG Base Directory Specification has it: it would be another cache in each folder
    that a command is given in.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (folder if folder.is_absolute() else Path.home() / ".cache") / "ussfc"
    except RuntimeError:
        return None


def undecodable(name: str | Path) -> str | None:
    """Return a name as a message shows it if it holds bytes that are no UTF-8, None for any other.

    Python keeps such bytes as surrogates, which GDAL, JSON and terminals do not take.
    """
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode(errors="backslashreplace")
    return None


def _check_mode(mode: int, path: str | Path) -> None:
    for is_kind, kind in KINDS:
        if is_kind(mode):
            raise OSError(errno.EINVAL, f"{kind}, expected a file", str(path))
