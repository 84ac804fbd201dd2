"""A prefix of an object store, through fsspec's file systems."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.storage import layout, remote
from ussfc.pipeline.storage.folder import FileState, Folder
from ussfc.pipeline.storage.uploads import Upload, abort_upload, list_uploads
from ussfc.pipeline.waiting import waiting_for

PART_BYTES = 8 * 1024 * 1024
"""Smallest part of a multipart upload, bytes; stores take 5 MiB and more."""

MOST_PARTS = 9_000
"""Largest number of parts: stores take 10,000; larger files get larger parts."""

PARTS_AT_ONCE = 4
"""Parts in flight, each in memory: an upload holds 32 MiB up to files of 75 GB."""

S3_SCHEMES = ("s3", "s3a")

ETAGS = ("ETag", "etag")
"""Names in fsspec's file systems of the etag of an object."""

TIMES = ("LastModified", "last_modified", "updated")
"""Names there of the time when an object was written."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class ObjectFolder(Folder):
    """A folder of files below a prefix of an object store."""

    def ping(self) -> None:
        self._request(
            lambda system, path: system.exists(path), layout.PROBE, "looked at", remote.PROBE_BACKOFF
        )

    def prepare(self) -> None:
        content = os.urandom(16)

        def write_and_read(system: Any, path: str) -> bytes:
            system.pipe_file(path, content)
            found: bytes = system.cat_file(path)
            system.rm_file(path)
            return found

        if self._request(write_and_read, layout.PROBE, "written", remote.PROBE_BACKOFF) != content:
            raise StoreError(
                f"{self}: gives back other bytes than were written; choose another output folder"
            )

    def exists(self, name: str) -> bool:
        return bool(self._request(lambda system, path: system.exists(path), name, "looked at"))

    def state(self, name: str) -> FileState | None:
        def state_of(system: Any, path: str) -> FileState | None:
            try:
                return _state(system.info(path))
            except FileNotFoundError:
                return None

        return self._request(state_of, name, "looked at")

    def states(self, name: str = "") -> dict[str, FileState]:
        def list_files(system: Any, path: str) -> dict[str, FileState]:
            try:
                found = system.find(path, detail=True)
            except FileNotFoundError:
                return {}
            # memory:// starts its names with a slash, whatever the path did.
            start = len(path.strip("/")) + 1
            return {
                key.strip("/")[start:]: _state(info) for key, info in found.items() if info["type"] == "file"
            }

        return self._request(list_files, name, "listed")

    def read(self, name: str) -> bytes:
        content: bytes = self._request(
            lambda system, path: system.cat_file(path), name, "read", may_be_missing=True
        )
        return content

    def sha256(self, name: str) -> str:
        return self._request(_digest, name, "read")

    def write(self, name: str, content: bytes, sync: bool = True) -> None:
        self._request(lambda system, path: system.pipe_file(path, content), name, "written")

    def append(self, name: str, content: bytes) -> None:
        try:
            earlier = self.read(name)
        except FileNotFoundError:
            earlier = b""
        self.write(name, earlier + content)

    def touch(self, name: str) -> None:
        self.write(name, b"")

    def remove(self, name: str) -> None:
        def remove_all(system: Any, path: str) -> None:
            try:
                system.rm(path, recursive=True)
            except FileNotFoundError:
                return

        self._request(remove_all, name, "removed")

    @contextmanager
    def atomic_output(self, name: str, scratch: Path) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="ussfc-", dir=scratch) as folder:
            file = Path(folder) / name
            yield file
            statistics = file.with_name(layout.statistics_file(name))
            if statistics.exists():
                self.upload(statistics, statistics.name)
            else:
                self.remove(statistics.name)
            self.upload(file, name)

    def upload(self, file: Path, name: str) -> None:
        """Copy a local file into the store, in parts, with bounded memory; readers see all of it or nothing.

        Raises:
            StoreError: it cannot be written.
        """
        options: dict[str, Any] = {}
        if self._is_s3:
            options = {
                "chunksize": max(PART_BYTES, -(-file.stat().st_size // MOST_PARTS)),
                "max_concurrency": PARTS_AT_ONCE,
            }
        try:
            self._request(lambda system, path: system.put_file(str(file), path, **options), name, "written")
        finally:
            # Also after an interruption: the parts of an unfinished upload would stay and be paid for.
            if self._is_s3:
                # A user who may not list uploads may still write; `ussfc clean` reports the reason.
                with suppress(StoreError):
                    self.abort(name)

    @contextmanager
    def local_copies(self, names: Iterable[str]) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="ussfc-") as folder:
            for name in names:
                self._request(partial(_download, Path(folder) / name), name, "read")
            yield Path(folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def uploads(self, name: str = "") -> list[Upload]:
        if not self._is_s3:
            return []
        return self._request(lambda system, path: list_uploads(system, path, name), "", "listed")

    def abort(self, name: str = "") -> list[Upload]:
        found = self.uploads(name)
        for upload in found:
            self._request(partial(_abort, upload), upload.name, "cleaned")
        return found

    def retry_request(self, request: Callable[[], Result]) -> Result:
        with waiting_for(remote.host_of(self.address)):
            return remote.retry_request(request)

    def free_bytes(self) -> int | None:
        return None

    def free_files(self) -> int | None:
        return None

    def store_error(self, name: str, action: str, error: BaseException) -> StoreError:
        reason, remedy = remote.describe_error(error)
        return StoreError(f"{self / name if name else self}: cannot be {action} ({reason}); {remedy}")

    @property
    def _is_s3(self) -> bool:
        return self.address.split("://", 1)[0].lower() in S3_SCHEMES

    def _request(
        self,
        request: Callable[[Any, str], Result],
        name: str,
        action: str,
        backoff: Backoff | None = None,
        may_be_missing: bool = False,
    ) -> Result:
        """Make an idempotent request to the store, again while it is out.

        Args:
            request: takes fsspec's file system and the path of ``name`` in it.
            name: of the file; empty for the folder itself.
            action: participle for the error: written, read ...
            backoff: attempts; by default those of :func:`ussfc.pipeline.storage.remote.retry_request`.
            may_be_missing: whether FileNotFoundError is raised as it is.
        """
        system, path = remote.filesystem(f"{self.address}/{name}" if name else self.address)
        try:
            with waiting_for(remote.host_of(self.address)):
                return remote.retry_request(lambda: request(system, path), backoff)
        except remote.store_exceptions() as error:
            if may_be_missing and isinstance(error, FileNotFoundError):
                raise
            raise self.store_error(name, action, error) from error


def _state(facts: Mapping[str, Any]) -> FileState:
    """Return the state of an object that a file system describes; a listing and a look at one object agree on it."""
    etag, time = (next((facts[name] for name in names if facts.get(name)), None) for names in (ETAGS, TIMES))
    # Some stores quote one of the two, and state fractions of a second in one.
    if not isinstance(etag, str):
        return FileState(int(facts["size"]))
    plain = etag.strip('"')
    return FileState(int(facts["size"]), zlib.crc32(f"{plain} {str(time)[:19]}".encode()))


def _digest(system: Any, path: str) -> str:
    digest = hashlib.sha256()
    with system.open(path, "rb", block_size=PART_BYTES, cache_type="readahead") as file:
        while piece := file.read(PART_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _download(target: Path, system: Any, path: str) -> None:
    system.get_file(path, str(target))


def _abort(upload: Upload, system: Any, path: str) -> None:
    abort_upload(system, upload)
