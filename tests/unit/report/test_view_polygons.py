"""Polygons of a map against plain geometry."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from tests.support.layers import UTM, write_layer
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.report import view_polygons
from ussfc.pipeline.report.view_polygons import Filter, PolygonIndex, rings

SHAPE = (50, 70)
GRIDS = [
    GeoBox(SHAPE, Affine(10, 0, 500_000, 0, -10, 5_000_000), UTM),
    GeoBox(SHAPE, Affine.identity(), None),
]
RNG = np.random.default_rng(8)


@pytest.fixture(scope="module", params=GRIDS, ids=["UTM", "pixels"])
def layer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Write a random layer in many row groups; return it, its polygons in pixels, and the mask."""
    path = tmp_path_factory.mktemp("layer") / "changes.parquet"
    stored = np.where(RNG.random(SHAPE) < 0.35, RNG.integers(130, 255, SHAPE), 10).astype(np.uint8)
    _, frame = write_layer(stored, path, geobox=request.param)
    pq.write_table(pq.read_table(path), path, row_group_size=9)
    affine = ~request.param.affine
    frame.geometry = frame.geometry.affine_transform(
        [affine.a, affine.b, affine.d, affine.e, affine.c, affine.f]
    )
    return PolygonIndex(path, request.param), frame, (stored >= 127) & (stored != 255)


def sizes(index: PolygonIndex, frame: geopandas.GeoDataFrame) -> np.ndarray:
    return np.asarray(frame["area_m2"] if index.in_metres else frame["pixels"])


def test_outlines_and_attributes(layer) -> None:  # type: ignore[no-untyped-def]
    index, frame, _ = layer
    assert index.in_metres == bool(frame["area_m2"].notna().all())
    rows = RNG.permutation(len(frame))[:20]
    for row, outline in zip(rows, index.outlines(rows), strict=True):
        assert shapely.equals_exact(shapely.normalize(outline), shapely.normalize(frame.geometry[row]), 1e-6)
        described = index.describe(int(row))
        assert index.row(described["id"]) == row
        assert described["pixels"] == frame["pixels"][row]
        assert described["bounds"] == pytest.approx(np.array(outline.bounds)[[1, 0, 3, 2]], abs=0.06)
        assert len(rings(outline)) == 1 + len(outline.interiors)
    assert index.row(-1) is None
    assert len(index) == len(frame)


def test_places(layer) -> None:  # type: ignore[no-untyped-def]
    index, frame, changed = layer
    for row, column in RNG.integers(0, SHAPE, (150, 2)).tolist():
        found = index.at(row + 0.5, column + 0.5)
        assert (found is not None) == changed[row, column]
        if found is not None:
            assert frame.geometry[found].contains(shapely.Point(column + 0.5, row + 0.5))


@pytest.mark.parametrize("place", [(float("nan"), 1.0), (float("inf"), 1.0), (-1e300, 3.0)])
def test_places_elsewhere(layer, place: tuple[float, float]) -> None:  # type: ignore[no-untyped-def]
    assert layer[0].at(*place) is None


def test_parts_of_the_grid(layer) -> None:  # type: ignore[no-untyped-def]
    index, frame, _ = layer
    bounds = frame.geometry.bounds
    for _ in range(20):
        # Between edges of pixels, whose side depends on rounding.
        top, left = RNG.integers(-5, 45, 2) + 0.25
        view = top, left, top + 20.5, left + 9.5
        chosen = Filter(float(np.quantile(sizes(index, frame), RNG.random())), 0.6)
        rows, count = index.within(view, chosen)
        inside = (bounds.miny <= view[2]) & (bounds.maxy >= view[0]) & (bounds.minx <= view[3])
        passing = (sizes(index, frame) >= chosen.least_size) & (frame["mean_probability"] >= 0.6)
        expected = np.flatnonzero(inside & (bounds.maxx >= view[1]) & passing)
        assert sorted(rows.tolist()) == expected.tolist()
        assert count == len(expected)
        assert (np.diff(sizes(index, frame)[rows]) <= 0).all()


def test_many_polygons_are_the_largest(layer, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    index, frame, _ = layer
    monkeypatch.setattr(view_polygons, "MOST_SHOWN", 5)
    rows, count = index.within((0, 0, *SHAPE), Filter())
    assert count == len(frame)
    assert sizes(index, frame)[rows].tolist() == sorted(sizes(index, frame), reverse=True)[:5]


def test_each_part_of_the_file_is_read_once(layer, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    index, frame, _ = layer
    read, original = [], pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, group: int, columns: list[str]) -> object:
        read.append(group)
        return original(file, group, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    index.outlines(RNG.permutation(len(frame)))
    assert len(read) == len(set(read)) > 5


@pytest.mark.parametrize(
    ("order", "key"),
    [("size", lambda f, s: -s), ("probability", lambda f, s: -f), ("doubt", lambda f, s: abs(f - 0.5))],
)
def test_queues(layer, order: str, key) -> None:  # type: ignore[no-untyped-def]
    index, frame, _ = layer
    rows = index.queue(order, Filter(0, 0.55))
    keys = key(np.asarray(frame["mean_probability"]), sizes(index, frame))
    assert (np.diff(keys[rows]) >= 0).all()
    assert sorted(rows.tolist()) == np.flatnonzero(frame["mean_probability"] >= 0.55).tolist()


def test_no_polygons(tmp_path: Path) -> None:
    write_layer(np.zeros((8, 8), np.uint8), tmp_path / "changes.parquet")
    index = PolygonIndex(tmp_path / "changes.parquet", GRIDS[0])
    assert len(index) == 0
    assert index.at(1, 1) is None
    assert index.within((0, 0, 8, 8), Filter())[1] == 0
    assert index.queue("size", Filter()).tolist() == []


def test_damaged_outlines_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "changes.parquet"
    write_layer(np.full((8, 8), 200, np.uint8), path)
    index = PolygonIndex(path, GRIDS[0])
    path.write_bytes(b"gone")
    with pytest.raises(ReadError, match="outlines cannot be read"):
        index.outline(0)


def test_bands_of_a_polygon(finished: Path) -> None:
    path = finished / "changes.parquet"
    with pq.ParquetFile(path) as file:
        table = file.read()
    index = PolygonIndex(path, GRIDS[0])
    found = index.bands(2)
    assert found["after_red"] == pytest.approx(table["after_red"][2].as_py(), rel=1e-4)
    described = index.describe(2)
    assert described["kind"] == table["kind"][2].as_py()
    assert described["brightness_change"] == pytest.approx(table["brightness_change"][2].as_py(), abs=1e-3)


def test_layers_of_earlier_versions_have_no_bands(layer) -> None:  # type: ignore[no-untyped-def]
    index, _, _ = layer
    assert index.bands(0) == {}
    assert "kind" not in index.describe(0)


def test_the_digest_of_regions_leaves_bands_out(finished: Path, tmp_path: Path) -> None:
    with pq.ParquetFile(finished / "changes.parquet") as file:
        table = file.read()
    digests = []
    for number, part in enumerate((table, table.drop_columns(["kind", "after_red"]), table.slice(1))):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(part, path)
        digests.append(PolygonIndex(path, GRIDS[0]).digest("run"))
    assert digests[0] == digests[1] != digests[2]
    assert PolygonIndex(path, GRIDS[0]).digest("other run") != digests[2]
