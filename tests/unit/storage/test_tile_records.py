"""Records of finished tiles: all facts in a name, and a ledger that trusts no chunk of another size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.tile_records import TileLedger, TileRecord, checksum
from ussfc.pipeline.types import TileResult


@given(
    index=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    patches=st.integers(0, 10**6),
    valid=st.integers(0, 2**28),
    seconds=st.dictionaries(st.sampled_from(["read", "network"]), st.integers(0, 10**7)),
    size=st.integers(1, 2**31),
    checksum=st.integers(0, 2**32 - 1),
    masked=st.tuples(st.integers(0, 2**28), st.integers(0, 2**28)),
    mark=st.none() | st.integers(0, 2**32 - 1),
)
def test_a_record_survives_as_its_name(
    index: tuple[int, int],
    patches: int,
    valid: int,
    seconds: dict[str, int],
    size: int,
    checksum: int,
    masked: tuple[int, int],
    mark: int | None,
) -> None:
    spent = {step: milliseconds / 1000 for step, milliseconds in seconds.items()}
    record = TileRecord(TileResult(index, patches, valid, spent, masked), size, checksum, mark)
    assert TileRecord.of(record.name) == record
    assert len(record.name) < 200


def test_a_record_has_its_name_on_disk() -> None:
    record = TileRecord(TileResult((3, 14), 49, 4096, {"read": 0.25, "network": 1.5}), 1234, 0xBEEF)
    assert record.name == "3.14.p49.v4096.b1234.0000beef.network1500.read250"


@pytest.mark.parametrize("name", ["0.1", "0.1.json", "a.b.p1.v1.b1.00000000", "1.1.p1.v1.b1.123.part"])
def test_another_file_is_no_record(name: str) -> None:
    assert TileRecord.of(name) is None


def record_of(col: int, size: int = 10) -> TileRecord:
    return TileRecord(TileResult((0, col), 1, 1), size, 0)


def chunks(folder: Folder, *sizes: int) -> None:
    for col, size in enumerate(sizes):
        folder.write(layout.chunk((0, col)), bytes(size))


def test_a_record_counts_with_its_chunk(tmp_path: Path) -> None:
    work = Folder.of(tmp_path)
    ledger = TileLedger(work, "run")
    assert ledger.records() == {}
    chunks(work, 10, 9, 10)
    for col in (0, 1, 3):
        ledger.add(record_of(col))
    work.touch(f"{layout.done_folder('run')}/no-record")
    # One chunk has another size, one no record, one record no chunk.
    assert ledger.records() == {(0, 0): record_of(0)}


def test_each_run_has_its_ledger(tmp_path: Path) -> None:
    work = Folder.of(tmp_path)
    chunks(work, 10)
    TileLedger(work, "old").add(record_of(0))
    assert TileLedger(work, "new").records() == {}


def test_removed_records_do_not_count(tmp_path: Path) -> None:
    work = Folder.of(tmp_path)
    chunks(work, 10, 10)
    ledger = TileLedger(work, "run")
    for col in (0, 1):
        ledger.add(record_of(col))
    ledger.remove([(0, 0), (7, 7)])
    assert ledger.records() == {(0, 1): record_of(1)}


def test_the_checksum_is_of_the_pixels_by_rows() -> None:
    pixels = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert checksum(pixels) == checksum(np.asfortranarray(pixels)) != checksum(pixels[::-1])
