"""The documents agree with the code."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import click
import pytest

from tests.support.paths import ROOT
from tests.support.scenes import write_scene
from ussfc import PipelineWarning, cli, find_model
from ussfc.pipeline.terminal import reference

REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_reference_page_is_up_to_date(name: str) -> None:
    command = "python -m ussfc.pipeline.terminal.reference docs/reference"
    written = (REFERENCE / name).read_text("utf-8")
    assert written == reference.page(name, cli.main), f"run `{command}`"


def test_commands_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"^ussfc (\w+)", readme, re.MULTILINE))
    assert named
    assert named <= set(cli.main.list_commands(click.Context(cli.main)))


def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no warning, and with the classes of the model's own threshold."""
    write_scene(tmp_path, "a", (100, 100), side=160)
    for date in ("before", "after"):
        (tmp_path / f"a_{date}.tif").rename(tmp_path / f"{date}.tif")
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(code) == 1
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the scene .* is smaller than a patch", PipelineWarning)
        exec(code[0], found)
    probability = found["probability"]
    assert probability.shape == (160, 160)
    assert ((probability >= find_model("ussfc-s2-rgb").threshold) == (found["classes"] == 1)).all()
    assert found["changed"].shape == (3, 160, 160)
    assert (found["regions"]["area_m2"] >= 500).all()


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_tests_named_in_the_documents_exist() -> None:
    sources: dict[str, list[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        sources.setdefault(path.name, []).append(path.read_text("utf-8"))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for file, test in re.findall(r"(?<![\w/])(test_\w+\.py)(?:::(test_\w+))?", page.read_text("utf-8")):
            assert file in sources, f"{page.name}: {file}"
            assert not test or any(f"def {test}(" in text for text in sources[file]), (
                f"{page.name}: {file}::{test}"
            )


def test_paths_named_in_the_documents_exist() -> None:
    pages = (
        ROOT / "CONTRIBUTING.md",
        ROOT / "docs" / "design.md",
        *(ROOT / "docs" / "decisions").glob("*.md"),
    )
    for page in pages:
        for path in re.findall(
            r"`((?:pipeline|ussfc|tests|configs|docs|deploy)/(?!\S*NAME)[\w./]*)`", page.read_text("utf-8")
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
