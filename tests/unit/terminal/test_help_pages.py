"""The main help page."""

from __future__ import annotations

import os
import re

import pytest
from click.testing import CliRunner

from ussfc import cli
from ussfc.pipeline.terminal.help_pages import GROUPS


def page(*arguments: str) -> str:
    # Wide, so that no sentence is broken over lines.
    result = CliRunner().invoke(
        cli.main, arguments, catch_exceptions=False, terminal_width=400, max_content_width=400
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def test_commands_are_grouped_and_no_description_is_cut() -> None:
    shown = page("--help")
    assert "..." not in shown.replace("[ARGS]...", "")
    assert [
        heading for heading in re.findall(r"^(\S.*):$", shown, re.MULTILINE) if heading in GROUPS
    ] == list(GROUPS)
    for name in cli.main.list_commands(cli.click.Context(cli.main)):
        command = cli.main.commands[name]
        assert command.help is not None
        if command.hidden:
            assert f"  {name} " not in shown
        else:
            first = " ".join(command.help.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
            assert re.search(rf"^  {name} +{re.escape(first)}", shown, re.MULTILINE), name


@pytest.mark.parametrize("command", ["run", "demo", "plan", "batch", "submit"])
def test_terms_of_the_weights_are_in_the_help(command: str) -> None:
    assert "CC BY-NC-SA 4.0: not for commercial use" in " ".join(page(command, "--help").split())


def test_help_is_a_command_too() -> None:
    assert page("help") == page("--help")
    assert page("help", "models", "show") == page("models", "show", "--help")


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("3", "3")])
def test_numpy_computes_on_one_thread_unless_it_is_set(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    page("models", "--help")
    assert os.environ["OPENBLAS_NUM_THREADS"] == expected
