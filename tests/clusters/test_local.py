"""Where workers come from, as far as it is decided before any is started; and processes that see one GPU each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from click.testing import CliRunner
from distributed import Client

import ussfc
from tests.support.paths import ROOT
from tests.support.scenes import write_scene, write_toy_model
from tests.support.servers import free_port
from ussfc import cli
from ussfc.pipeline.clusters.base import MOST_READERS, QUIET, READ_AHEAD, quiet_environment
from ussfc.pipeline.clusters.local import LocalGpus, visible_gpus
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import size_in_bytes
from ussfc.pipeline.errors import ClusterError, ConfigError, InsufficientMemoryError
from ussfc.pipeline.runs.detector import resolve_detector
from ussfc.pipeline.runs.plan import RunPlan, check_memory, plan


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_scene(folder, "a", (100, 100))
    write_toy_model(folder)
    return folder


def planned(place: Path, cluster: str, **flags: Any) -> tuple[RunPlan, Callable[[], None]]:
    """The plan of a small pair, and what would refuse it for its memory."""
    named = {"model": str(place / "toy.yaml")} | {
        key.replace("__", "."): value for key, value in flags.items()
    }
    config = load_config(cluster=cluster, flags=named)
    made = plan(str(place / "a_before.tif"), str(place / "a_after.tif"), config)
    return made, lambda: check_memory(made)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_every_process_sees_a_gpu_of_its_own_also_after_it_was_killed(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("variable", "count", "expected"),
    [
        (None, 2, ("0", "1")),
        ("", 1, ("0",)),
        ("3,5", 2, ("3", "5")),
        (" 3 , GPU-8932f937,", 2, ("3", "GPU-8932f937")),
        # What stands behind a wrong entry is not visible.
        ("2,-1,4", 1, ("2",)),
        ("MIG-a/1/0", 1, ("MIG-a/1/0",)),
    ],
)
def test_gpus_are_called_as_the_environment_calls_them(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, count: int, expected: tuple[str, ...]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus(count) == expected


@pytest.mark.skipif(ussfc.gpus() > 0, reason="there is a GPU here")
def test_a_machine_without_a_gpu_is_told_the_way_out(place: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli.main,
        ["run", str(place / "a_before.tif"), str(place / "a_after.tif"), "--out", str(tmp_path / "out"), "--cluster",
         "local-cuda", "--model", str(place / "toy.yaml")],
    )  # fmt: skip
    assert result.exit_code == cli.EXIT_CLUSTER, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: cluster.kind local-cuda: no GPU(s) found here, expected at least one; ")
    assert "choose --cluster local" in line


def test_as_many_gpus_as_are_wanted_and_no_more(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(ussfc, "gpus", lambda: 2, raising=False)
    for wanted, devices in ((None, ("3", "5")), (1, ("3",))):
        made, _ = planned(place, "local-cuda", cluster__workers=wanted)
        assert isinstance(made.cluster, LocalGpus)
        assert made.cluster.devices == devices
        assert (made.executor, made.processes, made.threads) == ("local-cuda", len(devices), 1)
    with pytest.raises(ClusterError, match=r"2 GPU\(s\) found here, expected 3; "):
        planned(place, "local-cuda", cluster__workers=3)


CUDA = {
    "local-cuda": {},
    "slurm": {"cluster__gpu": True},
    "allocation": {"cluster__gpu": True},
    "kubernetes": {"cluster__gpu": True, "cluster__image": "i"},
    "scheduler": {"cluster__gpu": True, "cluster__address": "tcp://10.0.0.5:8786"},
}


@pytest.mark.parametrize("kind", sorted(CUDA))
def test_workers_with_a_gpu_do_not_compute_on_the_cpu(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setattr(ussfc, "gpus", lambda: 2, raising=False)
    with pytest.raises(
        ConfigError, match=f"inference.device cpu: cluster.kind {kind} gives every worker a GPU"
    ):
        planned(place, kind, inference__device="cpu", **CUDA[kind])
    for device in ("auto", "cuda"):
        planned(place, kind, inference__device=device, **CUDA[kind])


@pytest.mark.parametrize("kind", ["slurm", "allocation", "kubernetes"])
@pytest.mark.parametrize(("threads", "wanted"), [(1, READ_AHEAD), (5, 5), (64, MOST_READERS)])
def test_the_cores_beside_a_gpu_read_for_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str, threads: int, wanted: int
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", str(threads))
    made, _ = planned(place, kind, cluster__threads=threads, **CUDA[kind])
    assert made.cluster is not None
    assert made.concurrent_tiles == made.cluster.concurrent_tiles == wanted
    # They are not the network's.
    config = load_config(cluster=kind, flags={"model": str(place / "toy.yaml")}, sets=[
        "inference.engine=torch", "inference.precision=float16", "cluster.gpu=true", f"cluster.threads={threads}",
        *(["cluster.image=i"] if kind == "kubernetes" else []),
    ])  # fmt: skip
    named = plan(str(place / "a_before.tif"), str(place / "a_after.tif"), config)
    assert resolve_detector(named, None).identity.split()[1:4] == [
        "engine=torch", "precision=float16", "device=cuda",
    ]  # fmt: skip
    beside_cpu, _ = planned(place, kind, cluster__threads=threads, **CUDA[kind] | {"cluster__gpu": False})
    assert beside_cpu.concurrent_tiles == 1


def test_dask_reads_from_the_environment_what_keeps_it_quiet() -> None:
    code = "import dask.config, json, distributed, sys; print(json.dumps([dask.config.get(k) for k in sys.argv[1:]]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *QUIET], env={**os.environ, **quiet_environment()}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert dict(zip(QUIET, json.loads(done.stdout), strict=True)) == QUIET


def test_a_job_must_hold_its_workers(place: Path) -> None:
    """The memory of this machine does not matter, that of a job does."""
    made, _ = planned(place, "slurm")
    one = made.memory.worker
    for workers in (1, 3):
        enough = f"{(workers * one) // 1000 + 1}KB"
        planned(place, "slurm", cluster__memory=enough, cluster__workers=workers)[1]()
        _, refuse = planned(
            place, "slurm", cluster__memory=f"{(workers * one) // 1000}KB", cluster__workers=workers
        )
        with pytest.raises(InsufficientMemoryError) as caught:
            refuse()
        message = str(caught.value)
        assert message.startswith(
            f"a job's {workers} worker(s) would need about {workers * one / 1e9:.2f} GB"
        )
        assert "cluster.memory" in message
    _, refuse = planned(place, "slurm", cluster__memory="1TiB", compute__memory_gb=0.001)
    refuse()
    assert size_in_bytes("1TiB") > 1000 * one


def test_a_worker_of_a_job_is_projected_as_a_worker_of_this_machine_is(place: Path) -> None:
    """Dask is in both."""
    local, _ = planned(place, "local", cluster__workers=1)
    job, _ = planned(place, "slurm", cluster__threads=1)
    assert job.memory.worker == local.memory.worker


def test_outside_an_allocation_the_kind_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    made, _ = planned(place, "allocation")
    assert made.cluster is not None
    with pytest.raises(ClusterError, match="in no SLURM allocation"):
        _ = made.cluster.worker_count


def test_a_task_of_an_allocation_uses_all_its_cores(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_NTASKS", "6"), ("SLURM_CPUS_PER_TASK", "5")):
        monkeypatch.setenv(name, value)
    made, _ = planned(place, "allocation")
    assert made.cluster is not None
    assert (made.threads, made.cluster.worker_count, made.processes) == (5, 6, 0)
    assert planned(place, "allocation", cluster__threads=2)[0].threads == 2


@pytest.mark.parametrize("there", [True, False])
def test_kubernetes_that_does_not_answer_is_told_in_one_line(
    place: Path, tmp_path: Path, there: bool
) -> None:
    pytest.importorskip("dask_kubernetes")
    context = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{free_port()}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        "current-context": "x",
    }
    if there:
        (tmp_path / "config").write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **context}))
    # In a process of its own: what a failed start leaves is taken down at its end.
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "ussfc.cli",
                "run",
                str(place / "a_before.tif"),
                str(place / "a_after.tif"),
            ),
            *("--out", str(tmp_path / "out"), "--model", str(place / "toy.yaml")),
            *("--cluster", "kubernetes", "--set", "cluster.image=here:1", "-q"),
        ],
        cwd=ROOT,
        env=os.environ | {"KUBECONFIG": str(tmp_path / "config"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Kubernetes refuses (")
    assert "kubectl config current-context" in line


INTERRUPTS = """
import signal, sys
from ussfc.pipeline.clusters import slurm
before = signal.getsignal(signal.SIGINT)
slurm.load_slurm_cluster()
assert "dask_jobqueue.runner" in sys.modules
assert signal.getsignal(signal.SIGINT) is before, signal.getsignal(signal.SIGINT)
"""


def test_an_interrupt_stays_one_when_the_library_of_slurm_is_there() -> None:
    """It installs a handler of its own, with which an interrupted command would say that all is well."""
    subprocess.run([sys.executable, "-c", INTERRUPTS], check=True, cwd=ROOT)
