"""Model cards: accepted and refused content, messages, and the search for models."""

from __future__ import annotations

import hashlib
import math
import pickle
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ussfc import spec as spec_module
from ussfc.errors import ModelError
from ussfc.network import USSFCNet
from ussfc.spec import (
    NOT_STATED,
    Licence,
    ModelSpec,
    PercentileRadiometry,
    RangeRadiometry,
    derived_licence,
    find_model,
    list_models,
)
from ussfc.weights import save_weights


def card(**changes: Any) -> dict[str, Any]:
    """Return a card with every key, some of them changed."""
    return {
        "name": "toy",
        "title": "A toy",
        "weights": {"uri": "toy.safetensors", "sha256": "0" * 64},
        "network": {"ratio": 0.125},
        "bands": [
            {"name": "B04", "common_name": "red", "wavelength_um": 0.665},
            {"name": "B03", "common_name": "green", "wavelength_um": 0.56},
        ],
        "resolution_m": 10.0,
        "finest_m": 7.5,
        "patch_size": 128,
        "tiling": {"patch_size": 256, "overlap": 0.5, "taper": "pyramid", "ssfc": "local"},
        "radiometry": {"kind": "percentiles", "low": 2.0, "high": 98.0},
        "threshold": 0.4,
        "smoothing": "median3",
        "alteration": {"network": 0.3, "distance": 2.4, "offset": -3.9, "blur_px": 1.5},
        "licence": {"weights": "Apache-2.0", "training_labels": "CC-BY-4.0", "note": "mind the labels"},
        "training": {
            "data": "two scenes",
            "held_out": "one scene",
            "scenes": ["east"],
            "device": "2 CPU cores",
            "seconds": 10.0,
            "steps": 5,
            "recipe": "AdamW",
        },
        "scores": [
            {
                "scene": "x",
                "precision": 0.5,
                "recall": 0.4,
                "f1": 0.44,
                "iou": 0.3,
                "pooled": False,
                "note": "",
            }
        ],
        "cpu_mpx_per_s": 0.4,
        "notes": "none",
        **changes,
    }


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(card(**changes)))
    return path


def test_round_trip(tmp_path: Path) -> None:
    spec = ModelSpec.load(written(tmp_path))
    assert spec.model_dump(mode="json") == card()
    assert spec.weights_path() == str(tmp_path / "toy.safetensors")
    assert pickle.loads(pickle.dumps(spec)).weights_path() == spec.weights_path()


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    optional = (
        "network resolution_m finest_m patch_size radiometry threshold licence training scores cpu_mpx_per_s "
        "notes"
    )
    content = {key: value for key, value in card().items() if key not in optional.split()}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(content))
    spec = find_model(str(tmp_path / "toy.yaml"))
    assert (spec.patch_size, spec.threshold) == (256, 0.5)
    assert spec.radiometry == RangeRadiometry(low=0, high=255)


@pytest.mark.parametrize("uri", ["s3://bucket/toy.safetensors", "/models/toy.safetensors"])
def test_absolute_weights_stay_where_they_are(tmp_path: Path, uri: str) -> None:
    path = written(tmp_path, weights={"uri": uri, "sha256": "0" * 64})
    assert ModelSpec.load(path).weights_path() == uri


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"thresold": 0.5}, ["thresold", "unknown key"]),
        ({"weights": {"uri": "x", "sha256": "0" * 64, "md5": "1"}}, ["weights.md5", "unknown key"]),
        ({"weights": {"uri": "x", "sha256": "abc"}}, ["weights.sha256", "'abc'"]),
        ({"weights": {"uri": "x"}}, ["weights.sha256", "required"]),
        ({"bands": []}, ["bands", "at least 1"]),
        ({"bands": [{"name": "B04", "colour": "red"}]}, ["bands.0.colour", "unknown key"]),
        ({"patch_size": 100}, ["patch_size", "multiple of 16", "100"]),
        ({"patch_size": 0}, ["patch_size", "greater than 0"]),
        ({"threshold": 1.5}, ["threshold", "1.5"]),
        (
            {"alteration": {"network": 0, "distance": 1, "offset": 0}},
            ["alteration.network", "greater than 0"],
        ),
        ({"alteration": {"network": 1, "distance": 1, "offset": math.inf}}, ["alteration.offset", "finite"]),
        (
            {"alteration": {"network": 1, "distance": 1, "offset": 0, "blur_px": 9}},
            ["alteration.blur_px", "9"],
        ),
        ({"radiometry": {"kind": "guess"}}, ["radiometry", "'range'", "'percentiles'"]),
        ({"radiometry": {"kind": "percentiles", "low": 99, "high": 1}}, ["radiometry", "low 99", "high 1"]),
        ({"radiometry": {"kind": "percentiles", "high": 101}}, ["radiometry.percentiles.high", "101"]),
        ({"radiometry": {"kind": "range", "low": [0, 0, 0]}}, ["3 low", "for 2 bands"]),
        ({"radiometry": {"kind": "range", "low": 0, "high": [1, 0]}}, ["must be below", "every band"]),
        ({"scores": [{"scene": "x", "precision": 2}]}, ["scores.0.precision", "scores.0.recall"]),
    ],
)
def test_faults_name_the_key(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ModelError) as caught:
        ModelSpec.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in [str(path), *parts]), message


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"a: [", "not YAML"), (b"\xff\xfe\x00", "not YAML"), (b"- 1", "list"), (b"", "None")],
)
def test_other_files_are_no_cards(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "toy.yaml").write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        find_model(str(tmp_path / "toy.yaml"))
    assert "\n" not in str(caught.value)


