"""`ussfc bench`: its numbers follow from each other, and its references are real."""

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
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner, Result

import ussfc
from tests.support.paths import ROOT
from tests.support.scenes import write_bare_weights
from ussfc import bench as measures
from ussfc import cli
from ussfc.detector import DetectorSpec
from ussfc.detector_options import DetectorOptions, detector_spec
from ussfc.engines import PRECISIONS, FloatArray
from ussfc.network import USSFCNet
from ussfc.pipeline.benchmark import bench, end_to_end, machine
from ussfc.pipeline.benchmark.demo_scene import MOST_PATCHES, demo_patches
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import PipelineError
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

PATCH, SIZE, SKEW = 64, 256, 0.125


@dataclasses.dataclass(frozen=True)
class Skewed:
    """The plain network's answer moved at one pixel by a known amount, in batches of three by two callers."""

    plain: measures.PlainNetwork
    batch_size: int = 3
    streams: int = 2

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        assert before.shape == after.shape == (3, 3, PATCH, PATCH)
        answer = self.plain.predict(before, after)
        answer[:, 5, 7] += SKEW
        return answer


@dataclasses.dataclass(frozen=True)
class Abacus:
    """A recipe of an engine that stands for any: one of its precisions is not here."""

    recipe: DetectorSpec
    precision: str

    @property
    def patch_size(self) -> int:
        return self.recipe.patch_size

    def build(self) -> Skewed:
        if self.precision == "beads":
            raise ussfc.ModelError("no beads on this machine")
        return Skewed(measures.PlainNetwork(self.recipe))


def with_abacus(model: ussfc.ModelSpec, options: DetectorOptions) -> DetectorSpec | Abacus:
    if options.engine != "abacus":
        return detector_spec(model, options)
    plain = dataclasses.replace(options, engine="torch", precision="float32")
    return Abacus(detector_spec(model, plain), options.precision)


