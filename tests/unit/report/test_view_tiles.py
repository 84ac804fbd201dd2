"""Tiles of a map."""

from __future__ import annotations

import io
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from tests.support.rasters import UTM, load, probabilities, probability_of
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.raster import RasterReader
from ussfc.pipeline.report import view_tiles
from ussfc.pipeline.report.overviews import largest
from ussfc.pipeline.report.view import open_view
from ussfc.pipeline.report.view_tiles import SIDE, TileSource, levels, tile_box
from ussfc.pipeline.storage.folder import Folder

LEVELS = (700, 600)


@pytest.fixture(scope="module", params=["uint8", "float32"])
def rasters(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    probability_of(probabilities(LEVELS, request.param), folder)
    return folder


def as_bytes(stored: np.ndarray) -> np.ndarray:
    if stored.dtype == np.uint8:
        return stored
    return np.where(np.isfinite(stored), np.rint(np.nan_to_num(stored) * 254), 255).astype(np.uint8)


def whole(tiles: TileSource, level: int) -> np.ndarray:
    """Put a level together from its tiles, and cut what lies beyond the grid."""
    side = SIDE << level
    rows = []
    for row in range(-(-LEVELS[0] // side)):
        found = [tiles.tile("probability", level, row, column) for column in range(-(-LEVELS[1] // side))]
        assert None not in found
        rows.append(np.hstack([np.frombuffer(each or b"", np.uint8).reshape(SIDE, SIDE) for each in found]))
    joined = np.vstack(rows)
    shape = [-(-length // (1 << level)) for length in LEVELS]
    assert (joined[shape[0] :] == 255).all()
    assert (joined[:, shape[1] :] == 255).all()
    return joined[: shape[0], : shape[1]]


def test_probabilities_are_those_of_the_levels(rasters: Path) -> None:
    tiles = TileSource(Folder.of(rasters), LEVELS, None, None)
    path = rasters / "probability.tif"
    np.testing.assert_array_equal(whole(tiles, 0), as_bytes(load(path)))
    np.testing.assert_array_equal(whole(tiles, 1), as_bytes(load(path, 0)))
    # The file's own levels end before those of the map.
    last = as_bytes(load(path, 1))
    assert levels(LEVELS) == 3
    np.testing.assert_array_equal(whole(tiles, 2), last)


def test_levels_beyond_the_file_keep_the_largest(tmp_path: Path) -> None:
    values = probabilities((600, 520))
    profile = {"driver": "GTiff", "height": 600, "width": 520, "count": 1, "dtype": "uint8", "transform": UTM}
    with rasterio.open(tmp_path / "probability.tif", "w", **profile) as target:
        target.write(values, 1)
    tiles = TileSource(Folder.of(tmp_path), (600, 520), None, None)
    found = np.frombuffer(tiles.tile("probability", 2, 0, 0) or b"", np.uint8).reshape(SIDE, SIDE)
    np.testing.assert_array_equal(found[:150, :130], largest(values, 4))


@pytest.mark.parametrize(
    "place",
    [
        ("probability", 0, 3, 0), ("probability", 0, 0, 3), ("probability", 0, -1, 0), ("probability", 3, 0, 0),
        ("probability", -1, 0, 0), ("probability", 10**12, 0, 0), ("probability", 0, 10**30, 0), ("change", 0, 0, 0),
        ("before", 0, 0, 0), ("../run.json", 0, 0, 0),
    ],
)  # fmt: skip
def test_nothing_beyond_the_grid(rasters: Path, place: tuple[str, int, int, int]) -> None:
    assert TileSource(Folder.of(rasters), LEVELS, None, None).tile(*place) is None


def test_boxes_cover_the_grid() -> None:
    assert levels((1, 1)) == levels((256, 256)) == 1
    assert levels((257, 3)) == 2
    assert levels((60_000, 60_000)) == 9
    assert tile_box(1, 0, 1, (400, 560)).shape == (400, 48)
    assert tile_box(0, 2, 0, (400, 560)).pixels == 0


def test_tiles_are_kept(rasters: Path) -> None:
    tiles = TileSource(Folder.of(rasters), LEVELS, None, None)
    assert tiles.tile("probability", 0, 0, 0) is tiles.tile("probability", 0, 0, 0)


@pytest.mark.parametrize("content", [b"", b"II*\x00 no raster"])
def test_damaged_raster_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "probability.tif").write_bytes(content)
    with pytest.raises(ReadError, match=r"probability\.tif: .*; run `ussfc validate`") as error:
        TileSource(Folder.of(tmp_path), LEVELS, None, None).tile("probability", 0, 0, 0)
    assert "\n" not in str(error.value)


def test_dates_at_every_level(finished: Path) -> None:
    with ExitStack() as stack:
        tiles = open_view(finished, stack).tiles
    for date in ("before", "after"):
        near, far = (
            np.asarray(Image.open(io.BytesIO(tiles.tile(date, level, 0, 0) or b"")), np.float32)
            for level in (0, 1)
        )
        assert near.shape == far.shape == (SIDE, SIDE, 3)
        shrunk = near.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - far[:128, :128]).mean() < 8
    assert tiles.tile("before", 0, 0, 0) != tiles.tile("after", 0, 0, 0)
    assert tiles.tile("after", 0, 1, 2) is not None
    assert tiles.tile("after", 0, 2, 0) is None


def test_far_tiles_of_scenes_without_overviews_are_empty(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_tiles, "MOST_AVERAGED", 100)
    monkeypatch.setattr(RasterReader, "overview", lambda *_: None)
    with ExitStack() as stack:
        tiles = open_view(finished, stack).tiles
    assert tiles.tile("before", 1, 0, 0) is None
    assert tiles.tile("before", 0, 0, 0) is not None
