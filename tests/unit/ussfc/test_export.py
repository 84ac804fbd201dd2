"""Exported networks give the probabilities of the network."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.support.scenes import write_toy_model
from ussfc import export
from ussfc.detector_options import DetectorOptions, detector_spec
from ussfc.errors import ModelError
from ussfc.export import SUFFIXES, export_model, facts, patch_size
from ussfc.spec import find_model
from ussfc.weights import load_weights


@pytest.mark.parametrize("model", ["toy", pytest.param("ussfc-s2-rgbn", marks=pytest.mark.soak)])
def test_exported_networks_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    spec = find_model(str(write_toy_model(tmp_path, bands=4)) if model == "toy" else model)
    # Once for both formats: it takes seconds.
    exported = functools.cache(export.exported_program)
    monkeypatch.setattr(export, "exported_program", lambda spec: exported(spec))
    for kind in SUFFIXES:
        export_model(spec, tmp_path / kind, kind)
    session = onnxruntime.InferenceSession(tmp_path / "onnx", providers=["CPUExecutionProvider"])
    extra = {"ussfc.json": ""}
    program = torch.export.load(io.BytesIO((tmp_path / "torch").read_bytes()), extra_files=extra).module()

    network = load_weights(spec.weights_path())
    side = patch_size(spec)
    for count in (1, 3):
        before, after = np.random.default_rng(count).random((2, count, 4, side, side), np.float32)
        pair = torch.from_numpy(before), torch.from_numpy(after)
        with torch.inference_mode():
            expected = network(*(image * 2 - 1 for image in pair)).numpy()
            np.testing.assert_allclose(program(*pair).numpy(), expected, atol=1e-5)
        found = session.run(["probability"], {"before": before, "after": after})[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)

    for text in (session.get_modelmeta().custom_metadata_map["ussfc"], extra["ussfc.json"]):
        assert json.loads(text) == facts(spec)
    # It runs as a model of its own, and knows bands, numbers and threshold.
    again = find_model(str((tmp_path / "onnx").rename(tmp_path / "again.onnx")))
    assert (again.bands, again.threshold, again.radiometry) == (spec.bands, spec.threshold, spec.radiometry)
    assert again.smoothing == spec.smoothing
    detector = detector_spec(again, DetectorOptions(precision="float32", batch_size=3)).build()
    np.testing.assert_allclose(detector.predict(before, after), expected[:, 0], atol=1e-5)


def test_the_facts_name_what_makes_the_products() -> None:
    assert facts(find_model("ussfc-s2-rgb"))["smoothing"] == "median3"


def test_missing_packages_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ussfc.export.find_spec", lambda name: None)
    with pytest.raises(
        ModelError, match=r"onnx and onnxscript not installed here; pip install 'ussfc\[onnx\]'"
    ):
        export_model(find_model("ussfc-s2-rgb"), tmp_path / "x", "onnx")
    assert not list(tmp_path.iterdir())
