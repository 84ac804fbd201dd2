"""Examples of the documents: blocks of Python, and the commands of the tutorial with what they print.

Commands run in this process on a corner of the demo's pair; its numbers are others than those of the whole, so that
lines are compared without their digits.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import geopandas
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.windows import Window

from tests.support.paths import DEMO, ROOT
from ussfc import cli, find_model
from ussfc.pipeline.batches.index import COLUMNS
from ussfc.pipeline.report.reviews import VERDICTS, ReviewTable

sybil = pytest.importorskip("sybil", reason="needs sybil: pip install sybil")
markdown = pytest.importorskip("sybil.parsers.markdown")

PAGES = {
    str(page.relative_to(ROOT)): page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
"""Pages by their path in the checkout."""

TUTORIAL = "docs/tutorial.md"

WITH_PYTHON = sorted(
    name for name, page in PAGES.items() if "```python" in page.read_text("utf-8") and name != TUTORIAL
)

CORNER = Window(0, 0, 256, 256)
"""Part of the demo's pair: one patch, with change in it."""

INTERACTIVE = {"view"}
"""Commands that wait for a person."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Provide the working directory of all examples, with the pair under the names that the pages use."""
    folder = tmp_path_factory.mktemp("examples")
    for date in ("before", "after"):
        with rasterio.open(DEMO / f"beirut_{date}.tif") as source:
            place = source.window_transform(CORNER)
            profile = source.profile | {"width": CORNER.width, "height": CORNER.height, "transform": place}
            with rasterio.open(folder / f"beirut_{date}.tif", "w", **profile) as target:
                target.write(source.read(window=CORNER))
                target.descriptions = source.descriptions
        shutil.copy(folder / f"beirut_{date}.tif", folder / f"{date}.tif")
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def tutorial(folder: Path) -> Path:
    """Go through the tutorial; return the folder with what it leaves."""
    shell = Shell()
    evaluate(
        PAGES[TUTORIAL],
        markdown.CodeBlockParser(language="bash", evaluator=shell.run),
        markdown.CodeBlockParser(language="text", evaluator=shell.compare),
    )
    assert shell.compared == 6
    prepare_pages(folder)
    return folder


def prepare_pages(folder: Path) -> None:
    """Put files where the how-tos look for them: OUT with a review, a batch, drawn polygons, scenes to label."""
    (folder / "OUT").symlink_to(folder / "out")
    changes = geopandas.read_parquet(folder / "OUT/changes.parquet")
    reviews = ReviewTable.open(folder / "OUT/review.parquet", "digest")
    for number, verdict in zip(changes["id"], VERDICTS, strict=False):
        reviews.set(int(number), verdict)
    changes.head(3).to_file(folder / "drawn.gpkg")
    for name in ("city/results.csv", "scenes/city_before.tif", "scenes/harbour_before.tif"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "before.tif", folder / name)
    (folder / "city/results.csv").write_text(f"{','.join(COLUMNS)}\n{'1,' * (len(COLUMNS) - 1)}\n", "utf-8")


class Shell:
    """Runs the commands of a page, and compares what they print with the block below."""

    def __init__(self) -> None:
        self.printed: str | None = None
        self.compared = 0

    def run(self, example: Any) -> None:
        self.printed = None
        for words in commands(example.parsed):
            if words[1] in INTERACTIVE:
                continue
            result = CliRunner().invoke(cli.main, words[1:], prog_name="ussfc", catch_exceptions=False)
            assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
            self.printed = result.stdout

    def compare(self, example: Any) -> None:
        if self.printed is None:
            return
        folder = str(Path.cwd())
        found = {without_digits(line) for line in self.printed.replace(f"{folder}/", "").splitlines()}
        shown = {without_digits(line) for line in example.parsed.splitlines()}
        # Whether a stratum is without change depends on the place.
        notes = {line for line in found | shown if line.startswith("note:")}
        assert found - notes == shown - notes
        self.printed = None
        self.compared += 1


def without_digits(line: str) -> str:
    """Return a line of output with each number as one #, blanks as one, and names of places and units cut off."""
    line = re.sub(r"\b[0-9a-f]{16}\b|-?\d[\d.,]*", "#", line)
    return re.sub(r"\s+", " ", re.sub(r"\bkm2\b|\b(north|south)-(east|west)\b", "", line)).strip()


def commands(block: str) -> Iterator[list[str]]:
    """Yield the words of each command of ussfc in a block of a shell."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            words = part.strip()
            if words.startswith("ussfc "):
                yield shlex.split(words, comments=True)


def evaluate(page: Path, *parsers: Callable[..., Any]) -> dict[str, Any]:
    """Run the blocks of Python of a page, and what further parsers find; return the names that they set."""
    blocks = [markdown.PythonCodeBlockParser(), markdown.SkipParser(), *parsers]
    document = sybil.Document.parse(str(page), *blocks)
    for example in document:
        with contextlib.suppress(unittest.SkipTest):
            example.evaluate()
    return document.namespace  # type: ignore[no-any-return]


def test_tutorial_runs_and_prints_what_it_shows(tutorial: Path) -> None:
    for name in ("out/report.html", "out/districts.csv", "out-sample/assessment.json", "out/ussfc.qgs"):
        assert (tutorial / name).is_file()


@pytest.mark.parametrize("name", WITH_PYTHON)
def test_python_of_the_page_runs(name: str, tutorial: Path) -> None:
    """With no warning."""
    found = evaluate(PAGES[name])
    if name == "README.md":
        probability = found["probability"]
        assert probability.shape == (CORNER.height, CORNER.width)
        classes = np.asarray(found["classes"])
        assert ((probability.values >= find_model("ussfc-s2-rgb").threshold) == (classes == 1)).all()
        assert found["changed"].shape == (3, *probability.shape)
        assert (found["regions"]["area_m2"] >= 500).all()


def options_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words name, and the options among them."""
    command: click.Command = cli.main
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.get_command(click.Context(command), rest[0])
        assert inner is not None, f"{shlex.join(words)}: no command {rest[0]}"
        command, rest = inner, rest[1:]
    return command, [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]


def test_commands_of_the_documents_exist_with_their_options() -> None:
    for name, page in PAGES.items():
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            for words in commands(block):
                command, options = options_of(words)
                known = {mark for param in command.params for mark in (*param.opts, *param.secondary_opts)}
                assert set(options) <= {*known, "--help", "-h"}, f"{name}: {shlex.join(words)}"
