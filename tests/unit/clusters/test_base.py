"""Options of a user over the settings of the program, and the settings that all workers share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from ussfc.pipeline.clusters.base import (
    MOST_READERS,
    QUIET,
    READ_AHEAD,
    create_cluster,
    quiet_environment,
    require_extra,
    tiles_per_worker,
)
from ussfc.pipeline.errors import ClusterError, ConfigError


class Library:
    """A library's class of clusters."""

    def __init__(self, workers: int, arguments: list[str], fails: Exception | None = None) -> None:
        if fails is not None:
            raise fails
        self.workers, self.arguments = workers, arguments


def created(**options: Any) -> Any:
    return create_cluster(Library, {"workers": 1, "arguments": ["--quiet"]}, options)


def test_options_win_over_settings_and_lists_join() -> None:
    found = created(workers=2, arguments=["--colour"])
    assert (found.workers, found.arguments) == (2, ["--quiet", "--colour"])


def test_unknown_option_is_a_config_error() -> None:
    with pytest.raises(
        ConfigError, match=r"^cluster\.options: Library does not take them \(.*'colour'"
    ) as caught:
        created(colour="red")
    assert "\n" not in str(caught.value)


def test_credentials_are_not_repeated() -> None:
    error = ValueError("no such option. Very likely this unexpected parameter comes from {'key': 'hidden'}")
    with pytest.raises(ConfigError) as caught:
        created(fails=error)
    assert "hidden" not in str(caught.value)


def test_failed_start_is_a_cluster_error() -> None:
    with pytest.raises(ClusterError, match=r"^Library: port is taken; check cluster\.options$"):
        created(fails=RuntimeError("port\n is taken"))


def test_missing_package_names_the_extra() -> None:
    with (
        pytest.raises(ClusterError, match=r"^dask-x is not installed here; .*'ussfc\[slurm\]'$"),
        require_extra("slurm", "dask-x"),
    ):
        raise ImportError("no module")


@pytest.mark.parametrize("cores", [1, 2, 7, 12, 64])
def test_tiles_of_a_worker_follow_its_cores(cores: int) -> None:
    assert tiles_per_worker(cores, gpu=False) == 1
    assert tiles_per_worker(cores, gpu=True) == sorted((READ_AHEAD, cores, MOST_READERS))[1]


def test_dask_reads_quiet_settings_from_environment() -> None:
    code = "import dask.config, json, distributed, sys; print(json.dumps([dask.config.get(k) for k in sys.argv[1:]]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *QUIET], env={**os.environ, **quiet_environment()}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert dict(zip(QUIET, json.loads(done.stdout), strict=True)) == QUIET
