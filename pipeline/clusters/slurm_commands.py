"""The commands of SLURM: submit a script, ask for the state of jobs. No argument goes through a shell."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ussfc.pipeline.errors import ClusterError

ANSWER_SECONDS = 60
"""Seconds after which a command is given up: a controller under load answers within seconds, and one that is down lets
its clients wait for minutes."""


def require_command(command: str) -> None:
    """Check that a command of SLURM is on this machine.

    Raises:
        ClusterError: it is not.
    """
    if shutil.which(command) is None:
        raise ClusterError(
            f"{command}: not found on this machine; log in to a node from which SLURM jobs are submitted, or load its "
            "module, or choose another kind of cluster"
        )


def submit_script(script: Path, *options: str) -> str:
    """Submit a batch script.

    Returns:
        The id of the job.

    Raises:
        ClusterError: the queue rejects it; holds the message of sbatch.
    """
    require_command("sbatch")
    done = _call(["sbatch", "--parsable", *options, str(script)])
    if done.returncode:
        raise rejection_error(done.stderr)
    # --parsable prints "id" or "id;cluster".
    return done.stdout.strip().partition(";")[0]


def check_script(script: Path) -> None:
    """Have SLURM look at a batch script without taking it.

    Raises:
        ClusterError: it would reject it.
    """
    done = _call(["sbatch", "--test-only", str(script)])
    if done.returncode:
        raise rejection_error(done.stderr)


def rejection_error(stderr: str) -> ClusterError:
    """Return the error of a job that the queue does not take, with the message of sbatch."""
    message = "; ".join(line.strip() for line in stderr.splitlines() if line.strip())
    return ClusterError(
        f"SLURM rejects the job ({message or 'without a message'}); check cluster.queue, cluster.account, "
        "cluster.walltime, cluster.memory and what `sinfo` and `sacctmgr` list"
    )


def job_states(jobs: Sequence[str]) -> dict[str, str]:
    """Return state and reason of each job that is still in the queue, by its id.

    Raises:
        ClusterError: the controller does not answer.
    """
    if not jobs:
        return {}
    done = _call(["squeue", "--noheader", "--format=%i %T %r", f"--jobs={','.join(jobs)}"])
    # It fails with "Invalid job id specified" if it remembers none of them.
    if done.returncode and "Invalid job id" not in done.stderr:
        raise ClusterError(f"squeue fails ({' '.join(done.stderr.split())})")
    found = {}
    for line in done.stdout.splitlines():
        job, _, state = line.strip().partition(" ")
        found[job] = state
    return found


def walltime_seconds(walltime: str) -> int:
    """Return the seconds of ``[days-]hours:minutes:seconds``."""
    days, hours, minutes, rest = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", walltime).groups()  # type: ignore[union-attr]
    return ((int(days or 0) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(rest)


def _call(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - a list, no shell
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]}: not found on this machine, though sbatch is") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"{command[0]}: no answer within {ANSWER_SECONDS} s; is SLURM's controller up (`scontrol ping`)?"
        ) from error
