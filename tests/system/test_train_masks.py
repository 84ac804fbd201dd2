"""`ussfc train` and `ussfc data check` on images and masks of one date, which the test draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import ussfc as package
from tests.support.mask_tiles import TILE, save, write_tiles
from ussfc import cli
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

TINY = (
    "--set", "network.ratio=0.125", "--set", "sampling.crop_size=32", "--set", "sampling.batch_size=2",
    "--set", "steps=2", "--set", "validate_every=2", "--threads", "1",
)  # fmt: skip


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


def train(folder: Path, out: Path, *more: object) -> Result:
    return ussfc("train", "--data", f"masks:{folder}", "--recipe", "vhr", "--out", out, *TINY, *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("masks"))


def test_a_network_learns_from_masks(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = train(folder, out, "--validate-on", "hill,field", "--licence", "CC-BY-4.0", "--json", "-q")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == 2
    spec = package.find_model(str(out / "best.yaml"))
    assert [band.common_name for band in spec.bands] == ["red", "green", "blue"]
    assert spec.patch_size == 32
    assert spec.title == "USSFC-Net trained on pairs generated from masks"
    assert spec.scores[0].note.startswith("pairs generated from places held out, not real changes")
    weights = (out / "last.safetensors").read_bytes()
    again = train(folder, out, "--validate-on", "hill,field", "--licence", "CC-BY-4.0")
    assert "resuming after step 2" in again.stderr
    assert (out / "last.safetensors").read_bytes() == weights
    other = train(folder, out, "--validate-on", "hill")
    assert other.exit_code == ExitStatus.USAGE
    assert "holds another training (training pairs, validation pairs differ)" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("--validate-on", "valley"),
            ExitStatus.USAGE,
            "valley: no such place in {folder} to validate on; its places: field, forest, hill, shore",
        ),
        ((), ExitStatus.USAGE, "no place of {folder} is held out; name some with --validate-on"),
        (("--validate-on", "hill,shore"), ExitStatus.INPUT, "no tile with a mask is left for training"),
        (
            ("--validate-on", "hill", "--set", "input=sentinel2-rgbn"),
            ExitStatus.USAGE,
            "masks: pictures of red",
        ),
        (
            ("--validate-on", "hill", "--set", "input={{bands: [{{name: a}}]}}"),
            ExitStatus.USAGE,
            "input is a of",
        ),
        (("--validate-on", "hill", "--data", "levir-cd:{folder}"), ExitStatus.USAGE, "give it alone"),
        (("--validate-on", "hill", "--recipe", "paper"), ExitStatus.USAGE, "steps or epochs"),
        (
            ("--validate-on", "hill", "--set", "augmentation.flip=true"),
            ExitStatus.USAGE,
            "augmentation: is for",
        ),
        (("--validate-on", "hill", "--set", "synthesis.paste=0.9"), ExitStatus.USAGE, "sum to more than 1"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    result = train(folder, tmp_path / "o", *(part.format(folder=folder) for part in arguments))
    assert result.exit_code == status, result.output
    assert message.format(folder=folder) in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_broken_tiles_are_refused(tmp_path: Path) -> None:
    folder = write_tiles(tmp_path / "masks")
    save(folder / "buildings/shore_z19_96/mask/tile1.png", np.zeros((TILE, 5)))
    result = train(folder, tmp_path / "o", "--validate-on", "hill")
    assert result.exit_code == ExitStatus.INPUT
    assert "mask/tile1.png: 96 x 5 pixels, its image" in result.stderr
    assert result.stderr.count("\n") == 1
    checked = ussfc("data", "check", "masks", folder)
    assert checked.exit_code == ExitStatus.INPUT
    assert "broken: " in checked.stderr
    assert "mask/tile1.png: 96 x 5 pixels" in checked.stderr
    lines = checked.stdout.splitlines()
    assert lines[0] == "field: 3 backgrounds (3 of 96 x 96)"
    assert lines[2].startswith("hill: 6 tiles (6 of 96 x 96), ")
    assert "whole instances" in lines[2]


def test_masks_cannot_be_scored(folder: Path) -> None:
    result = ussfc("evaluate", "--model", "ussfc-s2-rgb", "--data", f"masks:{folder}")
    assert result.exit_code == ExitStatus.USAGE
    assert "has no labelled pairs to score" in result.stderr
    assert result.stderr.count("\n") == 1
