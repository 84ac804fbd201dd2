"""The commands of SLURM, answered by scripts of the same names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ussfc.pipeline.clusters import slurm_commands
from ussfc.pipeline.clusters.slurm_commands import (
    check_script,
    job_states,
    rejection_error,
    require_command,
    submit_script,
    walltime_seconds,
)
from ussfc.pipeline.errors import ClusterError


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose scripts are the only commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def write(folder: Path, name: str, *lines: str) -> None:
    script = folder / name
    script.write_text("\n".join(["#!/bin/sh", *lines]) + "\n", "utf-8")
    script.chmod(0o755)


@given(
    days=st.integers(0, 400), hours=st.integers(0, 23), rest=st.tuples(st.integers(0, 59), st.integers(0, 59))
)
def test_time_limit_in_seconds(days: int, hours: int, rest: tuple[int, int]) -> None:
    expected = ((days * 24 + hours) * 60 + rest[0]) * 60 + rest[1]
    clock = f"{hours:02}:{rest[0]:02}:{rest[1]:02}"
    assert walltime_seconds(f"{days}-{clock}") == expected
    if not days:
        assert walltime_seconds(clock) == walltime_seconds(clock.removeprefix("0")) == expected


def test_missing_command_names_the_way_out(commands: Path) -> None:
    with pytest.raises(ClusterError, match=r"^sbatch: not found on this machine; log in to a node"):
        require_command("sbatch")
    write(commands, "sbatch")
    require_command("sbatch")


@pytest.mark.parametrize("printed", ["17", "17;cluster"])
def test_submission_returns_the_job(commands: Path, tmp_path: Path, printed: str) -> None:
    write(commands, "sbatch", f"echo '{printed}'")
    assert submit_script(tmp_path / "job.sh") == "17"


def test_rejection_holds_the_words_of_sbatch(commands: Path, tmp_path: Path) -> None:
    write(
        commands,
        "sbatch",
        "echo 'sbatch: error: invalid partition' >&2",
        "echo >&2",
        "echo again >&2",
        "exit 1",
    )
    for call in (submit_script, check_script):
        with pytest.raises(ClusterError) as caught:
            call(tmp_path / "job.sh")
        assert str(caught.value).startswith(
            "SLURM rejects the job (sbatch: error: invalid partition; again); check cluster.queue"
        )
    assert str(rejection_error(" \n")).startswith("SLURM rejects the job (without a message); ")


def test_states_are_those_of_the_queue(commands: Path) -> None:
    assert job_states([]) == {}
    write(commands, "squeue", "echo '17 PENDING (Priority)'", "echo ' 18 RUNNING None'")
    assert job_states(["17", "18"]) == {"17": "PENDING (Priority)", "18": "RUNNING None"}
    write(commands, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2", "exit 1")
    assert job_states(["17"]) == {}


def test_failing_controller_is_a_cluster_error(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match=r"^squeue: not found on this machine, though sbatch is$"):
        job_states(["17"])
    write(commands, "squeue", "echo 'Unable to contact' >&2", "exit 1")
    with pytest.raises(ClusterError, match=r"^squeue fails \(Unable to contact\)$"):
        job_states(["17"])
    write(commands, "squeue", "exec /bin/sleep 20")
    monkeypatch.setattr(slurm_commands, "ANSWER_SECONDS", 0.1)
    with pytest.raises(ClusterError, match=r"^squeue: no answer within 0\.1 s; is SLURM's controller up"):
        job_states(["17"])
