"""YAML from files that others wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ussfc.yaml_text import MOST_BYTES, parse_yaml, read_yaml

LAUGHS = "l0: &l0 [lol]\n" + "".join(
    f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
MERGES = "m0: &m0 {a: 1}\n" + "".join(
    f"m{level}: &m{level}\n  <<: [{', '.join([f'*m{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "its aliases stand for more than 100,000 values"),
        (MERGES, "its aliases stand for more than 100,000 values"),
        ("a: &a [*a]", "an alias of it stands within itself"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: 2024-13-45", "month must be in 1..12"),
        ("a: [", "line 1"),
        ("a: \x01", "unacceptable character"),
        ("a: !secretive x", "could not determine a constructor"),
        ("? [a]\n: b", "unhashable key"),
        ("a: 1\n---\nb: 2", "line 2"),
    ],
)
def test_what_cannot_be_used_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert "secretive" not in str(caught.value)


def test_content_is_not_repeated() -> None:
    for text in ("key: *hunter2", "hunter2\tx: [", "- !hunter2 x", "a: hunter2: b"):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at below
            parse_yaml(text)
        assert "hunter2" not in str(caught.value)


def test_modest_aliases_are_values() -> None:
    assert parse_yaml("a: &a {x: [1, 2.5]}\nb: {<<: *a, y: on}\n") == {
        "a": {"x": [1, 2.5]}, "b": {"x": [1, 2.5], "y": True},
    }  # fmt: skip
    assert parse_yaml("") is None


def test_files_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(file) == {"a": 1}
    file.write_bytes(b"# " + b"x" * MOST_BYTES)
    with pytest.raises(ValueError, match="larger than 4 MiB"):
        read_yaml(file)
    file.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="byte 3 is not UTF-8"):
        read_yaml(file)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(OSError, match="a named pipe, expected a file"):
        read_yaml(tmp_path / "pipe.yaml")
