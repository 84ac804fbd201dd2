"""Runs in Python: projections, choices and records."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rioxarray
import yaml

import ussfc
from tests.support.paths import DEMO, MODELS
from tests.support.scenes import write_scene, write_toy_model
from tests.support.stubs import StubRecipe
from ussfc import detector_choices
from ussfc import engine_selection as choice
from ussfc.detector import DetectorSpec
from ussfc.errors import ModelError
from ussfc.pipeline import detect_changes
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError, StoreError
from ussfc.pipeline.events import Advanced, Event, Notice, StageStarted
from ussfc.pipeline.runs.detector import resolve_detector
from ussfc.pipeline.runs.infer import Computation, infer
from ussfc.pipeline.runs.plan import plan
from ussfc.pipeline.runs.products import mosaic, recorded_config, write_manifest
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.runs.status import status
from ussfc.pipeline.runs.validate import validate
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.probability_store import ProbabilityStore
from ussfc.pipeline.storage.run_name import STARTING

PAIR = str(DEMO / "beirut_before.tif"), str(DEMO / "beirut_after.tif")


@pytest.mark.parametrize(
    ("sets", "executor"),
    [
        (["tiling.tile_size=2048"], "serial"),
        (["cluster.kind=local"], "local"),
        (["cluster.kind=scheduler", "cluster.address=tcp://127.0.0.1:1"], "scheduler"),
    ],
)
def test_executor_follows_plan_and_machine(sets: list[str], executor: str) -> None:
    assert plan(*PAIR, load_config(sets=sets)).executor == executor


def test_scheduler_needs_its_address() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.address is not set"):
        load_config(sets=["cluster.kind=scheduler"])


def test_unusual_resolution_is_noticed() -> None:
    notices = plan(*PAIR, load_config(sets=["grid.resolution=0.001"])).pair.notices
    assert any("was trained at 10 m" in notice for notice in notices)


def test_nothing_to_mosaic(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no run"):
        mosaic(tmp_path, load_config())


def test_an_engine_that_is_not_to_be_had_is_refused_before_a_pixel_is_read(tmp_path: Path) -> None:
    events: list[Event] = []
    config = load_config(sets=["inference.engine=triton", "inference.device=cpu", "cluster.kind=serial"])
    with pytest.raises(ModelError, match=r"engine triton.*not available on device cpu"):
        run(*PAIR, tmp_path / "out", config, subscriber=events.append)
    assert not any(isinstance(event, StageStarted) for event in events)


def test_detector_is_recorded(tmp_path: Path) -> None:
    detector = StubRecipe(patch_size=ussfc.find_model("ussfc-s2-rgb").tiling.patch_size, bands=3)
    config = load_config(sets=["threshold=0.4", "cluster.kind=serial"])
    manifest = run(*PAIR, tmp_path / "out", config, computation=Computation(detector))
    assert manifest.detector == detector.identity
    assert manifest.thresholds == {"mosaic": 0.4, "vectorise": 0.4}
    assert recorded_config(tmp_path / "out")["threshold"] == 0.4
    assert manifest.dump() == Folder.of(tmp_path / "out").read_json("run.json")
    checks = validate(tmp_path / "out")
    assert [check.name for check in checks if not check.ok] == []
    assert len(checks) >= 12


def test_percentiles_are_of_the_whole_scene(tmp_path: Path) -> None:
    packaged = MODELS / "ussfc-s2-rgb.yaml"
    card = yaml.safe_load(packaged.read_text("utf-8"))
    card |= {"name": "by-percentiles", "radiometry": {"kind": "percentiles", "low": 2, "high": 90}}
    card["weights"]["uri"] = str(packaged.with_name(card["weights"]["uri"]))
    (tmp_path / "by-percentiles.yaml").write_text(yaml.safe_dump(card), "utf-8")
    config = load_config(sets=[f"model={tmp_path / 'by-percentiles.yaml'}", "registration=off"])
    manifest = run(
        *PAIR,
        tmp_path / "out",
        config,
        computation=Computation(StubRecipe(patch_size=card["tiling"]["patch_size"], bands=3)),
    )
    with rasterio.open(PAIR[1]) as source:
        low, high = np.percentile(source.read().reshape(3, -1), (2, 90), axis=1)
    assert manifest.radiometry.after.dump() == {"low": low.tolist(), "high": high.tolist()}


def test_bytes_for_reflectances_are_noticed(tmp_path: Path) -> None:
    with rasterio.open(PAIR[0]) as source:
        profile = source.profile | {"dtype": "uint8"}
        values = (source.read() // 16).clip(0, 255).astype(np.uint8)
    with rasterio.open(tmp_path / "bytes.tif", "w", **profile) as target:
        target.write(values)
    notices = plan(PAIR[0], str(tmp_path / "bytes.tif"), load_config()).pair.notices
    assert [notice for notice in notices if "bytes.tif: holds uint8" in notice]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years")
    detector = StubRecipe(patch_size=ussfc.find_model("ussfc-s2-rgb").tiling.patch_size, bands=3)
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="no run of ussfc is in this folder"):
            run(*PAIR, tmp_path, load_config(), overwrite, computation=Computation(detector))
    assert (tmp_path / "work" / "thesis.txt").read_text() == "years"


def test_relative_path_is_the_same_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = StubRecipe(patch_size=ussfc.find_model("ussfc-s2-rgb").tiling.patch_size, bands=3)
    run(*PAIR, tmp_path / "out", load_config(), computation=Computation(detector))
    monkeypatch.chdir(DEMO)
    events: list[object] = []
    run(
        "beirut_before.tif",
        "beirut_after.tif",
        tmp_path / "out",
        load_config(),
        False,
        events.append,
        Computation(detector),
    )
    assert Notice("everything is done already", warning=False) in events


def test_finished_run_without_work_is_not_replaced(tmp_path: Path) -> None:
    detector = StubRecipe(patch_size=ussfc.find_model("ussfc-s2-rgb").tiling.patch_size, bands=3)
    config = load_config(sets=["output.keep_work=false"])
    run(*PAIR, tmp_path / "out", config, computation=Computation(detector))
    change = (tmp_path / "out" / "change.tif").read_bytes()
    with pytest.raises(StoreError, match="finished run whose work was removed"):
        run(*PAIR, tmp_path / "out", load_config(sets=["threshold=0.1"]), computation=Computation(detector))
    assert (tmp_path / "out" / "change.tif").read_bytes() == change
    run(*PAIR, tmp_path / "out", config, overwrite=True, computation=Computation(detector))


def test_validation_needs_every_product(tmp_path: Path) -> None:
    detector = StubRecipe(patch_size=ussfc.find_model("ussfc-s2-rgb").tiling.patch_size, bands=3)
    config = load_config()
    infer(plan(*PAIR, config), tmp_path, computation=Computation(detector))
    mosaic(tmp_path, config)
    write_manifest(tmp_path)
    with pytest.raises(StoreError, match="not all products are written"):
        validate(tmp_path)


def test_tiling_of_the_model_may_be_overridden(tmp_path: Path) -> None:
    cutting = {"patch_size": 64, "overlap": 0.5, "taper": "box", "ssfc": "local"}
    model = write_toy_model(tmp_path, tiling=cutting)
    write_scene(tmp_path, "east", (100, 300))
    pair = str(tmp_path / "east_before.tif"), str(tmp_path / "east_after.tif")
    best = "inference.quality=best"
    config = load_config(sets=[best], flags={"model": str(model)})
    tiles = plan(*pair, config).tiles
    assert (tiles.patch_size, tiles.stride) == (64, 32)
    manifest = run(*pair, tmp_path / "out", config)
    assert "patch=64 ssfc=32 " in manifest.detector
    assert manifest.detector.endswith(" turns=4")
    assert manifest.config["tiling"] | {"tile_size": 0} == {
        "tile_size": 0, "patch_size": 64, "overlap": 0.5, "taper": "box",
    }  # fmt: skip
    # The same by configuration, with a card that leaves it open.
    (tmp_path / "plain").mkdir()
    plain = write_toy_model(tmp_path / "plain")
    sets = [f"tiling.{key}={cutting[key]}" for key in ("patch_size", "overlap", "taper")]
    other = load_config(sets=[*sets, best, "inference.ssfc=local"], flags={"model": str(plain)})
    run(*pair, tmp_path / "other", other)
    assert (tmp_path / "other" / "change.tif").read_bytes() == (tmp_path / "out" / "change.tif").read_bytes()
    default = run(*pair, tmp_path / "default", load_config(flags={"model": str(plain)}))
    assert "patch=32 ssfc=patch " in default.detector
    assert "turns" not in default.detector

    arrays = [rioxarray.open_rasterio(path) for path in pair]
    with rasterio.open(tmp_path / "out" / "probability.tif") as source:
        stored = source.read(1) / np.float32(254)
    np.testing.assert_array_equal(detect_changes(*arrays, config=config), stored)


Choose = Callable[[str, str], None]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Choose:
    """Return a function that decides the engine this machine finds fastest; a choice before that fails the test."""

    def as_fastest(engine: str, precision: str) -> None:
        def fastest(recipes: Sequence[DetectorSpec]) -> DetectorSpec:
            return next(each for each in recipes if (each.engine, each.precision) == (engine, precision))

        monkeypatch.setattr(choice, "fastest", fastest)

    monkeypatch.setattr(choice, "fastest", lambda *args: pytest.fail("this machine was asked"))
    return as_fastest


@pytest.fixture
def toy_pair(tmp_path: Path) -> tuple[str, str, Path]:
    """Write a pair of 9 tiles, and a model for it."""
    write_scene(tmp_path, "east", (100, 300), side=192)
    return str(tmp_path / "east_before.tif"), str(tmp_path / "east_after.tif"), write_toy_model(tmp_path)


def toy_config(model: Path, *sets: str) -> RunConfig:
    plain = ("tiling.tile_size=64", "cluster.kind=serial", "inference.device=cpu")
    return load_config(sets=[*plain, *sets], flags={"model": str(model)})


def interrupted(count: int) -> Callable[[Event], None]:
    """Return a subscriber with which a run ends after ``count`` tiles."""
    tiles: list[Event] = []

    def subscriber(event: Event) -> None:
        if isinstance(event, Advanced) and event.done:
            tiles.append(event)
            if len(tiles) == count:
                raise KeyboardInterrupt

    return subscriber


PRODUCTS = ("probability.tif", "change.tif", "changes.parquet")


def products(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in PRODUCTS]


def done(out: Path) -> int:
    return len(ProbabilityStore(Folder.of(out) / "work").done())


def test_resumed_run_keeps_its_engine(
    toy_pair: tuple[str, str, Path], tmp_path: Path, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, model = toy_pair
    config = toy_config(model)
    choose("torch", "float32")
    with pytest.raises(KeyboardInterrupt):
        run(before, after, tmp_path / "out", config, subscriber=interrupted(3))
    assert 3 <= done(tmp_path / "out") < 9
    # Another machine, or the same one after its choice was forgotten.
    monkeypatch.setattr(choice, "fastest", lambda *args: pytest.fail("this machine was asked"))
    events: list[object] = []
    manifest = run(before, after, tmp_path / "out", config, subscriber=events.append)
    assert any(isinstance(event, Notice) and event.message.startswith("resuming: ") for event in events)
    assert detector_choices(manifest.detector) == {
        "engine": "torch", "precision": "float32", "device": "cpu",
    }  # fmt: skip
    key = json.loads((tmp_path / "out" / "work" / "run_key.json").read_text("utf-8"))
    assert key["model"] == manifest.detector
    # The same bytes as of a run that names the engine and is not disturbed.
    named = toy_config(model, "inference.engine=torch", "inference.precision=float32")
    assert run(before, after, tmp_path / "named", named).detector == manifest.detector
    assert products(tmp_path / "out") == products(tmp_path / "named")


@pytest.mark.parametrize("finished", [False, True])
def test_overwrite_chooses_the_engine_again(
    toy_pair: tuple[str, str, Path], tmp_path: Path, choose: Choose, finished: bool
) -> None:
    before, after, model = toy_pair
    config = toy_config(model)
    choose("torch", "float32")
    if finished:
        run(before, after, tmp_path / "out", config)
    else:
        with pytest.raises(KeyboardInterrupt):
            run(before, after, tmp_path / "out", config, subscriber=interrupted(2))
    choose("openvino", "float32")
    manifest = run(before, after, tmp_path / "out", config, overwrite=True)
    assert detector_choices(manifest.detector)["engine"] == "openvino"


def test_finished_run_keeps_its_engine(
    toy_pair: tuple[str, str, Path], tmp_path: Path, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, model = toy_pair
    choose("torch", "float32")
    manifest = run(before, after, tmp_path / "out", toy_config(model))
    assert "engine=torch precision=float32 device=cpu" in manifest.detector
    monkeypatch.setattr(choice, "fastest", lambda *args: pytest.fail("this machine was asked"))
    events: list[object] = []
    same = run(before, after, tmp_path / "out", toy_config(model), subscriber=events.append)
    assert Notice("everything is done already", warning=False) in events
    assert same == manifest
    # Also when the products were removed, and must be made of what is stored.
    (tmp_path / "out" / "change.tif").unlink()
    assert run(before, after, tmp_path / "out", toy_config(model)).detector == manifest.detector
    assert (tmp_path / "out" / "change.tif").is_file()
    # The same choice, named.
    events.clear()
    named = toy_config(model, "inference.engine=torch")
    run(before, after, tmp_path / "out", named, subscriber=events.append)
    assert Notice("everything is done already", warning=False) in events


def test_run_without_its_key_chooses_again(
    toy_pair: tuple[str, str, Path], tmp_path: Path, choose: Choose
) -> None:
    before, after, model = toy_pair
    (tmp_path / "out" / "work").mkdir(parents=True)
    (tmp_path / "out" / "work" / "run_key.json").write_text(json.dumps(STARTING))
    # Its workers may be in a queue.
    assert status(tmp_path / "out").state == "waiting"
    choose("torch", "float32")
    manifest = run(before, after, tmp_path / "out", toy_config(model))
    assert detector_choices(manifest.detector)["engine"] == "torch"


@pytest.mark.parametrize(
    ("begun", "sets"),
    [
        # Begun with an engine, precision or device that does not go with what is now asked for by name.
        ("engine=openvino precision=bfloat16 device=cpu", ["inference.engine=torch"]),
        ("engine=triton precision=float16 device=cuda", []),
        ("engine=torch precision=float16 device=cuda", ["inference.engine=torch"]),
        ("engine=torch precision=float32 device=cpu", ["inference.precision=bfloat16"]),
        ("stub-16", []),
        (None, []),
    ],
)
def test_begun_engine_counts_where_it_agrees(
    toy_pair: tuple[str, str, Path], choose: Choose, begun: str | None, sets: list[str]
) -> None:
    """Choose freshly otherwise: it is another run, which is refused for what differs."""
    before, after, model = toy_pair
    config = toy_config(model, *sets)
    choose("openvino", "float32")
    planned = plan(before, after, config)
    found = resolve_detector(planned, None, begun)
    fresh = resolve_detector(planned, None)
    assert found == fresh


@pytest.mark.parametrize(
    ("workers", "chosen"),
    [
        ([("torch", "float32")], ("torch", "float32")),
        ([("openvino", "bfloat16")] * 3, ("openvino", "bfloat16")),
        # One that can build none of them ends the run, or is left out, when it is to begin.
        ([("torch", "float32"), None], ("torch", "float32")),
        # They disagree, left meanwhile, or can do nothing: what any machine has.
        ([("torch", "float32"), ("openvino", "bfloat16")], ("openvino", "float32")),
        ([], ("openvino", "float32")),
        ([None], ("openvino", "float32")),
        # No worker can be asked.
        (None, ("openvino", "float32")),
    ],
)
def test_remote_workers_choose_the_engine(
    toy_pair: tuple[str, str, Path],
    choose: Choose,
    workers: list[tuple[str, str] | None] | None,
    chosen: tuple[str, str],
) -> None:
    """Choose among workers; ``choose`` fails where this machine is asked."""
    before, after, model = toy_pair
    config = toy_config(model, "cluster.kind=scheduler", "cluster.address=tcp://10.0.0.5:8786")
    planned = plan(before, after, config)

    def ask(function: Callable[..., Any], recipes: Sequence[DetectorSpec]) -> list[Any]:
        answers = []
        for worker in workers or []:
            if worker is None:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(choice, "fastest", broken)
                    answers.append(function(recipes))
            else:
                choose(*worker)
                answers.append(function(recipes))
        return answers

    def broken(recipes: Sequence[DetectorSpec]) -> DetectorSpec:
        raise ModelError("no such device")

    found = resolve_detector(planned, None, None, ask if workers is not None else None)
    assert detector_choices(found.identity) == {"engine": chosen[0], "precision": chosen[1], "device": "cpu"}
    # No worker is asked about an engine that the run began with, or that is named.
    asked: Any = lambda *args: pytest.fail("workers were asked")  # noqa: E731
    assert resolve_detector(planned, None, found.identity, asked) == found
    named = toy_config(
        model, "cluster.kind=scheduler", "cluster.address=tcp://10.0.0.5:8786",
        *(f"inference.{what}={value}" for what, value in zip(("engine", "precision"), chosen, strict=True)),
    )  # fmt: skip
    assert resolve_detector(plan(before, after, named), None, None, asked) == found


@pytest.mark.parametrize(
    ("sets", "workers", "chosen"),
    [
        (["cluster.jobs=2"], 2, "torch"),
        (["cluster.jobs=2", "cluster.workers=2"], 4, "torch"),
        # Some are still in the queue, and may be of another kind.
        (["cluster.jobs=2", "cluster.workers=2"], 3, "openvino"),
        (["cluster.minimum_jobs=1", "cluster.maximum_jobs=4"], None, "openvino"),
    ],
)
def test_some_workers_cannot_choose_for_all(
    toy_pair: tuple[str, str, Path], sets: list[str], workers: int | None, chosen: str
) -> None:
    before, after, model = toy_pair
    slurm = ("cluster.kind=slurm", "cluster.memory=8GiB", "cluster.walltime=1:00:00")
    config = toy_config(model, *slurm, *sets)
    planned = plan(before, after, config)

    def ask(function: Callable[..., Any], recipes: Sequence[DetectorSpec]) -> list[Any]:
        assert workers is not None, "they come and go"
        return [[recipe.engine for recipe in recipes].index("torch")] * workers

    found = resolve_detector(planned, None, None, ask)
    assert detector_choices(found.identity)["engine"] == chosen


def test_other_engine_is_another_run(toy_pair: tuple[str, str, Path], tmp_path: Path, choose: Choose) -> None:
    before, after, model = toy_pair
    choose("openvino", "float32")
    run(before, after, tmp_path / "out", toy_config(model))
    with pytest.raises(StoreError, match=r"holds another run, which differs in model; .* overwrite it"):
        run(before, after, tmp_path / "out", toy_config(model, "inference.engine=torch"))
