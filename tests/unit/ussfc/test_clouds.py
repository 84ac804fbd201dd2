"""Networks that find clouds, as a package brings them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.support.cloud_package import write_package
from ussfc.clouds import SIDE, CloudNetwork
from ussfc.errors import ModelError


def test_network_of_the_package_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(write_package(tmp_path))
    image = np.full((4, SIDE, SIDE), 0.2, np.float32)
    image[:, :20, :30], image[:, 100:, 200:] = 0.8, 0
    network = CloudNetwork("l2a")
    found = network.classify(image)
    assert (found.shape, found.dtype) == ((SIDE, SIDE), np.uint8)
    expected = np.zeros((SIDE, SIDE))
    expected[:20, :30], expected[100:, 200:] = 1, 2
    np.testing.assert_array_equal(found, expected)
    assert network.identity.startswith("ukis-csmask 1.0.0-stand-in ")


@pytest.mark.parametrize("fault", ["bands", "text", "absent", "damaged"])
def test_another_package_is_one_line(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(write_package(tmp_path))
    facts, network = (tmp_path / f"ukis_csmask/model_4b_l2a.{end}" for end in ("json", "onnx"))
    if fault == "bands":
        content = json.loads(facts.read_text())
        content["data"]["dataset_statistics"]["band_names"].reverse()
        facts.write_text(json.dumps(content))
    elif fault == "text":
        facts.write_text("{}")
    elif fault == "absent":
        network.unlink()
    else:
        network.write_bytes(b"no network")
    with pytest.raises(ModelError, match=r"model_4b_l2a\.onnx: ") as caught:
        CloudNetwork("l2a").classify(np.zeros((4, SIDE, SIDE), np.float32))
    assert "\n" not in str(caught.value)


def test_real_package_finds_a_cloud() -> None:
    if find_spec("ukis_csmask") is None:
        pytest.skip("ussfc[clouds] is not installed")
    image = np.full((4, SIDE, SIDE), 0.1, np.float32)
    image[:, 60:140, 60:140] = 0.75
    found = CloudNetwork("l2a").classify(image)
    assert (found[80:120, 80:120] == 1).mean() > 0.9
    assert (found[200:, 200:] == 0).mean() > 0.9
