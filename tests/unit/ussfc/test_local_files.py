"""Local files: special ones are refused, links are not written through."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from ussfc.local_files import (
    check_regular,
    create_file,
    open_lock,
    open_regular,
    replace_file,
    undecodable,
    users_cache,
)


@pytest.fixture
def special(tmp_path: Path) -> dict[str, Path]:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
    return {
        "named pipe": tmp_path / "pipe",
        "socket": tmp_path / "socket",
        "character device": Path("/dev/zero"),
    }


def test_special_files_are_refused_without_waiting(special: dict[str, Path]) -> None:
    for kind, path in special.items():
        for refuse in (check_regular, open_regular):
            with pytest.raises(OSError, match=f"a {kind}, expected a file"):
                refuse(path)


def test_links_to_special_files_are_refused(special: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(special["named pipe"])
    with pytest.raises(OSError, match="a named pipe"):
        open_regular(tmp_path / "link")


def test_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        check_regular(tmp_path / name)
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"content"


def test_folders_and_missing_files_keep_their_errors(tmp_path: Path) -> None:
    check_regular(tmp_path)
    check_regular(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


@pytest.mark.parametrize("plant", ["symlink_to", "hardlink_to"])
def test_planted_links_are_replaced(plant: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    getattr(tmp_path / "name", plant)(victim)
    with create_file(tmp_path / "name") as file:
        file.write(b"new")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "name").read_bytes() == b"new"
    assert not (tmp_path / "name").is_symlink()


def test_dangling_links_create_nothing_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "name").symlink_to(tmp_path / "elsewhere")
    create_file(tmp_path / "name").close()
    assert not (tmp_path / "elsewhere").exists()
    assert (tmp_path / "name").stat().st_size == 0


def test_a_folder_in_the_way_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(OSError, match="name"):
        create_file(tmp_path / "name")
    assert (tmp_path / "name").is_dir()


def test_bytes_that_are_no_text_are_shown_escaped() -> None:
    assert undecodable(Path("/a/café")) is None
    assert undecodable(os.fsdecode(b"/a/caf\xe9")) == "/a/caf\\xe9"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 1_000_000 for number in range(4)]
    with ThreadPoolExecutor(4) as writers:
        for _ in writers.map(lambda content: replace_file(path, content), contents * 3):
            assert path.read_bytes() in contents
    kept = path.read_bytes()

    def fail(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, b"new")
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_has_one_holder_and_follows_no_link(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    held = open_lock(path)
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(open_lock, path)
        assert not wait([waiting], timeout=0.2).done
        os.close(held)
        os.close(waiting.result(timeout=5))
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        open_lock(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("value", [None, "", "cache", "./cache", "~/cache"])
def test_a_cache_that_is_no_absolute_path_is_in_the_home(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert users_cache() == tmp_path / ".cache" / "ussfc"


def test_an_absolute_cache_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert users_cache() == tmp_path / "cache" / "ussfc"
