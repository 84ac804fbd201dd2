"""IR-MAD beside the network, from a model's card to the bytes of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from affine import Affine

from tests.support.scenes import write_toy_model
from tests.support.stubs import StubRecipe
from tests.support.textures import texture
from ussfc.pipeline.api.detect import detect_changes
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import PipelineWarning, ReadError, StoreError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.report.facts import machine_rows
from ussfc.pipeline.runs.alteration import NOT_FOUND, measure_readers
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.types import Box, Pixels, RadiometricMapping, SceneReader
from ussfc.spec import AlterationTerms

TERMS = {"network": 0.5, "distance": 2.0, "offset": -1.5, "blur_px": 1.5}
SHAPE = (150, 170)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return two dates of land, with a hole in the later one."""
    folder = tmp_path_factory.mktemp("scenes")
    land = np.clip(texture(3, SHAPE, blur=1.5) * 0.5 + 900, 1, 3000)
    profile = {"driver": "GTiff", "width": SHAPE[1], "height": SHAPE[0], "count": 3, "dtype": "uint16", "nodata": 0,
               "crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 4_000_000)}  # fmt: skip
    paths = []
    for number, name in enumerate(("before", "after")):
        noise = np.random.default_rng(number).normal(0, 20, (3, *SHAPE))
        bands = np.stack([land, 0.8 * land + 50, 0.6 * land]) + noise
        if number:
            bands[:, 60:90, 70:100] += [[[900]], [[-300]], [[400]]]
        bands = np.clip(bands, 1, 3500)
        bands[:, 20:30, 30:50] *= 1 - number
        paths.append(str(folder / f"{name}.tif"))
        with rasterio.open(paths[-1], "w", **profile) as file:
            file.write(bands.astype(np.uint16))
            file.descriptions = ("B04", "B03", "B02")
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy_model(tmp_path_factory.mktemp("model"), alteration=TERMS))


def config_of(model: str, *sets: str) -> RunConfig:
    fixed = ("registration=off", "cluster.kind=serial", "output.report=false", "inference.engine=torch",
             "inference.precision=float32", "radiometry=model")  # fmt: skip
    return load_config(sets=[f"model={model}", *fixed, *sets])


def made(
    scenes: tuple[str, str], out: Path, config: RunConfig, **more: Any
) -> tuple[np.ndarray, RunRecord, list[str]]:
    """Return the levels of a run, its record and what it said."""
    events: list[Event] = []
    record = run(*scenes, out, config, subscriber=events.append, **more)
    with rasterio.open(out / "probability.tif") as source:
        levels = source.read(1)
    return levels, record, [event.message for event in events if isinstance(event, Notice)]


def test_no_tile_and_no_resumption_changes_a_byte(scenes: tuple[str, str], card: str, tmp_path: Path) -> None:
    levels, record, said = made(scenes, tmp_path / "a", config_of(card, "tiling.tile_size=256"))
    assert record.radiometry.alteration is not None
    assert record.radiometry.alteration.factors
    assert any(line.startswith("computed by ") and line.endswith(" and IR-MAD") for line in said)
    assert "beside the network" in dict(machine_rows(record))
    # Found from the sample of the run; the change stands out, the hole is nodata.
    assert np.median(levels[65:85, 75:95]) > np.median(levels[100:, 100:]) + 50
    assert (levels[20:30, 30:50] == 255).all()
    small, _, _ = made(scenes, tmp_path / "b", config_of(card, "tiling.tile_size=64", "tiling.overlap=0"))
    whole, _, _ = made(scenes, tmp_path / "c", config_of(card, "tiling.tile_size=256", "tiling.overlap=0"))
    assert small.tobytes() == whole.tobytes()
    (tmp_path / "a/run.json").unlink()
    for name in ("probability.tif", "work/infer.json"):
        (tmp_path / "a" / name).unlink()
    again, second, _ = made(scenes, tmp_path / "a", config_of(card, "tiling.tile_size=256"))
    assert again.tobytes() == levels.tobytes()
    assert second.radiometry == record.radiometry