def test_keys_that_are_no_cards_keep_their_values(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(f"password: hunter2\ntitle: [{'long, ' * 100}]\n")
    with pytest.raises(ModelError, match="password: unknown key") as caught:
        find_model(str(tmp_path / "toy.yaml"))
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_absent_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.yaml: cannot be read"):
        find_model(str(tmp_path / "none.yaml"))


def test_packaged_cards_are_in_order() -> None:
    assert list(list_models()) == sorted(list_models())
    for name in list_models():
        spec = find_model(name)
        assert spec.name == name
        assert hashlib.sha256(Path(spec.weights_path()).read_bytes()).hexdigest() == spec.weights.sha256


def test_packaged_cards_lie_in_configs() -> None:
    folder = files("ussfc.configs") / "models"
    assert {path.name for path in folder.iterdir() if path.name.endswith(".yaml")} == {
        f"{name}.yaml" for name in list_models()
    }


def test_unknown_names_list_known_and_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name: tmp_path / f"{name}.yaml" for name in ("ussfc-s2-rgb", "toy")}
    monkeypatch.setattr(spec_module, "packaged_cards", lambda: names)
    with pytest.raises(ModelError, match=r"known: toy, ussfc-s2-rgb;.*did you mean ussfc-s2-rgb\?"):
        find_model("ussfc-s2-rbg")
    written(tmp_path)
    assert find_model("toy").patch_size == 128


def test_no_packaged_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec_module, "packaged_cards", dict)
    with pytest.raises(ModelError, match="known: none"):
        find_model("toy")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_bare_weights_get_the_papers_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"mine{suffix}"
    network = USSFCNet(2, 0.125)
    if suffix == ".safetensors":
        save_weights(network, path, {})
    else:
        torch.save(network.state_dict(), path)
    monkeypatch.chdir(tmp_path)
    spec = find_model(path.name)
    monkeypatch.chdir("/")
    assert (spec.name, spec.patch_size, spec.threshold) == ("mine", 256, 0.5)
    assert [band.name for band in spec.bands] == ["band1", "band2"]
    assert spec.radiometry == RangeRadiometry(low=0, high=255)
    assert spec.network.ratio == 0.125
    assert spec.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert spec.weights_path() == str(path)


def test_percentiles_default_to_1_and_99() -> None:
    assert PercentileRadiometry() == PercentileRadiometry(low=1, high=99)


def test_cards_are_read_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys, ussfc\n"
        f"ussfc.find_model({str(written(tmp_path))!r}); ussfc.list_models(); ussfc.ModelError\n"
        "spec = ussfc.find_model(sys.argv[1])\n"
        "ussfc.detector_spec(spec, ussfc.DetectorOptions(engine='torch', device='cpu')).identity\n"
        "assert not {'torch', 'fsspec'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(written(tmp_path))], check=True)


