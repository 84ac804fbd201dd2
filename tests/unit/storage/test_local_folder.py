"""Folders on a disk: the contract, locks, and errors with a remedy."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.folder_contract import FolderContract
from tests.support.paths import ROOT
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.local_folder import LocalFolder, sha256_file


class TestContract(FolderContract):
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Folder:
        return LocalFolder(str(tmp_path / "out"))


@pytest.mark.parametrize("plant", ["symlink_to", "hardlink_to"])
def test_planted_links_are_not_written_through(plant: str, tmp_path: Path) -> None:
    """A folder that others may write to: every name that is known beforehand leads to a file of ours."""
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_bytes(b"precious")
    out.mkdir()
    for name in (".ussfc-probe", "run.json.part", "run.json"):
        getattr(out / name, plant)(victim)
    folder = Folder.of(out)
    folder.prepare()
    folder.write("run.json", b"{}")
    assert victim.read_bytes() == b"precious"
    assert (out / "run.json").read_bytes() == b"{}"
    assert not (out / "run.json").is_symlink()


def test_a_planted_record_is_no_file_elsewhere(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "record").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="record: cannot be written"):
        Folder.of(out).touch("record")
    assert not (tmp_path / "elsewhere").exists()


def test_prepare_leaves_nothing(tmp_path: Path) -> None:
    Folder.of(tmp_path / "out").prepare()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(StoreError, match=r"run\.json: cannot be read \(a named pipe, expected a file\)"):
        Folder.of(tmp_path).read_json("run.json")


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from ussfc.pipeline.storage.folder import Folder\n"
        "with Folder.of(sys.argv[1]).lock(): print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(StoreError, match="another ussfc is at work there"), Folder.of(tmp_path).lock():
            pass
        other.kill()
    for _ in range(2):
        with Folder.of(tmp_path).lock():
            pass
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_locks_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [errno.ENOLCK, errno.ENOTSUP, errno.EIO]

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(answers.pop(0), "no")

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(2):
        with Folder.of(tmp_path).lock():
            pass
    with (
        pytest.raises(StoreError, match=r"cannot be locked \(no\); check the disk"),
        Folder.of(tmp_path).lock(),
    ):
        pass


def test_a_lock_passes_errors_of_its_body_on(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), Folder.of(tmp_path).lock():
        raise BlockingIOError
    with Folder.of(tmp_path).lock():
        pass


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = Folder.of(tmp_path)
    folder.write("a.json", b"old")
    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(StoreError, match=r"a\.json: cannot be written \(No space .*\); make room"):
        folder.write("a.json", b"new")
    assert folder.read("a.json") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room and give the same command again: it continues"),
        (errno.EDQUOT, "make room and give the same command again: it continues"),
        (errno.EACCES, "choose another output folder, or get the right to write there"),
        (errno.EROFS, "choose another output folder, or get the right to write there"),
        (errno.ENOTDIR, "choose another output folder"),
        (errno.EIO, "check the disk"),
        (errno.ENOENT, "choose another output folder"),
    ],
)
def test_an_error_names_its_remedy(tmp_path: Path, number: int, remedy: str) -> None:
    error = OSError(number, os.strerror(number))
    message = f"{tmp_path}/a: cannot be read ({os.strerror(number)}); {remedy}"
    assert str(Folder.of(tmp_path).store_error("a", "read", error)) == message


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file/out: cannot be written \(Not a directory\); choose another"):
        Folder.of(tmp_path / "file" / "out").prepare()


def test_a_link_is_removed_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "a").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    Folder.of(tmp_path).remove("link")
    assert Folder.of(tmp_path).sizes() == {"target/a": 1}


def test_a_disk_has_free_bytes(tmp_path: Path) -> None:
    free = Folder.of(tmp_path).free_bytes()
    assert free is not None
    assert free > 0


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_a_planted_link_is_not_appended_to(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "run.log").symlink_to(target)
    with pytest.raises(StoreError, match="cannot be written"):
        Folder.of(tmp_path).append("run.log", b"yours")
    assert target.read_text() == "mine"


def test_what_no_pause_mends_is_known(tmp_path: Path) -> None:
    folder = Folder.of(tmp_path)
    kinds = {errno.ENOSPC: True, errno.EFBIG: True, errno.EROFS: True, errno.EIO: False, errno.ESTALE: False}
    for number, permanent in kinds.items():
        assert folder.store_error("a", "written", OSError(number, "x")).permanent is permanent
    assert "`ulimit -f`" in str(folder.store_error("a", "written", OSError(errno.EFBIG, "File too large")))
    assert folder.store_error("a", "written", RuntimeError("x")).permanent is False
