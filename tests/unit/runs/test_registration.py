"""The shift between the dates of a run: measured, decided on, and taken out as the later one is read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from affine import Affine
from scipy import ndimage

from tests.support.scenes import write_toy_model
from tests.support.stubs import StubRecipe
from tests.support.textures import moved, texture
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.events import Event, Notice, StageStarted
from ussfc.pipeline.pixels.registration import MIN_WINDOWS
from ussfc.pipeline.runs import comparison
from ussfc.pipeline.runs.comparison import compare_pair
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.manifest import RegistrationRecord
from ussfc.pipeline.runs.pair import ScenePair, inspect_pair
from ussfc.pipeline.runs.plan import plan_pair
from ussfc.pipeline.runs.registration import moved_pair, register, register_plan
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.runs.run_key import run_key
from ussfc.pipeline.types import Box

SIDE = 320
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_000_000)
STUB = Computation(StubRecipe(patch_size=32, bands=3))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy_model(tmp_path_factory.mktemp("model")))


def config_of(model: str, *sets: str) -> RunConfig:
    return load_config(sets=[f"model={model}", "cluster.kind=serial", *sets])


def write(
    path: Path, image: np.ndarray, transform: Affine = TRANSFORM, crs: str | None = "EPSG:32633"
) -> str:
    image = np.clip(image + 1000, 1, None)
    bands = np.stack([image, image * 0.8 + 50, image * 0.6]).astype(np.uint16)
    profile = {
        "driver": "GTiff",
        "width": image.shape[1],
        "height": image.shape[0],
        "count": 3,
        "dtype": "uint16",
    }
    with rasterio.open(path, "w", **profile, transform=transform, crs=crs) as file:
        file.write(bands)
        file.descriptions = ("B04", "B03", "B02")
    return str(path)


def displaced(folder: Path, rows: float, cols: float, seed: int = 3) -> tuple[str, str]:
    """Write a scene, and a copy of it whose geotransform lies some pixels beside."""
    image = texture(seed, (SIDE, SIDE), blur=1.5)
    beside = TRANSFORM * Affine.translation(cols, rows)
    return write(folder / "before.tif", image), write(folder / "after.tif", image, beside)


def registered(pair: ScenePair, mode: str = "correct") -> RegistrationRecord:
    return register(compare_pair(pair), mode, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "cols"), [(2.3, -1.6), (-0.7, 0.4), (9.4, 6.8)])
def test_moved_pair_shows_the_same_ground(rows: float, cols: float, model: str, tmp_path: Path) -> None:
    pair = inspect_pair(*displaced(tmp_path, rows, cols), config_of(model))
    record = registered(pair)
    assert record.state == "corrected"
    # The grid is cut to the overlap; the copy's content lies where its geotransform says.
    assert record.dy == pytest.approx(rows, abs=0.1)
    assert record.dx == pytest.approx(cols, abs=0.1)
    assert record.left_px is not None
    assert record.left_px < 0.1
    box = Box(60, 60, 200, 200)
    before, after = (recipe.open().read(box).values[0] for recipe in moved_pair(pair, record).recipes)
    left = pair.recipes[1].open().read(box).values[0]
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.985
    assert np.corrcoef(before.ravel(), left.ravel())[0, 1] < 0.96


def test_whole_pixels_are_read_as_they_are(model: str, tmp_path: Path) -> None:
    pair = inspect_pair(*displaced(tmp_path, 3, -2), config_of(model))
    record = registered(pair)
    assert record.matrix == ((1, 0, 3), (0, 1, -2))
    box = Box(60, 60, 200, 200)
    before, after = (recipe.open().read(box).values for recipe in moved_pair(pair, record).recipes)
    assert after.dtype == np.uint16
    np.testing.assert_array_equal(before, after)


def test_pair_that_lies_well_is_left_alone(model: str, tmp_path: Path) -> None:
    plan = plan_pair(inspect_pair(*displaced(tmp_path, 0, 0), config_of(model)), config_of(model))
    found = register_plan(plan)
    assert found.registration is not None
    assert found.registration.state == "aligned"
    assert found.pair.recipes == plan.pair.recipes
    detector = STUB.detector
    assert detector is not None
    assert run_key(found, detector) == run_key(plan, detector)


def test_correction_is_part_of_the_key(model: str, tmp_path: Path) -> None:
    plan = plan_pair(inspect_pair(*displaced(tmp_path, 3, -2), config_of(model)), config_of(model))
    detector = STUB.detector
    assert detector is not None
    assert run_key(register_plan(plan), detector)["registration"] == ((1, 0, 3), (0, 1, -2))


@pytest.mark.parametrize(("rows", "state", "warned"), [(0.4, "displaced", False), (2.0, "displaced", True)])
def test_check_moves_nothing(rows: float, state: str, warned: bool, model: str, tmp_path: Path) -> None:
    record = registered(inspect_pair(*displaced(tmp_path, rows, 0), config_of(model)), "check")
    assert (record.state, record.matrix) == (state, None)
    assert (record.warning is not None) == warned


def test_shift_beyond_the_limit_is_reported(model: str, tmp_path: Path) -> None:
    record = registered(inspect_pair(*displaced(tmp_path, 31, 0), config_of(model)))
    assert (record.state, record.matrix) == ("displaced", None)
    assert record.warning is not None
    assert "31.0" in record.warning


def bent(folder: Path, pixels: float, seed: int = 3) -> tuple[str, str]:
    """Write a scene, and a copy of it bent like a bow: by so many pixels from the middle to the left and right edge."""
    side = 2 * SIDE
    image = texture(seed, (side, side), blur=1.5)
    rows, cols = np.mgrid[0:side, 0:side].astype(float)
    across = 2 * cols / (side - 1) - 1
    after = ndimage.map_coordinates(image, (rows - pixels * across**2, cols), order=3, mode="reflect")
    return write(folder / "before.tif", image), write(folder / "after.tif", after)


@pytest.mark.parametrize(
    ("pixels", "state", "warned"),
    [(0.3, "aligned", False), (2.0, "corrected", True), (6.0, "displaced", True)],
)
def test_what_bends_is_reported(
    pixels: float, state: str, warned: bool, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "SIDES", ((128, 64),))
    record = registered(inspect_pair(*bent(tmp_path, pixels), config_of(model)))
    assert record.state == state
    assert (record.warning is not None) == warned
    if record.warning:
        assert re.search(
            r"leaves up to [1-6]\.. px in places: it is bent against the earlier one", record.warning
        )
        assert "different places" not in record.warning


def test_what_bends_is_reported_where_windows_are_few(model: str, tmp_path: Path) -> None:
    pair = inspect_pair(*bent(tmp_path, 3.0), config_of(model))
    record = registered(pair)
    assert record.windows < MIN_WINDOWS["quadratic"]
    assert record.state == "corrected"
    assert record.warning is not None
    assert "bent against the earlier one" in record.warning


def test_different_places_are_reported(model: str, tmp_path: Path) -> None:
    before = write(tmp_path / "before.tif", texture(1, (SIDE, SIDE)))
    after = write(tmp_path / "after.tif", texture(2, (SIDE, SIDE)))
    record = registered(inspect_pair(before, after, config_of(model)))
    assert (record.state, record.matrix) == ("unknown", None)
    assert record.warning is not None
    assert "look at both images" in record.warning


def test_small_grids_are_not_measured(model: str, tmp_path: Path) -> None:
    image = texture(1, (100, 100))
    pair = write(tmp_path / "before.tif", image), write(tmp_path / "after.tif", image)
    record = registered(inspect_pair(*pair, config_of(model)))
    assert (record.state, record.warning) == ("too small", None)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pixel_grids_are_moved_by_whole_pixels(model: str, tmp_path: Path) -> None:
    scene = texture(5, (SIDE + 8, SIDE + 8), blur=1.5)
    before = write(tmp_path / "before.tif", scene[4:-4, 4:-4], Affine.identity(), None)
    after = write(tmp_path / "after.tif", scene[1:-7, 6:-2], Affine.identity(), None)
    pair = inspect_pair(before, after, config_of(model))
    record = registered(pair)
    assert record.matrix == ((1, 0, 3), (0, 1, -2))
    box = Box(10, 10, 200, 200)
    first, second = (recipe.open().read(box).values for recipe in moved_pair(pair, record).recipes)
    np.testing.assert_array_equal(first, second)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("pixels", [0.42, 0.0])
def test_pixel_grids_stay_below_a_pixel(pixels: float, model: str, tmp_path: Path) -> None:
    scene = texture(5, (SIDE, SIDE), blur=1.5)
    before = write(tmp_path / "before.tif", scene, Affine.identity(), None)
    after = write(tmp_path / "after.tif", moved(scene, 0, pixels), Affine.identity(), None)
    record = registered(inspect_pair(before, after, config_of(model)))
    assert (record.matrix, record.warning) == (None, None)


def test_large_blocks_are_read_seldom(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = inspect_pair(*displaced(tmp_path, 3, -2), config_of(model))
    assert not compare_pair(pair).large_blocks
    monkeypatch.setattr(comparison, "LARGE_BLOCKS", 1)
    monkeypatch.setattr(comparison, "SIDES", ((64, 64),))
    assert len(compare_pair(pair).measure(2)) <= comparison.LEAST_WINDOWS
    assert registered(pair).matrix == ((1, 0, 3), (0, 1, -2))


@pytest.mark.parametrize("damaged", [False, True])
def test_small_grids_are_read_at_once(
    damaged: bool, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The windows are the same ones; a damaged block costs those that lie on it and no other."""
    # What is resampled is read in larger blocks.
    before, after = displaced(tmp_path, *((3, -2) if damaged else (1.4, 0.6)))
    if damaged:
        rasterio.shutil.copy(after, tmp_path / "damaged.tif", driver="GTiff", compress="deflate")
        after = str(tmp_path / "damaged.tif")
        with Path(after).open("r+b") as file:
            file.seek(Path(after).stat().st_size * 9 // 10)
            file.write(bytes(500))
    pair = inspect_pair(before, after, config_of(model))
    found = compare_pair(pair).measure(2)
    assert (len(found) < comparison.LEAST_WINDOWS) == damaged
    monkeypatch.setattr(comparison, "WHOLE", 0)
    assert compare_pair(pair).measure(2) == found != []


@pytest.mark.parametrize(("rows", "cols"), [(3.0, -2.0), (1.4, 0.6)])
def test_arrays_are_moved_as_rasters_are(rows: float, cols: float, model: str, tmp_path: Path) -> None:
    before, after = displaced(tmp_path, rows, cols)
    with rasterio.open(after) as file:
        image = xr.DataArray(
            file.read().astype(np.float32),
            {
                "band": ["B04", "B03", "B02"],
                "y": file.transform.f - 10 * (np.arange(SIDE) + 0.5),
                "x": file.transform.c + 10 * (np.arange(SIDE) + 0.5),
            },
            ("band", "y", "x"),
            "image",
        )
    image.rio.write_crs("EPSG:32633").to_dataset().to_netcdf(tmp_path / "after.nc", engine="h5netcdf")
    boxes = []
    for later in (after, str(tmp_path / "after.nc")):
        pair = inspect_pair(before, later, config_of(model))
        record = registered(pair)
        assert record.state == "corrected"
        boxes.append(moved_pair(pair, record).recipes[1].open().read(Box(40, 40, 250, 250)))
    np.testing.assert_allclose(boxes[0].values, boxes[1].values, atol=0.51)


class TestRuns:
    @pytest.fixture
    def pair(self, tmp_path: Path) -> tuple[str, str]:
        return displaced(tmp_path, 3.4, -2.2)

    def test_shift_is_recorded_and_measured_once(
        self, pair: tuple[str, str], model: str, tmp_path: Path
    ) -> None:
        events: list[Event] = []
        out = tmp_path / "out"
        record = run(*pair, out, config_of(model), subscriber=events.append, computation=STUB)
        assert record.registration is not None
        assert record.registration.state == "corrected"
        assert record.registration.vectors == ()
        assert "is moved" in " ".join(event.message for event in events if isinstance(event, Notice))
        found = RegistrationRecord.model_validate_json((out / "work/registration.json").read_text())
        assert sum(window.agrees for window in found.vectors) == record.registration.agreeing
        # Without the products the run goes on, with the correction that it has.
        (out / "change.tif").unlink()
        (out / "run.json").unlink()
        events.clear()
        run(*pair, out, config_of(model), subscriber=events.append, computation=STUB)
        assert "registration" not in [event.stage for event in events if isinstance(event, StageStarted)]

    def test_finished_run_is_known_without_its_work(
        self, pair: tuple[str, str], model: str, tmp_path: Path
    ) -> None:
        config = config_of(model, "output.keep_work=false")
        run(*pair, tmp_path / "out", config, computation=STUB)
        events: list[Event] = []
        run(*pair, tmp_path / "out", config, subscriber=events.append, computation=STUB)
        assert [event.message for event in events if isinstance(event, Notice)][
            -1
        ] == "everything is done already"

    def test_off_changes_the_run(self, pair: tuple[str, str], model: str, tmp_path: Path) -> None:
        on = run(*pair, tmp_path / "on", config_of(model), computation=STUB)
        off = run(*pair, tmp_path / "off", config_of(model, "registration=off"), computation=STUB)
        assert off.registration is not None
        assert off.registration.state == "off"
        assert on.run != off.run
        assert on.products["probability.tif"].sha256 != off.products["probability.tif"].sha256

    def test_pair_that_lies_well_has_the_bytes_of_a_run_without(self, model: str, tmp_path: Path) -> None:
        pair = displaced(tmp_path, 0, 0)
        on = run(*pair, tmp_path / "on", config_of(model), computation=STUB)
        run(*pair, tmp_path / "off", config_of(model, "registration=off"), computation=STUB)
        assert on.registration is not None
        assert on.registration.state == "aligned"
        for name in ("probability.tif", "change.tif"):
            first, second = ((tmp_path / out / name).read_bytes() for out in ("on", "off"))
            assert first == second

    def test_strict_ends_a_run_with_a_warning(self, model: str, tmp_path: Path) -> None:
        pair = displaced(tmp_path, 2, 0)
        config = config_of(model, "registration=check", "strict=true")
        with pytest.raises(ReadError, match=r"2\.0. px beside the earlier one.*\(strict"):
            run(*pair, tmp_path / "out", config, computation=STUB)
        assert not (tmp_path / "out/change.tif").exists()


@pytest.mark.parametrize("text", ["off", "check", "correct"])
def test_modes_are_words(text: str) -> None:
    assert load_config(sets=[f"registration={text}"]).registration == text
