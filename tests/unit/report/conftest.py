"""A finished run that reports and maps are made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.shown_runs import copied, make_run
from ussfc.pipeline.report.write import write_report


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with its page and all kinds of layers; it is not to be changed."""
    out = make_run(tmp_path_factory.mktemp("report"), "vector.format=geoparquet,gpkg,flatgeobuf,geojson")
    assert write_report(out)
    return out


@pytest.fixture(scope="package")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run without CRS; it is not to be changed."""
    return make_run(tmp_path_factory.mktemp("bare"), crs=False)


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the run that may be changed."""
    return copied(finished, tmp_path / "own")
