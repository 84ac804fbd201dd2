"""Words that shells are offered, by the protocol of click."""

from __future__ import annotations

import re

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from ussfc import cli, list_models


def offered(line: str) -> list[tuple[str, str]]:
    """Return kind and word of everything that may stand at the end of a line."""
    *words, incomplete = line.split(" ")
    shell = BashComplete(cli.main, {}, "ussfc", "_USSFC_COMPLETE")
    return [(item.type, item.value) for item in shell.get_completions(words, incomplete)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ru", ["run"]),
        ("doc", ["doctor"]),
        ("models ", ["export", "fit", "list", "show"]),
        ("run --eng", ["--engine"]),
        ("run --engine ", ["auto", "openvino", "torch", "triton"]),
        ("run a b --cluster sl", ["slurm"]),
        ("run --precision f", ["float32", "float16"]),
        ("bench --engine to", ["torch"]),
        ("train --device c", ["cpu", "cuda"]),
        ("vectorise OUT --format geo", ["geoparquet", "geojson"]),
        ("data check l", ["levir-cd"]),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    assert offered(line) == [("plain", word) for word in words]


@pytest.mark.parametrize(
    "line", ["run --model ", "plan --model ", "evaluate --model ", "bench --model ", "models show "]
)
def test_models_are_the_packaged_ones(line: str) -> None:
    assert offered(line) == [("plain", name) for name in list_models()]


@pytest.mark.parametrize(
    "line",
    ["run scenes/be", "run a scenes/be", "run --model ./mine", "run --cluster ./mine", "run --aoi p", "view o",
     "batch pa", "status o", "run a b --out o", "districts OUT d", "prepare s", "run --mask-before m"],
)  # fmt: skip
def test_names_of_files_are_left_to_the_shell(line: str) -> None:
    assert offered(line) == [("file", line.split(" ")[-1])]


@pytest.mark.parametrize(
    ("shell", "words", "place", "expected"),
    [
        ("bash", "ussfc vec", "1", "vectorise"),
        ("zsh", "ussfc run --engine tr", "3", "triton"),
        ("fish", "ussfc run --cluster sl", "sl", "slurm"),
    ],
)
def test_shells_ask_by_the_environment(shell: str, words: str, place: str, expected: str) -> None:
    def ask(instruction: str) -> str:
        variables = {"_USSFC_COMPLETE": f"{shell}_{instruction}", "COMP_WORDS": words, "COMP_CWORD": place}
        result = CliRunner().invoke(cli.main, [], prog_name="ussfc", env=variables)
        assert result.exit_code == 0, result.output
        return result.stdout

    # Releases of click separate kind, word and help in their own ways.
    assert re.findall(r"\w{2,}", ask("complete")) == ["plain", expected]
    assert "_USSFC_COMPLETE" in ask("source")
