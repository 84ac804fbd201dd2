"""Numbers of the later date matched to the earlier one's: measured on registered pairs, recorded, and in the key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr

from tests.support.scenes import write_toy_model
from tests.support.stubs import StubRecipe
from tests.support.textures import moved, texture
from ussfc.pipeline.api.inputs import open_arrays
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.reading.sampling import CHECK_PIXELS
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.manifest import NormalisationRecord, RadiometryRecord
from ussfc.pipeline.runs.normalisation import (
    AVERAGED,
    SAMPLE_PIXELS,
    VERSION,
    matched_mappings,
    normalise_readers,
)
from ussfc.pipeline.runs.pair import inspect_pair
from ussfc.pipeline.runs.plan import plan_pair
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.runs.run_key import run_key
from ussfc.pipeline.types import Box, Pixels, RadiometricMapping

SIDE = 320
STUB = Computation(StubRecipe(patch_size=32, bands=3))
BOUNDS = (500_000.0, 4_000_000.0)
"""Left and upper edge, m."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy_model(tmp_path_factory.mktemp("model")))


def config_of(model: str, *sets: str) -> RunConfig:
    return load_config(sets=[f"model={model}", "cluster.kind=serial", *sets])


def image(bands: np.ndarray) -> xr.DataArray:
    """Return an image with its place and its bands' names."""
    rows, cols = bands.shape[1:]
    places = {"y": BOUNDS[1] - 10 * (np.arange(rows) + 0.5), "x": BOUNDS[0] + 10 * (np.arange(cols) + 0.5)}
    names = ["B04", "B03", "B02"]
    array = xr.DataArray(bands.astype(np.uint16), {"band": names, **places}, ("band", "y", "x"))
    return array.rio.write_crs("EPSG:32633")


def dates(gain: float, offset: float, rows: float = 0.0) -> tuple[xr.DataArray, xr.DataArray]:
    """Return a scene, and the same under another gain and offset, moved south."""
    scene = np.clip(texture(3, (SIDE, SIDE), blur=1.5) + 1000, 1, None)
    before = np.stack([scene, 0.8 * scene + 50, 0.6 * scene])
    later = moved(scene, rows, 0) if rows else scene
    after = gain * np.stack([later, 0.8 * later + 50, 0.6 * later]) + offset
    return image(before), image(after)


def written(folder: Path, pair: tuple[xr.DataArray, xr.DataArray]) -> tuple[str, str]:
    paths = []
    for name, date in zip(("before", "after"), pair, strict=True):
        paths.append(str(folder / f"{name}.tif"))
        date.assign_attrs(long_name=("B04", "B03", "B02")).rio.to_raster(paths[-1])
    return paths[0], paths[1]


class Stub:
    """A reader of an array in memory, with pixels that are not valid."""

    def __init__(self, values: np.ndarray, valid: np.ndarray) -> None:
        self.values, self.valid = values, valid

    def read(self, box: Box) -> Pixels:
        if self.values[0, box.y0, box.x0] == 0:
            raise ReadError("damaged")
        return Pixels(self.values[:, *box.slices], self.valid[box.slices])

    def sample(self, most: int = 0) -> Pixels:
        return Pixels(self.values, self.valid)


def measured(before: np.ndarray, after: np.ndarray, valid: np.ndarray) -> NormalisationRecord:
    everywhere = np.ones(valid.shape, np.bool_)
    readers = Stub(before, everywhere), Stub(after, valid)
    return normalise_readers(readers, valid.shape, ("red", "green", "blue"), 1)


