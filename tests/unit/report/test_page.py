"""Numbers that the scripts of a page count with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.rasters import load
from tests.support.shown_runs import SHAPE
from ussfc.pipeline.report.overviews import read_level
from ussfc.pipeline.report.page import view_numbers
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.storage.folder import Folder


@pytest.mark.parametrize("threshold", [0.0, 0.001, 0.15, 0.5, 0.999, 1.0])
def test_least_byte_is_the_first_that_is_change(finished: Path, threshold: float) -> None:
    out = Folder.of(finished)
    record = RunRecord.read(out, "run.json").model_copy(update={"threshold": threshold})
    least = view_numbers(record, read_level(out, SHAPE).overview(400))["least"]
    assert isinstance(least, int)
    assert least / 254 >= threshold > (least - 1) / 254


def test_bytes_from_the_least_on_are_the_change(finished: Path) -> None:
    out = Folder.of(finished)
    record = RunRecord.read(out, "run.json")
    found = view_numbers(record, read_level(out, SHAPE).overview(400))
    histogram, least = found["histogram"], found["least"]
    assert (
        sum(histogram[least:]) == (load(finished / "change.tif") == 1).sum() == record.counts.changed_pixels
    )  # type: ignore[index,misc]
    assert found["exact"]
    assert found["pixel_m2"] == pytest.approx(100, rel=0.02)
    assert np.sum(histogram) == SHAPE[0] * SHAPE[1] - 2500  # type: ignore[arg-type]
