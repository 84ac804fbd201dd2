"""`ussfc bench`: its numbers follow from each other, its references are what they are said to be."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pytest
import rasterio
import torch
from click.testing import CliRunner, Result
from torch import nn

import ussfc
from tests.support.paths import DEMO, ROOT
from ussfc import bench as house
from ussfc import cli
from ussfc.detector import DetectorSpec, TileDetector, detector_spec
from ussfc.engines import PRECISIONS, FloatArray
from ussfc.layers import CyclicMultiScaleConv
from ussfc.network import USSFCNet
from ussfc.pipeline.benchmark import bench
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ConfigError, PipelineError
from ussfc.weights import save_weights

PATCH, SIZE, SKEW = 64, 256, 0.125


@dataclasses.dataclass(frozen=True)
class Skewed:
    """The plain network's answer moved at one pixel by what is known, in batches of three by two callers."""

    plain: house.PlainNetwork
    batch_size: int = 3
    streams: int = 2

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        assert before.shape == after.shape == (3, 3, PATCH, PATCH)
        answer = self.plain.predict(before, after)
        answer[:, 5, 7] += SKEW
        return answer


@dataclasses.dataclass(frozen=True)
class Abacus:
    """The recipe of an engine that stands for any: one of its precisions is not here."""

    recipe: DetectorSpec
    precision: str

    @property
    def patch_size(self) -> int:
        return self.recipe.patch_size

    def build(self) -> Skewed:
        if self.precision == "beads":
            raise ussfc.ModelError("no beads on this machine")
        return Skewed(house.PlainNetwork(self.recipe))


def with_abacus(*args: Any, **options: Any) -> DetectorSpec | Abacus:
    if options.get("engine") != "abacus":
        return detector_spec(*args, **options)
    precision = options["precision"]
    return Abacus(detector_spec(*args, **options | {"engine": "torch", "precision": "float32"}), precision)


