from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from click.testing import CliRunner, Result
from PIL import Image

from tests.support.scenes import write_scene, write_toy_model
from ussfc import cli
from ussfc.metrics import Confusion, Tally
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.evaluation.evaluate import Selection, evaluate
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.pixels.smoothing import median3, with_rim


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scene(folder, "east", (100, 300))
    write_scene(folder, "north", (20, 40), shift=5)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_model(tmp_path_factory.mktemp("model"))


def middle(folder: Path, model: Path) -> float:
    """A threshold that splits this network's answers, whatever they are."""
    result = evaluate([f"geotiff:{folder}"], load_config(flags={"model": str(model)}))
    levels = np.repeat(np.arange(255), result.tally.change + result.tally.no_change)
    return float(np.median(levels)) / 254


def test_scores_equal_those_of_run_products(folder: Path, model: Path, tmp_path: Path) -> None:
    threshold = middle(folder, model)
    flags = {"model": str(model), "threshold": threshold}
    result = evaluate([f"geotiff:{folder}"], load_config(flags=flags))
    total, medians = Confusion(), Tally.empty()
    for scene, cut in (("east", 0), ("north", 5)):
        ran = ussfc(
            "run", folder / f"{scene}_before.tif", folder / f"{scene}_after.tif", "--out", tmp_path / scene,
            "--model", model, "--threshold", threshold, "-q",
        )  # fmt: skip
        assert ran.exit_code == 0, ran.output
        with rasterio.open(tmp_path / scene / "change.tif") as source:
            change = source.read(1)
        with rasterio.open(folder / f"{scene}_label.tif") as source:
            label = source.read(1)[:, cut:] > 0
        total += Confusion.of(change == 1, label)
        with rasterio.open(tmp_path / scene / "probability.tif") as source:
            medians += Tally.of_levels(median3(with_rim(source.read(1))), label)
    assert result.tally.at(threshold) == total
    assert min(total.tp, total.fp, total.fn, total.tn) > 0
    summary = result.summary()
    assert summary["scores"]["f1"] == total.f1
    assert [scene["name"] for scene in summary["scenes"]] == ["east", "north"]
    assert summary["scenes"][1]["pixels"] == 96 * 91
    averages = [scene["average_precision"] for scene in summary["scenes"]]
    assert averages == [scene.tally.average_precision() for scene in result.scenes]
    assert summary["mean_average_precision"] == pytest.approx(sum(averages) / 2)
    # Of smoothed products the scores are those of the smoothed map.
    smoothed = evaluate(
        [f"geotiff:{folder}"], load_config(flags=flags | {"output.smoothing": "median3"})
    ).tally
    np.testing.assert_array_equal(smoothed.no_change, medians.no_change)
    assert (smoothed.no_change != result.tally.no_change).any()


def test_threshold_is_tuned_on_other_scenes(folder: Path, model: Path) -> None:
    config = load_config(flags={"model": str(model)})
    alone = evaluate([f"geotiff:{folder}"], config, Selection(scenes=["north"]))
    tuned = evaluate([f"geotiff:{folder}"], config, Selection(tune_on="north"))
    assert [scene.name for scene in tuned.scenes] == ["east"]
    assert tuned.threshold == alone.tally.best_threshold()
    assert tuned.threshold_from == "largest F1 on north"
    assert alone.threshold == 0.5
    assert alone.threshold_from == "the model card"


def test_scores_on_scenes_that_taught_are_warned_of(folder: Path, model: Path) -> None:
    card = yaml.safe_load(model.read_text("utf-8"))
    card["training"] = {
        "data": "d", "held_out": "nothing", "device": "cpu", "seconds": 1, "steps": 1, "scenes": ["north", "west"],
    }  # fmt: skip
    taught = model.with_name("taught.yaml")
    taught.write_text(yaml.safe_dump(card), "utf-8")
    for path, expected in ((taught, 1), (model, 0)):
        events: list[Event] = []
        config = load_config(flags={"model": str(path)})
        evaluate([f"geotiff:{folder}"], config, subscriber=events.append)
        found = [event.message for event in events if isinstance(event, Notice)]
        assert len([line for line in found if line.startswith("north: the model has learnt")]) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune_on": "east,north"}, "nothing to score"),
        ({"tune_on": "val"}, "expected the name of a split, or names of scenes"),
        ({"scenes": ["south"]}, "scene 'south': not in"),
    ],
)
def test_impossible_selections_are_refused(
    folder: Path, model: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate([f"geotiff:{folder}"], load_config(flags={"model": str(model)}), Selection(**options))  # type: ignore[arg-type]


def test_command_prints_a_table_and_pictures(folder: Path, model: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", "--model", model, "--data", f"geotiff:{folder}", "--baseline", "--out", tmp_path)
    shown = ussfc(*arguments)
    assert shown.exit_code == 0, shown.output
    for word in (
        "precision",
        "kappa",
        "east",
        "north",
        "all 2",
        "change vectors, Otsu",
        "IR-MAD",
        "the model card",
    ):
        assert word in shown.stdout
    summary = json.loads(ussfc(*arguments, "--json").stdout)
    assert summary == json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert len(summary["sweep"]) == 19
    with (tmp_path / "curve.csv").open() as file:
        points = [[float(value) for value in row] for row in list(csv.reader(file))[1:]]
    assert points[0][2] == 1.0  # at threshold 0 everything is claimed
    recalls = [point[2] for point in points]
    assert recalls == sorted(recalls, reverse=True)
    with Image.open(tmp_path / "errors_north.png") as picture:
        assert picture.size == (3 * (91 + 4), 96 + 4)
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"
    assert not list(tmp_path.glob(".*"))


def write_pictures(folder: Path, split: str, names: tuple[str, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for part in ("A", "B", "label"):
        (folder / split / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        for part in ("A", "B"):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(
                folder / split / part / f"{name}.png"
            )
        Image.fromarray((rng.random((64, 64)) < 0.3).astype(np.uint8) * 255).save(
            folder / split / "label" / f"{name}.png"
        )


def test_pictures_are_scored_without_overlap(tmp_path: Path) -> None:
    model = write_toy_model(
        tmp_path, radiometry={"kind": "range", "low": 0, "high": 255}, tiling={"overlap": 0.5}
    )
    write_pictures(tmp_path / "levir", "test", ("1", "2"), 0)
    write_pictures(tmp_path / "levir", "val", ("7",), 1)
    config = load_config(flags={"model": str(model)})
    result = evaluate([f"levir-cd:{tmp_path / 'levir'}"], config)
    assert [scene.name for scene in result.scenes] == ["1", "2"]
    # What the training's own validation, another code, says of the same files.
    from ussfc.training.data import open_split
    from ussfc.training.validation import tally
    from ussfc.weights import load_weights

    network = load_weights(tmp_path / "toy.safetensors")
    other = tally(network, open_split("levir-cd", tmp_path / "levir", "test"), 32)
    # Two engines differ in the last bits, so a few pixels may lie on the next level.
    moved = np.abs(np.cumsum(result.tally.change - other.change)).sum()
    assert moved <= 3
    assert result.tally.change.sum() == other.change.sum() > 0
    tuned = evaluate([f"levir-cd:{tmp_path / 'levir'}"], config, Selection(tune_on="val"))
    assert tuned.threshold_from == "largest F1 on val"
    with pytest.raises(ConfigError, match="is the split that is scored"):
        evaluate([f"levir-cd:{tmp_path / 'levir'}"], config, Selection(tune_on="test"))
