"""What a machine computes fastest with: measured once, remembered for what it was measured for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.networks import MODELS, PACKAGED
from tests.support.scenes import write_toy_model
from ussfc import engine_selection as choice
from ussfc.detector import DetectorSpec, PatchDetector, detector_spec
from ussfc.engine_selection import CUDA_ORDER, Choice, anywhere, fastest
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
    """Engines that take so long, or cannot be built; keeps what was built and timed."""

    seconds: dict[Choice, float]
    broken: dict[Choice, str] = field(default_factory=dict)
    built: list[DetectorSpec] = field(default_factory=list)
    timed: list[Choice] = field(default_factory=list)
    base: DetectorSpec = BASE

    def recipe(self, engine: str, precision: str) -> DetectorSpec:
        """What :func:`ussfc.detector.detector_spec` makes."""
        return replace(self.base, engine=engine, precision=precision)

    def build(self, recipe: DetectorSpec) -> object:
        """What stands for a detector: its choice."""
        self.built.append(recipe)
        if (recipe.engine, recipe.precision) in self.broken:
            raise ModelError(self.broken[recipe.engine, recipe.precision])
        return recipe.engine, recipe.precision

    def time(self, detector: Choice) -> float:
        """Its seconds."""
        self.timed.append(detector)
        return self.seconds[detector]

    def choose(self, candidates: Sequence[Choice] = CPU) -> Choice:
        """The choice, afresh: forgets what was built and timed before."""
        self.built.clear()
        self.timed.clear()
        found = fastest([self.recipe(*candidate) for candidate in candidates])
        assert found == self.recipe(found.engine, found.precision), "a recipe of another making"
        return found.engine, found.precision


Boot = Callable[[dict[Choice, float]], Machine]


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boot:
    """Makes this process a machine with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "_processor", lambda: ["a processor"])

    def machine(seconds: dict[Choice, float]) -> Machine:
        made = Machine(seconds)
        monkeypatch.setattr(DetectorSpec, "build", lambda recipe: made.build(recipe))
        monkeypatch.setattr(choice, "_seconds", made.time)
        return made

    return machine


FAST = {("torch", "float32"): 0.3, ("openvino", "float32"): 0.1, ("openvino", "bfloat16"): 0.2}


def memory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "ussfc" / "engines.json"


@pytest.mark.parametrize("winner", CPU)
def test_the_fastest_is_taken_whatever_the_order(boot: Boot, winner: Choice) -> None:
    machine = boot({each: 0.1 if each == winner else 0.2 for each in CPU})
    assert machine.choose() == winner
    assert sorted(machine.timed) == sorted(CPU)
    # One stream: the whole machine would be measured else, and what other programs leave of it.
    assert {recipe.streams for recipe in machine.built} == {1}


def test_it_is_measured_once(boot: Boot, tmp_path: Path) -> None:
    assert boot(FAST).choose() == ("openvino", "float32")
    # Another process, in which the other engine would win.
    other = boot(FAST | {("torch", "float32"): 0.01})
    assert other.choose() == ("openvino", "float32")
    assert other.choose(CPU[::-1]) == ("openvino", "float32")
    assert (other.built, other.timed) == ([], [])
    assert list(json.loads(memory(tmp_path).read_text()).values()) == [["openvino", "float32"]]
    assert os.listdir(memory(tmp_path).parent) == ["engines.json"]


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
def test_another_network_patch_or_version_is_measured_for_itself(
    boot: Boot, other: dict[str, object], tmp_path: Path
) -> None:
    boot(FAST).choose()
    machine = boot(FAST | {("torch", "float32"): 0.01})
    machine.base = replace(BASE, **other)  # type: ignore[arg-type]
    assert machine.choose() == ("torch", "float32")
    assert len(machine.timed) == 3
    machine.base = BASE
    assert machine.choose() == ("openvino", "float32")
    assert machine.timed == []
    assert len(json.loads(memory(tmp_path).read_text())) == 2


@pytest.mark.parametrize(
    "other", [{"weights_uri": "/elsewhere/w.pth"}, {"weights_sha256": "1" * 64}, {"streams": 2}], ids=str
)
def test_other_weights_and_streams_are_as_fast(boot: Boot, other: dict[str, object]) -> None:
    boot(FAST).choose()
    machine = boot(FAST | {("torch", "float32"): 0.01})
    machine.base = replace(BASE, **other)  # type: ignore[arg-type]
    assert machine.choose() == ("openvino", "float32")
    assert machine.timed == []