@pytest.fixture(autouse=True, scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use buffers and matrices that take no time, one engine more, and one core.

    Threads that share an operator's work on busy cores wait for each other longer than they work.
    """
    allowed = os.sched_getaffinity(0)
    with pytest.MonkeyPatch.context() as patch:
        os.sched_setaffinity(0, {max(allowed)})
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(machine, "COPY_BYTES", 2**22)
        patch.setitem(measures.MATRIX_SIDE, "cpu", 128)
        patch.setitem(PRECISIONS, "abacus", ("float16", "beads"))
        patch.setattr(ussfc, "detector_spec", with_abacus, raising=False)
        yield
        os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bare_weights(tmp_path_factory.mktemp("model"))


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
    """Yield every sampled number of a result."""
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


@pytest.mark.soak
def test_result_has_its_documented_fields(command: tuple[Result, dict[str, Any]]) -> None:
    _, record = command
    documented = bench.bench.__doc__
    assert documented is not None
    # Of the words between backquotes, these are no fields.
    fields = set(re.findall(r"``(\w+)``", documented.partition("Returns:")[2].partition("Raises:")[0])) - {
        "1"
    }
    packages, precisions = set(record["machine"]["versions"]), set(record["roof"]["flop_per_s"])
    assert set(names(record)) - packages - precisions - {"threads", "processes", "name"} == fields - packages
    assert set(record["end_to_end"]["ussfc"]["executor"]) == {"name", "processes", "threads"}


@pytest.mark.soak
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


@pytest.mark.soak
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


@pytest.mark.soak
def test_roof_is_the_scarcer_of_two_limits(command: tuple[Result, dict[str, Any]]) -> None:
    roof = command[1]["roof"]
    for precision, bytes_each in (("float32", 4), ("float16", 2), ("bfloat16", 2)):
        rates = [roof["flop_per_s"][name] for name in ("float32", precision)]
        fastest = max(rate["median"] for rate in rates if rate is not None)
        memory = roof["copy_bytes_per_s"]["median"] / roof["bytes_per_pixel"][precision]
        assert roof["mpx_per_s"][precision] == pytest.approx(
            min(memory, fastest / roof["flop_per_pixel"]) / 1e6
        )
        assert roof["bytes_per_pixel"][precision] == bytes_each * measures.pixel_values(USSFCNet(3, 0.125))


@pytest.mark.soak
def test_deviation_is_the_largest_difference(command: tuple[Result, dict[str, Any]], model: Path) -> None:
    spec = ussfc.find_model(str(model))
    # Named, because the default engine and precision depend on the processor.
    recipe = detector_spec(
        spec, DetectorOptions(patch_size=PATCH, device="cpu", engine="torch", precision="float32")
    )
    before, after = demo_patches(spec, PATCH)
    assert before.shape == after.shape == (MOST_PATCHES, 3, PATCH, PATCH)
    plain = measures.PlainNetwork(recipe).predict(before, after)
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


@pytest.mark.soak
def test_batch_and_callers_are_the_detectors(command: tuple[Result, dict[str, Any]]) -> None:
    found = row(command[1], "abacus", "float16")
    assert (found["batch"], found["streams"]) == (3, 2)


@pytest.mark.soak
def test_missing_precision_is_reported(command: tuple[Result, dict[str, Any]]) -> None:
    result, record = command
    assert row(record, "abacus", "beads") == {
        "engine": "abacus",
        "precision": "beads",
        "patch": PATCH,
        "not_here": "no beads on this machine",
    }
    assert "abacus beads: not here: no beads on this machine" in result.stdout


@pytest.mark.soak
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
            ExitStatus.USAGE,
            "engine 'slide-rule': not known; known: ",
        ),
        (("--precision", "beads", "--precision", "x"), ExitStatus.USAGE, "precision 'x': not known; known: "),
        (("--patch", 100), ExitStatus.USAGE, "tiling.patch_size = 100"),
        (
            ("--patch", 64, "--patch", 100),
            ExitStatus.INPUT,
            "patch_size 100: expected a positive multiple of 16",
        ),
        (("--model", "no-such"), ExitStatus.INPUT, "model 'no-such': not known"),
        (("--json", "/proc/bench.json"), ExitStatus.OUTPUT, "/proc: cannot be written"),
    ],
)
def test_unusable_options_end_in_one_line(
    options: tuple[object, ...], status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "measure_roof", lambda *_: pytest.fail("measuring has begun"))
    result = ussfc_bench(*options)
    assert result.exit_code == status
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1


def job(program: str, model: Path, folder: Path) -> dict[str, Any]:
    config = load_config(flags={"model": str(model), "inference.device": "cpu", "tiling.overlap": 0.25})
    config = config.model_copy(update={"tiling": config.tiling.model_copy(update={"patch_size": PATCH})})
    names = {name: str(folder / name) for name in ("before", "after", "out", "result")}
    return {"program": program, "config": config.model_dump(mode="json"), **names}


def test_failed_run_raises_its_own_error(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=f"{tmp_path / 'before'}"):
        end_to_end.run_in_own_process(job("ussfc", model, tmp_path))


@pytest.mark.soak
def test_failed_reference_is_reported(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("monai")
    found = end_to_end.run_in_own_process(job("monai", model, tmp_path))
    assert list(found) == ["not_here"]
    assert "status 1: rasterio.errors.RasterioIOError" in found["not_here"]


@pytest.mark.soak
def test_without_monai_the_rest_is_measured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)  # as of an import that finds nothing
    facts = {
        "detector": "d",
        "executor": {},
        **dict.fromkeys((*end_to_end.STAGES, "share_outside_network"), 1.0),
    }
    measured = {"seconds": 2.0, "peak_memory_bytes": 3, "process_seconds": 4.0}
    programs = []

    def outcome(job: dict[str, Any]) -> dict[str, Any]:
        programs.append(job["program"])
        return measured | facts

    monkeypatch.setattr(end_to_end, "run_in_own_process", outcome)
    result = ussfc_bench("--model", model, "--engine", "abacus", "--engine", "torch", "--precision", "float16",
                         "--precision", "float32", "--patch", PATCH, "--size", SIZE, "--rounds", 1,
                         "--seconds", 0.01)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert programs == ["ussfc"]
    assert (
        "MONAI, scene in memory: not here: monai is not installed: pip install 'ussfc[test]'" in result.stdout
    )


@pytest.mark.soak
def test_without_our_engine_monai_is_measured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"seconds": 2.0, "peak_memory_bytes": 3, "process_seconds": 4.0}
    monkeypatch.setattr(end_to_end, "run_in_own_process", lambda job: {"monai": measured}[job["program"]])
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
    assert process.returncode == ExitStatus.INTERRUPTED, err
    assert err == "interrupted; nothing is kept\n"
    assert out == ""
    assert not any(child.is_running() for child in children)
    assert list(scratch.glob("ussfc-bench-*")) == []
    assert not (tmp_path / "bench.json").exists()
