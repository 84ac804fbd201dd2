"""Plans of runs on clusters: workers, threads, tiles in hand and memory, before anything is started."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ussfc
from tests.support.scenes import write_scene, write_toy_model
from ussfc.pipeline.clusters.base import MOST_READERS, READ_AHEAD
from ussfc.pipeline.clusters.local import LocalGpus
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import size_in_bytes
from ussfc.pipeline.errors import ClusterError, ConfigError, InsufficientMemoryError, StoreError
from ussfc.pipeline.runs.detector import resolve_detector
from ussfc.pipeline.runs.plan import RunPlan, check_files, check_memory, plan, space_notices
from ussfc.pipeline.storage.folder import Folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_scene(folder, "a", (100, 100))
    write_toy_model(folder)
    return folder


def planned(place: Path, cluster: str, **flags: Any) -> tuple[RunPlan, Callable[[], None]]:
    """Return the plan of a small pair, and the check of its memory."""
    named = {"model": str(place / "toy.yaml")} | {
        key.replace("__", "."): value for key, value in flags.items()
    }
    config = load_config(cluster=cluster, flags=named)
    made = plan(str(place / "a_before.tif"), str(place / "a_after.tif"), config)
    return made, lambda: check_memory(made)


CUDA = {
    "local-cuda": {},
    "slurm": {"cluster__gpu": True},
    "allocation": {"cluster__gpu": True},
    "kubernetes": {"cluster__gpu": True, "cluster__image": "i"},
    "scheduler": {"cluster__gpu": True, "cluster__address": "tcp://10.0.0.5:8786"},
}


@pytest.mark.parametrize("kind", sorted(CUDA))
def test_workers_with_a_gpu_compute_on_it(place: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
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
@pytest.mark.parametrize(("threads", "tiles"), [(1, READ_AHEAD), (5, 5), (64, MOST_READERS)])
def test_cores_beside_a_gpu_read_for_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, kind: str, threads: int, tiles: int
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", str(threads))
    made, _ = planned(place, kind, cluster__threads=threads, **CUDA[kind])
    assert made.cluster is not None
    assert made.concurrent_tiles == made.cluster.concurrent_tiles == tiles
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


def test_job_must_hold_its_workers(place: Path) -> None:
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


def test_worker_needs_the_same_memory_everywhere(place: Path) -> None:
    """Dask is in both."""
    local, _ = planned(place, "local", cluster__workers=1)
    job, _ = planned(place, "slurm", cluster__threads=1)
    assert job.memory.worker == local.memory.worker


def test_plan_outside_an_allocation_has_no_workers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    made, _ = planned(place, "allocation")
    assert made.cluster is not None
    with pytest.raises(ClusterError, match="in no SLURM allocation"):
        _ = made.cluster.worker_count


def test_plan_uses_all_cores_of_a_task(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SLURM_JOB_ID", "1"), ("SLURM_NTASKS", "6"), ("SLURM_CPUS_PER_TASK", "5")):
        monkeypatch.setenv(name, value)
    made, _ = planned(place, "allocation")
    assert made.cluster is not None
    assert (made.threads, made.cluster.worker_count, made.processes) == (5, 6, 0)
    assert planned(place, "allocation", cluster__threads=2)[0].threads == 2


def test_plan_has_one_process_a_gpu(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(ussfc, "gpus", lambda: 2, raising=False)
    for workers, devices in ((None, ("3", "5")), (1, ("3",))):
        made, _ = planned(place, "local-cuda", cluster__workers=workers)
        assert isinstance(made.cluster, LocalGpus)
        assert made.cluster.devices == devices
        assert (made.executor, made.processes, made.threads) == ("local-cuda", len(devices), 1)
    with pytest.raises(ClusterError, match=r"2 GPU\(s\) found here, expected 3; "):
        planned(place, "local-cuda", cluster__workers=3)


def test_a_disk_without_inodes_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = planned(place, "local", tiling__tile_size=64)
    out = Folder.of(tmp_path)
    check_files(made, out)
    # 4 chunks, 4 records, 4 of pixels, 2 rows of chunks and of pixels, 30 others; a square of rasters and one of
    # regions, each in a folder.
    for free, present, refused in ((50, 0, False), (49, 0, True), (49, 1, False), (None, 0, False)):
        monkeypatch.setattr(type(out), "free_files", lambda folder, free=free: free)
        for number in range(present):
            (tmp_path / str(number)).touch()
        if refused:
            with pytest.raises(StoreError, match="can take 49 more files, and the run writes about 50"):
                check_files(made, out)
        else:
            check_files(made, out)
    monkeypatch.setattr(type(out), "free_files", lambda folder: 45)
    alone = replace(made, cluster=None)
    check_files(alone, out)  # makes no squares, and one of its 46 files is there


def test_a_limit_of_file_sizes_is_named(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = planned(place, "local")
    assert space_notices(made, Folder.of(tmp_path)) == []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (5000, 5000))
    (notice,) = space_notices(made, Folder.of(tmp_path))
    assert "`ulimit -f`" in notice
    assert space_notices(made, Folder.of("memory://out")) == []
