"""Runs that are killed at any file operation, again and again, end in the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.city import CALLS_OF_A_TILE, MOST_CALLS, TALLY, City, assert_clean, assert_same, kill_group
from tests.support.warm_process import WarmProcess

Undisturbed = tuple[dict[str, bytes], int]

SHORT, LONG = 2, 200
"""Kill points in CI and in the soak."""


def points(operations: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Return (first, second) operations to die at: spread over the whole run, the second in the rest."""
    chance = random.Random(seed)
    width = operations / count
    firsts = [1 + int(width * (number + chance.random())) for number in range(count)]
    return [(first, chance.randint(1, max(1, operations - first))) for first in firsts]


def killed_twice_and_finished(city: City, undisturbed: Undisturbed, first: int, second: int) -> None:
    expected, _ = undisturbed
    kills = 0
    for die_at in (first, second):
        result = city.run(die_at=die_at)
        if result["status"] == -signal.SIGKILL:
            kills += 1
            TALLY.injected("kill -9 of the main process")
        else:
            assert result["status"] == 0, result["error"]
    result = city.run()
    assert result["status"] == 0, result["error"]
    assert_same(city.content(), expected)
    assert_clean(Path(city.out))
    assert city.calls <= MOST_CALLS + kills * CALLS_OF_A_TILE


def test_killed_at_any_file_operation(undisturbed: Undisturbed, tmp_path: Path) -> None:
    for number, (first, second) in enumerate(points(undisturbed[1], SHORT, seed=1)):
        city = City(str(tmp_path / str(number)), tmp_path / f"log-{number}")
        killed_twice_and_finished(city, undisturbed, first, second)


@pytest.mark.soak
def test_killed_at_very_many_file_operations(undisturbed: Undisturbed, tmp_path: Path) -> None:
    for number, (first, second) in enumerate(points(undisturbed[1], LONG, seed=2)):
        city = City(str(tmp_path / str(number)), tmp_path / f"log-{number}")
        killed_twice_and_finished(city, undisturbed, first, second)
        shutil.rmtree(city.out)


def begun(city: City, calls: int, **task: Any) -> WarmProcess:
    """Start a run, and return it when it has called its detector a number of times."""
    process = city.start(**task)
    end = time.monotonic() + 120
    while city.calls < calls:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def workers_of(process: WarmProcess) -> list[psutil.Process]:
    """Return the Dask workers of a run: its children that hold its address as spawned."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.soak
def test_a_worker_killed(undisturbed: Undisturbed, city: City) -> None:
    city.sets = ("cluster.kind=local", "cluster.workers=2")
    process = begun(city, 40, seconds=0.02)
    victim = workers_of(process)[0]
    victim.kill()
    TALLY.injected("kill -9 of a worker")
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert_same(city.content(), undisturbed[0])


@pytest.mark.parametrize("calls", [pytest.param(20, marks=pytest.mark.soak), 150])
def test_everything_killed(undisturbed: Undisturbed, city: City, calls: int) -> None:
    city.sets = ("cluster.kind=local", "cluster.workers=2")
    process = begun(city, calls, seconds=0.02)
    kill_group(process)
    process.communicate()
    TALLY.injected("kill -9 of all processes")
    result = city.run()
    assert result["status"] == 0, result["error"]
    assert_same(city.content(), undisturbed[0])
    assert_clean(Path(city.out))
    # Two workers with a tile each in hand, whose calls are in the log.
    assert city.calls <= MOST_CALLS + 2 * CALLS_OF_A_TILE


@pytest.mark.soak
def test_the_main_process_killed_before_workers(undisturbed: Undisturbed, city: City) -> None:
    """Workers may still write: the same as the next run writes."""
    city.sets = ("cluster.kind=local", "cluster.workers=2")
    process = begun(city, 60, seconds=0.02)
    os.kill(process.pid, signal.SIGKILL)
    TALLY.injected("kill -9 of the main process")
    result = city.run()
    kill_group(process)
    process.communicate()
    assert result["status"] == 0, result["error"]
    assert_same(city.content(), undisturbed[0])


def test_interrupted(undisturbed: Undisturbed, city: City) -> None:
    process = begun(city, 60, seconds=0.02)
    os.kill(process.pid, signal.SIGINT)
    TALLY.injected("interrupt")
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert process.returncode != 0
    result = city.run()
    assert result["status"] == 0, result["error"]
    assert_same(city.content(), undisturbed[0])
    assert city.calls <= MOST_CALLS + CALLS_OF_A_TILE
