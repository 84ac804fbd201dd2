"""The engine that a machine computes fastest with: measured once, kept for what it was measured for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.networks import MODELS, PACKAGED
from tests.support.scenes import write_toy_model
from ussfc.detector import DetectorSpec, PatchDetector
from ussfc.detector_options import DetectorOptions, detector_spec
from ussfc.engine_selection import (
    ANYWHERE,
    CUDA_ORDER,
    Choice,
    EngineCache,
    anywhere,
    choice_of,
    fastest,
    patches_per_second,
    seconds_per_batch,
)
from ussfc.engines import DEVICES
from ussfc.errors import ModelError
from ussfc.spec import find_model

CPU: tuple[Choice, ...] = (("torch", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"))
BASE = DetectorSpec(
    weights_uri="w.safetensors",
    weights_sha256="0" * 64,
    bands=3,
    ratio=0.5,
    patch_size=64,
    ssfc_window=None,
    engine="torch",
    precision="float32",
    device="cpu",
    batch_size=1,
    streams=7,
    engine_version="1.0",
)


@dataclass
class Machine:
    """Engines with given speeds, or that cannot be built; it records which were built and timed."""

    seconds: dict[Choice, float]
    broken: dict[Choice, str] = field(default_factory=dict)
    built: list[tuple[Choice, int | None]] = field(default_factory=list)
    timed: list[Choice] = field(default_factory=list)
    base: DetectorSpec = BASE
    processor: str = "a processor"
    release: str = "1.0"

    def spec(self, engine: str, precision: str) -> DetectorSpec:
        """Return a spec as :func:`ussfc.detector_spec` makes it."""
        return replace(self.base, engine=engine, precision=precision)

    def build(self, spec: DetectorSpec, streams: int | None = None) -> Choice:
        """Return the choice, which stands for its detector."""
        self.built.append((choice_of(spec), streams))
        if choice_of(spec) in self.broken:
            raise ModelError(self.broken[choice_of(spec)])
        return choice_of(spec)

    def measure(self, detector: object) -> float:
        """Return the seconds of an engine."""
        (choice,) = (each for each in self.seconds if each == detector)
        self.timed.append(choice)
        return self.seconds[choice]

    def choose(self, candidates: Sequence[Choice] = CPU) -> Choice:
        """Choose, after forgetting what was built and timed before."""
        self.built.clear()
        self.timed.clear()
        cache = EngineCache(processor=[self.processor], release=self.release)
        specs = [self.spec(*candidate) for candidate in candidates]
        found = fastest(specs, measure=self.measure, cache=cache)
        assert found in specs
        return choice_of(found)


Boot = Callable[[dict[Choice, float]], Machine]


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    """Make this process a machine with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def machine(seconds: dict[Choice, float]) -> Machine:
        made = Machine(seconds)
        monkeypatch.setattr(DetectorSpec, "build", lambda spec, streams=None: made.build(spec, streams))
        return made

    return machine


FAST = {("torch", "float32"): 0.3, ("openvino", "float32"): 0.1, ("openvino", "bfloat16"): 0.2}


def cache_file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "ussfc" / "engines.json"


@pytest.mark.parametrize("winner", CPU)
def test_fastest_wins_in_any_order(boot: Boot, winner: Choice) -> None:
    machine = boot({each: 0.1 if each == winner else 0.2 for each in CPU})
    assert machine.choose() == winner
    assert sorted(machine.timed) == sorted(CPU)
    # One stream: more would measure how much of the machine other programs leave.
    assert {streams for _, streams in machine.built} == {1}


def test_choice_is_measured_once(boot: Boot, tmp_path: Path) -> None:
    assert boot(FAST).choose() == ("openvino", "float32")
    # Another process, in which the other engine would win.
    other = boot(FAST | {("torch", "float32"): 0.01})
    assert other.choose() == ("openvino", "float32")
    assert other.choose(CPU[::-1]) == ("openvino", "float32")
    assert (other.built, other.timed) == ([], [])
    assert list(json.loads(cache_file(tmp_path).read_text()).values()) == [["openvino", "float32"]]
    assert os.listdir(cache_file(tmp_path).parent) == ["engines.json"]


@pytest.mark.parametrize(
    "other",
    [
        {"patch_size": 128},
        {"bands": 4},
        {"ratio": 0.25},
        {"ssfc_window": 32},
        {"batch_size": 2},
        {"engine_version": "1.1"},
    ],
    ids=str,
)
def test_other_network_or_version_is_measured(boot: Boot, other: dict[str, object], tmp_path: Path) -> None:
    boot(FAST).choose()
    machine = boot(FAST | {("torch", "float32"): 0.01})
    machine.base = replace(BASE, **other)  # type: ignore[arg-type]
    assert machine.choose() == ("torch", "float32")
    assert len(machine.timed) == 3
    machine.base = BASE
    assert machine.choose() == ("openvino", "float32")
    assert machine.timed == []
    assert len(json.loads(cache_file(tmp_path).read_text())) == 2


