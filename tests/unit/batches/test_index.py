"""Index of a batch where records of pairs are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from ussfc.pipeline.batches.folder_checks import batch_status
from ussfc.pipeline.batches.index import BatchIndex
from ussfc.pipeline.batches.pair_lists import PairEntry
from ussfc.pipeline.storage.folder import Folder


@pytest.mark.parametrize("damaged", ["", "{", "null", '{"run": 1}'])
def test_a_damaged_record_stops_no_batch(damaged: str, tmp_path: Path) -> None:
    """The run of its pair makes it again."""
    out = Folder.of(tmp_path)
    out.write("one/run.json", damaged.encode())
    out.write("results.csv", b"name,error\none,\n")
    index = BatchIndex(out, [PairEntry("one", "before.tif", "after.tif", {})])
    index.write()
    [pair] = batch_status(out)
    assert pair.state == "failed"
    assert "run.json" in (pair.error or "")