@pytest.mark.parametrize("what", ["processor", "ussfc"])
def test_another_processor_or_release_measures_for_itself(
    boot: Boot, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot(FAST).choose()
    machine = boot(FAST | {("torch", "float32"): 0.01})
    if what == "processor":
        monkeypatch.setattr(choice, "_processor", lambda: ["another"])
    else:
        monkeypatch.setattr(choice, "version", lambda name: "99.0")
    assert machine.choose() == ("torch", "float32")


def test_fewer_candidates_are_another_question(boot: Boot) -> None:
    machine = boot(FAST)
    assert machine.choose() == ("openvino", "float32")
    rest = tuple(each for each in CPU if each != ("openvino", "float32"))
    assert machine.choose(rest) == ("openvino", "bfloat16")
    assert sorted(machine.timed) == sorted(rest)


def test_what_cannot_be_built_is_passed_over(boot: Boot) -> None:
    machine = boot(FAST)
    machine.broken[("openvino", "float32")] = "no such instructions"
    assert machine.choose() == ("openvino", "bfloat16")
    assert ("openvino", "float32") not in machine.timed


def test_none_that_can_be_built_tells_why(boot: Boot, tmp_path: Path) -> None:
    machine = boot({})
    machine.broken = {each: f"{each[0]} has no {each[1]}" for each in CPU}
    with pytest.raises(ModelError, match=r"^(torch|openvino) has no \w+$"):
        machine.choose()
    assert not memory(tmp_path).exists()


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
def test_a_torn_or_foreign_memory_is_measured_anew_and_mended(
    boot: Boot, content: bytes, tmp_path: Path
) -> None:
    boot(FAST).choose()
    (name,) = json.loads(memory(tmp_path).read_text())
    memory(tmp_path).write_bytes(content.replace(b"NAME", name.encode()))
    machine = boot(FAST | {("torch", "float32"): 0.01})
    assert machine.choose() == ("torch", "float32")
    assert len(machine.timed) == 3
    assert json.loads(memory(tmp_path).read_text())[name] == ["torch", "float32"]
    machine.choose()
    assert machine.timed == []


@pytest.mark.parametrize("obstacle", ["file for a folder", "folder for a file", "no home", "no space"])
def test_a_cache_that_cannot_be_written_does_no_harm(
    boot: Boot, obstacle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = boot(FAST)
    if obstacle == "file for a folder":
        (tmp_path / "cache").write_text("")
    elif obstacle == "folder for a file":
        memory(tmp_path).mkdir(parents=True)
    elif obstacle == "no home":
        # As in a container whose user stands in no list of users.
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    else:

        def full(path: Path, text: str) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
    for _ in range(2):
        assert machine.choose() == ("openvino", "float32")
        assert len(machine.timed) == 3
    if obstacle == "file for a folder":
        assert (tmp_path / "cache").read_text() == ""


def test_the_home_is_asked_where_no_cache_is_named(
    boot: Boot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = boot(FAST)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    machine.choose()
    assert (tmp_path / ".cache" / "ussfc" / "engines.json").is_file()


def test_what_others_found_out_stays(boot: Boot, tmp_path: Path) -> None:
    memory(tmp_path).parent.mkdir(parents=True)
    memory(tmp_path).write_text(json.dumps({"other": ["torch", "float32"]}))
    boot(FAST).choose()
    found = json.loads(memory(tmp_path).read_text())
    assert found.pop("other") == ["torch", "float32"]
    assert list(found.values()) == [["openvino", "float32"]]


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_on_cuda_the_first_of_the_order_that_can_be_built(boot: Boot, broken: int) -> None:
    machine = boot({})
    machine.base = replace(BASE, device="cuda", batch_size=16, streams=None)
    machine.broken = dict.fromkeys(CUDA_ORDER[:broken], "no C compiler")
    assert machine.choose(tuple(sorted(CUDA_ORDER))) == CUDA_ORDER[broken]
    # Nothing is timed, and nothing beyond the first is built.
    assert machine.timed == []
    assert [(recipe.engine, recipe.precision) for recipe in machine.built] == list(CUDA_ORDER[: broken + 1])
    # What it could not do may be mended: the missing compiler installed, the device less full.
    machine.broken.clear()
    assert machine.choose(CUDA_ORDER) == CUDA_ORDER[0]
    assert len(machine.built) == (0 if broken == 0 else 1)


def test_the_best_of_the_calls_after_the_first_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        streams = 1
        calls = 0

        def run(self, before: object, after: object) -> object:
            self.calls += 1
            return before

    engine = Engine()
    now = iter([0.0, 0.001, 1.0, 1.5, 2.0, 2.25])
    monkeypatch.setattr(choice, "perf_counter", lambda: next(now))
    assert choice._seconds(PatchDetector(engine, 2, 32, 3)) == 0.25  # type: ignore[arg-type]
    assert engine.calls == 3


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
def test_what_any_machine_has(device: str, candidates: tuple[Choice, ...], chosen: Choice) -> None:
    recipes = [replace(BASE, engine=name, precision=numbers, device=device) for name, numbers in candidates]
    for order in (recipes, recipes[::-1]):
        found = anywhere(order)
        assert (found.engine, found.precision) == chosen


@pytest.mark.parametrize("bands", [3, 4])
@pytest.mark.parametrize(
    "options", [{}, {"ssfc": "local"}, {"patch_size": 64}, {"patch_size": 64, "ssfc": "local"}]
)
def test_the_suite_does_not_measure(
    tmp_path: Path, bands: int, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What conftest.py remembers is found for the toys and the packaged models."""
    monkeypatch.setattr(choice, "_seconds", lambda detector: pytest.fail("measured"))
    cards = [write_toy_model(tmp_path, bands)]
    if not options:
        cards.append(MODELS / f"{PACKAGED[bands - 3]}.yaml")
    for card in cards:
        found = detector_spec(find_model(str(card)), device="cpu", **options)  # type: ignore[arg-type]
        assert (found.engine, found.precision) == ("openvino", "float32")