@pytest.mark.parametrize(
    "other", [{"weights_uri": "/elsewhere/w.pth"}, {"weights_sha256": "1" * 64}, {"streams": 2}], ids=str
)
def test_other_weights_and_streams_are_as_fast(boot: Boot, other: dict[str, object]) -> None:
    boot(FAST).choose()
    machine = boot(FAST | {("torch", "float32"): 0.01})
    machine.base = replace(BASE, **other)  # type: ignore[arg-type]
    assert machine.choose() == ("openvino", "float32")
    assert machine.timed == []


@pytest.mark.parametrize("other", [{"processor": "another"}, {"release": "99.0"}], ids=str)
def test_other_processor_or_release_is_measured(boot: Boot, other: dict[str, str]) -> None:
    boot(FAST).choose()
    machine = boot(FAST | {("torch", "float32"): 0.01})
    for name, value in other.items():
        setattr(machine, name, value)
    assert machine.choose() == ("torch", "float32")


def test_fewer_candidates_are_another_choice(boot: Boot) -> None:
    machine = boot(FAST)
    assert machine.choose() == ("openvino", "float32")
    rest = tuple(each for each in CPU if each != ("openvino", "float32"))
    assert machine.choose(rest) == ("openvino", "bfloat16")
    assert sorted(machine.timed) == sorted(rest)


def test_broken_candidates_are_passed(boot: Boot) -> None:
    machine = boot(FAST)
    machine.broken[("openvino", "float32")] = "no such instructions"
    assert machine.choose() == ("openvino", "bfloat16")
    assert ("openvino", "float32") not in machine.timed


def test_error_of_the_last_if_none_can_be_built(boot: Boot, tmp_path: Path) -> None:
    machine = boot({})
    machine.broken = {each: f"{each[0]} has no {each[1]}" for each in CPU}
    with pytest.raises(ModelError, match=r"^(torch|openvino) has no \w+$"):
        machine.choose()
    assert not cache_file(tmp_path).exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"torn": ["op',
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"null",
        b"NAME-IS: 7",
        b'{"NAME": ["onnx", "int8"]}',
        b'{"NAME": ["torch"]}',
        b'{"NAME": [["torch"], "float32"]}',
        b'{"NAME": "torch float32"}',
        b'{"NAME": {"0": "torch"}}',
        b'{"NAME": null}',
    ],
)
def test_torn_or_foreign_caches_are_mended(boot: Boot, content: bytes, tmp_path: Path) -> None:
    boot(FAST).choose()
    (name,) = json.loads(cache_file(tmp_path).read_text())
    cache_file(tmp_path).write_bytes(content.replace(b"NAME", name.encode()))
    machine = boot(FAST | {("torch", "float32"): 0.01})
    assert machine.choose() == ("torch", "float32")
    assert len(machine.timed) == 3
    assert json.loads(cache_file(tmp_path).read_text())[name] == ["torch", "float32"]
    machine.choose()
    assert machine.timed == []


