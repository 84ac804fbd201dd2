"""Two scenes and their numbers: refused before the network where a model cannot take them, unless stated or forced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.support.products import band, write_band, write_safe
from tests.support.scenes import write_toy_model
from tests.support.stubs import StubRecipe
from tests.support.textures import texture
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError, ReadError, StoreError
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.pair import inspect_pair, kept_bands
from ussfc.pipeline.runs.run import run

STUB = Computation(StubRecipe(patch_size=32, bands=3))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    radiometry = {"kind": "range", "low": 0, "high": 3500, "reflectance": 10000}
    return str(write_toy_model(tmp_path_factory.mktemp("model"), radiometry=radiometry))


def write(path: Path, image: np.ndarray) -> str:
    """Write three named bands, 10 m pixels."""
    rows, cols = image.shape
    profile = {"driver": "GTiff", "width": cols, "height": rows, "count": 3, "dtype": image.dtype.name}
    place = {"transform": Affine(10, 0, 500_000, 0, -10, 4_000_000), "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, **place) as file:
        file.write(np.stack([image] * 3))
        file.descriptions = ("B04", "B03", "B02")
    return str(path)


def pair(folder: Path, factor: float = 1.0, offset: float = 0.0, dtype: str = "uint16") -> tuple[str, str]:
    """Write two dates of one place, the later one in other numbers."""
    before, after = (np.clip(texture(seed, (160, 160)) * 0.5 + 900, 1, 3000) for seed in (1, 2))
    return (
        write(folder / "before.tif", before.astype(np.uint16)),
        write(folder / "after.tif", (after * factor + offset).astype(dtype)),
    )


def config(model: str, *sets: str) -> RunConfig:
    return load_config(sets=[f"model={model}", "registration=off", "cluster.kind=serial", *sets])


@pytest.mark.parametrize(
    ("factor", "offset", "dtype", "message"),
    [
        (1e-4, 0, "float32", r"after\.tif: holds numbers up to 0\.\d+, which look like .*after\.scale=10000"),
        (1, 20_000, "uint16", r"after\.tif: 100% of its numbers lie outside .*after\.scale"),
    ],
)
def test_numbers_of_another_kind_are_refused(
    factor: float, offset: float, dtype: str, message: str, model: str, tmp_path: Path
) -> None:
    scenes = pair(tmp_path, factor, offset, dtype)
    with pytest.raises(ReadError, match=message):
        run(*scenes, tmp_path / "out", config(model), computation=STUB)
    assert not (tmp_path / "out/change.tif").exists()
    record = run(*scenes, tmp_path / "out", config(model, "force=true"), computation=STUB)
    assert any("after.tif: " in warning for warning in record.warnings)


@pytest.mark.parametrize(
    ("factor", "offset", "dtype", "sets"),
    [
        (1e-4, 0, "float32", ["after.scale=10000"]),
        (1, 1000, "uint16", ["after.offset=-1000"]),
        (1, 1000, "uint16", ["after.scale=0.0001", "after.offset=-0.1"]),
    ],
)
def test_stated_numbers_give_the_same_map(
    factor: float, offset: float, dtype: str, sets: list[str], model: str, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    plain = run(*pair(tmp_path / "plain"), tmp_path / "plain/out", config(model), computation=STUB)
    scenes = pair(tmp_path, factor, offset, dtype)
    stated = run(*scenes, tmp_path / "out", config(model, *sets), computation=STUB)
    images = []
    for folder in (tmp_path / "plain/out", tmp_path / "out"):
        with rasterio.open(folder / "probability.tif") as file:
            images.append(file.read(1).astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1
    assert stated.run != plain.run
    assert stated.warnings == plain.warnings


def test_products_bring_their_offsets_and_dates(model: str, tmp_path: Path) -> None:
    """One image twice: as a product with an offset, and as files of its bands without any."""
    safe = write_safe(tmp_path)
    for place, name in enumerate(("B02", "B03", "B04")):
        plain = np.clip(band(place).astype(int) - 1000, 1, None).astype(np.uint16)
        write_band(tmp_path / f"T32TQM_20180630T101029_{name}_10m.tif", plain)
    record = run(
        str(safe), f"{tmp_path}/*_10m.tif", tmp_path / "out", config(model, "force=true"), computation=STUB
    )
    assert record.inputs.before.uri == str(safe)
    assert record.inputs.before.acquired == "2022-06-30T10:16:32.456Z"
    assert record.inputs.after.acquired == "2018-06-30T10:10:29Z"
    assert record.radiometry.before.mapping.high == (4500.0,) * 3
    assert record.radiometry.after.mapping.high == (3500.0,) * 3
    assert any("exchange the two images" in warning for warning in record.warnings)
    assert "VRTDataset" not in (tmp_path / "out/run.json").read_text()


def test_products_of_different_levels_are_warned_of(model: str, tmp_path: Path) -> None:
    before, after = write_safe(tmp_path), write_safe(tmp_path, level="1C", seed=20)
    notices = inspect_pair(str(before), str(after), config(model)).notices
    assert any(
        "is Sentinel-2 L2A and" in notice and "give both dates of one level" in notice for notice in notices
    )


@pytest.mark.parametrize(
    ("metres", "finest", "warned"), [(6, 7.5, True), (7.6, 7.5, False), (6, None, False), (12, 7.5, False)]
)
def test_pixels_finer_than_a_model_likes_are_named(
    model: str, metres: float, finest: float | None, warned: bool, tmp_path: Path
) -> None:
    card, trained = Path(model), tmp_path / "card.yaml"
    stated = "resolution_m: 10\n" + ("" if finest is None else f"finest_m: {finest}\n")
    trained.write_text(f"{card.read_text()}{stated}".replace("uri: ", f"uri: {card.parent}/"))
    images = pair(tmp_path)
    for image in images:
        with rasterio.open(image, "r+") as file:
            file.transform = Affine(metres, 0, 500_000, 0, -metres, 4_000_000)
    notices = [
        notice for notice in inspect_pair(*images, config(str(trained))).notices if "pixels of" in notice
    ]
    expected = (
        f"the grid has pixels of {metres:g} m, and model toy finds less below 7.5 m than at 10 m; "
        "set grid.resample_to_model=true"
    )
    assert notices == ([expected] if warned else [])


def test_pair_is_brought_to_the_pixels_of_the_model(model: str, tmp_path: Path) -> None:
    card = Path(model)
    trained = tmp_path / "card.yaml"
    trained.write_text(f"{card.read_text()}resolution_m: 10\n".replace("uri: ", f"uri: {card.parent}/"))
    images = pair(tmp_path)
    for image in images:
        with rasterio.open(image, "r+") as file:
            file.transform = Affine(2.5, 0, 500_000, 0, -2.5, 4_000_000)
    plain = inspect_pair(*images, config(str(trained)))
    assert any(
        "has pixels of 2.5 m" in notice and "set grid.resample_to_model=true" in notice
        for notice in plain.notices
    )
    record = run(
        *images, tmp_path / "out", config(str(trained), "grid.resample_to_model=true"), computation=STUB
    )
    assert not any("was trained at" in warning for warning in record.warnings)
    with rasterio.open(tmp_path / "out/change.tif") as file:
        assert (file.shape, file.res, file.bounds.left, file.bounds.top) == (
            (40, 40), (10, 10), 500_000, 4_000_000,
        )  # fmt: skip
    with pytest.raises(StoreError, match=r"holds another run, which differs in .*grid"):
        run(*images, tmp_path / "out", config(str(trained)), computation=STUB)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_unknown_size_of_pixels_is_one_line(model: str, tmp_path: Path) -> None:
    images = pair(tmp_path)
    with pytest.raises(ConfigError, match="the card of model toy states no resolution"):
        inspect_pair(*images, config(model, "grid.resample_to_model=true"))
    with pytest.raises(ConfigError, match="both state the size of a pixel"):
        inspect_pair(*images, config(model, "grid.resample_to_model=true", "grid.resolution=10"))
    for image in images:
        with rasterio.open(image) as file:
            values = file.read()
        plain = {"driver": "GTiff", "width": 160, "height": 160, "count": 3, "dtype": "uint16"}
        with rasterio.open(image, "w", **plain) as file:
            file.write(values)
    with pytest.raises(ConfigError, match="neither image has a CRS, so the size of a pixel is unknown"):
        inspect_pair(*images, config("ussfc-s2-rgb", "grid.resample_to_model=true"))
    notices = inspect_pair(*images, config("ussfc-s2-rgb")).notices
    assert any(
        "the size of a pixel is unknown (model ussfc-s2-rgb was trained at 10 m)" in n for n in notices
    )


@pytest.mark.parametrize(
    ("options", "bands"),
    [
        ({"interleave": "pixel"}, 4),
        ({"interleave": "band"}, 0),
        ({"interleave": "pixel", "dtype": "float32"}, 0),
        ({"interleave": "pixel", "count": 3}, 3),
        ({"interleave": "band", "count": 3}, 3),
    ],
)
def test_tiles_keep_a_band_more_where_it_costs_nothing(
    model: str, options: dict[str, object], bands: int, tmp_path: Path
) -> None:
    profile: dict[str, object] = {
        "driver": "GTiff", "width": 64, "height": 64, "count": 4, "dtype": "uint16", "crs": "EPSG:32636",
        "transform": Affine(10, 0, 500_000, 0, -10, 4_000_000), **options,
    }  # fmt: skip
    for name in ("a", "b"):
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as target:
            for index, band in enumerate(("B04", "B03", "B02", "B08")[: target.count], 1):
                target.write(np.full((64, 64), 100 * index), index)
                target.set_band_description(index, band)
    found = inspect_pair(str(tmp_path / "a.tif"), str(tmp_path / "b.tif"), config(model))
    assert kept_bands(found) == bands
