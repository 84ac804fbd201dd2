"""What `ussfc doctor` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ussfc import cli
from ussfc.pipeline.terminal.doctor_commands import WIDTH, inventory_lines
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

FOUND: dict[str, Any] = {
    "versions": {"python": "3.12", "ussfc": "1.0", "torch": None, "gdal": "3.12.0", "proj": "9.7"},
    "engines": [
        {"engine": "torch", "device": "cpu", "version": None, "precisions": []},
        {"engine": "torch", "device": "cuda", "version": "2.9", "precisions": []},
        {"engine": "openvino", "device": "cpu", "version": "2026.1", "precisions": ["float32", "float16"]},
    ],
    "chosen": None,
    "cores": {"usable": 4, "machine": 8, "group_limit": 1.5},
    "memory": {
        "total": 64e9, "available": 8e9, "group_limit": 16e9, "group_version": 2, "address_limit": 32e9,
    },
    "gpus": [],
    "disk": [{"use": "scratch", "folder": "/tmp", "free": 2e9}, {"use": "scratch", "folder": "/x", "free": None}],
    "extras": {
        "s3": {"packages": {"s3fs": "2026.1"}, "installed": True, "install": "pip install 'ussfc[s3]'"},
        "gcs": {"packages": {"gcsfs": None}, "installed": False, "install": "pip install 'ussfc[gcs]'"},
    },
    "credentials": {"AWS": ["environment variable", "role"], "GCS": []},
    "problems": [],
}  # fmt: skip


def test_lines_are_aligned() -> None:
    lines = list(inventory_lines(FOUND))
    assert all(line[:WIDTH].rstrip() == line[:WIDTH].split(" ")[0] for line in lines)
    assert {line[WIDTH] for line in lines} == {" "}
    assert " " not in {line[WIDTH + 1] for line in lines}


@pytest.mark.parametrize(
    "words",
    [
        "torch missing", "torch on cpu: not installed", "torch on cuda: no such device here",
        "openvino on cpu: float32, float16", "not measured yet", "4 of 8 (affinity), the time of 1.5 (cgroup)",
        "8.0 GB free of 64.0 GB, limit 16.0 GB (cgroup v2), addresses of a process 32.0 GB (ulimit -v)",
        "2.0 GB free in the scratch (/tmp)", "unknown free in the scratch (/x)", "s3: s3fs 2026.1",
        "gcs: gcsfs missing; pip install 'ussfc[gcs]'", "AWS: environment variable, role", "GCS: none found",
    ],
)  # fmt: skip
def test_everything_is_there(words: str) -> None:
    assert words in "\n".join(inventory_lines(FOUND))


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command in an empty working directory without a cache of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.main, ["doctor", *arguments], catch_exceptions=False)

    return run


def test_secrets_are_not_shown(doctor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_SAS_TOKEN"):
        monkeypatch.setenv(name, "0123456789secret")
    for arguments in ((), ("--json",)):
        result = doctor(*arguments)
        assert result.exit_code == 0, result.output
        assert "environment variable" in result.stdout
        assert "0123456789secret" not in result.output


def test_each_problem_is_a_line(doctor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("USSFC_OUTPUT__SCRATCH", str(tmp_path / "gone"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    result = doctor("--json")
    assert result.exit_code == ExitStatus.DEFECT
    assert len(result.stderr.splitlines()) == 2
    assert result.stderr.splitlines() == [
        f"problem: {problem}" for problem in json.loads(result.stdout)["problems"]
    ]
