"""The inventory of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

import ussfc
from ussfc.detector import DetectorSpec
from ussfc.engine_selection import EngineCache
from ussfc.pipeline.benchmark import inventory
from ussfc.pipeline.benchmark.inventory import extras, take_inventory

REQUIREMENTS = (
    "numpy>=2",
    'no-such-package>=2024.10; extra == "s3"',
    "numpy (>=2) ; extra == 'other'",
    'ruff>=0.9; extra == "dev"',
    'numpy; python_version < "3.12" and extra == "other"',
)


def test_extras_name_what_is_missing_and_how_it_is_installed() -> None:
    found = extras(REQUIREMENTS)
    assert set(found) == {"s3", "other"}
    assert found["s3"] == {
        "packages": {"no-such-package": None}, "installed": False, "install": "pip install 'ussfc[s3]'",
    }  # fmt: skip
    assert found["other"]["installed"]
    assert list(found["other"]["packages"]) == ["numpy"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory without a cache of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(inventory, "NVIDIA", tmp_path / "gpus")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_machine_that_runs_the_tests_has_no_problem(elsewhere: Path) -> None:
    found = take_inventory()
    assert found["problems"] == []
    assert found["versions"]["ussfc"]
    assert found["versions"]["gdal"].count(".") == 2
    assert found["versions"]["proj"].count(".") == 2
    usable = {(engine["engine"], engine["device"]): engine["precisions"] for engine in found["engines"]}
    assert usable["torch", "cpu"] == ["float32"]
    assert usable["torch", "cuda"] == []
    assert found["chosen"] is None
    assert found["gpus"] == []
    assert found["disk"][0]["folder"] == str(elsewhere)
    assert all(disk["free"] > 0 for disk in found["disk"])
    assert 1 <= found["cores"]["usable"] <= found["cores"]["machine"]


def test_choice_of_an_engine_is_that_of_runs(elsewhere: Path) -> None:
    model = ussfc.find_model("ussfc-s2-rgb")

    def choose(specs: Sequence[DetectorSpec]) -> DetectorSpec:
        EngineCache().put(specs, ("torch", "float32"))
        return specs[0]

    ussfc.detector_spec(model, ussfc.DetectorOptions(device="cpu"), choose=choose)
    assert take_inventory()["chosen"] == {"engine": "torch", "precision": "float32", "device": "cpu"}


def test_scratch_that_is_not_there_is_a_problem(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSFC_OUTPUT__SCRATCH", str(elsewhere / "gone"))
    found = take_inventory()
    (problem,) = found["problems"]
    assert str(elsewhere / "gone") in problem
    assert found["disk"][1]["free"] is None


def test_working_directory_that_was_removed_is_a_problem(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "removed").mkdir()
    monkeypatch.chdir(elsewhere / "removed")
    (elsewhere / "removed").rmdir()
    (problem,) = take_inventory()["problems"]
    assert problem.startswith("working directory .: cannot be looked at")


def test_wrong_configuration_is_a_problem(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSFC_THRESHOLD", "high")
    (problem,) = take_inventory()["problems"]
    assert "threshold" in problem


@pytest.mark.parametrize("count", [0, 2])
def test_gpu_that_torch_cannot_use_is_a_problem(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    (elsewhere / "gpus" / "0000:00").mkdir(parents=True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(ussfc, "gpus", lambda: count, raising=False)
    monkeypatch.setattr("ussfc.bench.gpu_name", lambda: "H100")
    found = take_inventory()
    assert found["gpus"] == ["H100"] * count
    assert len(found["problems"]) == (count == 0)
    usable = {
        engine["engine"] for engine in found["engines"] if engine["device"] == "cuda" and engine["precisions"]
    }
    assert ("torch" in usable) == bool(count)
