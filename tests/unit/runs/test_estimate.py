"""The time that a run is announced to take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.scenes import write_scene, write_toy_model
from ussfc import engine_selection
from ussfc.errors import ModelError
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.runs.estimate import (
    CARD_SPREAD,
    MEASURED_SPREAD,
    START_FACTOR,
    START_SECONDS,
    WORKER_SECONDS,
    estimate_time,
)
from ussfc.pipeline.runs.plan import RunPlan, plan
from ussfc.pipeline.terminal.tables import plan_lines

Planned = Callable[..., RunPlan]


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    write_scene(tmp_path, "a", (100, 100), side=160)
    model = write_toy_model(tmp_path)

    def make(*sets: str) -> RunPlan:
        config = load_config(sets=("tiling.patch_size=32", *sets), flags={"model": str(model)})
        return plan(str(tmp_path / "a_before.tif"), str(tmp_path / "a_after.tif"), config)

    return make


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Give this machine a speed of two patches a second and call; record what is asked."""
    calls: list[tuple[str, int]] = []

    def speed(spec: engine_selection.Candidate, count: int) -> float:
        calls.append((spec.engine, count))
        return 2.0 * count

    monkeypatch.setattr("ussfc.engine_selection.patches_per_second", speed)
    monkeypatch.setattr("ussfc.patches_per_second", speed, raising=False)
    return calls


def test_engine_of_the_run_is_measured_as_the_run_uses_it(
    planned: Planned, measured: list[tuple[str, int]]
) -> None:
    made = planned(
        "cluster.kind=serial", "cluster.threads=1", "inference.engine=torch", "inference.precision=float32"
    )
    found = estimate_time(made, lambda: 0.0)
    assert measured == [("torch", 1)]
    assert found is not None
    network = made.tiles.computed_patches / 2
    assert found.seconds == pytest.approx(network + START_SECONDS, abs=0.1)
    assert found.least == pytest.approx(MEASURED_SPREAD[0] * found.seconds, abs=0.2)
    assert found.most == pytest.approx(MEASURED_SPREAD[1] * found.seconds, abs=0.2)
    # Where the plan took half a minute, so will the start.
    slow = estimate_time(made, lambda: 30.0)
    assert slow is not None
    assert slow.seconds == pytest.approx(network + START_FACTOR * 30, abs=0.1)
    assert found.source == "measured now, torch in float32 on cpu"
    summary = made.summary() | {"seconds_range": [found.least, found.most], "seconds_source": found.source}
    (line,) = (line for line in plan_lines(summary) if line.strip().startswith("time"))
    assert line.endswith(", network measured now, torch in float32 on cpu")
    assert " between " in line


def test_workers_of_this_machine_share_its_cores(
    planned: Planned, measured: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ussfc.pipeline.runs.estimate.cores", lambda: 2)
    made = planned("cluster.kind=local", "cluster.workers=3")
    found = estimate_time(made, lambda: 0.0)
    assert [count for _, count in measured] == [2]
    assert found is not None
    assert found.seconds == pytest.approx(
        made.tiles.computed_patches / 4 + START_SECONDS + WORKER_SECONDS, abs=0.1
    )


def test_other_machines_are_in_a_wide_range(planned: Planned, measured: list[tuple[str, int]]) -> None:
    slurm = ("cluster.kind=slurm", "cluster.memory=8GB", "cluster.walltime=1:00:00")
    made = planned(*slurm, "cluster.jobs=2")
    card = made.pair.model.model_copy(update={"cpu_mpx_per_s": 0.001})
    made = replace(made, pair=replace(made.pair, model=card))
    found = estimate_time(made, lambda: 0.0)
    assert measured == []
    assert found is not None
    assert "card" in found.source
    rest = START_SECONDS + WORKER_SECONDS
    limits = zip((found.least, found.most), MEASURED_SPREAD, strict=True)
    least, most = (limit - part * rest for limit, part in limits)
    assert most / least == pytest.approx(CARD_SPREAD[1] / CARD_SPREAD[0], rel=0.1)
    # Four turns of every patch are four times the network.
    best = replace(planned(*slurm, "cluster.jobs=2", "inference.quality=best"), pair=made.pair)
    dear = estimate_time(best, lambda: 0.0)
    assert dear is not None
    assert dear.seconds - rest == pytest.approx(4 * (found.seconds - rest), rel=0.01)
    (line,) = (line for line in plan_lines(best.summary()) if line.strip().startswith("patches"))
    assert line.endswith(", each in four turns")
    # Nothing is known of workers that come and go.
    adaptive = planned(*slurm, "cluster.jobs=null", "cluster.minimum_jobs=0", "cluster.maximum_jobs=5")
    assert estimate_time(adaptive, lambda: 0.0) is None


def test_network_that_cannot_be_built_leaves_the_plan(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(spec: object, count: int) -> float:
        raise ModelError("no such instructions")

    monkeypatch.setattr("ussfc.patches_per_second", broken, raising=False)
    assert estimate_time(planned("cluster.kind=serial"), lambda: 0.0) is None
