"""Masks of a run: what they hide, what is recorded, and what belongs to the key."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from tests.support.masks import write_mask
from tests.support.scenes import write_toy_model
from tests.support.stubs import StubRecipe
from tests.support.textures import texture
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.pixels.sample_checks import check_samples
from ussfc.pipeline.runs.comparison import compare_pair
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.runs.pair import inspect_pair, sample_pair, scene_mappings
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.runs.registration import input_digest, register, register_plan
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.runs.run_key import run_key
from ussfc.pipeline.storage.folder import Folder

SIDE = 512
UTM = "EPSG:32633"
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_000_000)
DETECTOR = StubRecipe(patch_size=32, bands=3)
STUB = Computation(DETECTOR)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair whose later date lies beside, clouds in both dates, and their masks."""
    folder = tmp_path_factory.mktemp("masks")
    write_toy_model(folder)
    ground = texture(3, (SIDE + 8, SIDE + 8), blur=1.5)
    for date, (row, col), cloud in (
        ("before", (4, 4), np.s_[0:160, 0:160]),
        ("after", (2, 6), np.s_[300:, 340:]),
    ):
        image = np.clip(ground[row : row + SIDE, col : col + SIDE] + 1000, 1, None)
        # Clouds have texture of their own, that moves otherwise.
        image[cloud] = texture(9, image.shape, blur=3)[cloud] + 5000
        bands = np.stack([image, image * 0.8 + 50, image * 0.6]).astype(np.uint16)
        profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 3, "dtype": "uint16"}
        with rasterio.open(folder / f"{date}.tif", "w", **profile, transform=TRANSFORM, crs=UTM) as file:
            file.write(bands)
            file.descriptions = ("B04", "B03", "B02")
    scl = np.full((SIDE // 2, SIDE // 2), 4, np.uint8)
    scl[:80, :80] = 9
    write_mask(folder / "scl_20m.tif", scl, TRANSFORM * Affine.scale(2), UTM)
    cloud = shapely.box(*TRANSFORM * (340, SIDE), *TRANSFORM * (SIDE, 300))
    geopandas.GeoDataFrame(geometry=[cloud], crs=UTM).to_file(folder / "clouds.gpkg")
    return folder


def pair_of(place: Path) -> tuple[str, str]:
    return str(place / "before.tif"), str(place / "after.tif")


def config_of(place: Path, *sets: str, masked: bool = True) -> RunConfig:
    masks = [f"masks.before={place}/scl_20m.tif", f"masks.after={place}/clouds.gpkg"] if masked else []
    return load_config(sets=[f"model={place}/toy.yaml", "cluster.kind=serial", *masks, *sets])


def probabilities(out: Path) -> np.ndarray:
    with rasterio.open(out / "probability.tif") as file:
        return np.asarray(file.read(1))


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def out(place: Path, events: list[Event], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    config = config_of(place, "registration=off")
    run(*pair_of(place), out, config, subscriber=events.append, computation=STUB)
    return out


def test_masked_on_one_date_is_nodata_in_the_products(out: Path) -> None:
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[:160, :160] = hidden[300:, 340:] = True
    np.testing.assert_array_equal(probabilities(out) == 255, hidden)


def test_record_counts_masked_pixels_by_date(place: Path, out: Path) -> None:
    record = RunRecord.read(Folder.of(out), "run.json")
    assert record.masks is not None
    assert record.masks.before is not None
    assert record.masks.after is not None
    assert (record.masks.before.kind, record.masks.before.masked_pixels) == ("scl", 160 * 160)
    assert record.masks.before.classes == (0, 1, 3, 8, 9, 10, 11)
    assert record.masks.before.uri == str(place / "scl_20m.tif")
    assert (record.masks.after.kind, record.masks.after.masked_pixels) == ("polygons", 212 * 172)
    assert record.counts.valid_pixels == SIDE * SIDE - 160 * 160 - 212 * 172


def test_run_names_what_it_masks(place: Path, out: Path, events: list[Event]) -> None:
    lines = [event.message for event in events if isinstance(event, Notice) and not event.warning]
    assert f"mask of before: {place}/scl_20m.tif (scl; masked: 0, 1, 3, 8, 9, 10, 11)" in lines
    assert f"mask of after: {place}/clouds.gpkg (polygons)" in lines


def test_tiles_change_no_byte(place: Path, out: Path, tmp_path: Path) -> None:
    config = config_of(place, "registration=off", "tiling.tile_size=96")
    run(*pair_of(place), tmp_path / "out", config, computation=STUB)
    np.testing.assert_array_equal(probabilities(tmp_path / "out"), probabilities(out))


def test_folder_of_a_run_without_masks_is_refused(place: Path, out: Path) -> None:
    with pytest.raises(StoreError, match="masks"):
        run(*pair_of(place), out, config_of(place, "registration=off", masked=False), computation=STUB)


def test_key_without_masks_is_that_of_earlier_versions(place: Path) -> None:
    bare = plan(*pair_of(place), config_of(place, masked=False))
    assert "masks" not in run_key(bare, DETECTOR)
    keys = [
        run_key(plan(*pair_of(place), config_of(place, *sets)), DETECTOR)["masks"]
        for sets in ((), ("masks.dilation_m=20",), ("masks.classes_before=[9]",), ("masks.after=null",))
    ]
    assert len({repr(key) for key in keys}) == len(keys)
    digests = {
        input_digest(inspect_pair(*pair_of(place), config), "correct")
        for config in (config_of(place), config_of(place, masked=False))
    }
    assert len(digests) == 2


def test_masked_windows_take_no_part_in_the_registration(place: Path) -> None:
    records = {}
    for masked in (True, False):
        pair = inspect_pair(*pair_of(place), config_of(place, masked=masked))
        records[masked] = register(compare_pair(pair), "correct", 2)
    assert records[True].state == "corrected"
    assert (records[True].dy, records[True].dx) == pytest.approx((2, -2), abs=0.1)
    assert records[True].windows < records[False].windows
    # A window that is mostly cloud is none.
    clouds = [w for w in records[True].vectors if w.row + w.size <= 160 and w.column + w.size <= 160]
    assert clouds == []


def test_mask_of_the_later_date_moves_with_it(place: Path, tmp_path: Path) -> None:
    registered = register_plan(plan(*pair_of(place), config_of(place)))
    assert registered.registration is not None
    assert registered.registration.matrix == ((1, 0, 2), (0, 1, -2))
    run(*pair_of(place), tmp_path / "out", config_of(place), computation=STUB)
    found = probabilities(tmp_path / "out") == 255
    hidden = np.zeros((SIDE, SIDE), bool)
    # The cloud of the later date lies two rows up and two columns to the right.
    hidden[:160, :160] = hidden[298:, 342:] = True
    hidden[-2:] = hidden[:, :2] = True
    np.testing.assert_array_equal(found, hidden)


def test_samples_see_masked_pixels_as_missing(place: Path) -> None:
    plain, masked = (
        inspect_pair(*pair_of(place), config_of(place, masked=masked)) for masked in (False, True)
    )
    percentiles = plain.model.radiometry.model_copy(update={"kind": "percentiles", "low": 1.0, "high": 99.0})
    model = plain.model.model_copy(update={"radiometry": percentiles})
    high = [scene_mappings(dataclasses.replace(pair, model=model))[0].high[0] for pair in (plain, masked)]
    assert high[0] > 5000 > 4000 > high[1]
    samples = sample_pair(masked, scene_mappings(masked))
    assert samples is not None
    assert check_samples(*samples) == []


def test_everything_masked_is_one_line(place: Path, tmp_path: Path) -> None:
    config = config_of(place, "masks.classes_before=[4,9]")
    with pytest.raises(ReadError, match=r"no valid pixel in a sample of the common grid; check .* the masks"):
        run(*pair_of(place), tmp_path / "out", config, computation=STUB)


def test_memory_of_masks_is_projected(place: Path) -> None:
    bare, masked = (plan(*pair_of(place), config_of(place, masked=masked)) for masked in (False, True))
    assert masked.memory.worker > bare.memory.worker
    assert list(masked.summary()["masks"]) == ["before", "after"]
    assert bare.summary()["masks"] == {}


def test_mask_that_does_not_exist_is_one_line(place: Path) -> None:
    with pytest.raises(ReadError, match=r"absent\.tif: no such file"):
        inspect_pair(*pair_of(place), config_of(place, f"masks.after={place}/absent.tif"))
