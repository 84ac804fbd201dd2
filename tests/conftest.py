"""Fixtures and settings of every test."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support.city import TALLY
from tests.support.fault_proxy import FaultProxy
from tests.support.paths import ROOT, SHARED, TESTS
from tests.support.servers import Azurite, SeaweedFS
from tests.support.slurm import SLURM_VARIABLES, Slurm
from ussfc.detector import DetectorSpec, engine_version
from ussfc.engine_selection import EngineCache
from ussfc.engines import DEVICES, ONLY_BY_NAME
from ussfc.pipeline.storage import remote

# The same examples in every run: a test that fails now and then is a defect.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Provide a cache with the choice of an engine already in it, for this process and those it starts.

    What this machine finds fastest would else decide what the tests see, differ from one run to the next, and be
    measured again by every process of pytest-xdist. Other programs find their own caches in it.
    """
    folder = tmp_path_factory.mktemp("cache")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for entry in usual.iterdir() if usual.is_dir() else ():
        if entry.name != "ussfc":
            (folder / entry.name).symlink_to(entry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        _remember(("openvino", "float32"))
        yield folder


def _remember(chosen: tuple[str, str]) -> None:
    """Keep the choice on a CPU for the packaged models and the toys of scenes.py: nothing is built or measured."""
    kinds = [kind for kind, has in DEVICES.items() if "cpu" in has and kind[1] not in ONLY_BY_NAME]
    cache = EngineCache()
    for bands, (ratio, patch_size, window) in product(
        (3, 4), ((0.5, 256, None), (None, 32, None), (None, 64, None), (None, 32, 32), (None, 64, 32))
    ):
        candidates = [
            DetectorSpec(
                "", "", bands, ratio, patch_size, window, engine, precision, "cpu", 1, None,
                engine_version(engine),
            )
            for engine, precision in kinds
        ]  # fmt: skip
        cache.put(candidates, chosen)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of large test data that lies beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the data folder `shared` beside the checkout")
    return SHARED


@pytest.fixture(scope="module")
def importable() -> Iterator[None]:
    """Let worker processes import the stubs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """Start a server of S3 for all tests; a test that stops it starts it again."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture
def bucket(seaweed: SeaweedFS) -> Iterator[str]:
    """Make a fresh bucket on the server and return its name."""
    if not seaweed.running:  # a test failed in the middle of an outage
        seaweed.start()
    name = seaweed.make_bucket(f"bucket-{secrets.token_hex(6)}")
    yield name
    if seaweed.running:
        seaweed.remove_bucket(name)


@pytest.fixture
def s3_environment(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Lead every client of S3 in this process to the server, with its administrator's keys."""
    s3fs = pytest.importorskip("s3fs")
    variables = seaweed.environment()
    _set_environment(monkeypatch, "AWS_", variables)
    s3fs.S3FileSystem.clear_instance_cache()
    yield variables
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def proxied(
    seaweed: SeaweedFS, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """Start a proxy before the server, and lead clients to it."""
    with FaultProxy(seaweed.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        remote.forget_connections()
        yield proxy


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Start a server of Azure's blob storage for all tests."""
    with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture
def container(azurite: Azurite) -> Iterator[str]:
    """Make a fresh container on the server and return its name."""
    if not azurite.running:
        azurite.start()
    name = azurite.make_bucket(f"container-{secrets.token_hex(6)}")
    yield name
    if azurite.running:
        azurite.remove_bucket(name)


@pytest.fixture
def azure_environment(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Lead every client of Azure in this process to the server."""
    adlfs = pytest.importorskip("adlfs")
    variables = azurite.environment()
    _set_environment(monkeypatch, "AZURE_", variables)
    adlfs.AzureBlobFileSystem.clear_instance_cache()
    yield variables
    adlfs.AzureBlobFileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Start a SLURM of one node for all tests."""
    with Slurm(tmp_path_factory.mktemp("slurm") / "slurm") as cluster:
        yield cluster


@pytest.fixture
def slurm_environment(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Lead `sbatch` and its like to this SLURM; no job outlives the test."""
    for name in [name for name in os.environ if name.startswith(SLURM_VARIABLES)]:
        monkeypatch.delenv(name)
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm.environment
    slurm.cancel_all()


def _set_environment(monkeypatch: pytest.MonkeyPatch, prefix: str, variables: dict[str, str]) -> None:
    """Set these, and nothing else of the developer's own that begins like them."""
    remote.forget_connections()
    for name in [name for name in os.environ if name.startswith(prefix)]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


QUICK = (TESTS / "unit", TESTS / "laws")
"""Folders of the tests that ``-m unit`` runs."""

LONG = tuple(
    TESTS / name
    for name in (
        "clusters/test_slurm.py",
        "faults/test_kills.py",
        "faults/test_object_store.py",
        "clusters/test_runs.py",
        "clusters/test_dask_executor.py",
        "stores/test_scene_failures.py",
        "unit/ussfc/test_export.py",
    )
)
"""Files that take minutes, most of which they wait for servers and programs."""

FILES_BETWEEN = 25
"""Short files between two long ones: processes that all wait leave the machine idle, and a long file at the end runs
alone."""


# Before pytest's own, which leaves out what -m does not ask for.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quick tests, and spread the long files over the first half of all."""
    for item in items:
        if item.get_closest_marker("soak") is None and any(folder in item.path.parents for folder in QUICK):
            item.add_marker(pytest.mark.unit)
    files = list(dict.fromkeys(item.path for item in items))
    order = [path for path in files if path not in LONG]
    for number, path in enumerate(path for path in LONG if path in files):
        order.insert(number * (FILES_BETWEEN + 1), path)
    places = {path: place for place, path in enumerate(order)}
    items.sort(key=lambda item: places[item.path])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the counts of the fault tests from a process of pytest-xdist to the one that prints."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["faults"] = {"runs": TALLY.runs, "kinds": TALLY.kinds}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up the counts of the fault tests."""
    sent = getattr(node, "workeroutput", {}).get("faults", {"runs": 0, "kinds": {}})
    TALLY.runs += sent["runs"]
    for kind, count in sent["kinds"].items():
        TALLY.injected(kind, count)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts of the fault tests."""
    if TALLY.faults:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(TALLY.kinds.items()))
        terminalreporter.write_line(
            f"faults injected: {TALLY.faults} ({kinds}); results compared byte for byte: {TALLY.runs}"
        )
