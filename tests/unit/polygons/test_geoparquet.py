"""The GeoParquet file: metadata, row groups, and nothing imported that is not needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from tests.support.layers import mask, write_layer
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.polygons import geoparquet


def test_boxes_filter_the_features(folder: Path) -> None:
    path = folder / "boxes.parquet"
    write_layer(mask(np.random.default_rng(2).random((60, 60)) > 0.7), path)
    frame = geopandas.read_parquet(path)
    window = (500_100.0, 4_999_700.0, 500_200.0, 4_999_800.0)
    near = geopandas.read_parquet(path, bbox=window)
    bounds = shapely.bounds(frame.geometry)
    touching = (bounds[:, 0] <= window[2]) & (bounds[:, 2] >= window[0])
    touching &= (bounds[:, 1] <= window[3]) & (bounds[:, 3] >= window[1])
    assert 0 < len(near) < len(frame)
    assert set(near.id) == set(frame.id[touching])


def test_metadata_describe_the_geometries(folder: Path) -> None:
    path = folder / "metadata.parquet"
    write_layer(mask(np.random.default_rng(2).random((60, 60)) > 0.7), path)
    frame = geopandas.read_parquet(path)
    metadata = json.loads(pq.read_metadata(path).metadata[b"geo"])
    column = metadata["columns"]["geometry"]
    assert metadata["version"] == "1.1.0"
    assert column["geometry_types"] == ["Polygon"]
    assert column["bbox"] == list(shapely.total_bounds(frame.geometry))
    assert column["crs"]["id"]["code"] == 32633
    # The order of the writer, the orientation that the metadata promise.
    assert shapely.is_ccw(shapely.get_exterior_ring(frame.geometry)).all()


def test_row_groups_do_not_follow_the_blocks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geoparquet, "ROW_GROUP", 16)
    stored = mask(np.random.default_rng(4).random((60, 60)) > 0.7)
    write_layer(stored, folder / "a.parquet", block_size=9)
    write_layer(stored, folder / "b.parquet", block_size=60)
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()
    metadata = pq.read_metadata(folder / "a.parquet")
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert set(sizes[:-1]) == {16}


def test_outlines_beyond_a_column_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geoparquet, "MOST_BYTES", 100)
    with pytest.raises(StoreError, match=r"outlines take .* GB.*raise threshold or vector\.simplify_m"):
        write_layer(mask(np.indices((15, 16)).sum(axis=0) % 2 == 0), tmp_path / "large.parquet")
    assert list(tmp_path.iterdir()) == []


def test_polygons_are_written_without_pandas(tmp_path: Path) -> None:
    """Arrow's own conversions import it, for half a second and 40 MB."""
    code = """
import sys
from pathlib import Path
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from ussfc.pipeline.polygons.vectorise import VectorOptions, vectorise
class Source:
    shape, dtype = (40, 40), np.dtype("uint8")
    def read(self, box):
        return np.full(box.shape, 200, np.uint8)
grid = GeoBox((40, 40), Affine(10, 0, 0, 0, -10, 0), "EPSG:32636")
print(vectorise(Source(), grid, 0.5, VectorOptions(), {"parquet": Path(sys.argv[1])}).polygons, "pandas" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "changes.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
