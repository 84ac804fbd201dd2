"""Clouds that a run finds in dates without a mask."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine

import ussfc
from tests.support.cloud_package import write_package
from tests.support.products import BANDS_10M, write_band, write_safe
from tests.support.scenes import write_toy_model
from tests.support.stubs import StubRecipe
from tests.support.textures import texture
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError, ReadError, StoreError
from ussfc.pipeline.events import Event, Notice, StageStarted
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.pair import inspect_pair
from ussfc.pipeline.runs.run import run

SIDE = 700
"""Side of the images, pixels of 10 m: more than one window of the network, and no multiple of 30 m."""

CLOUD, SHADOW = np.s_[90:180, 570:690], np.s_[300:390, 0:60]
"""Places in the later date, on pixels of 30 m."""

UTM = "EPSG:32633"
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_000_000)
STUB = Computation(StubRecipe(patch_size=32, bands=3))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clouds")
    write_toy_model(folder, radiometry={"kind": "range", "low": 0, "high": 3500, "reflectance": 10000})
    ground = texture(3, (SIDE, SIDE), blur=1.5) * 0.3 + 1000
    for date in ("before", "after"):
        image = ground.copy()
        if date == "after":
            image[CLOUD], image[SHADOW] = 7000, 40
        # The two dates are in numbers of their own.
        stored = (image + 1000 if date == "after" else image).astype(np.uint16)
        profile = {
            "driver": "GTiff",
            "width": SIDE,
            "height": SIDE,
            "count": 4,
            "dtype": "uint16",
            "nodata": 0,
        }
        with rasterio.open(folder / f"{date}.tif", "w", **profile, transform=TRANSFORM, crs=UTM) as file:
            file.write(np.stack([stored] * 4))
            file.descriptions = ("B02", "B03", "B04", "B08")
            if date == "after":
                file.scales, file.offsets = (1e-4,) * 4, (-0.1,) * 4
    return folder


@pytest.fixture
def package(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_package(tmp_path_factory.mktemp("package"))
    monkeypatch.syspath_prepend(folder)
    return folder


def config_of(place: Path, *sets: str) -> RunConfig:
    given = [f"model={place}/toy.yaml", "cluster.kind=serial", "registration=off", "masks.clouds=auto", *sets]
    return load_config(sets=given)


def pair_of(place: Path) -> tuple[str, str]:
    return str(place / "before.tif"), str(place / "after.tif")


def nodata(out: Path) -> np.ndarray:
    with rasterio.open(out / "probability.tif") as file:
        return np.asarray(file.read(1)) == 255


def test_clouds_and_shadows_become_nodata_whatever_the_tiles(
    place: Path, package: Path, tmp_path: Path
) -> None:
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[CLOUD] = hidden[SHADOW] = True
    for number, sets in enumerate((("tiling.tile_size=96",), ("tiling.tile_size=512", "masks.dilation_m=0"))):
        out = tmp_path / f"out{number}"
        events: list[Event] = []
        record = run(
            *pair_of(place), out, config_of(place, *sets), computation=STUB, subscriber=events.append
        )
        np.testing.assert_array_equal(nodata(out), hidden)
        assert record.masks is not None
        assert record.masks.before is not None
        assert record.masks.after is not None
        assert record.masks.before.masked_pixels == 0
        after = record.masks.after
        assert (after.kind, after.classes, after.masked_pixels) == ("clouds", (1, 2), hidden.sum())
        assert after.uri == "ukis-csmask 1.0.0-stand-in on after"
        lines = [event.message for event in events if isinstance(event, Notice)]
        assert f"mask of after: {after.uri} (clouds; masked: 1, 2)" in lines
    # The same command finds everything done; another search is another run.
    again: list[Event] = []
    run(*pair_of(place), out, config_of(place, *sets), computation=STUB, subscriber=again.append)
    assert not any(isinstance(event, StageStarted) and event.stage == "clouds" for event in again)
    assert len(list((out / "work/clouds").iterdir())) == 2
    for sets in (("masks.clouds=off",), ("masks.dilation_m=30",)):
        with pytest.raises(StoreError, match="holds another run, which differs in masks"):
            run(*pair_of(place), out, config_of(place, *sets), computation=STUB)
    run(*pair_of(place), out, config_of(place, "masks.dilation_m=30"), overwrite=True, computation=STUB)
    assert nodata(out).sum() > hidden.sum()
    assert len(list((out / "work/clouds").iterdir())) == 2


def test_run_that_was_stopped_while_it_searched_goes_on(place: Path, package: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "clouds":
            started.append(event)
            if len(started) == 2:
                raise Stopped

    started: list[Event] = []
    with pytest.raises(Stopped):
        run(*pair_of(place), tmp_path / "out", config_of(place), computation=STUB, subscriber=stop)
    run(*pair_of(place), tmp_path / "out", config_of(place), computation=STUB, subscriber=stop)
    # The first date was found before the stop.
    assert len(started) == 3
    assert nodata(tmp_path / "out").any()


def test_dates_with_a_mask_are_not_searched(place: Path, package: Path, tmp_path: Path) -> None:
    mask = write_band(tmp_path / "mask.tif", np.ones((SIDE, SIDE), np.uint8), TRANSFORM, UTM)
    pair = inspect_pair(*pair_of(place), config_of(place, f"masks.after={mask}"))
    assert [search is not None for search in pair.clouds] == [True, False]
    safe = write_safe(tmp_path)
    pair = inspect_pair(str(safe), str(safe), config_of(place, "masks.before=none"))
    assert [search is not None for search in pair.clouds] == [True, False]
    assert pair.clouds[0] is not None
    assert pair.clouds[0].mapping.low == (1000,) * len(BANDS_10M)
    assert pair.clouds[0].factor == 3


def test_area_bounds_the_search(place: Path, package: Path, tmp_path: Path) -> None:
    import geopandas
    import shapely

    corner = shapely.box(*TRANSFORM * (560, 200), *TRANSFORM * (700, 80))
    geopandas.GeoDataFrame(geometry=[corner], crs=UTM).to_file(tmp_path / "area.geojson")
    config = config_of(place, f"grid.aoi={tmp_path}/area.geojson")
    run(*pair_of(place), tmp_path / "out", config, computation=STUB)
    assert nodata(tmp_path / "out").sum() == pytest.approx(90 * 120, abs=700)


def test_missing_package_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ukis_csmask", None)
    with pytest.raises(
        ussfc.ModelError, match=r"not installed here: pip install 'ussfc\[clouds\]'"
    ) as caught:
        inspect_pair(*pair_of(place), config_of(place))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bands", "size", "crs", "message"),
    [
        (("B04", "B03", "B02"), 10.0, UTM, r"which its bands \(B04, B03, B02\) do not name"),
        ((None,) * 4, 10.0, UTM, "which its bands .* do not name"),
        (BANDS_10M, 0.5, UTM, r"pixels of 4 to 45 m, and those of the grid have 0\.499 m"),
        (BANDS_10M, 1.0, None, "unknown size, since no image has a CRS"),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_cannot_be_searched_is_one_line(
    bands: tuple[str | None, ...],
    size: float,
    crs: str | None,
    message: str,
    place: Path,
    package: Path,
    tmp_path: Path,
) -> None:
    profile = {
        "driver": "GTiff",
        "width": 64,
        "height": 64,
        "count": len(bands),
        "dtype": "uint16",
        "crs": crs,
    }
    with rasterio.open(
        tmp_path / "a.tif", "w", **profile, transform=Affine.scale(size, -size) if crs else Affine.identity()
    ) as file:
        file.write(np.ones((len(bands), 64, 64), np.uint16))
        file.descriptions = bands
    with pytest.raises(ConfigError, match=message) as caught:
        inspect_pair(str(tmp_path / "a.tif"), str(tmp_path / "a.tif"), config_of(place))
    assert "\n" not in str(caught.value)
    assert "masks.clouds=off" in str(caught.value)


def test_unit_that_nothing_states_is_one_line(place: Path, package: Path, tmp_path: Path) -> None:
    write_toy_model(tmp_path)
    with pytest.raises(ConfigError, match=r"states the unit of its numbers; set before\.scale"):
        inspect_pair(*pair_of(place), config_of(place, f"model={tmp_path}/toy.yaml"))


def test_damaged_date_is_one_line(place: Path, package: Path, tmp_path: Path) -> None:
    broken = tmp_path / "after.tif"
    rasterio.shutil.copy(place / "after.tif", broken, driver="GTiff", COMPRESS="DEFLATE")
    with broken.open("r+b") as file:
        file.seek(broken.stat().st_size // 2)
        file.write(b"\xff" * 20_000)
    with pytest.raises(ReadError, match=r"after\.tif: .*masks\.clouds=off leaves out"):
        run(str(place / "before.tif"), str(broken), tmp_path / "out", config_of(place), computation=STUB)
