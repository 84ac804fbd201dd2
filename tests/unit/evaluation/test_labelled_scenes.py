from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from tests.support.scenes import write_scene
from ussfc.errors import DataError
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ConfigError, InsufficientMemoryError, ReadError
from ussfc.pipeline.evaluation.labelled_scenes import ScenePairs, find_scenes
from ussfc.pipeline.evaluation.sources import check_data, parse_data, training_sources
from ussfc.training.data import LabelledPair
from ussfc.training.recipe import load_recipe

RECIPE = load_recipe("strong")
SPEC = RECIPE.input_spec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_scene(tmp_path, "east", (100, 300))
    write_scene(tmp_path, "north", (20, 40), shift=5)
    write_scene(tmp_path, "west", (200, 50))
    (tmp_path / "notes.txt").write_text("not a scene")
    return tmp_path


def pairs_of(folder: Path) -> dict[str, LabelledPair]:
    source = ScenePairs(find_scenes(folder), SPEC)
    return {name: source.pair(index) for index, name in enumerate(source.names)}


def rewrite(path: Path, values: np.ndarray | None = None, **changes: object) -> None:
    with rasterio.open(path) as source:
        profile, old = source.profile, source.read()
    with rasterio.open(path, "w", **(profile | changes)) as target:
        target.write(old if values is None else values)


def test_scene_pixels_equal_those_of_a_run(folder: Path) -> None:
    pair = pairs_of(folder)["east"]
    with rasterio.open(folder / "east_before.tif") as source:
        wanted = np.clip(source.read((1, 2, 3)).astype(np.float32) / np.float32(3500), 0, 1)
    np.testing.assert_array_equal(pair.before, wanted)
    assert pair.before.dtype == np.float32
    assert pair.valid is not None
    assert pair.valid.all()


def test_dates_on_other_grids_are_warped(folder: Path) -> None:
    pair = pairs_of(folder)["north"]
    # Five columns apart: 91 are common, and the label is cut with them.
    assert pair.shape == (96, 91)
    assert pair.before.shape == pair.after.shape == (3, 96, 91)
    with rasterio.open(folder / "north_label.tif") as source:
        np.testing.assert_array_equal(pair.label, source.read(1)[:, 5:] > 0)
    with rasterio.open(folder / "north_after.tif") as source:
        wanted = np.clip(source.read((1, 2, 3))[..., :91].astype(np.float32) / np.float32(3500), 0, 1)
    np.testing.assert_array_equal(pair.after, wanted)


def test_displaced_dates_are_registered(tmp_path: Path) -> None:
    """Both dates show the same ground three columns apart; the pixels are nearly those of the pair that lies right."""
    write_scene(tmp_path, "port", (40, 40), 288)
    straight = pairs_of(tmp_path)["port"]
    with rasterio.open(tmp_path / "port_after.tif") as source:
        transform = source.transform
    rewrite(tmp_path / "port_after.tif", transform=transform * Affine.translation(3, 0))
    apart = ScenePairs(
        find_scenes(tmp_path), SPEC, load_config().model_copy(update={"registration": "off"})
    ).pair(0)
    pair = pairs_of(tmp_path)["port"]
    np.testing.assert_array_equal(pair.before, straight.before[..., 3:])
    np.testing.assert_array_equal(pair.label, straight.label[:, 3:])
    assert pair.valid is not None
    assert pair.valid.all()
    assert np.abs(pair.after - straight.after[..., 3:]).mean() < 0.001
    assert np.abs(apart.after - straight.after[..., 3:]).mean() > 0.02


def test_dates_of_different_places_are_warned_of(tmp_path: Path) -> None:
    write_scene(tmp_path, "port", (40, 40), 288)
    write_scene(tmp_path, "hill", (440, 400), 288)
    with rasterio.open(tmp_path / "hill_after.tif") as source:
        elsewhere = source.read()
    rewrite(tmp_path / "port_after.tif", elsewhere)
    lines: list[str] = []
    source = ScenePairs(find_scenes(tmp_path), SPEC, notify=lines.append)
    for index in range(len(source.names)):
        source.pair(index)
    (line,) = lines
    assert line.startswith("scene port: ")
    assert "look at both images" in line


def test_pixels_without_data_or_label_do_not_count(folder: Path) -> None:
    with rasterio.open(folder / "west_after.tif") as source:
        values = source.read()
    values[:, :10] = 0
    rewrite(folder / "west_after.tif", values, nodata=0)
    with rasterio.open(folder / "west_label.tif") as source:
        label = source.read()
    label[:, :, :7] = 9
    rewrite(folder / "west_label.tif", label, nodata=9)
    pair = pairs_of(folder)["west"]
    assert pair.valid is not None
    assert not pair.valid[:10].any()
    assert not pair.valid[:, :7].any()
    assert pair.valid[10:, 7:].all()
    assert (pair.before[:, :10] == 0.5).all()
    assert not pair.label[:, :7].any()