def test_squares_with_an_invalid_pixel_are_left_out() -> None:
    before, after = (date.values for date in dates(0.5, 100))
    valid = np.ones((SIDE, SIDE), np.bool_)
    valid[1::4, 1::4] = False
    spoiled = np.where(valid, after, 60_000).astype(np.uint16)
    found = measured(before, spoiled, valid)
    assert found.sampled == (SIDE // AVERAGED) ** 2 * 3 // 4
    assert found.gain == pytest.approx((2, 2, 2), rel=1e-3)
    assert found.offset == pytest.approx((-200, -200, -200), abs=2)


def test_damaged_parts_are_left_out() -> None:
    before, after = (np.tile(date.values, (1, 1, 2)) for date in dates(0.5, 100))
    before[0, 0, 512] = 0
    found = measured(before, after, np.ones(before.shape[1:], np.bool_))
    assert found.sampled == SIDE * 512 // AVERAGED**2
    assert found.gain == pytest.approx((2, 2, 2), rel=1e-3)


@pytest.mark.parametrize(("most", "windows"), [(CHECK_PIXELS, 9), (SAMPLE_PIXELS, 25)])
def test_large_grids_are_sampled(most: int, windows: int) -> None:
    taken: list[Box] = []

    class Recorder(Stub):
        def read(self, box: Box) -> Pixels:
            taken.append(box)
            return super().read(Box(0, 0, *box.shape))

    before, after = (date.values for date in dates(0.5, 100))
    everywhere = np.ones((SIDE, SIDE), np.bool_)
    readers = Recorder(before, everywhere), Recorder(after, everywhere)
    found = normalise_readers(readers, (100_000, 90_000), ("red", "green", "blue"), 1, most)
    assert len(set(taken)) == windows
    assert found.sampled == windows * 128 * 128


def test_unlike_numbers_are_left_as_they_are() -> None:
    before, after = (date.values.copy() for date in dates(1, 0))
    after[1] = 3
    found = measured(before, after, np.ones((SIDE, SIDE), np.bool_))
    assert (found.gain, found.offset) == (None, None)
    assert found.warning is not None
    assert "no unchanged ground found in green" in found.warning
    mappings = RadiometricMapping((0,) * 3, (1,) * 3), RadiometricMapping((0,) * 3, (2,) * 3)
    assert matched_mappings(mappings, found) == matched_mappings(mappings, None) == mappings


def test_ends_follow_the_lines_from_those_of_the_earlier_date() -> None:
    record = NormalisationRecord(
        gain=(2.0, 0.5), offset=(-200.0, 10.0), correlation=(1, 1), unchanged=1, sampled=1
    )
    mappings = RadiometricMapping((0, 10), (3000, 1010)), RadiometricMapping((7, 7), (8, 8))
    before, after = matched_mappings(mappings, record)
    assert before == mappings[0]
    assert after == RadiometricMapping((100, 0), (1600, 2000))


def test_run_matches_records_and_goes_on(model: str, tmp_path: Path) -> None:
    pair = written(tmp_path, dates(0.5, 400, rows=3))
    config, out = config_of(model, "radiometry=match"), tmp_path / "out"
    events: list[Event] = []
    record = run(*pair, out, config, subscriber=events.append, computation=STUB)
    lines = record.radiometry.normalisation
    assert lines is not None
    # Measured after the registration: 3 px beside, the bands would hardly go along.
    assert record.registration is not None
    assert record.registration.state == "corrected"
    assert lines.gain == pytest.approx((2, 2, 2), rel=0.01)
    assert min(lines.correlation) > 0.99
    assert record.radiometry.after.high == pytest.approx(
        [
            (high - offset) / gain
            for high, gain, offset in zip(
                record.radiometry.before.high, lines.gain, lines.offset, strict=True
            )
        ]
    )
    messages = [event.message for event in events if isinstance(event, Notice)]
    assert any("brought to the numbers of the earlier one" in message for message in messages)
    # A finished run is known; one without its products goes on with the lines that it has.
    again = run(*pair, out, config, computation=STUB)
    assert again == record
    constants = (out / "work/radiometry.json").read_bytes()
    (out / "run.json").unlink()
    (out / "change.tif").unlink()
    assert run(*pair, out, config, computation=STUB).radiometry == record.radiometry
    assert (out / "work/radiometry.json").read_bytes() == constants
    # Lost, they are measured again, to the same digits.
    (out / "work/radiometry.json").unlink()
    (out / "run.json").unlink()
    (out / "change.tif").unlink()
    assert run(*pair, out, config, computation=STUB).radiometry == record.radiometry


def test_mode_is_in_the_key_where_it_is_not_the_models(model: str, tmp_path: Path) -> None:
    pair = written(tmp_path, dates(0.5, 400))
    detector = STUB.detector
    assert detector is not None
    keys = []
    for sets in ((), ("radiometry=model",), ("radiometry=match",)):
        config = config_of(model, *sets)
        keys.append(run_key(plan_pair(inspect_pair(*pair, config), config), detector)["radiometry"])
    assert keys[0] == keys[1]
    assert keys[2] == {**keys[0], "match": VERSION}
    assert RadiometryRecord.model_fields["normalisation"].default is None


def test_arrays_are_matched_as_files_are(model: str, tmp_path: Path) -> None:

    config = config_of(model, "radiometry=match")
    found = open_arrays(*dates(0.5, 400), config)
    low, high = found.mappings[0].low[0], found.mappings[0].high[0]
    assert found.mappings[1].low[0] == pytest.approx((low + 800) / 2, abs=5)
    assert found.mappings[1].high[0] == pytest.approx((high + 800) / 2, abs=5)
    assert found.notices == ()
