"""Processes of this machine that see one GPU each."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import dask
import pytest
from click.testing import CliRunner
from distributed import Client

import ussfc
from tests.support.clusters import wait_until
from tests.support.scenes import write_scene, write_toy_model
from ussfc import cli
from ussfc.pipeline.clusters.base import QUIET
from ussfc.pipeline.clusters.local import LocalGpus
from ussfc.pipeline.terminal.exit_statuses import ExitStatus


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_scene(folder, "a", (100, 100))
    write_toy_model(folder)
    return folder


def test_every_process_sees_one_gpu(tmp_path: Path) -> None:
    cluster = LocalGpus(("3", "GPU-5"))
    assert cluster.worker_count == 2
    with cluster.start(tmp_path) as started, Client(started.target, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        assert started.threads == 2 * cluster.concurrent_tiles
        assert set(client.nthreads().values()) == {cluster.concurrent_tiles}
        for key, value in QUIET.items():
            assert list(client.run(dask.config.get, key).values()) == [value] * 2
            assert client.run_on_scheduler(dask.config.get, key) == value

        def seen() -> dict[str, int]:
            processes = client.run(os.getpid, on_error="ignore")
            devices = client.run(os.getenv, "CUDA_VISIBLE_DEVICES", on_error="ignore")
            return {device: processes.get(worker, 0) for worker, device in devices.items()}

        first = seen()
        assert sorted(first) == ["3", "GPU-5"]
        for device in first:
            before = seen()
            os.kill(before[device], signal.SIGKILL)
            # One that is just gone or just here does not answer.
            wait_until(
                lambda gone=before[device]: len(found := seen()) == 2 and not {gone, 0} & {*found.values()}
            )
            after = seen()
            assert sorted(after) == ["3", "GPU-5"]
            assert [name for name in after if after[name] != before[name]] == [device]


@pytest.mark.skipif(ussfc.gpus() > 0, reason="there is a GPU here")
def test_missing_gpu_is_one_line(place: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli.main,
        ["run", str(place / "a_before.tif"), str(place / "a_after.tif"), "--out", str(tmp_path / "out"), "--cluster",
         "local-cuda", "--model", str(place / "toy.yaml")],
    )  # fmt: skip
    assert result.exit_code == ExitStatus.CLUSTER, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: cluster.kind local-cuda: no GPU(s) found here, expected at least one; ")
    assert "choose cluster.kind local" in line
