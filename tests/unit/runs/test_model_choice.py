"""Choice of a packaged model by the scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from click.testing import CliRunner
from odc.geo.geobox import GeoBox

import ussfc
from tests.support.paths import DEMO
from ussfc import cli
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.model_choice import (
    FALLBACK,
    better_model,
    configured_model,
    fitting_model,
    named_model,
    rank_models,
    stronger_model,
)
from ussfc.pipeline.runs.pair import inspect_pair
from ussfc.pipeline.types import BandInfo, SceneInfo

BEST_FIRST = ["ussfc-s2-rgbn", "ussfc-s2-rgb"]
"""By the cities that both were scored on."""

AUTO_CONFIG = load_config(sets=["model=auto"])


def info(*names: str | None, size: float = 10.0, dtype: str = "uint16") -> SceneInfo:
    bands = tuple(BandInfo(place, name, None) for place, name in enumerate(names, 1))
    grid = GeoBox((512, 512), Affine(size, 0, 500000, 0, -size, 5000000), "EPSG:32631")
    return SceneInfo("scene.tif", grid, bands, dtype, "a", 6.0)


RGBN = info("B02", "B03", "B04", "B08")
RGB = info("red", "green", "blue")
AERIAL = info("red", "green", "blue", size=0.3, dtype="uint8")


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (RGBN, RGBN, "ussfc-s2-rgbn"),
        (RGBN, info("nir", "red", "green", "blue"), "ussfc-s2-rgbn"),
        (RGBN, RGB, "ussfc-s2-rgb"),
        (RGB, RGB, "ussfc-s2-rgb"),
        # Four bands without names: which one is the infrared is not known.
        (info(None, None, None, None), RGBN, FALLBACK),
        (info("B02", "B03", "B04", "B08", dtype="uint8"), RGBN, FALLBACK),
        (info("B02", "B03", "B04", "B08", size=0.5), info("B02", "B03", "B04", "B08", size=0.5), FALLBACK),
        (AERIAL, AERIAL, "ussfc-vhr-rgb"),
        (AERIAL, info("red", "green", "blue", "nir", size=0.3, dtype="uint8"), "ussfc-vhr-rgb"),
        # Bytes of 10 m are no aerial image, and numbers of 16 bits seldom end at 255.
        (info("red", "green", "blue", dtype="uint8"), info("red", "green", "blue", dtype="uint8"), FALLBACK),
        (info("red", "green", "blue", size=0.3), info("red", "green", "blue", size=0.3), FALLBACK),
    ],
)
def test_best_model_that_fits_is_taken(before: SceneInfo, after: SceneInfo, name: str) -> None:
    assert fitting_model((before, after), AUTO_CONFIG).name == name


def test_better_model_is_named_where_the_chosen_one_does_not_fit() -> None:
    default, aerial = ussfc.find_model(FALLBACK), ussfc.find_model("ussfc-vhr-rgb")
    found = better_model((AERIAL, AERIAL), load_config(), default)
    assert found is not None
    assert found.name == aerial.name
    assert better_model((AERIAL, AERIAL), load_config(), aerial) is None
    # The default fits as well as the better one would.
    assert better_model((RGBN, RGBN), load_config(), default) is None
    # Nothing fits.
    coarse = info("red", "green", "blue", size=30.0, dtype="uint8")
    assert better_model((coarse, coarse), load_config(), default) is None
    # A model of the user's own is the user's choice.
    own = default.model_copy(update={"name": "mine"})
    assert better_model((AERIAL, AERIAL), load_config(), own) is None


def test_scenes_are_not_to_be_coarsened_where_another_model_fits(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.tif" for name in ("a", "b")]
    for path in paths:
        with rasterio.open(
            path, "w", driver="GTiff", width=300, height=300, count=3, dtype="uint8", crs="EPSG:32636",
            transform=Affine(0.3, 0, 500_000, 0, -0.3, 4_000_000),
        ) as target:  # fmt: skip
            target.write(np.random.default_rng(1).integers(1, 255, (3, 300, 300), np.uint8))
    notices = inspect_pair(*map(str, paths), load_config()).notices
    (named,) = [number for number, notice in enumerate(notices) if "ussfc-vhr-rgb fits both dates" in notice]
    (size,) = [number for number, notice in enumerate(notices) if "was trained at 10 m" in notice]
    assert named < size
    assert not any("resample_to_model" in notice for notice in notices)


def test_numbers_of_another_kind_are_named() -> None:
    for dtype in ("uint16", "float32"):
        fits = rank_models((replace(AERIAL, dtype=dtype), AERIAL), AUTO_CONFIG)
        obstacles = {fit.model.name: fit.obstacle for fit in fits}
        assert obstacles["ussfc-vhr-rgb"] == f"scene.tif holds {dtype}, and it takes bytes"
    fits = rank_models((AERIAL, AERIAL), AUTO_CONFIG)
    obstacles = {fit.model.name: fit.obstacle for fit in fits}
    assert obstacles[FALLBACK] == "scene.tif holds uint8, too small for the numbers that it takes"


def test_chosen_bands_count() -> None:
    """Numbers of four bands are for a model of four."""
    bare = info(None, None, None, None)
    config = load_config(sets=["model=auto", "bands.before=[3,2,1,4]", "bands.after=[3,2,1,4]"])
    assert fitting_model((bare, bare), config).name == "ussfc-s2-rgbn"


def test_named_model_needs_no_scenes() -> None:
    """It is found before a scene is opened."""
    found = configured_model(load_config(sets=["model=ussfc-s2-rgb"]))
    assert found is not None
    assert found.name == "ussfc-s2-rgb"
    assert configured_model(AUTO_CONFIG) is None
    with pytest.raises(ussfc.ModelError, match="did you mean"):
        inspect_pair("absent.tif", "absent.tif", load_config(sets=["model=ussfc-s2-rgbm"]))


def test_models_are_ranked_with_their_obstacles() -> None:
    assert [fit.model.name for fit in rank_models((RGBN, RGBN), AUTO_CONFIG)] == [
        *BEST_FIRST,
        "ussfc-vhr-rgb",
    ]
    ranked = rank_models((RGB, RGBN), AUTO_CONFIG)
    assert not ranked[0].obstacle
    obstacles = {fit.model.name: fit.obstacle for fit in ranked}
    assert "has not all of its bands (B04, B03, B02, B08)" in obstacles["ussfc-s2-rgbn"]
    small = info("red", "green", "blue", size=0.5)
    obstacles = {fit.model.name: fit.obstacle for fit in rank_models((small, small), AUTO_CONFIG)}
    assert obstacles[FALLBACK] == "pixels have 0.5 m, and it was trained at 10 m"


def test_resampling_to_the_model_needs_no_size() -> None:
    small = info("B02", "B03", "B04", "B08", size=0.5)
    config = load_config(sets=["model=auto", "grid.resample_to_model=true"])
    assert fitting_model((small, small), config).name == BEST_FIRST[0]


def test_without_scenes_the_model_of_fewest_bands_is_taken() -> None:
    assert named_model("auto").name == FALLBACK
    assert named_model("ussfc-s2-rgbn").name == "ussfc-s2-rgbn"
    assert len(named_model("auto").bands) == min(
        len(ussfc.find_model(name).bands) for name in ussfc.list_models()
    )


def test_the_command_names_what_a_score_is_of() -> None:
    pair = [str(DEMO / f"beirut_{date}.tif") for date in ("before", "after")]
    listed = json.loads(CliRunner().invoke(cli.main, ["models", "fit", *pair, "--json"]).output)
    lines = CliRunner().invoke(cli.main, ["models", "fit", *pair]).output.splitlines()
    assert len(lines) == len(listed) >= 3
    for line, model in zip(lines, listed, strict=True):
        last = ussfc.find_model(model["name"]).scores[-1]
        assert (model["f1"], model["scored_on"]) == (last.f1, last.scene)
        assert line.startswith(f"{model['name']}  F1 {last.f1:.2f} on {last.scene}  ")
        assert ("does not fit" in line) != model["fits"]


def test_model_that_scored_higher_is_named() -> None:
    default = ussfc.find_model(FALLBACK)
    found = stronger_model((RGBN, RGBN), load_config(), default)
    assert found is not None
    assert found.model.name == BEST_FIRST[0]
    assert found.f1 > found.chosen_f1
    # Sums over several scenes are no scenes.
    scores = [{s.scene: s.f1 for s in card.scores if not s.pooled} for card in (found.model, default)]
    shared = sorted(scores[0].keys() & scores[1].keys())
    assert found.scenes == len(shared) == 14
    assert found.f1 == pytest.approx(sum(scores[0][scene] for scene in shared) / len(shared))
    assert stronger_model((RGBN, RGBN), load_config(), ussfc.find_model(BEST_FIRST[0])) is None
    for infos in ((RGB, RGBN), (AERIAL, AERIAL)):
        assert stronger_model(infos, load_config(), default) is None
    assert stronger_model((RGBN, RGBN), AUTO_CONFIG, default) is None
    # One's own card, of any name, is one's own choice.
    for update in ({"name": "mine"}, {"scores": default.scores[:1]}, {"threshold": 0.4}):
        own = default.model_copy(update=update)
        assert stronger_model((RGBN, RGBN), load_config(), own) is None
        assert better_model((AERIAL, AERIAL), load_config(), own) is None
    # Three bands by number are no four.
    three = load_config(sets=["bands.before=[3,2,1]", "bands.after=[3,2,1]"])
    assert stronger_model((RGBN, RGBN), three, default) is None


def test_plan_and_run_name_it_without_a_warning(tmp_path: Path) -> None:
    names = ("B02", "B03", "B04", "B08")
    scenes = []
    for seed, date in enumerate(("before", "after")):
        scenes.append(str(tmp_path / f"{date}.tif"))
        values = np.random.default_rng(seed).integers(200, 3000, (4, 64, 64)).astype(np.uint16)
        grid = Affine(10, 0, 500000, 0, -10, 5000000)
        with rasterio.open(scenes[-1], "w", "GTiff", 64, 64, 4, "EPSG:32631", grid, "uint16") as raster:
            raster.write(values)
            raster.descriptions = names
    found = stronger_model((RGBN, RGBN), load_config(), ussfc.find_model(FALLBACK))
    assert found is not None
    means = f"mean F1 {found.f1:.2f} instead of {found.chosen_f1:.2f} over the same {found.scenes} scenes"
    told = f"model {BEST_FIRST[0]} fits both dates as well and scored higher ({means}): "
    advice = told + "give --model auto"
    planned = CliRunner().invoke(cli.main, ["plan", *scenes])
    assert planned.exit_code == 0, planned.output
    assert f"better  {advice}" in planned.output
    done = CliRunner().invoke(cli.main, ["run", *scenes, "--out", str(tmp_path / "out")])
    assert f"note: {advice}\n" in done.output
    # Files name the setting.
    assert told + "set model=auto" in (tmp_path / "out" / "run.log").read_text()
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert not [warning for warning in record.get("warnings", []) if "scored higher" in warning]
    auto = CliRunner().invoke(cli.main, ["plan", *scenes, "--model", "auto"])
    assert f"{BEST_FIRST[0]} and IR-MAD, threshold" in auto.output
    assert "better" not in auto.output


def test_a_date_that_is_much_coarser_than_the_grid_is_told(tmp_path: Path) -> None:
    scenes = []
    for name, size in (("fine", 10), ("coarse", 30)):
        scenes.append(str(tmp_path / f"{name}.tif"))
        side = 1920 // size
        values = np.random.default_rng(size).integers(200, 3000, (3, side, side)).astype(np.uint16)
        grid = Affine(size, 0, 500000, 0, -size, 5000000)
        with rasterio.open(scenes[-1], "w", "GTiff", side, side, 3, "EPSG:32631", grid, "uint16") as raster:
            raster.write(values)
            raster.descriptions = ("red", "green", "blue")
    for pair, expected in (
        ((scenes[0], scenes[1]), 1),
        ((scenes[0], scenes[0]), 0),
        ((scenes[1], scenes[0]), 0),
    ):
        found = [
            line
            for line in inspect_pair(*pair, load_config()).notices
            if ": has pixels of 30 m, the grid" in line
        ]
        assert len(found) == expected
