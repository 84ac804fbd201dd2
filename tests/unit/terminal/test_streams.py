"""Standard streams that are closed or full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys, warnings
import click
from ussfc.pipeline.terminal.error_reports import Commands
from ussfc.pipeline.errors import ReadError

@click.group(cls=Commands)
@click.pass_context
def main(context):
    context.obj = {"debug": False}

@main.command()
def work():
    click.echo("a notice", err=True)
    warnings.warn("a warning")
    click.echo("a result " * 4000 + "\\udce9")
    with open("product", "w") as file:
        click.echo("another notice", err=True)
        file.write(json.dumps(file.fileno()))

@main.command()
def fail():
    raise ReadError("a.tif: broken")

main()
"""

FULL = "standard output: cannot be written (No space left on device); the work itself is done"


STRICT = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
"""A terminal that takes no surrogates, which stand for bytes of names that are no UTF-8."""


def run(redirection: str, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    line = f'exec "$0" -c "$1" {command} {redirection}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, PROGRAM],
        cwd=folder,
        env=STRICT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirection", "status", "error"),
    [
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        (">/dev/full", 4, f"error: {FULL}\n"),
        (">/dev/full 2>/dev/full", 4, ""),
        (">&-", 0, ""),
    ],
)
def test_text_may_be_lost_and_work_not(redirection: str, status: int, error: str, tmp_path: Path) -> None:
    result = run(redirection, "work", tmp_path)
    assert result.returncode == status, result.stderr
    # A closed descriptor is not given to a file, which would be full of notices.
    assert json.loads((tmp_path / "product").read_text()) > 2
    assert result.stderr.endswith(error)
    if ">" not in redirection.replace("2>", ""):
        assert result.stdout == "a result " * 4000 + "\\udce9\n"


@pytest.mark.parametrize("redirection", ["2>/dev/full", ">/dev/full"])
def test_the_status_of_an_error_is_kept(redirection: str, tmp_path: Path) -> None:
    assert run(redirection, "fail", tmp_path).returncode == 3


def test_a_reader_that_has_seen_enough_is_no_defect(tmp_path: Path) -> None:
    result = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" work | head -c 3; exit ${PIPESTATUS[0]}', sys.executable, PROGRAM],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode in (0, 4)
    assert "Traceback" not in result.stderr
    assert (tmp_path / "product").exists()
