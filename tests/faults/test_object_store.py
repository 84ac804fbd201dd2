"""Runs into a bucket, through a proxy that breaks things: the bytes of an undisturbed run on a disk."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.city import (
    CALLS_OF_A_TILE,
    MOST_CALLS,
    PAIR,
    PRODUCTS,
    TALLY,
    City,
    assert_same,
    kill_group,
)
from tests.support.fault_proxy import FaultProxy
from tests.support.paths import ROOT
from tests.support.servers import Azurite, SeaweedFS
from ussfc.pipeline.runs.validate import validate
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.object_folder import PART_BYTES

Undisturbed = tuple[dict[str, bytes], int]

KILLS, MANY_KILLS = 1, 60
"""Requests to be killed at, in CI and in the soak."""

PREFIX = "city/out"


@pytest.fixture
def far(proxied: FaultProxy, bucket: str, seaweed: SeaweedFS, tmp_path: Path) -> Iterator[City]:
    """A run from a bucket into it, through the proxy."""
    for path in PAIR:
        seaweed.put(bucket, f"in/{Path(path).name}", Path(path).read_bytes())
    pair = tuple(f"s3://{bucket}/in/{Path(path).name}" for path in PAIR)
    environment = {**seaweed.environment(), "AWS_ENDPOINT_URL": proxied.endpoint}
    yield City(f"s3://{bucket}/{PREFIX}", tmp_path / "log", environment=environment, pair=(pair[0], pair[1]))
    proxied.heal()
    # No upload is left half sent, at any point of interruption.
    assert seaweed.uploads(bucket) == []


def finished(city: City, expected: dict[str, bytes]) -> None:
    """Run to the end, and compare."""
    result = city.run()
    assert result["status"] == 0, result["error"]
    assert result["complete"]
    same_but_for_inputs(city.content(), expected)


def same_but_for_inputs(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Compare byte for byte; the run's name in the store's attributes follows from the inputs' addresses."""
    attributes = "work/probability.zarr/probability/zarr.json"
    assert_same(
        {name: content for name, content in found.items() if name != attributes},
        {name: content for name, content in expected.items() if name != attributes},
    )


def test_a_bucket_is_a_folder(undisturbed: Undisturbed, far: City, proxied: FaultProxy) -> None:
    finished(far, undisturbed[0])
    assert [check for check in validate(far.out) if not check.ok] == []
    proxied.reset()
    calls = far.calls
    assert far.run()["status"] == 0
    # Nothing is made again, and to see that takes a look at both inputs and the manifest.
    assert proxied.requests["PUT"] <= 1
    assert far.calls == calls


@pytest.mark.soak
def test_two_workers_write_into_a_bucket(undisturbed: Undisturbed, far: City) -> None:
    far.sets = ("cluster.kind=local", "cluster.workers=2")
    finished(far, undisturbed[0])


FAULTS = {
    "503": {"kind": "status", "status": 503},
    "500": {"kind": "status", "status": 500},
    "dropped": {"kind": "drop"},
    "cut short": {"kind": "truncate", "after": 700},
    "answer lost": {"kind": "lost"},
    "request cut": {"kind": "cut_request", "after": 100},
    "delayed": {"kind": "delay", "seconds": 0.3},
}


def test_a_storm_of_faults(undisturbed: Undisturbed, far: City, proxied: FaultProxy) -> None:
    for number, (name, fault) in enumerate(FAULTS.items()):
        assert name
        proxied.inject(**fault, times=None, probability=0.02, seed=number)
    finished(far, undisturbed[0])
    for kind, count in proxied.injected.items():
        TALLY.injected(f"request: {kind}", count)
    assert len(proxied.injected) >= 4


