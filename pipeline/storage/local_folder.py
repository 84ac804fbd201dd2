"""A folder on a disk of this machine, or on a file system that several machines share."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ussfc.local_files import create_file, open_regular
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.storage import layout, remote
from ussfc.pipeline.storage.folder import FileState, Folder
from ussfc.pipeline.storage.uploads import Upload

Result = TypeVar("Result")

_NAME_TAKEN = (FileExistsError, NotADirectoryError, IsADirectoryError)

_PERMANENT = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EINVAL,
)  # fmt: skip
"""Errors of a disk that no pause of a minute mends: no room, no right, no such file possible."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF)
"""Answers of network file systems that lock no folders."""


@dataclass(frozen=True)
class LocalFolder(Folder):
    """A folder of files at a local path."""

    @property
    def local(self) -> Path:
        """The path."""
        return Path(self.address)

    def ping(self) -> None:
        pass

    def prepare(self) -> None:
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            # A name that others cannot know: a link under it would be written through.
            descriptor, probe = tempfile.mkstemp(prefix=f"{layout.PROBE}-", dir=self.local)
            try:
                os.write(descriptor, b"\0")
            finally:
                os.close(descriptor)
                Path(probe).unlink()
        except OSError as error:
            raise self.store_error("", "written", error) from error

    def exists(self, name: str) -> bool:
        return (self.local / name).exists()

    def state(self, name: str) -> FileState | None:
        path = self.local / name
        return FileState(path.stat().st_size) if path.is_file() else None

    def states(self, name: str = "") -> dict[str, FileState]:
        return {found: FileState(size) for found, size in _files(str(self.local / name), "")}

    def read(self, name: str) -> bytes:
        try:
            with open_regular(self.local / name) as file:
                return file.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.store_error(name, "read", error) from error

    def sha256(self, name: str) -> str:
        with self._store_errors(name, "read"):
            return sha256_file(self.local / name)

    def write(self, name: str, content: bytes, sync: bool = True) -> None:
        path = self.local / name
        part = path.with_name(path.name + layout.PART_SUFFIX)
        with self._store_errors(name, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with create_file(part) as file:
                    file.write(content)
                    if sync:
                        file.flush()
                        os.fsync(file.fileno())
                os.replace(part, path)
            except OSError:
                # On a full disk it would take room that the next try needs, and stay beside what is finished.
                with suppress(OSError):
                    part.unlink()
                raise

    def append(self, name: str, content: bytes) -> None:
        with self._store_errors(name, "written"):
            # A link or a pipe put in its place in a shared folder is not followed.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self.local / name, flags, 0o666)
            with os.fdopen(descriptor, "ab") as file:
                file.write(content)

    def touch(self, name: str) -> None:
        path = self.local / name
        with self._store_errors(name, "written"):
            try:
                _touch(path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                _touch(path)

    def remove(self, name: str) -> None:
        path = self.local / name
        with self._store_errors(name, "removed"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def atomic_output(self, name: str, scratch: Path) -> Iterator[Path]:
        yield self.local / name

    @contextmanager
    def local_copies(self, names: Iterable[str]) -> Iterator[Path]:
        yield self.local

    @contextmanager
    def lock(self) -> Iterator[None]:
        # A lock of the kernel on the folder itself, which ends with its process.
        with self._store_errors("", "opened"):
            descriptor = os.open(self.local, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError(
                    f"{self}: another ussfc is at work there; wait for it, or choose another output folder"
                ) from error
            except OSError as error:
                # Where nothing can be locked, the folder gets the care of an object store.
                if error.errno not in _NO_LOCKS:
                    raise self.store_error("", "locked", error) from error
            yield
        finally:
            os.close(descriptor)

    def uploads(self, name: str = "") -> list[Upload]:
        return []

    def abort(self, name: str = "") -> list[Upload]:
        return []

    def retry_request(self, request: Callable[[], Result]) -> Result:
        return request()

    def free_bytes(self) -> int | None:
        return shutil.disk_usage(self.local).free

    def free_files(self) -> int | None:
        disk = os.statvfs(self.local)
        # Some file systems make inodes as they need them, and report none at all.
        return disk.f_favail if disk.f_files else None

    def store_error(self, name: str, action: str, error: BaseException) -> StoreError:
        if isinstance(error, OSError):
            reason, remedy = str(error.strerror), _remedy(error)
        else:
            reason, remedy = remote.describe_error(error)
        made = StoreError(f"{self / name if name else self}: cannot be {action} ({reason}); {remedy}")
        made.permanent = isinstance(error, OSError) and error.errno in _PERMANENT
        return made

    @contextmanager
    def _store_errors(self, name: str, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.store_error(name, action, error) from error


def _touch(path: Path) -> None:
    """Create an empty file where there is none; a link is not followed."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a local file, hexadecimal."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(root: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield (relative name, bytes) of every file below a folder."""
    try:
        entries = list(os.scandir(root))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, f"{prefix}{entry.name}/")
        else:
            try:
                yield prefix + entry.name, entry.stat().st_size
            except FileNotFoundError:
                continue  # a file that was written aside and has got its name meanwhile


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room and give the same command again: it continues"
    if error.errno == errno.EFBIG:
        return "raise the limit of file sizes (`ulimit -f`) or choose another output folder; the same command continues"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose another output folder, or get the right to write there"
    # In /proc and /sys no folder can be made.
    if error.errno == errno.ENOENT or isinstance(error, _NAME_TAKEN):
        return "choose another output folder"
    return "check the disk"
