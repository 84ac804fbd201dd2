"""The documents agree with the code."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import pytest

from tests.support.paths import ROOT
from ussfc import cli
from ussfc.pipeline.terminal import reference

DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_reference_page_is_up_to_date(name: str) -> None:
    command = "python -m ussfc.pipeline.terminal.reference docs/reference"
    written = (DOCS / "reference" / name).read_text("utf-8")
    assert written == reference.page(name, cli.main), f"run `{command}`"


def links(page: Path) -> Iterator[str]:
    """Yield the targets of links and pictures of a page that are not on the web."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the site and the usual viewers make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), ROOT / "deploy" / "README.md", *DOCS.rglob("*.md")):
        for target in links(page):
            path, _, anchor = target.partition("#")
            led = page.parent / path if path else page
            assert led.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(led), f"{page.name}: {target}"


def test_pages_of_the_site_link_to_nothing_outside_of_it() -> None:
    for page in DOCS.rglob("*.md"):
        for target in links(page):
            assert (page.parent / target.partition("#")[0]).resolve().is_relative_to(DOCS), (
                f"{page.name}: {target}"
            )


def test_navigation_has_every_page() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]
    listed = list(leaves(project["nav"]))
    assert len(set(listed)) == len(listed)
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    hidden = {
        page for page in pages if any(PurePath(page).match(rule) for rule in project["not_in_nav"].split())
    }
    assert set(listed) == pages - hidden


def leaves(entries: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    if isinstance(entries, str):
        yield entries
    else:
        for entry in entries.values() if isinstance(entries, dict) else entries:
            yield from leaves(entry)


def test_readme_is_short_and_pictures_are_small() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
    for picture in DOCS.rglob("tutorial_*.png"):
        assert picture.stat().st_size < 300_000, picture.name


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
