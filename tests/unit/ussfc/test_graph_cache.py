"""Folded graphs in files: what is taken from them, and what is built again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.limits import largest_file
from tests.support.paths import ROOT
from tests.support.scenes import write_toy_model
from ussfc.detector import DetectorSpec
from ussfc.detector_options import DetectorOptions, detector_spec
from ussfc.engines import graph_cache
from ussfc.engines.graph_cache import MOST_FILES, GraphCache
from ussfc.engines.openvino_engine import OpenVINOEngine
from ussfc.engines.openvino_graph import network_graph
from ussfc.engines.openvino_runtime import openvino
from ussfc.errors import ModelError
from ussfc.network import USSFCNet
from ussfc.spec import find_model


@pytest.fixture(scope="module")
def model() -> openvino.Model:
    return network_graph(USSFCNet(3, 0.125).eval(), (1, 3, 32, 32))


def answer(model: openvino.Model) -> bytes:
    before, after = np.random.default_rng(2).random((2, 1, 3, 32, 32), np.float32)
    return OpenVINOEngine(model).run(before, after).tobytes()


def test_a_graph_from_a_file_gives_the_same_bytes(tmp_path: Path, model: openvino.Model) -> None:
    cache = GraphCache(tmp_path)
    assert cache.get("facts") is None
    cache.put("facts", model)
    found = GraphCache(tmp_path).get("facts")
    assert found is not None
    assert answer(found) == answer(model)
    assert cache.get("other facts") is None
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
        lambda content: b"another format" + content,
    ],
    ids=["empty", "cut short", "a bit", "format"],
)
def test_damaged_files_count_as_missing(tmp_path: Path, model: openvino.Model, damage: object) -> None:
    cache = GraphCache(tmp_path)
    cache.put("facts", model)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert cache.get("facts") is None
    cache.put("facts", model)
    assert cache.get("facts") is not None


def test_a_disk_that_is_full_keeps_nothing(tmp_path: Path, model: openvino.Model) -> None:
    with largest_file(1 << 15):
        GraphCache(tmp_path).put("facts", model)
    assert not list(tmp_path.iterdir())


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: openvino.Model) -> None:
    (tmp_path / "0.1.part").write_bytes(b"of a process that was killed")
    os.utime(tmp_path / "0.1.part", (0, 0))
    for number in range(MOST_FILES):
        (tmp_path / f"{number}.graph").touch()
        os.utime(tmp_path / f"{number}.graph", (number + 1, number + 1))
    GraphCache(tmp_path).put("facts", model)
    names = {path.name for path in tmp_path.iterdir()}
    assert len(names) == MOST_FILES
    assert not names & {"0.1.part", "0.graph"}
    assert "1.graph" in names


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path, model: openvino.Model) -> None:
    (tmp_path / "file").touch()
    cache = GraphCache(tmp_path / "file" / "below")
    cache.put("facts", model)
    assert cache.get("facts") is None


def toy(folder: Path) -> DetectorSpec:
    model = find_model(str(write_toy_model(folder)))
    return detector_spec(model, DetectorOptions(engine="openvino", precision="float32", streams=1))


PROGRAM = """
import hashlib, pickle, sys
import numpy as np
detector = pickle.loads(bytes.fromhex(sys.argv[1])).build()
before, after = np.random.default_rng(2).random((2, 1, 3, 32, 32), np.float32)
print("torch" in sys.modules, hashlib.sha256(detector.predict(before, after).tobytes()).hexdigest())
"""


def test_a_worker_with_a_known_graph_does_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = toy(tmp_path)
    before, after = np.random.default_rng(2).random((2, 1, 3, 32, 32), np.float32)
    here = hashlib.sha256(spec.build().predict(before, after).tobytes()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM, pickle.dumps(spec).hex()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == ["False", here]


def test_another_code_or_another_network_is_another_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    toy(tmp_path).build()
    with monkeypatch.context() as patch:
        patch.setattr(graph_cache, "code_digest", lambda: "edited")
        toy(tmp_path).build()
    detector_spec(
        find_model(str(tmp_path / "toy.yaml")),
        DetectorOptions(engine="openvino", precision="float32", streams=1, patch_size=48),
    ).build()
    assert len(list((tmp_path / "cache" / "ussfc" / "graphs").iterdir())) == 3


def test_weights_that_were_replaced_are_refused_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = toy(tmp_path)
    spec.build()
    with (tmp_path / "toy.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelError, match=r"weights \S+toy\.safetensors: sha256 is .*, expected "):
        spec.build()
    (tmp_path / "toy.safetensors").unlink()
    with pytest.raises(ModelError, match="no such file"):
        spec.build()
