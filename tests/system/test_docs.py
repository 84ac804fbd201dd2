"""What the documents say is true of the code."""

from __future__ import annotations

import json
import re

from tests.support.paths import ROOT
from ussfc import cli
from ussfc.pipeline.config.load import documented_keys


def test_every_option_stands_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    table = readme.partition("<!-- options -->")[2].partition("<!-- /options -->")[0]
    rows = [f"| `{key}` | `{json.dumps(default)}` | {text} |" for key, default, text in documented_keys()]
    assert table.strip().splitlines()[2:] == rows


def test_commands_in_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    named = set(re.findall(r"^ussfc (\w+)", readme, re.MULTILINE))
    assert named
    assert named <= set(cli.main.list_commands(cli.click.Context(cli.main)))


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
