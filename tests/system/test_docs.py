"""The documents agree with the code."""

from __future__ import annotations

import re

import click
import pytest

from tests.support.paths import ROOT
from ussfc import cli
from ussfc.pipeline.terminal import reference

REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", sorted(reference.pages(cli.main)))
def test_reference_page_is_up_to_date(name: str) -> None:
    command = "python -m ussfc.pipeline.terminal.reference docs/reference"
    written = (REFERENCE / name).read_text("utf-8")
    assert written == reference.pages(cli.main)[name], f"run `{command}`"


def test_commands_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"^ussfc (\w+)", readme, re.MULTILINE))
    assert named
    assert named <= set(cli.main.list_commands(click.Context(cli.main)))


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
