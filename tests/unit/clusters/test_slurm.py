"""Jobs and allocations of SLURM, as far as they are decided before any is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from ussfc.pipeline.clusters.slurm import SlurmAllocation, SlurmJobs, check_shell_word, make_log_folder
from ussfc.pipeline.errors import ClusterError, ConfigError

INTERRUPTS = """
import signal, sys
from ussfc.pipeline.clusters import slurm
before = signal.getsignal(signal.SIGINT)
slurm.load_slurm_cluster()
assert "dask_jobqueue.runner" in sys.modules
assert signal.getsignal(signal.SIGINT) is before, signal.getsignal(signal.SIGINT)
"""


def test_interrupts_stay_with_the_library_loaded() -> None:
    """It installs a handler of its own, with which an interrupted command would end with exit status 0."""
    pytest.importorskip("dask_jobqueue", reason="needs pip install 'ussfc[slurm]'")
    subprocess.run([sys.executable, "-c", INTERRUPTS], check=True, cwd=ROOT)


@pytest.mark.parametrize(("jobs", "workers"), [((2, 2), 6), ((0, 2), 0), ((1, 2), 0)])
def test_workers_count_where_jobs_do_not_change(jobs: tuple[int, int], workers: int) -> None:
    assert SlurmJobs(jobs, 3, 1, "1GiB", "1:00:00").worker_count == workers


def test_missing_allocation_is_a_cluster_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "3")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ClusterError, match="in no SLURM allocation"):
        _ = SlurmAllocation().worker_count


def test_allocation_follows_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert (SlurmAllocation().tasks, SlurmAllocation().cores) == (2, 1)
    monkeypatch.setenv("SLURM_NTASKS", "6")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    assert (SlurmAllocation().tasks, SlurmAllocation().cores) == (6, 5)


def test_shell_would_read_a_word_as_it_is() -> None:
    check_shell_word("log_directory", "/home/a.b/logs-1/@x%j")
    for text in ("/home/my logs", "$HOME/logs", "a;b", ""):
        with pytest.raises(ConfigError, match=r"^log_directory .*: goes into a batch script"):
            check_shell_word("log_directory", text)


def test_log_folder_is_the_users_alone(tmp_path: Path) -> None:
    make_log_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"set cluster\.options.log_directory to a folder that all nodes see"
    ):
        make_log_folder(tmp_path / "file" / "logs")
