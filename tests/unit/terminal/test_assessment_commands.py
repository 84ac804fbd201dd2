"""`ussfc sample` and `ussfc assess` on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyogrio
import pytest
from click.testing import CliRunner, Result

from tests.support.scenes import write_scene
from tests.support.stubs import StubRecipe
from ussfc import cli
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

SETS = ("tiling.tile_size=64", "tiling.patch_size=32", "threshold=0.1", "cluster.kind=serial")


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    write_scene(folder, "a", (100, 100), side=96)
    scenes = (str(folder / "a_before.tif"), str(folder / "a_after.tif"))
    computation = Computation(StubRecipe(32, 4, 1, 3))
    run(*scenes, folder / "out", load_config(sets=SETS), computation=computation)
    return folder / "out"


def test_sample_is_drawn_labelled_and_assessed(out: Path) -> None:
    drawn = ussfc("sample", out, "--n", 160)
    assert drawn.exit_code == 0, drawn.output
    folder = out.with_name("out-sample")
    assert f"  {folder / 'sample.gpkg'}\n" in drawn.stdout
    assert drawn.stdout.count("\n  ") >= 4
    widths = {len(line) for line in drawn.stdout.splitlines()[1:5]}
    assert len(widths) == 1, drawn.stdout

    refused = ussfc("assess", out, folder / "sample.gpkg")
    assert refused.exit_code == ExitStatus.INPUT
    assert refused.stderr.count("\n") == 1
    assert "160 of 160 points have no reference" in refused.stderr

    path = folder / "sample.gpkg"
    points = pyogrio.read_dataframe(path, layer="sample")
    points["reference"] = ["change" if value >= 0.12 else "no change" for value in points["probability"]]
    metadata = pyogrio.read_info(path, layer="sample")["layer_metadata"]
    pyogrio.write_dataframe(points, path, layer="sample", layer_metadata=metadata)
    shown = ussfc("assess", out, path)
    assert shown.exit_code == 0, shown.output
    for words in (
        "user's",
        "producer's",
        "F1",
        "overall",
        "change, mapped",
        "change, estimated",
        " km2 (",
        " ha (",
    ):
        assert words in shown.stdout
    assert shown.stdout.endswith(f"  {folder / 'assessment.json'}\n")
    listed = json.loads(ussfc("assess", out, path, "--json").stdout)
    written = json.loads((folder / "assessment.json").read_text("utf-8"))
    assert listed == {key: value for key, value in written.items() if key != "checksum"}
    assert ussfc("assess", out, path, "--quiet").output == ""


def test_post_stratified_estimates_are_printed_beside_the_others(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "city"
    shutil.copytree(out, copy)
    listed = json.loads(ussfc("sample", copy, "--n", 160, "--json", "--to", tmp_path / "s").stdout)
    assert [stratum["name"] for stratum in listed["strata"]] == ["change", "buffer", "stable"]
    assert listed["folder"] == str(tmp_path / "s")
    path = tmp_path / "s" / "sample.gpkg"
    points = pyogrio.read_dataframe(path, layer="sample")
    points["reference"] = points["map_class"]
    pyogrio.write_dataframe(points, tmp_path / "s" / "labels.fgb")
    assert ussfc("threshold", copy, 0.12, "-q").exit_code == 0
    shown = ussfc("assess", copy, tmp_path / "s" / "labels.fgb").stdout
    assert "drawn at threshold 0.1; post-stratified by the map at 0.12\n" in shown
    assert "\nwithout post-stratification: " in shown


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--n", 300, "--target-se", 0.01), ExitStatus.USAGE, "--n and --target-se: give one of them"),
        (("--block-size", 5), ExitStatus.USAGE, "--block-size 5: is for --unit block alone"),
        (("--strata", "change"), ExitStatus.USAGE, "strata change: expected change,buffer,stable"),
        (("--to", "s3://bucket/sample"), ExitStatus.OUTPUT, "this command writes to local folders alone"),
    ],
)
def test_wrong_options_are_one_line(
    out: Path, options: tuple[object, ...], status: ExitStatus, message: str
) -> None:
    result = ussfc("sample", out, *options)
    assert result.exit_code == status
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_existing_sample_is_kept(out: Path, tmp_path: Path) -> None:
    (tmp_path / "sample.gpkg").write_bytes(b"")
    result = ussfc("sample", out, "--to", tmp_path)
    assert result.exit_code == ExitStatus.OUTPUT
    assert "choose another folder with --to, or remove it first" in result.stderr


def test_folder_that_holds_no_run_is_one_line(tmp_path: Path) -> None:
    for arguments in (("sample", tmp_path / "none"), ("sample", tmp_path)):
        result = ussfc(*arguments)
        assert result.exit_code == ExitStatus.OUTPUT
        assert "holds no run of ussfc" in result.stderr