@pytest.mark.parametrize("obstacle", ["file for a folder", "folder for a file", "no home", "no space"])
def test_unwritable_caches_do_no_harm(
    boot: Boot, obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = boot(FAST)
    if obstacle == "file for a folder":
        (tmp_path / "cache").write_text("")
    elif obstacle == "folder for a file":
        cache_file(tmp_path).mkdir(parents=True)
    elif obstacle == "no home":
        # As in a container whose user is in no list of users.
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    else:

        def full(path: Path, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("ussfc.engine_selection.replace_file", full)
    for _ in range(2):
        assert machine.choose() == ("openvino", "float32")
        assert len(machine.timed) == 3
    if obstacle == "file for a folder":
        assert (tmp_path / "cache").read_text() == ""


def test_cache_is_in_the_home_by_default(boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = boot(FAST)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    machine.choose()
    assert (tmp_path / ".cache" / "ussfc" / "engines.json").is_file()


def test_other_choices_stay_in_the_cache(boot: Boot, tmp_path: Path) -> None:
    cache_file(tmp_path).parent.mkdir(parents=True)
    cache_file(tmp_path).write_text(json.dumps({"other": ["torch", "float32"]}))
    boot(FAST).choose()
    found = json.loads(cache_file(tmp_path).read_text())
    assert found.pop("other") == ["torch", "float32"]
    assert list(found.values()) == [["openvino", "float32"]]


def test_this_machine_and_release_by_default(boot: Boot, tmp_path: Path) -> None:
    machine = boot(FAST)
    specs = [machine.spec(*candidate) for candidate in CPU]
    assert choice_of(fastest(specs, measure=machine.measure)) == ("openvino", "float32")
    assert EngineCache().get(specs) == ("openvino", "float32")
    assert EngineCache(cache_file(tmp_path)).get(specs[:2]) is None
    assert EngineCache(processor=["another"]).get(specs) is None
    assert EngineCache(release="0.0").get(specs) is None


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_cuda_takes_the_first_that_can_be_built(boot: Boot, broken: int) -> None:
    machine = boot({})
    machine.base = replace(BASE, device="cuda", batch_size=16, streams=None)
    machine.broken = dict.fromkeys(CUDA_ORDER[:broken], "no C compiler")
    assert machine.choose(tuple(sorted(CUDA_ORDER))) == CUDA_ORDER[broken]
    # None is timed, and none beyond the first is built.
    assert machine.timed == []
    assert [choice for choice, _ in machine.built] == list(CUDA_ORDER[: broken + 1])
    # The obstacle may be gone: the missing compiler installed, the device less full.
    machine.broken.clear()
    assert machine.choose(CUDA_ORDER) == CUDA_ORDER[0]
    assert len(machine.built) == (0 if broken == 0 else 1)


def test_best_of_the_calls_after_the_first_counts() -> None:
    class Engine:
        streams = 1
        calls = 0

        def run(self, before: object, after: object) -> object:
            self.calls += 1
            return before

    engine = Engine()
    now = iter([0.0, 0.001, 1.0, 1.5, 2.0, 2.25])
    detector = PatchDetector(engine, 2, 32, 3)  # type: ignore[arg-type]
    assert seconds_per_batch(detector, clock=lambda: next(now)) == 0.25
    assert engine.calls == 3


def test_speed_is_of_calls_side_by_side(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        streams = 2

        def run(self, before: object, after: object) -> object:
            return before

    built: list[int | None] = []

    def build(spec: DetectorSpec, streams: int | None = None) -> PatchDetector:
        built.append(streams)
        return PatchDetector(Engine(), 2, 32, 3)  # type: ignore[arg-type]

    monkeypatch.setattr(DetectorSpec, "build", build)
    now = iter([0.0, 5.0, 5.0, 5.5, 6.0, 6.25])
    assert patches_per_second(BASE, 2, clock=lambda: next(now)) == 2 * 3 / 0.25
    assert built == [2]


def test_orders_name_engines_that_there_are() -> None:
    for device, order in {**ANYWHERE, "cuda": (*ANYWHERE["cuda"], *CUDA_ORDER)}.items():
        for choice in order:
            assert device in DEVICES[choice]


@pytest.mark.parametrize(
    ("device", "candidates", "chosen"),
    [
        ("cpu", CPU, ("openvino", "float32")),
        ("cpu", (("torch", "float32"), ("openvino", "bfloat16")), ("torch", "float32")),
        ("cpu", (("openvino", "float16"), ("openvino", "bfloat16")), ("openvino", "bfloat16")),
        ("cuda", CUDA_ORDER, ("torch", "float16")),
        ("cuda", (("triton", "float16"),), ("triton", "float16")),
    ],
)
def test_anywhere_takes_what_any_machine_has(
    device: str, candidates: tuple[Choice, ...], chosen: Choice
) -> None:
    specs = [replace(BASE, engine=name, precision=numbers, device=device) for name, numbers in candidates]
    for order in (specs, specs[::-1]):
        assert choice_of(anywhere(order)) == chosen


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize(
    "options", [{}, {"ssfc": "local"}, {"patch_size": 64}, {"patch_size": 64, "ssfc": "local"}]
)
def test_suite_does_not_measure(
    tmp_path: Path, bands: int, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice that conftest.py keeps is found for the toys and the packaged models."""
    monkeypatch.setattr(DetectorSpec, "build", lambda *args, **kwargs: pytest.fail("measured"))
    cards = [write_toy_model(tmp_path, bands)]
    if not options:
        cards.append(MODELS / f"{PACKAGED[bands - 3]}.yaml")
    for card in cards:
        model = find_model(str(card))
        found = detector_spec(model, DetectorOptions(device="cpu", **options))  # type: ignore[arg-type]
        assert choice_of(found) == ("openvino", "float32")
