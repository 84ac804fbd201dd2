"""Products as dates, by the command line: from any folder, in any form the same map."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner, Result

from tests.support import products
from tests.support.products import BANDS_10M, write_band, write_safe
from tests.support.scenes import write_toy_model
from tests.support.stubs import StubRecipe
from tests.support.textures import texture
from ussfc import cli
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run

SIDE = 240
CLOUD = np.s_[20:60, 100:180]
"""Part of the earlier date that its classes take for a cloud."""


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def dates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a product of each date, ``before`` and ``after``, on textured ground."""
    folder = tmp_path_factory.mktemp("dates")
    for date, seed, baseline, offset in (("before", 1, "02.14", None), ("after", 2, "05.09", -1000)):
        safe = write_safe(folder / date, baseline=baseline, offset=offset, size=0, seed=seed)
        scl = np.full((SIDE // 2, SIDE // 2), 4, np.uint8)
        if date == "before":
            scl[CLOUD[0].start // 2 : CLOUD[0].stop // 2, CLOUD[1].start // 2 : CLOUD[1].stop // 2] = 9
        images = next((safe / "GRANULE").iterdir()) / "IMG_DATA"
        for image in images.rglob("*.jp2"):
            image.unlink()
        write_band(images / "R20m/T32TQM_20220630T101029_SCL_20m.jp2", scl, products.PLACE * Affine.scale(2))
        for place, name in enumerate(BANDS_10M):
            numbers = texture(seed, (SIDE, SIDE)) * (1 + 0.1 * place) * 0.4 + 900 - (offset or 0)
            write_band(images / f"R10m/T32TQM_20220630T101029_{name}_10m.jp2", numbers.astype(np.uint16))
    return folder


def test_relative_patterns_lists_and_folders_are_planned(
    dates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(dates)
    result = ussfc("plan", "before/*.SAFE", "after", "--after-bands", "B04", "B03", "B02", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["bands"] == {"before": [3, 2, 1], "after": [3, 2, 1]}
    assert plan["grid"]["rows"] == SIDE


def test_every_form_gives_the_same_map(dates: Path, tmp_path: Path) -> None:
    before = next((dates / "before").glob("*.SAFE"))
    result = ussfc("prepare", before, tmp_path / "before.tif", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bands"] == list(BANDS_10M)
    radiometry = {"kind": "range", "low": 0, "high": 3500, "reflectance": 10000}
    model = write_toy_model(tmp_path, radiometry=radiometry)
    config = load_config(sets=[f"model={model}", "registration=off", "cluster.kind=serial"])
    stub = Computation(StubRecipe(patch_size=32, bands=3))
    maps = []
    images = next((before / "GRANULE").iterdir()) / "IMG_DATA/R10m"
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[CLOUD] = True
    for form in (before, images, f"{images}/*_B0*", tmp_path / "before.tif"):
        out = tmp_path / f"out{len(maps)}"
        record = run(str(form), str(dates / "after"), out, config, computation=stub)
        assert record.inputs.before.acquired == "2022-06-30T10:16:32.456Z"
        assert record.masks is not None
        assert record.masks.before is not None
        assert (record.masks.before.kind, record.masks.before.masked_pixels) == ("scl", hidden.sum())
        with rasterio.open(out / "probability.tif") as file:
            maps.append(file.read(1))
        np.testing.assert_array_equal(maps[-1] == 255, hidden)
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])


def test_a_product_is_registered_and_moved(dates: Path, tmp_path: Path) -> None:
    before = next((dates / "before").glob("*.SAFE"))
    safe = write_safe(tmp_path, size=0)
    images = next((safe / "GRANULE").iterdir()) / "IMG_DATA/R10m"
    source = next((before / "GRANULE").iterdir()) / "IMG_DATA/R10m"
    for path in images.parent.rglob("*.jp2"):
        path.unlink()
    for path in source.iterdir():
        with rasterio.open(path) as file:
            write_band(images / path.name, np.roll(file.read(1), (-2, 3), (0, 1)), products.PLACE)
    result = ussfc("register", before, safe, "--vrt", tmp_path / "moved.vrt", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["state"], round(found["dy"]), round(found["dx"])) == ("corrected", -2, 3)
    with rasterio.open(tmp_path / "moved.vrt") as file:
        assert file.descriptions == BANDS_10M
    result = ussfc("register", before, f"{safe},{before}", "--vrt", tmp_path / "two.vrt")
    assert result.exit_code == 2
    assert "is several scenes; make one of them with `ussfc prepare`" in result.stderr


def test_errors_are_one_line(dates: Path, tmp_path: Path) -> None:
    result = ussfc("prepare", dates / "before", tmp_path / "out.tif", "--bands", "B12")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    result = ussfc("plan", f"{dates}/*.tif", dates / "after")
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