@pytest.mark.parametrize(
    ("weights", "restriction"),
    [
        ("CC BY-NC-SA 4.0", "CC BY-NC-SA 4.0, not for commercial use"),
        ("cc-by-nc-4.0", "cc-by-nc-4.0, not for commercial use"),
        ("for non-commercial research", "for non-commercial research, not for commercial use"),
        ("CC-BY-SA-4.0", "CC-BY-SA-4.0"),
        ("GPL-3.0-only", "GPL-3.0-only"),
        ("Apache-2.0", None),
        ("Apache License 2.0", None),
        ("MIT", None),
        ("BSD-3-Clause", None),
        ("CC-BY-4.0", None),
        ("CC BY 4.0", None),
        ("CC0-1.0", None),
        ("The MIT License", None),
        ("Apache v2.0", None),
        ("3-Clause BSD License", None),
        ("CC BY 4.0 International", None),
        ("CC BY 4.0; MIT", None),
        ("MIT AND Apache-2.0", None),
        ("MIT OR GPL-3.0-only", None),
        ("CC BY 4.0 + ODC-By", None),
        ("MIT; GPL-3.0-only", "MIT; GPL-3.0-only"),
        ("GPL-3.0-only OR AGPL-3.0-only", "GPL-3.0-only OR AGPL-3.0-only"),
        ("(MIT OR GPL-3.0-only) AND ODbL", "(MIT OR GPL-3.0-only) AND ODbL"),
        ("MIT and not stated", "MIT and not stated"),
        ("MIT for non-commercial use", "MIT for non-commercial use, not for commercial use"),
        ("MIT, noncommercial", "MIT, noncommercial, not for commercial use"),
        ("MIT; CC BY-NC 4.0", "MIT; CC BY-NC 4.0, not for commercial use"),
        ("MIT OR CC BY-NC 4.0", "MIT OR CC BY-NC 4.0, not for commercial use"),
        ("MIT, research only", "MIT, research only"),
        ("Apache 2.0 with Commons Clause", "Apache 2.0 with Commons Clause"),
        ("mitigated", "mitigated"),
        ("", ""),
    ],
)
def test_restriction_of_a_licence(weights: str, restriction: str | None) -> None:
    licence = Licence(weights=weights, training_labels="any")
    assert licence.restriction == restriction
    assert licence.terms == (restriction or weights)


def test_file_of_another_kind_is_no_misspelt_name() -> None:
    with pytest.raises(ModelError, match=r"known: ussfc-s2-rgb, .*; or give a file ending in") as caught:
        find_model("before.tif")
    assert "did you mean" not in str(caught.value)


def test_missing_weights_do_not_wait_for_torch() -> None:
    code = (
        "import sys, ussfc\ntry: ussfc.find_model('missing.pth')\n"
        "except ussfc.ModelError as error: print(error, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "weights missing.pth: no such file; check the path False\n"


NC = Licence(weights="CC BY-NC-SA 4.0", training_labels="CC BY-NC-SA (OSCD)")


@pytest.mark.parametrize(
    ("labels", "start", "weights", "restricted"),
    [
        (None, None, None, False),
        ("CC BY 4.0", None, "CC BY 4.0", False),
        ("CC BY 4.0", NC, "CC BY-NC-SA 4.0; CC BY 4.0", True),
        ("CC BY 4.0", NOT_STATED, "not stated; CC BY 4.0", True),
        (None, NC, "not stated; CC BY-NC-SA 4.0", True),
        ("CC BY-NC 4.0", Licence(weights="MIT", training_labels="MIT"), "CC BY-NC 4.0; MIT", True),
        ("MIT", Licence(weights="MIT", training_labels="MIT"), "MIT", False),
    ],
)
def test_terms_of_both_origins_stay(
    labels: str | None, start: Licence | None, weights: str | None, restricted: bool
) -> None:
    found = derived_licence(labels, start)
    assert (found.weights if found else None) == weights
    assert bool(found and found.restriction) == restricted


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a\x1b[2J"},
        {"name": "a\nnote: b"},
        {"bands": [{"name": "\x9b2J"}]},
        {"bands": [{"name": "B04", "common_name": "\x07"}]},
        {"title": "a\x1b[2J"},
        {"notes": "a\x08"},
        {"licence": {"weights": "MIT\x1b[2J", "training_labels": "MIT"}},
    ],
)
def test_texts_cannot_steer_a_terminal(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump(card(**changes)))
    with pytest.raises(
        ModelError, match=r"(name|title|notes|weights): .*holds control characters; leave them out"
    ) as caught:
        ModelSpec.load(path)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", str(caught.value))


def test_texts_of_several_lines_become_one(tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump(card(notes="one\n  two\r\n\nthree\tfour\n", title="a  b")))
    spec = ModelSpec.load(path)
    assert (spec.notes, spec.title) == ("one two three four", "a  b")


def test_licences_of_labels_cannot_steer_a_terminal() -> None:
    with pytest.raises(ModelError, match=r"licence 'MIT\\x1b\[2J': holds control characters; leave them out"):
        derived_licence("MIT\x1b[2J", None)


def test_weights_in_a_folder_of_an_odd_name_have_a_title(tmp_path: Path) -> None:
    folder = tmp_path / "a\x1b[2Jb"
    folder.mkdir()
    path = folder / "net.safetensors"
    save_weights(USSFCNet(3, 0.125), path, {})
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", find_model(str(path)).title)
