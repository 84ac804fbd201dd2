"""Weights files as bytes: local paths, URIs, digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import fsspec
import pytest

from ussfc.errors import ModelError
from ussfc.files import is_uri, opened, sha256_of

CONTENT = bytes(range(256)) * 9000
"""More than two of the megabytes that are read at a time."""


def test_digests_are_of_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(CONTENT)
    with fsspec.open("memory://models/content.pth", "wb") as file:
        file.write(CONTENT)
    for place in (tmp_path / "w.pth", str(tmp_path / "w.pth"), "memory://models/content.pth"):
        assert sha256_of(place) == hashlib.sha256(CONTENT).hexdigest()


def test_uris_are_recognised() -> None:
    assert is_uri("s3://bucket/w.pth")
    assert not is_uri("models/w.pth")
    assert not is_uri(Path("/models/w.pth"))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("none.pth", "no such file; check the path"),
        ("memory://models/none.pth", "no such file; check the address"),
        (".", "cannot be read"),
        ("nosuch://host/w.pth", "install the driver or use a local copy"),
    ],
)
def test_files_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught, opened(place):
        pytest.fail("it was opened")
    assert str(caught.value).startswith(f"weights {place}: ")
    assert message in str(caught.value)


def test_errors_inside_the_block_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"1")
    message = r"w\.pth: cannot be read \(Input/output error\)"
    with pytest.raises(ModelError, match=message), opened(tmp_path / "w.pth"):
        raise OSError(5, "Input/output error")
