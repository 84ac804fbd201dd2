"""Weights in and out of files: formats, and messages about unusable files."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import ussfc
from tests.support.networks import GOLDEN
from ussfc.errors import ModelError
from ussfc.files import sha256_of
from ussfc.network import USSFCNet
from ussfc.weights import load_weights, save_weights

State = dict[str, Tensor]


@pytest.fixture
def network() -> USSFCNet:
    torch.manual_seed(0)
    return USSFCNet(2, 0.125)


@pytest.fixture
def state(network: USSFCNet) -> State:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same(found: USSFCNet, expected: State) -> None:
    state = found.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def refusal(path: str | Path, **options: str) -> str:
    """Return the message about an unusable file: one line that names the file."""
    with pytest.raises(ModelError) as caught:
        load_weights(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_both_formats_of_torch(state: State, tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.bin"
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=zipped)
    found = load_weights(path)
    assert (found.bands, found.ratio, found.training) == (2, 0.125, False)
    assert_same(found, state)


def test_reads_the_authors_kind_of_file() -> None:
    found = ussfc.load_weights(GOLDEN)
    assert (found.bands, found.ratio) == (4, 0.25)


def test_safetensors_keep_weights_and_facts(network: USSFCNet, state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(network.to(memory_format=torch.channels_last), path, {"trained_on": "nothing"})  # type: ignore[call-overload]
    assert_same(load_weights(path), state)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"trained_on": "nothing", "bands": "2", "ratio": "0.125"}
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_save_keeps_the_old_file(
    network: USSFCNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"old")

    def fail(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(network, path, {})
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_loaded_weights_can_be_trained(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pt")
    found = load_weights(tmp_path / "w.pt").train()
    found(torch.rand(1, 2, 32, 32), torch.rand(1, 2, 32, 32)).mean().backward()
    assert all(parameter.grad is not None for parameter in found.parameters())


def test_drops_the_prefix_of_data_parallel(state: State, tmp_path: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "w.pth")
    assert_same(load_weights(tmp_path / "w.pth"), state)


def test_opens_a_wrapped_state_dict(state: State, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth")
    assert_same(load_weights(tmp_path / "w.pth"), state)


def test_half_precision_files_become_float32(state: State, tmp_path: Path) -> None:
    torch.save({n: t.half() if t.is_floating_point() else t for n, t in state.items()}, tmp_path / "w.pth")
    assert {t.dtype for t in load_weights(tmp_path / "w.pth").parameters()} == {torch.float32}


def test_reads_a_uri(state: State) -> None:
    with fsspec.open("memory://models/w.pth", "wb") as file:
        torch.save(state, file)
    assert_same(load_weights("memory://models/w.pth"), state)


def test_loading_leaves_the_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_weights(GOLDEN)
    assert torch.equal(torch.rand(1), expected)


def test_digest_is_checked() -> None:
    right = hashlib.sha256(GOLDEN.read_bytes()).hexdigest()
    assert sha256_of(GOLDEN) == right
    assert load_weights(GOLDEN, sha256=right).bands == 4
    message = refusal(GOLDEN, sha256="0" * 64)
    assert right in message
    assert "0" * 64 in message


HEAD = "Conv_1x1.weight"


def without(name: str) -> Callable[[State], object]:
    return lambda state: {n: t for n, t in state.items() if n != name}


def having(**tensors: object) -> Callable[[State], object]:
    return lambda state: {**state, **{name.replace("__", "."): value for name, value in tensors.items()}}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (without(HEAD), ["missing", HEAD]),
        (without("Conv1_1.conv.0.weight"), ["missing", "Conv1_1.conv.0.weight"]),
        (lambda state: dict(list(state.items())[:20]), ["missing", " more"]),
        (having(extra__weight=torch.zeros(1)), ["does not have", "extra.weight"]),
        (
            having(Conv_1x1__weight=torch.zeros(1, 3, 1, 1)),
            ["misshapen", HEAD, "(1, 3, 1, 1)", "(1, 8, 1, 1)"],
        ),
        (having(Conv_1x1__weight=torch.zeros(1, 8, 1, 1, dtype=torch.int64)), ["misshapen", HEAD, "int64"]),
        (having(Conv_1x1__weight=torch.zeros(1, 8, 1, 1, dtype=torch.complex64)), [HEAD, "complex64"]),
        (having(Conv_1x1__weight=torch.full((1, 8, 1, 1), torch.nan)), ["NaN", HEAD]),
        (having(Up5__bias=torch.full((64,), torch.inf)), ["infinity", "Up5.bias"]),
        (having(Conv1_1__conv__0__weight=torch.zeros(8, 2, 5, 5)), ["Conv1_1.conv.0.weight", "(8, 2, 5, 5)"]),
        (having(Conv1_1__conv__0__weight=torch.zeros(12, 2, 3, 3)), ["(12, 2, 3, 3)", "multiple of 8"]),
        (having(epoch=3), ["not tensors", "epoch"]),
        (lambda state: list(state.values()), ["holds a list"]),
        (lambda state: {}, ["missing", "Conv1_1.conv.0.weight"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    state: State, tmp_path: Path, change: Callable[[State], object], parts: list[str]
) -> None:
    path = tmp_path / "w.pth"
    torch.save(change(state), path)
    message = refusal(path)
    assert all(part in message for part in [str(path), *parts]), message


def test_long_lists_are_cut(state: State, tmp_path: Path) -> None:
    torch.save({**state, **{f"x{i}": torch.zeros(1) for i in range(10)}}, tmp_path / "w.pth")
    assert "x0, x1, x2 and 7 more" in refusal(tmp_path / "w.pth")


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["pickle", "torch", "torch-old"])
def test_pickles_are_never_executed(tmp_path: Path, how: str) -> None:
    path, crater = tmp_path / "w.pth", tmp_path / "crater"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"a": Bomb(crater)}, protocol=2))
    else:
        torch.save({"a": Bomb(crater)}, path, _use_new_zipfile_serialization=how == "torch")
    assert "state_dict" in refusal(path)
    assert not crater.exists()


def test_pickled_networks_are_refused(network: USSFCNet, tmp_path: Path) -> None:
    torch.save(network, tmp_path / "w.pth")
    assert "network.state_dict()" in refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("form", ["old", "zip", "safetensors"])
@pytest.mark.parametrize("kept", [9, 28, 49, 100, 3000, 100_000, -1])
# torch warns of odd pickles before it refuses them
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_cut_short_are_refused(network: USSFCNet, tmp_path: Path, form: str, kept: int) -> None:
    path = tmp_path / "w"
    if form == "safetensors":
        save_weights(network, path, {})
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    path.write_bytes(path.read_bytes()[:kept])
    message = refusal(path)
    assert "damaged" in message
    assert str(path) in message


@pytest.mark.parametrize("content", [b"", b"II*\0 a GeoTIFF", b"bands: 3\n" * 99])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    message = refusal(tmp_path / "w.pth")
    assert "not a checkpoint" in message
    # Whoever gives a wrong file does not want it in a log.
    assert not content or content[:6].decode() not in message


def test_absent_files_are_named(tmp_path: Path) -> None:
    for place in (tmp_path / "none.pth", "memory://models/none.pth"):
        message = refusal(place)
        assert str(place) in message
        assert "no such file" in message
    assert "cannot be read" in refusal(tmp_path)


def test_errors_of_schemes_hold_no_secrets() -> None:
    message = refusal("nosuch://user:secret@host/w.pth?signature=secret")
    assert "nosuch://host/w.pth" in message
    assert "secret" not in message
