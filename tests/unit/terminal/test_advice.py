"""Messages of the library name no flags; the command line adds them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.paths import ROOT
from ussfc import cli
from ussfc.pipeline.terminal.advice import FLAGS, with_flags

FLAG = re.compile(
    r"(choose|take|give|check|replace it with|start over with|name \w+ with)[^\"]*--(?!set|lifetime)[a-z]+"
)


@pytest.mark.parametrize("folder", ["pipeline", "ussfc"])
def test_messages_below_the_command_line_name_no_flags(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "terminal" not in path.parts
        and not path.is_relative_to(ROOT / "ussfc" / "pipeline")
        and path.name != "cli.py"
        for line in path.read_text("utf-8").splitlines()
        if FLAG.search(line) and '"' in line
    ]
    assert found == []


def test_advice_names_flags_that_exist() -> None:
    known = {
        option for command in cli.main.commands.values() for param in command.params for option in param.opts
    }
    for flags in FLAGS.values():
        assert set(re.findall(r"--[a-z-]+", flags)) <= known


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "OUT: holds another run; choose another output folder, or overwrite it",
            "OUT: holds another run; choose another --out, or replace it with --overwrite",
        ),
        (
            "another order gives a wrong map: set bands.before and bands.after",
            "another order gives a wrong map: give --before-bands and --after-bands",
        ),
        (
            "add the file, or choose others with bands.before and bands.after",
            "add the file, or choose others with --before-bands and --after-bands",
        ),
        (
            "scale them (after.scale=10000 for reflectances); or set force to compute all the same",
            "scale them (--set after.scale=10000 for reflectances); or give --force to compute all the same",
        ),
        ("on: before.offset=-1000), state it", "on: --set before.offset=-1000), state it"),
        ("(`--set after.offset=-1000`)", "(`--set after.offset=-1000`)"),
        ("state their scale (before.scale)", "state their scale (before.scale)"),
    ],
)
def test_advice_is_added_to_messages(message: str, expected: str) -> None:
    assert with_flags(message) == expected


def test_command_line_adds_flags_to_errors(tmp_path: Path) -> None:
    (tmp_path / "change.tif").touch()
    demo = ROOT / "configs" / "demo"
    result = CliRunner().invoke(
        cli.main,
        ["run", str(demo / "beirut_before.tif"), str(demo / "beirut_after.tif"), "--out", str(tmp_path)],
    )
    assert result.exit_code == 4
    assert "choose another --out" in result.stderr
