"""`ussfc train` and `ussfc data` from the command line, on real pixels with labels made for the test."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import rasterio
import yaml
from click.testing import CliRunner, Result

import ussfc as package
from tests.support.scenes import write_scene, write_toy_model
from ussfc import cli
from ussfc.pipeline.terminal.exit_statuses import ExitStatus
from ussfc.weights import load_weights

TINY = (
    "--set", "network.ratio=0.125", "--set", "sampling.crop_size=32", "--set", "validate_every=4",
    "--set", "optimiser.warmup_steps=2", "--set", "optimiser.average=0.5", "--threads", "1",
)  # fmt: skip


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scene(folder, "east", (100, 300))
    write_scene(folder, "west", (200, 50))
    return folder


def train(folder: Path, out: Path, *more: object) -> Result:
    return ussfc("train", "--data", f"geotiff:{folder}", "--recipe", "strong", "--validate-on", "west", "--out", out,
                 *TINY, *more)  # fmt: skip


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "out"
    done = train(
        folder, out, "--set", "steps=24", "--set", "optimiser.learning_rate=0.01", "--licence", "CC-BY-4.0"
    )
    assert done.exit_code == 0, done.output
    assert "best.yaml: step" in done.stdout
    return out


def test_a_training_that_begins_with_a_model_needs_no_recipe(folder: Path, tmp_path: Path) -> None:
    model = write_toy_model(tmp_path, radiometry={"kind": "range", "low": 0, "high": 4000})
    out = tmp_path / "out"
    # TINY without the width: it is that of the weights.
    arguments = (
        "train", "--data", f"geotiff:{folder}", "--validate-on", "west", "--out", out, *TINY[2:], "--set", "steps=1"
    )  # fmt: skip
    done = ussfc(*arguments, "--from", model)
    assert done.exit_code == 0, done.output
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    assert [band["name"] for band in recipe["input"]["bands"]] == ["B04", "B03", "B02"]
    assert recipe["input"]["radiometry"]["high"] == 4000
    assert recipe["network"]["ratio"] == 0.125
    assert recipe["augmentation"]["swap"] == 0.5
    none = ussfc(*arguments)
    assert none.exit_code == ExitStatus.USAGE
    assert "Missing option '--recipe'" in none.stderr


def test_training_on_all_scenes_keeps_its_last_weights(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all"
    done = train(folder, out, "--set", "steps=4", "--validate-on", "none")
    assert done.exit_code == 0, done.output
    assert f"{out / 'last.yaml'}: step 4 of 4, no validation at threshold 0.5" in done.stdout
    card = package.find_model(str(out / "last.yaml"))
    assert card.training.held_out == "nothing"
    refused = train(folder, out, "--set", "steps=4")
    assert refused.exit_code != 0
    assert "holds another training (training pairs, validation pairs differ)" in refused.stderr


def test_the_loss_falls(trained: Path) -> None:
    with (trained / "log.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 6
    assert losses[-1] < 0.95 * losses[0]


def test_the_result_is_a_model_like_any_other(trained: Path, folder: Path, tmp_path: Path) -> None:
    spec = package.find_model(str(trained / "best.yaml"))
    assert spec.patch_size == 32
    assert [band.name for band in spec.bands] == ["B04", "B03", "B02"]
    assert spec.licence is not None
    assert spec.licence.weights == "CC-BY-4.0"
    ran = ussfc("run", folder / "west_before.tif", folder / "west_after.tif", "--out", tmp_path / "run",
                "--model", trained / "best.yaml", "-q")  # fmt: skip
    assert ran.exit_code == 0, ran.output
    scored = ussfc("evaluate", "--model", trained / "best.yaml", "--data", f"geotiff:{folder}", "--scenes", "west",
                   "--set", "tiling.overlap=0", "--set", "tiling.taper=box", "--json", "-q")  # fmt: skip
    # The pipeline, cutting as the training's validation cuts, counts what the training counted.
    assert json.loads(scored.stdout)["scores"]["f1"] == pytest.approx(spec.scores[0].f1, abs=0.002)


def test_the_same_command_again_changes_nothing(trained: Path, folder: Path) -> None:
    before = {
        name: (trained / name).read_bytes() for name in ("best.safetensors", "last.safetensors", "log.csv")
    }
    more = ("--set", "steps=24", "--set", "optimiser.learning_rate=0.01", "--licence", "CC-BY-4.0")
    again = train(folder, trained, *more)
    assert again.exit_code == 0
    assert "resuming after step 24" in again.stderr
    assert {name: (trained / name).read_bytes() for name in before} == before


def test_other_training_in_the_folder_is_refused(trained: Path, folder: Path) -> None:
    other = train(folder, trained, "--set", "steps=25")
    assert other.exit_code == ExitStatus.USAGE
    assert "holds another training (recipe differ)" in other.stderr.replace("differs", "differ")
    assert "--overwrite" in other.stderr
    load_weights(trained / "best.safetensors")


def test_near_infrared_by_one_setting(folder: Path, tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for file in folder.iterdir():
        with rasterio.open(file) as source:
            values, profile, names = source.read(), source.profile, source.descriptions
        if "label" not in file.name:
            # A stand-in: the demo has no near infrared.
            values, names, profile["count"] = values[[0, 1, 2, 0]], (*names[:3], "B08"), 4
        with rasterio.open(scenes / file.name, "w", **profile) as target:
            target.write(values)
            target.descriptions = names
    out = tmp_path / "out"
    done = train(scenes, out, "--set", "steps=2", "--set", "input=sentinel2-rgbn", "--json", "-q")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == 2
    assert len(package.find_model(str(out / "best.yaml")).bands) == 4
    assert yaml.safe_load((out / "recipe.yaml").read_text())["input"] == "sentinel2-rgbn"
    # A checkpoint of four bands and files of three.
    ran = ussfc("run", folder / "west_before.tif", folder / "west_after.tif", "--out", tmp_path / "run",
                "--model", out / "best.yaml")  # fmt: skip
    assert ran.exit_code == ExitStatus.INPUT
    assert (
        "west_before.tif: has 3 image band(s) of uint16, the model takes 4 (B04, B03, B02, B08)" in ran.stderr
    )


@pytest.mark.soak
def test_more_patience_lets_a_training_go_on(folder: Path, tmp_path: Path) -> None:
    # Nothing improves at a rate this small, so the first validation stays the best.
    still = ("--set", "optimiser.learning_rate=1.0e-12", "--set", "steps=20")
    first = train(folder, tmp_path / "out", *still, "--set", "patience=1", "--json", "-q")
    assert json.loads(first.stdout)["stopped_early"]
    assert json.loads(first.stdout)["steps"] == 8
    more = train(folder, tmp_path / "out", *still, "--set", "patience=3", "--json", "-q")
    assert json.loads(more.stdout)["steps"] == 16


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("--recipe", "weak"),
            ExitStatus.USAGE,
            "recipe weak: cannot be read (No such file",
        ),
        (("--set", "steps=none"), ExitStatus.USAGE, "steps"),
        (("--set", "sampling.crop=3"), ExitStatus.USAGE, "sampling.crop: unknown key"),
        (("--validate-on", "north"), ExitStatus.USAGE, "north: no such scene in the data to validate on"),
        (("--validate-on", "east,west"), ExitStatus.INPUT, "no pairs in it"),
        (("--validate-on", ""), ExitStatus.USAGE, "validation: no pairs"),
        (("--data", "geotiff"), ExitStatus.USAGE, "expected KIND:DIR"),
        (("--data", "oscd:{folder}"), ExitStatus.INPUT, "data set 'oscd': not known"),
        (("--data", "geotiff:{folder}/nowhere"), ExitStatus.INPUT, "no such folder"),
        (("--device", "tpu"), ExitStatus.USAGE, "device 'tpu': not known"),
        (
            ("--set", "sampling.crop_size=128"),
            ExitStatus.INPUT,
            "pair east: 96 x 96 pixels, smaller than a crop",
        ),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    given = {
        "--data": f"geotiff:{folder}",
        "--recipe": "strong",
        "--validate-on": "west",
        "--out": str(tmp_path / "o"),
    }
    sets = []
    for name, value in zip(arguments[::2], arguments[1::2], strict=True):
        if name == "--set":
            sets += [name, value]
        else:
            given[name] = value.format(folder=folder)
    result = ussfc("train", *(part for pair in given.items() for part in pair), "--set", "steps=2",
                   "--set", "validate_every=1", "--set", "network.ratio=0.125", *sets)  # fmt: skip
    assert result.exit_code == status, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "o" / "state.pt").exists()


def test_data_check_names_broken_files(folder: Path, tmp_path: Path) -> None:
    good = ussfc("data", "check", "geotiff", folder)
    assert good.exit_code == 0
    assert good.stdout.startswith("scenes: 2 pairs (2 of 96 x 96), ")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "east_label.tif").write_bytes(b"no raster")
    (tmp_path / "west_after.tif").unlink()
    bad = ussfc("data", "check", "geotiff", tmp_path)
    assert bad.exit_code == ExitStatus.INPUT
    assert "east_label.tif" in bad.stderr
    assert "no west_after.tif beside it" in bad.stderr
    listed = json.loads(ussfc("data", "check", "geotiff", tmp_path, "--json").stdout)
    assert len(listed[0]["broken"]) == 2
    unknown = ussfc("data", "check", "oscd", folder)
    assert unknown.exit_code == ExitStatus.INPUT
    assert "levir-cd, cdd, dsifn-cd, geotiff" in unknown.stderr
