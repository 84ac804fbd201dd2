"""The files of a run in one place: a folder of this machine or a prefix of an object store, behind one interface.

A file appears under its name only when it is complete: written aside and renamed on a disk, committed as one object
in a store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ussfc.addresses import shown_address
from ussfc.local_files import UNDECODABLE, undecodable
from ussfc.pipeline.errors import DamagedRecord, StoreError
from ussfc.pipeline.storage import remote
from ussfc.pipeline.storage.sealed_json import dumped, sealed, unsealed
from ussfc.pipeline.storage.uploads import Upload

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class FileState:
    """A file as its place describes it, without being read."""

    size: int
    """Size, bytes."""
    mark: int | None = None
    """CRC-32 of etag and time of an object: another mark, another write. None on a disk, and where a store has none."""


@dataclass(frozen=True)
class Folder(ABC):
    """A folder of files; small and picklable, the same on every machine that sees the place."""

    address: str = field(repr=False)
    """Absolute local path, or URI of a prefix (``s3://bucket/prefix``)."""

    @staticmethod
    def of(place: str | Path | Folder) -> Folder:
        """Return the folder at a path or URI; nothing is created or looked at.

        Raises:
            StoreError: the address names no place, one of GDAL's own, or one of a kind that holds no runs.
        """
        # Both kinds derive from this class.
        from ussfc.pipeline.storage.local_folder import LocalFolder
        from ussfc.pipeline.storage.object_folder import ObjectFolder

        if isinstance(place, Folder):
            return place
        text = _checked_address(str(place).removeprefix("file://"))
        return (
            ObjectFolder(text.rstrip("/"))
            if remote.is_remote(text)
            else LocalFolder(str(Path(text).absolute()))
        )

    def __str__(self) -> str:
        return shown_address(self.address)

    def __truediv__(self, name: str) -> Folder:
        return type(self)(f"{self.address}/{name}")

    @property
    def local(self) -> Path | None:
        """The path, None in an object store."""
        return None

    @abstractmethod
    def ping(self) -> None:
        """Look at the place once: a misspelt one is reported at once, without the patience that an outage gets.

        Raises:
            StoreError: it cannot be reached.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Create the folder and probe that it can be written, before hours are spent.

        Raises:
            StoreError: it cannot be created or written.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder of that name.

        Raises:
            StoreError: the place cannot be reached.
        """

    @abstractmethod
    def state(self, name: str) -> FileState | None:
        """Return the state of a file, None where it does not exist.

        Raises:
            StoreError: the place cannot be reached.
        """

    @abstractmethod
    def states(self, name: str = "") -> dict[str, FileState]:
        """Return the state of every file in the folder ``name`` and below it, by its name relative to that.

        Raises:
            StoreError: the place cannot be reached.
        """

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None where it does not exist.

        Raises:
            StoreError: the place cannot be reached.
        """
        state = self.state(name)
        return None if state is None else state.size

    def sizes(self, name: str = "") -> dict[str, int]:
        """Return the bytes of every file in the folder ``name`` and below it, by its name relative to that.

        Raises:
            StoreError: the place cannot be reached.
        """
        return {name: state.size for name, state in self.states(name).items()}

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: it does not exist.
            StoreError: it cannot be read.
        """

    @abstractmethod
    def write(self, name: str, content: bytes, sync: bool = True) -> None:
        """Write a small file whole.

        Args:
            name: the file.
            content: its bytes.
            sync: wait until a local disk has it. Without that, a machine that loses its power may leave a file of other
                bytes: for files with a checksum that can be made again.

        Raises:
            StoreError: it cannot be written.
        """

    @abstractmethod
    def append(self, name: str, content: bytes) -> None:
        """Add to the end of a small file; where it does not exist, it is created.

        In an object store it is written again whole, by one process at a time.

        Raises:
            StoreError: it cannot be written.
        """

    @abstractmethod
    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file, hexadecimal; it is read once, with bounded memory.

        Raises:
            StoreError: it cannot be read.
        """

    @abstractmethod
    def touch(self, name: str) -> None:
        """Create an empty file: it is there or not, never half, also where several do so at the same time.

        Raises:
            StoreError: it cannot be written.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it; do nothing where it does not exist.

        Raises:
            StoreError: it cannot be removed.
        """

    @abstractmethod
    def atomic_output(self, name: str, scratch: Path) -> AbstractContextManager[Path]:
        """Yield a local path to write a large file to; the folder has it under ``name`` once the body ends well.

        The body writes the path itself only when complete. A file ``name.aux.xml`` beside it goes along.

        Args:
            name: of the file.
            scratch: local folder for a file on its way to a store.

        Raises:
            StoreError: it cannot be uploaded.
        """

    @abstractmethod
    def local_copies(self, names: Iterable[str]) -> AbstractContextManager[Path]:
        """Yield a local folder that holds the named files: this one, or a temporary copy.

        Raises:
            StoreError: a file cannot be read.
        """

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes of this machine out of the folder meanwhile.

        In an object store nothing is locked: two equal runs there write the same bytes, and another run is refused
        by its key.

        Raises:
            StoreError: another process is at work there.
        """

    @abstractmethod
    def uploads(self, name: str = "") -> list[Upload]:
        """Return the unfinished multipart uploads to ``name``, or to anything in the folder: S3 only, others expire.

        Raises:
            StoreError: they cannot be listed.
        """

    @abstractmethod
    def abort(self, name: str = "") -> list[Upload]:
        """Abort the unfinished uploads that :meth:`uploads` lists, and return them.

        Raises:
            StoreError: the store refuses.
        """

    @abstractmethod
    def retry_request(self, request: Callable[[], Result]) -> Result:
        """Return the result of an idempotent request of another library, repeated while a store is out, not on a disk.

        Raises:
            OSError: or another of :func:`ussfc.pipeline.storage.remote.store_exceptions`.
        """

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Return the free bytes of the disk, None in an object store."""

    @abstractmethod
    def free_files(self) -> int | None:
        """Return the number of files that the disk can still take, None where it is not limited."""

    @abstractmethod
    def store_error(self, name: str, action: str, error: BaseException) -> StoreError:
        """Return an error of a disk or a store as one of this package.

        Args:
            name: of the file; empty for the folder itself.
            action: participle of the attempt: written, read, listed ...
            error: its cause.
        """

    def read_json(self, name: str, sealed: bool = False) -> dict[str, Any]:
        """Return the mapping in a JSON file, see :meth:`find_json`.

        Raises:
            DamagedRecord: it is not what was written.
            StoreError: it is missing or cannot be read.
        """
        content = self.find_json(name, sealed)
        if content is None:
            raise StoreError(
                f"{self / name}: not found; this folder holds no run of ussfc (or its work was removed); of a "
                "batch give the folder of a pair"
            )
        return content

    def find_json(self, name: str, sealed: bool = False) -> dict[str, Any] | None:
        """Return the mapping in a JSON file, compared with its checksum if it has one; None where it does not exist.

        Args:
            name: of the file.
            sealed: refuse one without a checksum: bytes are decided by it.

        Raises:
            DamagedRecord: it is not what was written.
            StoreError: it cannot be read.
        """
        try:
            return unsealed(self.read(name), sealed)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DamagedRecord(
                f"{self / name}: cannot be read ({error}); the same `ussfc run` makes it again, or overwrite it to "
                "start over"
            ) from error

    def write_record(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a mapping as JSON with its checksum, whole.

        Raises:
            StoreError: it cannot be written.
        """
        self.write(name, sealed(content))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a mapping as JSON, whole.

        Raises:
            StoreError: it cannot be written.
        """
        self.write(name, dumped(content))


def _checked_address(address: str) -> str:
    """Return the address of a folder if a run can be in such a place.

    Raises:
        StoreError: it cannot.
    """
    shown, advice = shown_address(address), "give a path or an address like s3://bucket/prefix"
    if not address:
        raise StoreError(f"'': names no folder; {advice}")
    if address.startswith("/vsi"):
        raise StoreError(f"{shown}: is a name of GDAL's, which are for inputs alone; {advice}")
    if "::" in address and "://" in address:
        raise StoreError(f"{shown}: is a chain of file systems, which are for inputs alone; {advice}")
    # The working directory before a relative path is a part of the name.
    whole = address if remote.is_remote(address) else str(Path(address).absolute())
    if (odd := undecodable(whole)) is not None:
        raise StoreError(f"{odd}: {UNDECODABLE}")
    if not remote.is_remote(address):
        return address
    scheme, _, rest = address.partition("://")
    if scheme.lower() not in remote.FOLDER_SCHEMES:
        raise StoreError(
            f"{shown}: no run can be kept in such a place; use a local folder, s3://, gs:// or az://"
        )
    if not (rest.partition("/")[0] if scheme.lower() in remote.EXTRAS else rest.strip("/")):
        raise StoreError(f"{shown}: names no bucket or container; give {scheme}://bucket/prefix")
    return address