def test_arrays_have_the_numbers_of_a_run(scenes: tuple[str, str], card: str, tmp_path: Path) -> None:
    # Without overlap a tile reads beyond its core for the distances alone.
    config = config_of(card, "tiling.tile_size=64", "tiling.overlap=0")
    levels, _, _ = made(scenes, tmp_path / "out", config)
    arrays = [rioxarray.open_rasterio(scene, chunks={"x": 64, "y": 64}) for scene in scenes]
    assert all(isinstance(array, xr.DataArray) for array in arrays)
    found = detect_changes(*arrays, config=config).values
    expected = np.where(levels == 255, np.nan, levels / np.float32(254)).astype(np.float32)
    np.testing.assert_array_equal(found, expected)


def test_off_is_the_network_alone(scenes: tuple[str, str], card: str, tmp_path: Path) -> None:
    plain = str(write_toy_model(tmp_path))
    alone, record, said = made(scenes, tmp_path / "off", config_of(card, "inference.alteration=off"))
    without, _, _ = made(scenes, tmp_path / "plain", config_of(plain))
    assert alone.tobytes() == without.tobytes()
    assert record.radiometry.alteration is None
    assert "beside the network" not in dict(machine_rows(record))
    assert not any("IR-MAD" in line for line in said)
    # Of a model without terms nothing is left out, and its key is that of a run that knew none.
    keys = [json.loads((tmp_path / name / "work/run_key.json").read_text()) for name in ("off", "plain")]
    assert "alteration" not in keys[0]
    assert keys[0].keys() == keys[1].keys()


def test_another_choice_is_another_run(scenes: tuple[str, str], card: str, tmp_path: Path) -> None:
    made(scenes, tmp_path / "out", config_of(card))
    with pytest.raises(StoreError, match="alteration"):
        run(*scenes, tmp_path / "out", config_of(card, "inference.alteration=off"))


def test_another_detector_has_none_beside_it(scenes: tuple[str, str], card: str, tmp_path: Path) -> None:
    stub = Computation(StubRecipe(patch_size=32, bands=3))
    _, record, _ = made(scenes, tmp_path / "out", config_of(card), computation=stub)
    assert record.radiometry.alteration is None


def test_dates_without_a_band_in_common_are_told(card: str, tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint16",
               "crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 4_000_000)}  # fmt: skip
    scenes = str(tmp_path / "before.tif"), str(tmp_path / "after.tif")
    for number, scene in enumerate(scenes):
        with rasterio.open(scene, "w", **profile) as file:
            file.write(np.full((3, 64, 64), 700 + 9 * number, np.uint16))
            file.descriptions = ("B04", "B03", "B02")
    levels, record, said = made(scenes, tmp_path / "out", config_of(card))
    assert NOT_FOUND in said
    assert NOT_FOUND in record.warnings
    assert not any(line.endswith("and IR-MAD") for line in said)
    alone, _, _ = made(scenes, tmp_path / "off", config_of(card, "inference.alteration=off"))
    assert alone.tobytes() == levels.tobytes()
    arrays = [rioxarray.open_rasterio(scene) for scene in scenes]
    with pytest.warns(PipelineWarning, match="IR-MAD could not be found"):
        detect_changes(*arrays, config=config_of(card))


def test_windows_that_cannot_be_read_are_told(
    scenes: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = describe_scene(scenes[0]).geobox
    recipes = [SceneRecipe.of(scene, describe_scene(scene), grid, (1, 2, 3), "nearest") for scene in scenes]

    class Damaged:
        """A date whose upper left window cannot be read."""

        def __init__(self, reader: SceneReader) -> None:
            self.reader = reader

        def read(self, box: Box) -> Pixels:
            if (box.y0, box.x0) == (0, 0):
                raise ReadError("a damaged block")
            return self.reader.read(box)

    mapping = RadiometricMapping((0.0,) * 3, (3500.0,) * 3)
    terms = AlterationTerms(network=0.5, distance=2.0, offset=-1.5)
    whole = recipes[0].open(), recipes[1].open()
    damaged: Any = Damaged(whole[0]), whole[1]
    monkeypatch.setattr("ussfc.pipeline.runs.pair_sample.BLOCK", 64)
    found = [measure_readers(readers, SHAPE, (mapping, mapping), terms, 1) for readers in (whole, damaged)]
    assert found[0].warning is None
    assert found[1].warning == "IR-MAD was found without 1 window(s) of its sample that could not be read"
    assert found[0].sampled - found[1].sampled == 64 * 64 - 10 * 20
