"""Where a run keeps its files: a folder of this machine or a prefix of an object store, through one small interface.

A file appears under its name only when it is complete: written aside and renamed on a disk, committed as one object
in a store.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.parallel.backoff import ONCE, Backoff
from ussfc.pipeline.storage import remote

PART_BYTES = 8 * 1024 * 1024
"""Smallest part of a multipart upload; stores take 5 MiB and more."""

MOST_PARTS = 9_000
"""Stores take 10,000 parts; larger files get larger parts."""

PARTS_AT_ONCE = 4
"""Parts in flight, each in memory: an upload holds 32 MiB up to files of 75 GB."""

PROBE = ".ussfc-probe"

PLACES = (FileExistsError, NotADirectoryError, IsADirectoryError)
"""Of a disk: the name is taken by something else."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload that was begun and not finished; its parts cost storage and are seen by no reader."""

    name: str
    """What it would have become, relative to the folder."""
    key: str
    """Bucket and key."""
    started: str
    """When, as the store says it."""
    number: str
    """The store's name of the upload."""


@dataclass(frozen=True)
class Folder:
    """A folder of files; small and picklable, the same on every machine that sees the place."""

    address: str
    """Absolute local path, or URI of a prefix (``s3://bucket/prefix``)."""

    @classmethod
    def of(cls, place: str | Path | Folder) -> Folder:
        """The folder at a path or URI; nothing is made or looked at."""
        if isinstance(place, Folder):
            return place
        text = str(place)
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        return cls(text.rstrip("/") if remote.is_remote(text) else str(Path(text).absolute()))

    def __str__(self) -> str:
        return remote.shown_uri(self.address)

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.address}/{name}")

    @property
    def local(self) -> Path | None:
        """The path, None in an object store."""
        return None if remote.is_remote(self.address) else Path(self.address)

    def ping(self) -> None:
        """A first look at the place: a misspelt one is told at once, not after the patience that an outage gets.

        Raises:
            StoreError: it cannot be reached.
        """
        if self.local is None:
            self._ask(
                lambda system, path: system.exists(path), PROBE, "looked at", backoff=remote.PROBE_BACKOFF
            )

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of that name.

        Raises:
            StoreError: the place cannot be reached.
        """
        if self.local is not None:
            return (self.local / name).exists()
        return bool(self._ask(lambda system, path: system.exists(path), name, "looked at"))

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none.

        Raises:
            StoreError: the place cannot be reached.
        """

        def ask(system: Any, path: str) -> int | None:
            try:
                return int(system.info(path)["size"])
            except FileNotFoundError:
                return None

        if self.local is not None:
            path = self.local / name
            return path.stat().st_size if path.is_file() else None
        return self._ask(ask, name, "looked at")

    def sizes(self, name: str = "") -> dict[str, int]:
        """Bytes of every file in the folder ``name`` and below it, by its name relative to that.

        Raises:
            StoreError: the place cannot be reached.
        """
        if self.local is not None:
            root = self.local / name if name else self.local
            return dict(_files(str(root), ""))

        def ask(system: Any, path: str) -> dict[str, int]:
            try:
                found = system.find(path, detail=True)
            except FileNotFoundError:
                return {}
            # memory:// starts its names with a slash, whatever the path did.
            start = len(path.strip("/")) + 1
            return {
                key.strip("/")[start:]: int(info["size"])
                for key, info in found.items()
                if info["type"] == "file"
            }

        return self._ask(ask, name, "listed")

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be read.
        """
        if self.local is not None:
            try:
                return (self.local / name).read_bytes()
            except FileNotFoundError:
                raise
            except OSError as error:
                raise self._refused(name, "read", error) from error
        content: bytes = self._ask(lambda system, path: system.cat_file(path), name, "read", missing=True)
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a small file whole.

        Raises:
            StoreError: it cannot be written.
        """
        if self.local is None:
            self._ask(lambda system, path: system.pipe_file(path, content), name, "written")
            return
        path = self.local / name
        aside = path.with_name(path.name + ".part")
        with self._telling(name, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)

    def touch(self, name: str) -> None:
        """Make an empty file: it is there or not, never half, whoever else makes it at the same time.

        Raises:
            StoreError: it cannot be written.
        """
        if self.local is None:
            self._ask(lambda system, path: system.pipe_file(path, b""), name, "written")
            return
        path = self.local / name
        with self._telling(name, "written"):
            try:
                path.touch()
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it; nothing happens where there is none.

        Raises:
            StoreError: it cannot be removed.
        """
        if self.local is not None:
            path = self.local / name
            with self._telling(name, "removed"):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            return

        def ask(system: Any, path: str) -> None:
            try:
                system.rm(path, recursive=True)
            except FileNotFoundError:
                return

        self._ask(ask, name, "removed")

    @contextmanager
    def atomic_output(self, name: str, scratch: Path) -> Iterator[Path]:
        """A local path to write a large file to; the folder has it under ``name`` once the body ends well.

        The body writes the path itself only when complete. A file ``name.aux.xml`` beside it goes along.

        Args:
            name: of the file.
            scratch: local folder for what is on its way to a store.

        Raises:
            StoreError: it cannot be uploaded.
        """
        if self.local is not None:
            yield self.local / name
            return
        with tempfile.TemporaryDirectory(prefix="ussfc-", dir=scratch) as folder:
            made = Path(folder) / name
            yield made
            sidecar = made.with_name(f"{name}.aux.xml")
            if sidecar.exists():
                self.upload(sidecar, sidecar.name)
            else:
                self.remove(sidecar.name)
            self.upload(made, name)

    def upload(self, file: Path, name: str) -> None:
        """Copy a local file into the store, in parts, with bounded memory; readers see all of it or nothing.

        Raises:
            StoreError: it cannot be written.
        """
        how: dict[str, Any] = {}
        if self._scheme in ("s3", "s3a"):
            how = {
                "chunksize": max(PART_BYTES, -(-file.stat().st_size // MOST_PARTS)),
                "max_concurrency": PARTS_AT_ONCE,
            }
        try:
            self._ask(lambda system, path: system.put_file(str(file), path, **how), name, "written")
        finally:
            # Also after an interruption: what was sent of a part-done upload would stay and be paid for.
            if how:
                # Who may not list uploads may still write; `ussfc clean` says what is in the way.
                with suppress(StoreError):
                    self.abort(name)

    @contextmanager
    def local_copies(self, names: Iterable[str]) -> Iterator[Path]:
        """A local folder that holds the named files: this one, or a temporary copy.

        Raises:
            StoreError: a file cannot be read.
        """
        if self.local is not None:
            yield self.local
            return
        with tempfile.TemporaryDirectory(prefix="ussfc-") as folder:
            for name in names:
                self._ask(partial(_download, Path(folder) / name), name, "read")
            yield Path(folder)

    def uploads(self, name: str = "") -> list[Upload]:
        """Unfinished multipart uploads to ``name``, or to anything in the folder; S3 only, others expire them.

        Raises:
            StoreError: they cannot be listed.
        """
        if self._scheme not in ("s3", "s3a"):
            return []

        def ask(system: Any, path: str) -> list[Upload]:
            bucket, _, prefix = path.partition("/")
            prefix = prefix if name else f"{prefix}/".lstrip("/")
            found: list[Upload] = []
            marks: dict[str, str] = {}
            while True:
                page = system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marks)
                start = len(f"{self.address.split('://', 1)[1]}/") - len(f"{bucket}/")
                found += [
                    Upload(entry["Key"][start:], f"{bucket}/{entry['Key']}", str(entry["Initiated"]), entry["UploadId"])
                    for entry in page.get("Uploads", ())
                ]  # fmt: skip
                if not page.get("IsTruncated"):
                    return found
                marks = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

        return self._ask(ask, name, "listed")

    def abort(self, name: str = "") -> list[Upload]:
        """Abort the unfinished uploads that :meth:`uploads` names.

        Returns:
            What was aborted.

        Raises:
            StoreError: the store refuses.
        """
        found = self.uploads(name)
        for upload in found:
            bucket, _, key = upload.key.partition("/")
            how = {"Bucket": bucket, "Key": key, "UploadId": upload.number}

            def ask(system: Any, path: str, how: Mapping[str, str] = how) -> None:
                try:
                    system.call_s3("abort_multipart_upload", **how)
                except FileNotFoundError:
                    return  # it was finished or aborted meanwhile

            self._ask(ask, upload.name, "cleaned")
        return found

    def prepare(self) -> None:
        """Make the folder and probe that it can be written, before hours are spent.

        Raises:
            StoreError: it cannot be made or written.
        """
        if self.local is None:
            content = os.urandom(16)

            def ask(system: Any, path: str) -> bytes:
                system.pipe_file(path, content)
                found: bytes = system.cat_file(path)
                system.rm_file(path)
                return found

            if self._ask(ask, PROBE, "written", backoff=remote.PROBE_BACKOFF) != content:
                raise StoreError(f"{self}: gives back other bytes than were written; choose another --out")
            return
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            probe = self.local / PROBE
            probe.write_bytes(b"\0")
            probe.unlink()
        except OSError as error:
            raise StoreError(f"{self}: cannot be written ({error.strerror}); {_remedy(error)}") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes of this machine out of the folder meanwhile.

        A lock of the kernel on the folder itself, which dies with its process. In an object store nobody is kept
        out: two equal runs there write the same bytes, and another run is refused by its key.

        Raises:
            StoreError: another process is at work there.
        """
        if self.local is None:
            yield
            return
        with self._telling("", "opened"):
            lock = os.open(self.local, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise StoreError(
                f"{self}: another ussfc is at work there; wait for it, or choose another --out"
            ) from error
        except OSError as error:
            # Some network file systems lock no folders; they get the care of an object store.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF):
                os.close(lock)
                raise self._refused("", "locked", error) from error
        try:
            yield
        finally:
            os.close(lock)

    def retry_request(self, request: Callable[[], Result]) -> Result:
        """An idempotent request of somebody else's code to this place, repeated while a store is out; a disk is not.

        Raises:
            OSError: and whatever else :func:`ussfc.pipeline.storage.remote.store_exceptions` names.
        """
        return remote.retry_request(request, ONCE if self.local is not None else None)

    def free_bytes(self) -> int | None:
        """Free bytes of the disk, None in an object store."""
        return None if self.local is None else shutil.disk_usage(self.local).free

    def read_json(self, name: str) -> dict[str, Any]:
        """The mapping in a JSON file.

        Raises:
            StoreError: it is missing or damaged.
        """
        try:
            content = json.loads(self.read(name))
            if not isinstance(content, dict):
                raise ValueError("it holds no mapping")
        except FileNotFoundError as error:
            raise StoreError(
                f"{self / name}: not found; this folder holds no run of ussfc (or its work was removed)"
            ) from error
        except ValueError as error:
            raise StoreError(
                f"{self / name}: cannot be read ({error}); start anew with --overwrite"
            ) from error
        return content

    def find_json(self, name: str) -> dict[str, Any] | None:
        """The mapping in a JSON file, None where there is none.

        Raises:
            StoreError: it is damaged.
        """
        return self.read_json(name) if self.exists(name) else None

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a mapping as JSON, whole.

        Raises:
            StoreError: it cannot be written.
        """
        self.write(name, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())

    @property
    def _scheme(self) -> str:
        return self.address.split("://", 1)[0].lower() if self.local is None else ""

    def _ask(
        self,
        request: Callable[[Any, str], Result],
        name: str,
        doing: str,
        missing: bool = False,
        backoff: Backoff | None = None,
    ) -> Result:
        """One idempotent request to the store, with patience; ``missing`` lets FileNotFoundError through."""
        system, path = remote.filesystem(f"{self.address}/{name}" if name else self.address)
        try:
            return remote.retry_request(lambda: request(system, path), backoff)
        except remote.store_exceptions() as error:
            if missing and isinstance(error, FileNotFoundError):
                raise
            raise self.trouble(name, doing, error) from error

    def trouble(self, name: str, doing: str, error: BaseException) -> StoreError:
        """What a place said, in this package's words."""
        if self.local is not None and isinstance(error, OSError):
            return self._refused(name, doing, error)
        what, remedy = remote.describe_error(error)
        return StoreError(f"{self / name if name else self}: cannot be {doing} ({what}); {remedy}")

    @contextmanager
    def _telling(self, name: str, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._refused(name, doing, error) from error

    def _refused(self, name: str, doing: str, error: OSError) -> StoreError:
        place = self / name if name else self
        return StoreError(f"{place}: cannot be {doing} ({error.strerror}); {_remedy(error)}")


def _download(target: Path, system: Any, path: str) -> None:
    system.get_file(path, str(target))


def _files(root: str, prefix: str) -> Iterator[tuple[str, int]]:
    """(relative name, bytes) of every file below a local folder."""
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
                continue  # a file aside that has got its name meanwhile


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room and give the same command again: it continues"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "choose another --out, or get the right to write there"
    return "choose another --out" if isinstance(error, PLACES) else "check the disk"


def sha256_file(path: Path) -> str:
    """SHA-256 of a local file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