def killed_at(city: City, proxied: FaultProxy, request: int) -> bool:
    """Kill a run while its n-th request is under way; return False if it had fewer."""
    rule = proxied.inject("delay", seconds=1.0, skip=request)
    process = city.start()
    try:
        while process.poll() is None:
            if proxied.fired(rule):
                kill_group(process)
                TALLY.injected("kill -9 within a request")
                return True
            time.sleep(0.02)
        return False
    finally:
        process.communicate()
        proxied.heal()


def killed_and_finished(
    city: City, proxied: FaultProxy, undisturbed: Undisturbed, requests: int, count: int, seed: int
) -> None:
    chance = random.Random(seed)
    for number in range(count):
        killed = killed_at(city, proxied, int(requests * (number + chance.random()) / count))
        before = city.calls
        finished(city, undisturbed[0])
        if killed:
            assert before + city.calls <= 2 * (MOST_CALLS + CALLS_OF_A_TILE)
        Folder.of(city.out).remove("work")
        Folder.of(city.out).remove("run.json")
        for name in PRODUCTS:
            Folder.of(city.out).remove(name)
        city.log.unlink()


@pytest.fixture
def requests(far: City, proxied: FaultProxy) -> int:
    """Number of requests of an undisturbed run."""
    proxied.reset()
    assert far.run()["status"] == 0
    count = sum(proxied.requests.values())
    for name in ("work", "run.json", *PRODUCTS):
        Folder.of(far.out).remove(name)
    far.log.unlink()
    return count


def test_killed_within_any_request(
    undisturbed: Undisturbed, far: City, proxied: FaultProxy, requests: int
) -> None:
    killed_and_finished(far, proxied, undisturbed, requests, KILLS, seed=4)


@pytest.mark.soak
def test_killed_within_very_many_requests(
    undisturbed: Undisturbed, far: City, proxied: FaultProxy, requests: int
) -> None:
    killed_and_finished(far, proxied, undisturbed, requests, MANY_KILLS, seed=5)


def test_the_store_is_killed_and_comes_back(
    undisturbed: Undisturbed, far: City, seaweed: SeaweedFS, proxied: FaultProxy
) -> None:
    process = far.start(seconds=0.02)
    try:
        end = time.monotonic() + 120
        while far.calls < 100:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end
            time.sleep(0.05)
        seaweed.kill()
        TALLY.injected("store killed and restarted")
        time.sleep(2)
        seaweed.start()
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    finally:
        kill_group(process)
        process.communicate()
        if not seaweed.running:
            seaweed.start()
    same_but_for_inputs(far.content(), undisturbed[0])
    assert far.calls <= MOST_CALLS + CALLS_OF_A_TILE