def test_a_label_of_255_is_one_of_1(folder: Path) -> None:
    was = pairs_of(folder)["east"].label
    with rasterio.open(folder / "east_label.tif") as source:
        rewrite(folder / "east_label.tif", source.read() * 255)
    np.testing.assert_array_equal(pairs_of(folder)["east"].label, was)


def test_faults_name_the_file(folder: Path) -> None:
    with rasterio.open(folder / "east_label.tif") as source:
        label = source.read()
    odd = label.copy()
    odd[0, 0, 0] = 7
    rewrite(folder / "east_label.tif", odd)
    with pytest.raises(
        DataError, match=r"east_label\.tif: label values 0, 1, 7; expected 0 and 1, or 0 and 255"
    ):
        pairs_of(folder)
    rewrite(folder / "east_label.tif", label, nodata=0)
    with pytest.raises(DataError, match=r"east_label\.tif: every valid pixel is change.*unsetnodata"):
        pairs_of(folder)
    rewrite(folder / "east_label.tif", label, crs=None, nodata=None)
    with pytest.raises(DataError, match=r"east_label\.tif: .*CRS"):
        pairs_of(folder)
    (folder / "east_label.tif").write_bytes(b"no raster")
    with pytest.raises(DataError, match=r"east_label\.tif: cannot be opened"):
        pairs_of(folder)


def test_missing_partners_are_named_and_counted(folder: Path) -> None:
    (folder / "east_after.tif").unlink()
    (folder / "west_label.tif").unlink()
    with pytest.raises(ReadError, match=r"east_before\.tif: no east_after\.tif beside it.*1 more such file"):
        find_scenes(folder)


def test_check_goes_on_after_the_first_fault(folder: Path) -> None:
    (folder / "east_after.tif").unlink()
    (folder / "north_label.tif").write_bytes(b"no raster")
    (report,) = check_data("geotiff", folder)
    assert report.pairs == 2
    assert report.sizes == {"96 x 96": 1}
    assert report.pixels == 96 * 96
    # 92nd percentile of 9,216 pixels; ties keep it near 8 %.
    assert 0.06 < report.changed / report.pixels <= 0.08
    assert len(report.broken) == 2
    assert "east" in report.broken[0]
    assert "north_label.tif" in report.broken[1]


def test_missing_folders_and_names_are_reported(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no such folder"):
        find_scenes(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match=r"no NAME_before\.tif"):
        find_scenes(tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"scene 'south': not in .*; there are east, north, west"):
        find_scenes(folder, ["south"])
    assert [scene.name for scene in find_scenes(folder, ["west", "east"])] == ["west", "east"]


def test_validation_scenes_never_train(folder: Path) -> None:
    train, validation = training_sources([f"geotiff:{folder}"], RECIPE, ["north"], 0)
    assert list(train.names) == ["east", "west"]
    assert list(validation.names) == ["north"]
    assert validation.pair(0).shape == (96, 91)
    with pytest.raises(ConfigError, match=r"south: no such scene .*; there are east, north, west"):
        training_sources([f"geotiff:{folder}"], RECIPE, ["north", "south"], 0)


def test_nothing_is_validated_on_if_asked_for(folder: Path) -> None:
    train, validation = training_sources([f"geotiff:{folder}"], RECIPE, ["none"], 0)
    assert list(train.names) == ["east", "north", "west"]
    assert validation is None


def test_scenes_beyond_memory_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Little:
        available = 100_000

    monkeypatch.setattr("psutil.virtual_memory", Little)
    with pytest.raises(InsufficientMemoryError, match=r"labelled scenes: 0\.0 GB in memory"):
        training_sources([f"geotiff:{folder}"], RECIPE, ["north"], 0)


def test_data_is_named_by_kind_and_folder() -> None:
    assert parse_data("geotiff:a:b") == ("geotiff", Path("a:b"))
    for text in ("geotiff", "geotiff:"):
        with pytest.raises(ConfigError, match="expected KIND:DIR"):
            parse_data(text)


def test_pictures_need_an_rgb_input(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for part in ("A", "B", "label"):
            (tmp_path / "levir" / split / part).mkdir(parents=True)
            Image.new("L" if part == "label" else "RGB", (32, 32)).save(
                tmp_path / "levir" / split / part / "1.png"
            )
    train, validation = training_sources([f"levir-cd:{tmp_path / 'levir'}"], load_recipe("paper"), [], 10**6)
    assert len(train.names) == len(validation.names) == 1
    with pytest.raises(ConfigError, match="input=rgb8"):
        training_sources([f"levir-cd:{tmp_path / 'levir'}"], RECIPE, [], 10**6)