@pytest.fixture(autouse=True, scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Buffers and matrices that take no time, one engine more, and one core.

    Threads that share an operator's work on busy cores wait for each other longer than they work.
    """
    allowed = os.sched_getaffinity(0)
    with pytest.MonkeyPatch.context() as patch:
        os.sched_setaffinity(0, {max(allowed)})
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(bench, "COPY_BYTES", 2**22)
        patch.setitem(house.MATRIX_SIDE, "cpu", 128)
        patch.setitem(PRECISIONS, "abacus", ("float16", "beads"))
        patch.setattr(ussfc, "detector_spec", with_abacus, raising=False)
        yield
        os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the smallest network; as a bare file they are taken for a model of bytes."""
    file = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    torch.manual_seed(0)
    save_weights(USSFCNet(3, 0.125), file, {})
    return file


def ussfc_bench(*args: object) -> Result:
    command = ["bench", "--device", "cpu", *map(str, args)]
    return CliRunner().invoke(cli.main, command, catch_exceptions=False)


@pytest.fixture(scope="module")
def command(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    result = ussfc_bench(
        "--model", model, "--engine", "torch", "--engine", "abacus", "--patch", PATCH, "--size", SIZE,
        "--rounds", 2, "--seconds", 0.05, "--json", file,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return result, json.loads(file.read_text("utf-8"))


def row(record: dict[str, Any], engine: str, precision: str) -> dict[str, Any]:
    (found,) = (r for r in record["network"] if (r["engine"], r["precision"]) == (engine, precision))
    return dict(found)


def sampled(record: Any) -> Iterator[dict[str, Any]]:
    """Every sampled number of a result."""
    if isinstance(record, dict):
        if "samples" in record:
            yield record
        for value in record.values():
            yield from sampled(value)
    elif isinstance(record, list):
        for value in record:
            yield from sampled(value)


def names(record: Any) -> Iterator[str]:
    if isinstance(record, dict):
        for name, value in record.items():
            yield name
            yield from names(value)
    elif isinstance(record, list):
        for value in record:
            yield from names(value)


def test_result_has_what_its_documentation_says(command: tuple[Result, dict[str, Any]]) -> None:
    _, record = command
    said = bench.bench.__doc__
    assert said is not None
    # Of the words between backquotes, these are no fields.
    wanted = set(re.findall(r"``(\w+)``", said.partition("Returns:")[2].partition("Raises:")[0])) - {"1"}
    packages, precisions = set(record["machine"]["versions"]), set(record["roof"]["flop_per_s"])
    assert set(names(record)) - packages - precisions - {"threads", "processes", "name"} == wanted - packages
    assert set(record["end_to_end"]["ussfc"]["executor"]) == {"name", "processes", "threads"}


def test_sampled_numbers_are_of_every_round(command: tuple[Result, dict[str, Any]]) -> None:
    _, record = command
    found = list(sampled(record))
    assert len(found) > 20
    for number in found:
        samples = number["samples"]
        assert len(samples) == 2
        assert number["median"] == median(samples)
        assert (number["least"], number["largest"]) == (min(samples), max(samples))
        assert all(np.isfinite(sample) and sample > 0 for sample in samples)


def test_ratios_follow_from_samples(command: tuple[Result, dict[str, Any]]) -> None:
    _, record = command
    for kind in (("torch", "float32"), ("abacus", "float16")):
        found = row(record, *kind)
        ratios = np.divide(found["mpx_per_s"]["samples"], found["reference_mpx_per_s"]["samples"])
        assert found["ratio"]["samples"] == pytest.approx(ratios)
        assert found["roof_share"] == pytest.approx(
            found["mpx_per_s"]["median"] / record["roof"]["mpx_per_s"][kind[1]]
        )
    way = record["end_to_end"]
    assert way["pixels"] == SIZE**2
    for program in ("ussfc", "monai"):
        assert way[program]["mpx_per_s"]["samples"] == pytest.approx(
            SIZE**2 / 1e6 / np.array(way[program]["seconds"]["samples"])
        )
        assert way[program]["seconds"]["least"] < way[program]["process_seconds"]["least"]
        assert way[program]["peak_memory_bytes"]["least"] > 1e8
    for ratio, field in (("speed_ratio", "seconds"), ("memory_ratio", "peak_memory_bytes")):
        ratios = np.divide(*(way[program][field]["samples"] for program in ("monai", "ussfc")))
        assert way[ratio]["samples"] == pytest.approx(ratios)
    network, seconds = (part["samples"] for part in (record["stages"]["network"], way["ussfc"]["seconds"]))
    assert record["stages"]["share_outside_network"]["samples"] == pytest.approx(
        1 - np.divide(network, seconds) / max(1, way["ussfc"]["executor"]["processes"])
    )


def test_roof_is_the_lower_of_memory_and_arithmetic(command: tuple[Result, dict[str, Any]]) -> None:
    roof = command[1]["roof"]
    for precision, bytes_each in (("float32", 4), ("float16", 2), ("bfloat16", 2)):
        rates = [roof["flop_per_s"][name] for name in ("float32", precision)]
        fastest = max(rate["median"] for rate in rates if rate is not None)
        memory = roof["copy_bytes_per_s"]["median"] / roof["bytes_per_pixel"][precision]
        assert roof["mpx_per_s"][precision] == pytest.approx(
            min(memory, fastest / roof["flop_per_pixel"]) / 1e6
        )
        assert roof["bytes_per_pixel"][precision] == bytes_each * house.pixel_values(USSFCNet(3, 0.125))


def test_deviation_is_the_largest_difference_of_the_answers(
    command: tuple[Result, dict[str, Any]], model: Path
) -> None:
    spec = ussfc.find_model(str(model))
    # Named, because the default engine and precision depend on the processor.
    recipe = detector_spec(spec, patch_size=PATCH, device="cpu", engine="torch", precision="float32")
    before, after = bench.demo_patches(spec, PATCH)
    assert before.shape == after.shape == (bench.MOST_PATCHES, 3, PATCH, PATCH)
    plain = house.PlainNetwork(recipe).predict(before, after)
    detector = recipe.build()
    found = np.concatenate(
        [detector.predict(before[n : n + 1], after[n : n + 1]) for n in range(len(before))]
    )
    record = command[1]
    # The plain network's last bits depend on its threads and its batch.
    assert row(record, "torch", "float32")["largest_deviation"] == pytest.approx(
        np.abs(found - plain).max(), abs=1e-6
    )
    assert row(record, "abacus", "float16")["largest_deviation"] == pytest.approx(SKEW, abs=1e-6)


def test_batch_and_callers_are_the_detectors(command: tuple[Result, dict[str, Any]]) -> None:
    found = row(command[1], "abacus", "float16")
    assert (found["batch"], found["streams"]) == (3, 2)


def test_what_this_machine_lacks_is_said_and_stops_nothing(command: tuple[Result, dict[str, Any]]) -> None:
    result, record = command
    assert row(record, "abacus", "beads") == {
        "engine": "abacus",
        "precision": "beads",
        "patch": PATCH,
        "not_here": "no beads on this machine",
    }
    assert "abacus beads: not here: no beads on this machine" in result.stdout


def test_command_prints_tables(command: tuple[Result, dict[str, Any]]) -> None:
    result, record = command
    assert record["machine"]["processor"] in result.stdout
    found = row(record, "torch", "float32")
    (line,) = (line for line in result.stdout.splitlines() if line.startswith(" torch float32"))
    assert f"{found['mpx_per_s']['median']:.3f}" in line
    assert f"{found['largest_deviation']:.1e}" in line
    for head in ("Mpx/s", "peak memory MB", "copy GB/s", "mosaic s", "MONAI's over ussfc's"):
        assert head in result.stdout
    assert "…" not in result.stdout  # what a table has no room for
    assert "end to end: monai, round 2 of 2" in result.stderr


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (
            ("--engine", "slide-rule", "--engine", "torch"),
            cli.EXIT_USAGE,
            "engine 'slide-rule': not known; known: ",
        ),
        (("--precision", "beads", "--precision", "x"), cli.EXIT_USAGE, "precision 'x': not known; known: "),
        (("--patch", 100), cli.EXIT_USAGE, "tiling.patch_size = 100"),
        (("--patch", 64, "--patch", 100), cli.EXIT_INPUT, "patch_size 100: wanted a positive multiple of 16"),
        (("--model", "no-such"), cli.EXIT_INPUT, "model 'no-such': not known"),
        (("--json", "/proc/bench.json"), cli.EXIT_OUTPUT, "/proc: cannot be written"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    options: tuple[object, ...], status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "_roof", lambda *_: pytest.fail("measuring has begun"))
    result = ussfc_bench(*options)
    assert result.exit_code == status
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def test_filters_that_leave_nothing() -> None:
    with pytest.raises(ConfigError, match="no engine of torch has a precision of beads"):
        bench.bench(load_config(), only_engines=["torch"], only_precisions=["beads"])


def test_feature_values_are_those_of_the_convolutions() -> None:
    """Counted by hooks on shapes, with what the formula takes for fused added by hand."""
    bands, ratio, size = 4, 0.25, 64
    with torch.device("meta"), torch.no_grad():
        network = USSFCNet(bands, ratio).eval()
        moved = 0

        def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            nonlocal moved
            moved += inputs[0].numel() + output.numel()

        mixed = [module for module in network.modules() if isinstance(module, CyclicMultiScaleConv)]
        inside = {part for module in mixed for part in module.children()}
        for module in network.modules():
            if (
                isinstance(module, (CyclicMultiScaleConv, nn.ConvTranspose2d, nn.Conv2d))
                and module not in inside
            ):
                module.register_forward_hook(count)
        image = torch.empty(1, bands, size, size)
        network(image, image)
    per_pixel = moved / size**2
    maps = [64 * ratio / 2**level for level in range(5)]
    # A pooled map is read before its pooling; of a difference both maps are read.
    per_pixel += 2 * sum(3 / 4 * above for above in maps[:-1]) + sum(maps)
    assert house.pixel_values(network) == per_pixel


def test_costs_of_the_papers_network() -> None:
    network = USSFCNet(3, 0.5)
    assert house.pixel_flop(network) == 94_304
    assert house.pixel_bytes(network, "float16") == 2 * house.pixel_values(network) == 2206
    assert house.pixel_bytes(network, "float32") == 4412


def test_speed_counts_the_pixels_of_all_callers() -> None:
    @dataclasses.dataclass
    class Sleeper:
        batch_size: int
        streams: int

        def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
            assert before.shape == (self.batch_size, 1, 16, 16)
            np.testing.assert_array_equal(before, after)
            time.sleep(0.05)
            return before[:, 0]

    patches = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((1, 16, 16), np.float32)
    for batch, streams in ((1, 1), (2, 1), (2, 4)):
        wanted = batch * streams * 256 / 0.05
        found = house.speed(Sleeper(batch, streams), patches, patches, 0.5)
        assert 0.5 * wanted < found <= wanted
    assert [batch[:, 0, 0, 0].tolist() for batch in house.batches(patches, 2)] == [[0, 1], [2, 0]]
    np.testing.assert_array_equal(house.answers(Sleeper(2, 1), patches, patches), patches[:, 0])


class FakeDevice:
    """A device of one queue that takes 0.05 s a tile."""

    streams = 1

    def __init__(self) -> None:
        self.queue = ThreadPoolExecutor(1)
        self.waiting, self.most = 0, 0

    def run(self, before: FloatArray, after: FloatArray) -> FloatArray:
        raise AssertionError("tiles go to the device, not patches")

    def upload(self, before: FloatArray, after: FloatArray, mappings: None, seen: None) -> object:
        assert mappings is seen is None
        assert before.shape == (1, 48, 16)
        assert before[0, ::16, 0].tolist() == [0, 1, 2]
        np.testing.assert_array_equal(before, after)
        return self

    def blend(self, uploaded: object, corners: Any, core: Any, weights: FloatArray, batch: int) -> Any:
        assert uploaded is self
        assert core == (0, 0, 48, 16)
        assert corners == [(16 * (number % 3), 0) for number in range(16)]
        self.waiting += 1
        self.most = max(self.most, self.waiting)

        def compute() -> FloatArray:
            time.sleep(0.05)
            self.waiting -= 1
            return weights

        return self.queue.submit(compute)


def test_speed_of_a_device_is_of_tiles_that_wait_for_it() -> None:
    patches = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((1, 16, 16), np.float32)
    device = FakeDevice()
    with device.queue:
        found = house.speed(TileDetector(device, 1, 16, 2), patches, patches, 0.5)
    wanted = 16 * 256 / 0.05
    assert 0.5 * wanted < found <= wanted
    assert device.most == 2


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_sliding_window_is_the_networks_own_answer_where_one_window_contributes(
    mode: str, model: Path
) -> None:
    pytest.importorskip("monai")
    spec = ussfc.find_model(str(model))
    plain = house.PlainNetwork(detector_spec(spec, patch_size=PATCH, device="cpu"))
    before, after = (np.concatenate(tuple(image[:2]), axis=-1) for image in bench.demo_patches(spec, PATCH))
    slid = plain.slide(before, after, PATCH, 0.0, mode, 4)
    halves = [
        plain.predict(*(image[None, :, :, part] for image in (before, after)))[0]
        for part in (slice(0, PATCH), slice(PATCH, 2 * PATCH))
    ]
    assert slid.shape == (PATCH, 2 * PATCH)
    np.testing.assert_allclose(slid, np.concatenate(halves, axis=1), atol=1e-5)
    swapped = plain.slide(after, before, PATCH, 0.0, mode, 4)
    assert np.abs(slid - swapped).max() > 1e-4


def test_pair_is_the_demo_mirrored(tmp_path: Path) -> None:
    paths = bench.write_pair(ussfc.find_model("ussfc-s2-rgb"), tmp_path, 1600)
    for path, date in zip(paths, ("before", "after"), strict=True):
        with rasterio.open(path) as written, rasterio.open(DEMO / f"beirut_{date}.tif") as demo:
            assert (written.crs, written.transform, written.descriptions) == (
                demo.crs,
                demo.transform,
                demo.descriptions,
            )
            assert written.block_shapes[0] == (512, 512)
            assert written.compression.name == "deflate"
            values, source = written.read(), demo.read()
        padding = ((0, 0), (0, 1600 - 768), (0, 1600 - 768))
        np.testing.assert_array_equal(values, np.pad(source, padding, "symmetric"))


def test_pair_has_the_bands_and_numbers_of_its_model(model: Path, tmp_path: Path) -> None:
    with rasterio.open(bench.write_pair(ussfc.find_model(str(model)), tmp_path, 256)[0]) as written:
        values = written.read()
    assert values.dtype == np.uint8
    assert 20 < np.median(values) < 235
    with rasterio.open(bench.write_pair(ussfc.find_model("ussfc-s2-rgbn"), tmp_path, 256)[0]) as written:
        assert written.descriptions == ("B04", "B03", "B02", "B08")


def test_patches_are_what_the_pipeline_hands_to_the_network(tmp_path: Path) -> None:
    from ussfc.pipeline.pixels.radiometry import pair
    from ussfc.pipeline.runs.pair import inspect_pair, scene_mappings
    from ussfc.pipeline.types import Box

    spec = ussfc.find_model("ussfc-s2-rgb")
    found = inspect_pair(*(str(DEMO / f"beirut_{date}.tif") for date in ("before", "after")), load_config())
    readers = [recipe.open() for recipe in found.recipes]
    images = pair(*(reader.read(Box(0, 0, 256, 256)) for reader in readers), scene_mappings(found))
    before, after = bench.demo_patches(spec, 256)
    assert len(before) == 9
    np.testing.assert_allclose(before[0], images.before, atol=1e-6)
    np.testing.assert_allclose(after[0], images.after, atol=1e-6)


def job(program: str, model: Path, folder: Path) -> dict[str, Any]:
    config = load_config(flags={"model": str(model), "inference.device": "cpu", "tiling.overlap": 0.25})
    config = config.model_copy(update={"tiling": config.tiling.model_copy(update={"patch_size": PATCH})})
    names = {name: str(folder / name) for name in ("before", "after", "out", "result")}
    return {"program": program, "config": config.model_dump(mode="json"), **names}


def test_a_run_that_fails_is_told_in_its_own_words(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=f"{tmp_path / 'before'}"):
        bench._in_own_process(job("ussfc", model, tmp_path))


@pytest.mark.soak
def test_a_reference_that_fails_stops_nothing(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("monai")
    found = bench._in_own_process(job("monai", model, tmp_path))
    assert list(found) == ["not_here"]
    assert "status 1: rasterio.errors.RasterioIOError" in found["not_here"]


def test_without_monai_the_rest_is_measured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)  # what an import that finds nothing meets
    facts = {"detector": "d", "executor": {}, **dict.fromkeys((*bench.STAGES, "share_outside_network"), 1.0)}
    measured = {"seconds": 2.0, "peak_memory_bytes": 3, "process_seconds": 4.0}
    asked = []

    def outcome(job: dict[str, Any]) -> dict[str, Any]:
        asked.append(job["program"])
        return measured | facts

    monkeypatch.setattr(bench, "_in_own_process", outcome)
    result = ussfc_bench("--model", model, "--engine", "abacus", "--engine", "torch", "--precision", "float16",
                         "--precision", "float32", "--patch", PATCH, "--size", SIZE, "--rounds", 1,
                         "--seconds", 0.01)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert asked == ["ussfc"]
    assert (
        "MONAI, scene in memory: not here: monai is not installed: pip install 'ussfc[test]'" in result.stdout
    )


def test_without_our_engine_the_reference_is_measured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"seconds": 2.0, "peak_memory_bytes": 3, "process_seconds": 4.0}
    monkeypatch.setattr(bench, "_in_own_process", lambda job: {"monai": measured}[job["program"]])
    result = ussfc_bench("--model", model, "--engine", "triton", "--patch", PATCH, "--size", SIZE, "--rounds", 1,
                         "--seconds", 0.01)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "ussfc run: not here: engine triton" in result.stdout
    assert "Stages" not in result.stdout


@pytest.mark.soak
def test_interrupt_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ussfc.cli", "bench",
               "--model", str(model), "--device", "cpu", "--engine", "torch",
               "--precision", "float32", "--patch", str(PATCH), "--size", "4096", "--seconds", "0.01", "--rounds", "1",
               "--json", str(tmp_path / "bench.json")]  # fmt: skip
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    root = str(ROOT)
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": root}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("end to end: ussfc, round 1"):
                break
        own = psutil.Process(process.pid)
        while not (children := own.children(recursive=True)):
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == cli.EXIT_INTERRUPTED, err
    assert err == "interrupted; nothing is kept\n"
    assert out == ""
    assert not any(child.is_running() for child in children)
    assert list(scratch.glob("ussfc-bench-*")) == []
    assert not (tmp_path / "bench.json").exists()