@pytest.mark.soak
def test_a_killed_upload_is_cleaned(
    far: City, proxied: FaultProxy, seaweed: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    """Probabilities of float32 noise do not compress: two parts and more."""
    far.sets = (
        "cluster.kind=serial", "output.probability_dtype=float32", "grid.resolution=3.6e-5",
        "tiling.tile_size=1024",
    )  # fmt: skip
    rule = proxied.inject("delay", method="PUT", path=r"probability\.tif\?.*partNumber=2", seconds=2.0)
    process = far.start()
    while not proxied.fired(rule):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    kill_group(process)
    process.communicate()
    TALLY.injected("kill -9 within an upload")
    proxied.heal()
    assert seaweed.uploads(bucket) == [f"{PREFIX}/probability.tif"]
    assert f"{PREFIX}/probability.tif" not in seaweed.objects(bucket)
    listed = ussfc(far, "clean", far.out, "--dry-run")
    assert "would remove upload probability.tif" in listed
    assert "unfinished upload of probability.tif" in ussfc(far, "status", far.out, status=8)
    assert seaweed.uploads(bucket) == [f"{PREFIX}/probability.tif"]
    assert "removed upload probability.tif" in ussfc(far, "clean", far.out)
    assert seaweed.uploads(bucket) == []
    assert "nothing to clean" in ussfc(far, "clean", far.out)
    result = far.run()
    assert result["status"] == 0, result["error"]
    assert seaweed.objects(bucket)[f"{PREFIX}/probability.tif"] > 2 * PART_BYTES
    near = City(str(tmp_path / "near"), tmp_path / "near-log", sets=far.sets)
    assert near.run()["status"] == 0
    same_but_for_inputs(far.content(), near.content())


def ussfc(city: City, *arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ussfc.cli", *arguments],
        env={**os.environ, **city.environment}, capture_output=True, text=True, check=False,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_a_reader_never_sees_a_half_product(
    undisturbed: Undisturbed, far: City, seaweed: SeaweedFS, bucket: str
) -> None:
    expected = {hashlib.sha256(undisturbed[0][name]).hexdigest() for name in PRODUCTS}
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        client = seaweed.connect(seaweed.access_key, seaweed.secret_key)
        try:
            while not over.is_set():
                for name in PRODUCTS:
                    try:
                        with client.get_object(Bucket=bucket, Key=f"{PREFIX}/{name}")["Body"] as body:
                            seen.add(hashlib.sha256(body.read()).hexdigest())
                    except client.exceptions.NoSuchKey:
                        continue
        finally:
            client.close()

    reader = threading.Thread(target=watch)
    reader.start()
    try:
        finished(far, undisturbed[0])
        time.sleep(0.3)
    finally:
        over.set()
        reader.join()
    assert seen == expected


@pytest.mark.soak
def test_no_secret_is_written_or_printed(
    far: City, proxied: FaultProxy, seaweed: SeaweedFS, bucket: str
) -> None:
    """Both by a run that ends well and by runs that end in errors."""
    reader = {
        "AWS_ACCESS_KEY_ID": seaweed.read_only_access_key,
        "AWS_SECRET_ACCESS_KEY": seaweed.read_only_secret_key,
    }
    wrong = ({"AWS_SECRET_ACCESS_KEY": "nonsense" * 5}, reader)
    messages = [far.run()["error"]]
    messages += [replace(far, environment={**far.environment, **change}).run()["error"] for change in wrong]
    assert all(text.startswith("StoreError: ") and text.count("\n") == 1 for text in messages[1:])
    secrets = [
        seaweed.access_key,
        seaweed.secret_key,
        seaweed.read_only_access_key,
        seaweed.read_only_secret_key,
    ]
    written = [
        seaweed.get(bucket, key) for key in seaweed.objects(bucket, PREFIX) if not key.endswith(".tif")
    ]
    assert len(written) > 30
    for secret in [*secrets, "nonsense" * 5]:
        assert not [text for text in messages if secret in text]
        assert not [content for content in written if secret.encode() in content]
        assert not [key for key in seaweed.objects(bucket) if secret in key]


@pytest.mark.soak
def test_interrupted_within_an_upload(
    far: City, proxied: FaultProxy, seaweed: SeaweedFS, bucket: str
) -> None:
    """Ctrl-C is no kill: the parts that were sent are removed at once."""
    far.sets = (
        "cluster.kind=serial", "output.probability_dtype=float32", "grid.resolution=3.6e-5",
        "tiling.tile_size=1024",
    )  # fmt: skip
    rule = proxied.inject("delay", method="PUT", path=r"probability\.tif\?.*partNumber=2", seconds=3.0)
    process = far.start()
    while not proxied.fired(rule):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    TALLY.injected("interrupt within an upload")
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert seaweed.uploads(bucket) == []


def test_azure(undisturbed: Undisturbed, azurite: Azurite, container: str, tmp_path: Path) -> None:
    for path in PAIR:
        azurite.put(container, f"in/{Path(path).name}", Path(path).read_bytes())
    pair = tuple(f"az://{container}/in/{Path(path).name}" for path in PAIR)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in azurite.environment().items():
            patch.setenv(name, value)
        city = City(f"az://{container}/{PREFIX}", tmp_path / "log", pair=(pair[0], pair[1]))
        finished(city, undisturbed[0])
