"""Records of finished tiles: empty files whose names hold all facts.

One listing gives the finished tiles, a record cannot be torn, and two writers cannot collide. A record is written after
its chunk: a chunk alone proves nothing. Among the facts is a checksum of the pixels.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import Index, StoredArray, TileResult

_NAME = re.compile(r"(\d+)\.(\d+)\.p(\d+)\.v(\d+)\.b(\d+)\.([0-9a-f]{8})((?:\.[a-z]+\d+)*)")
"""row.column, patches, valid pixels, bytes of the chunk, CRC-32 of its pixels, milliseconds by step, pixels by the
names of :data:`MASKED`, and the number of :data:`MARK`."""

MASKED = ("maskedbefore", "maskedafter")
"""Names of the counts of masked pixels; a tile without any has none."""

MARK = "mark"
"""Name of the mark of the chunk; there is none on a disk, and in records of earlier versions."""


@dataclass(frozen=True, slots=True)
class TileRecord:
    """Facts about a finished tile."""

    result: TileResult
    size: int
    """Size of the chunk as stored, bytes."""
    checksum: int
    """CRC-32 of the pixels, row by row, before compression."""
    mark: int | None = None
    """Mark that an object store gave the chunk when it was written, see
    :class:`ussfc.pipeline.storage.folder.FileState`."""

    @property
    def name(self) -> str:
        """The record as a file name."""
        result = self.result
        steps = "".join(f".{step}{round(1000 * seconds)}" for step, seconds in sorted(result.seconds.items()))
        steps += "".join(
            f".{name}{count}" for name, count in zip(MASKED, result.masked, strict=True) if count
        )
        steps += "" if self.mark is None else f".{MARK}{self.mark}"
        return (
            f"{result.index[0]}.{result.index[1]}.p{result.patches}.v{result.valid_pixels}.b{self.size}"
            f".{self.checksum:08x}{steps}"
        )

    @classmethod
    def of(cls, name: str) -> TileRecord | None:
        """Return the record that has a name; None for a file that is no record."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        row, col, patches, valid, size = (int(text) for text in found.groups()[:5])
        numbers = {name: int(text) for name, text in re.findall(r"\.([a-z]+)(\d+)", found[7])}
        mark = numbers.pop(MARK, None)
        masked = numbers.pop(MASKED[0], 0), numbers.pop(MASKED[1], 0)
        seconds = {step: number / 1000 for step, number in numbers.items()}
        return cls(TileResult((row, col), patches, valid, seconds, masked), size, int(found[6], 16), mark)


class TileLedger:
    """The records of one run; safe for writers on any number of processes."""

    def __init__(self, work: Folder, run: str) -> None:
        """Open the ledger of a run.

        Args:
            work: the run's ``work`` folder.
            run: name of the run; records of another one, by a worker that outlived it, do not count.
        """
        self._work = work
        self._folder = layout.done_folder(run)

    def add(self, record: TileRecord) -> None:
        """Write a record.

        Raises:
            StoreError: the folder cannot be written.
        """
        self._work.touch(f"{self._folder}/{record.name}")

    def records(self) -> dict[Index, TileRecord]:
        """Return every record whose chunk has the recorded size.

        Raises:
            StoreError: the folder cannot be listed.
        """
        chunks = self._work.sizes(layout.CHUNKS)
        found = {}
        for record in self._listed().values():
            row, col = record.result.index
            if chunks.get(f"{row}/{col}") == record.size:
                found[record.result.index] = record
        return found

    def unmarked(self, records: Iterable[TileRecord]) -> list[TileRecord]:
        """Return the records whose chunks may have been written again since: they have no mark, or another one.

        Raises:
            StoreError: the folder cannot be listed.
        """
        chunks = self._work.states(layout.CHUNKS)

        def is_marked(record: TileRecord) -> bool:
            row, col = record.result.index
            state = chunks.get(f"{row}/{col}")
            return record.mark is not None and state is not None and state.mark == record.mark

        return [record for record in records if not is_marked(record)]

    def remove(self, indices: Iterable[Index]) -> None:
        """Remove the records of tiles.

        Raises:
            StoreError: a record cannot be removed.
        """
        removed = set(indices)
        for name, record in self._listed().items():
            if record.result.index in removed:
                self._work.remove(f"{self._folder}/{name}")

    def _listed(self) -> dict[str, TileRecord]:
        records = ((name, TileRecord.of(name)) for name in self._work.sizes(self._folder))
        return {name: record for name, record in records if record is not None}


def checksum(pixels: StoredArray) -> int:
    """Return the CRC-32 of pixels, row by row."""
    return zlib.crc32(np.ascontiguousarray(pixels).data)
