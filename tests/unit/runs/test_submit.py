"""A run as one SLURM job, up to the point where SLURM would be asked: the script, and what it hands on."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.scenes import write_scene, write_toy_model
from ussfc import cli
from ussfc.pipeline.config.load import documented_keys, load_config
from ussfc.pipeline.config.schema import RunConfig, size_in_bytes
from ussfc.pipeline.errors import ConfigError
from ussfc.pipeline.runs.submit import CLIENT, submit
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

LETTERS = st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/")
NAMES = st.text(LETTERS, min_size=1, max_size=20).filter(
    lambda name: name.strip(".") and len(name.encode()) < 120
)
SETTINGS = {
    "threshold": st.floats(0, 1),
    "tiling.tile_size": st.integers(64, 4096),
    "tiling.patch_size": st.sampled_from([16, 32, 64]),
    "tiling.overlap": st.floats(0, 0.9),
    "tiling.taper": st.sampled_from(["hann", "box"]),
    "bands.before": st.permutations([1, 2, 3]).map(tuple),
    "inference.ssfc": st.sampled_from(["patch", "local"]),
    "compute.retries": st.integers(0, 10),
    "output.scratch": st.text(max_size=20),
    "output.keep_work": st.booleans(),
    "vector.format": st.sampled_from(["gpkg", "flatgeobuf"]),
    "vector.min_area_m2": st.floats(0, 1e300),
    "vector.simplify_m": st.floats(0, 1e-5),
}


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of real pixels and a toy model."""
    folder = tmp_path_factory.mktemp("place")
    write_scene(folder, "a", (100, 100))
    write_toy_model(folder)
    return folder


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, where logs and scripts would go."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home" / ".cache" / "ussfc" / "slurm"


def config_of(place: Path, **flags: Any) -> RunConfig:
    named = {key.replace("__", "."): value for key, value in flags.items()}
    return load_config(cluster="slurm", flags={"model": str(place / "toy.yaml"), **named})


def pair_of(place: Path) -> tuple[str, str]:
    return str(place / "a_before.tif"), str(place / "a_after.tif")


def called(script: str) -> list[str]:
    """The arguments with which a script calls the command line."""
    calls: list[list[str]] = []
    kept = sys.modules["ussfc.cli"]
    sys.modules["ussfc.cli"] = SimpleNamespace(main=calls.append)  # type: ignore[assignment]
    try:
        exec(compile(script, "job.py", "exec"), {})
    finally:
        sys.modules["ussfc.cli"] = kept
    (arguments,) = calls
    return arguments


def handed_on(arguments: list[str]) -> tuple[dict[str, Any], RunConfig]:
    """What `ussfc run` understands: its parameters, and the configuration."""
    assert arguments[0] == "run"
    parameters = cli.run.make_context("run", arguments[1:], obj={"debug": False}).params
    return parameters, load_config(sets=parameters["sets"], cluster=parameters["cluster"])


def directives(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_script_requests_configured_resources(place: Path, tmp_path: Path, logs: Path) -> None:
    sets = [
        "jobs=3",
        "workers=2",
        "threads=4",
        "memory=10GiB",
        "walltime=12:30:00",
        "queue=long",
        "account=0042",
    ]
    options = [part for text in sets for part in ("--set", f"cluster.{text}")]
    result = ussfc(
        "submit", *pair_of(place), "--out", tmp_path / "out", "--model", place / "toy.yaml", "--cluster", "slurm",
        *options, "--dry-run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"#!{sys.executable} -P"
    assert directives(result.stdout) == [
        "--job-name=ussfc",
        "--ntasks=6",
        "--cpus-per-task=4",
        "--mem-per-cpu=1331M",
        "--time=12:30:00",
        f"--output={tmp_path}/out/slurm/ussfc-%j.out",
        "--requeue",
        "--open-mode=append",
        "--partition=long",
        "--account=0042",
    ]
    # SLURM reads directives up to the first line that is no comment.
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])
    # A dry run leaves nothing behind.
    assert not logs.exists()
    assert not (tmp_path / "out").exists()


def test_overwriting_job_is_not_requeued(place: Path) -> None:
    script = submit(*pair_of(place), "out", config_of(place), ("--overwrite",), dry_run=True).script
    assert "--no-requeue" in directives(script)
    assert "--requeue" not in directives(script)


def test_unset_queue_account_gpu_are_left_out(place: Path) -> None:
    before, after = pair_of(place)
    found = directives(submit(before, after, "out", config_of(place), dry_run=True).script)
    assert not [line for line in found if re.match("--(partition|account|gpus)", line)]
    gpus = directives(submit(before, after, "out", config_of(place, cluster__gpu=True), dry_run=True).script)
    assert set(gpus) - set(found) == {"--gpus-per-task=1"}
    extra = config_of(place, cluster__options={"job_extra_directives": ["--constraint=avx512", "--qos=low"]})
    assert directives(submit(before, after, "out", extra, dry_run=True).script)[-2:] == [
        "--constraint=avx512",
        "--qos=low",
    ]


def test_adaptive_jobs_request_the_maximum(place: Path) -> None:
    config = load_config(
        cluster="slurm",
        sets=["cluster.jobs=null", "cluster.minimum_jobs=1", "cluster.maximum_jobs=5"],
        flags={"model": str(place / "toy.yaml")},
    )
    assert "--ntasks=5" in directives(submit(*pair_of(place), "out", config, dry_run=True).script)


@given(memory=st.integers(1, 10**6), workers=st.integers(1, 64), threads=st.integers(1, 64))
@settings(max_examples=10)
def test_job_memory_is_split_over_its_cores(place: Path, memory: int, workers: int, threads: int) -> None:
    config = config_of(
        place, cluster__memory=f"{memory}GB", cluster__workers=workers, cluster__threads=threads
    )
    if workers * 2 > memory:
        return  # refused: does not fit
    (asked,) = (
        line
        for line in directives(submit(*pair_of(place), "out", config, dry_run=True).script)
        if line.startswith("--mem-per-cpu=")
    )
    a_core = int(asked.removeprefix("--mem-per-cpu=").removesuffix("M")) * 2**20
    # With what the scheduler and the writing of products need beside the workers.
    wanted = memory * 10**9 + CLIENT
    assert wanted <= a_core * workers * threads < wanted + workers * threads * 2**20


@settings(max_examples=20)
@given(names=st.tuples(NAMES, NAMES, NAMES), scratch=st.text(LETTERS, min_size=1, max_size=20))
@example(names=('it\'s "a"\n#SBATCH --wrap=x', "$(touch x) `y`", "a\\b\\n%j;&|"), scratch="'''\"\"\"\\")
@example(names=("\U0001f600 ß", "\u2028\u2029\x85\x0c\x1b", "-rf"), scratch="\U0001f600\x7f\x85\u2028\ufffe")
@example(names=("a\r\nb", "\t", "{x}"), scratch="\r")
def test_no_name_is_more_than_a_name(
    place: Path, tmp_path_factory: pytest.TempPathFactory, names: tuple[str, str, str], scratch: str
) -> None:
    folder = tmp_path_factory.mktemp("names")
    before, after, out = (f"{folder}/{number}{name}" for number, name in enumerate(names))
    for date, path in (("before", before), ("after", after)):
        os.link(place / f"a_{date}.tif", path)
    config = config_of(place, output__scratch=scratch)
    script = submit(before, after, out, config, ("--fail-fast",), dry_run=True).script
    parameters, config_again = handed_on(called(script))
    assert (parameters["before"], parameters["after"], parameters["out"]) == (before, after, out)
    assert parameters["fail_fast"] is True
    assert config_again.output.scratch == scratch
    # All lines but those of the list of arguments are ours.
    plain = submit(*pair_of(place), "out", config_of(place), dry_run=True).script
    (log,) = (line for line in directives(script) if line.startswith("--output="))
    assert re.fullmatch(r"[A-Za-z0-9_./@%+=:,-]+", log)
    heads = [text.partition("main([")[0].splitlines() for text in (script, plain)]
    ours, others = ([line for line in head if not line.startswith("#SBATCH --output=")] for head in heads)
    assert ours == others
    assert all(32 <= ord(letter) < 127 for letter in script.replace("\n", ""))


@settings(max_examples=25)
@given(chosen=st.fixed_dictionaries({}, optional=SETTINGS))
def test_job_has_the_same_configuration(place: Path, chosen: dict[str, Any]) -> None:
    config = load_config(cluster="slurm", flags={"model": str(place / "toy.yaml"), **chosen})
    arguments = called(submit(*pair_of(place), "out", config, dry_run=True).script)
    _, again = handed_on(arguments)
    assert again.model_copy(update={"cluster": config.cluster}) == config
    assert (again.cluster.kind, again.cluster.threads, again.cluster.gpu) == ("allocation", 4, False)
    # Only what differs, so that a person can read the script.
    defaults = {key: default for key, default, _ in documented_keys()}
    expected = {text.partition("=")[0] for text in arguments if re.match(r"[a-z_.0-9]+=", text)}
    assert expected == {"model", "cluster.threads"} | {k for k, v in chosen.items() if v != defaults[k]}


def test_a_gpu_a_job_is_handed_on(place: Path) -> None:
    config = config_of(place, cluster__gpu=True)
    _, again = handed_on(called(submit(*pair_of(place), "out", config, dry_run=True).script))
    assert again.cluster.gpu is True


def test_job_ignores_the_shells_variables(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSFC_THRESHOLD", "0.25")
    result = ussfc(
        "submit", *pair_of(place), "--out", "out", "--model", place / "toy.yaml", "--cluster", "slurm", "-n"
    )
    monkeypatch.setenv("USSFC_THRESHOLD", "0.75")
    monkeypatch.setenv("USSFCX", "kept")
    _, again = handed_on(called(result.stdout))
    assert again.threshold == 0.25
    assert "USSFC_THRESHOLD" not in os.environ
    assert os.environ["USSFCX"] == "kept"


def test_relative_paths_are_made_absolute(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    area = {"type": "Polygon", "coordinates": [[[35, 33], [36, 33], [36, 34], [35, 34], [35, 33]]]}
    (place / "area.geojson").write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [{"type": "Feature", "geometry": area, "properties": {}}],
            }
        )
    )
    monkeypatch.chdir(place)
    result = ussfc(
        "submit", "a_before.tif", "./a_after.tif", "--out", "somewhere/out", "--model", "toy.yaml", "--aoi",
        "area.geojson", "--mask-after", "area.geojson", "--mask-dilation", "20", "--cluster", "slurm", "--dry-run",
        "--overwrite",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    monkeypatch.chdir(tmp_path)
    parameters, config = handed_on(called(result.stdout))
    assert (parameters["before"], parameters["after"]) == pair_of(place)
    assert parameters["out"] == str(place / "somewhere" / "out")
    assert parameters["overwrite"] is True
    assert (config.model, config.grid.aoi) == (str(place / "toy.yaml"), str(place / "area.geojson"))
    assert config.masks.after == config.grid.aoi
    assert (config.masks.before, config.masks.dilation_m) == (None, 20)


def test_the_name_of_a_packaged_model_stays_a_name(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a folder, of its results say, is called so."""
    (tmp_path / "ussfc-s2-rgbn").mkdir()
    monkeypatch.chdir(tmp_path)
    config = load_config(
        cluster="slurm",
        flags={"model": "ussfc-s2-rgbn", "bands.before": [1, 2, 3, 3], "bands.after": [1, 2, 3, 3]},
    )
    _, again = handed_on(called(submit(*pair_of(place), "out", config, dry_run=True).script))
    assert again.model == "ussfc-s2-rgbn"


@pytest.mark.parametrize("kind", ["auto", "local", "allocation"])
def test_other_kinds_of_cluster_are_refused(place: Path, kind: str) -> None:
    result = ussfc(
        "submit",
        *pair_of(place),
        "--out",
        "out",
        "--set",
        f"cluster.kind={kind}",
        "--model",
        place / "toy.yaml",
    )
    assert result.exit_code == ExitStatus.USAGE
    assert result.stderr.startswith(f"error: cluster.kind {kind}: `ussfc submit` is for SLURM; ")


def submitted(place: Path, out: Path, *options: object, before: object = None) -> Result:
    after = pair_of(place)[1]
    return ussfc(
        "submit", before or pair_of(place)[0], after, "--out", out, "--model", place / "toy.yaml", "--cluster", "slurm",
        *options,
    )  # fmt: skip


def test_bad_inputs_are_found_before_sbatch(
    place: Path, tmp_path: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without sbatch: it is not even looked for.
    monkeypatch.setenv("PATH", str(tmp_path))
    for status, expected, options in (
        (ExitStatus.INPUT, "absent.tif: no such file", {"before": "absent.tif"}),
        (ExitStatus.MEMORY, "cluster.memory is 0.10 GB", {"options": ("--set", "cluster.memory=100MB")}),
        (ExitStatus.INPUT, "nothing.yaml", {"options": ("--model", "nothing.yaml")}),
        (ExitStatus.USAGE, "log_directory", {"options": ("--set", "cluster.options.log_directory='/a b'")}),
        (ExitStatus.USAGE, "job_extra_directives",
         {"options": ("--set", 'cluster.options.job_extra_directives=["--a\\n#b"]')}),
    ):  # fmt: skip
        result = submitted(place, tmp_path / "out", *options.pop("options", ()), **options)
        assert result.exit_code == status, result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        assert expected in line
    assert not logs.exists()
    assert not (tmp_path / "out").exists()


def test_missing_sbatch_is_one_line(
    place: Path, tmp_path: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = submitted(place, tmp_path / "out")
    assert result.exit_code == ExitStatus.CLUSTER
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: sbatch: not found on this machine; ")
    assert not logs.exists()
    assert list((tmp_path / "out").iterdir()) == []
    # Who only wants to see the script needs none.
    assert submitted(place, tmp_path / "out", "--dry-run").exit_code == 0


@pytest.mark.parametrize("sbatch", [False, True])
def test_unwritable_output_is_found_before_sbatch(
    place: Path, tmp_path: Path, logs: Path, monkeypatch: pytest.MonkeyPatch, sbatch: bool
) -> None:
    if sbatch:
        (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = submitted(place, place / "a_before.tif" / "out")
    assert result.exit_code == ExitStatus.OUTPUT, result.output
    assert not logs.exists()


def test_dry_run_as_json_has_the_script(place: Path, tmp_path: Path, logs: Path) -> None:
    shown = json.loads(submitted(place, tmp_path / "out", "--dry-run", "--json").stdout)
    assert shown["job"] is None
    assert shown["file"] is None
    assert shown["log"] == str(tmp_path / "out" / "slurm" / "ussfc-%j.out")
    assert called(shown["script"])[0] == "run"


def test_python_path_unfit_for_a_shell_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for python, expected in (
        ("/opt/my python/bin/python", "a shell would read it"),
        ("/" + 150 * "x", "too long"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", python)
            with pytest.raises(ConfigError, match=expected):
                submit(*pair_of(place), "out", config_of(place), dry_run=True)


@given(number=st.integers(0, 10**6), power=st.integers(0, 3), space=st.sampled_from(["", " "]))
def test_sizes_in_bytes(number: int, power: int, space: str) -> None:
    letter = "KMGT"[power]
    assert size_in_bytes(f"{number}{space}{letter}iB") == number * 2 ** (10 * power + 10)
    assert size_in_bytes(f"{number}{space}{letter}B") == number * 10 ** (3 * power + 3)
    assert (
        size_in_bytes(f"{number}.5{letter}B") == number * 10 ** (3 * power + 3) + 10 ** (3 * power + 3) // 2
    )


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("BEFORE", "https://example.org/a.tif?X-Amz-Signature=SeCrEt"),
        ("AFTER", "/vsicurl/https://ursula:SeCrEt@example.org/a.tif"),
        ("OUT", "s3://KEY:SeCrEt@bucket/out"),
        ("model", "https://example.org/toy.yaml?sig=SeCrEt"),
        ("grid.aoi", "https://ursula:SeCrEt@example.org/area.geojson"),
        ("masks.before", "/vsicurl?userpwd=ursula:SeCrEt&url=https://example.org/a.tif"),
    ],
)
def test_addresses_with_secrets_are_refused(place: Path, tmp_path: Path, name: str, address: str) -> None:
    """Before anything is read: nothing answers at these addresses."""
    before, after = pair_of(place)
    given = {"BEFORE": before, "AFTER": after, "OUT": str(tmp_path / "out"), "model": str(place / "toy.yaml")}
    given[name] = address
    sets = {key: value for key, value in given.items() if not key.isupper()}
    config = load_config(cluster="slurm", flags=sets)
    with pytest.raises(
        ConfigError, match=rf"^{re.escape(name)} .*example.org|^OUT s3://bucket/out: "
    ) as found:
        submit(given["BEFORE"], given["AFTER"], given["OUT"], config)
    assert "SeCrEt" not in str(found.value)
    assert "AWS_PROFILE" in str(found.value)


def test_log_and_script_are_in_an_out_on_disk(place: Path, tmp_path: Path, logs: Path) -> None:
    def log(out: object, **flags: Any) -> Path:
        return submit(*pair_of(place), str(out), config_of(place, **flags), dry_run=True).log

    assert log(tmp_path / "out") == tmp_path / "out" / "slurm" / "ussfc-%j.out"
    # Names that no directive of a script can hold, and stores, which SLURM does not know.
    for out in (tmp_path / "with space", tmp_path / "50%j", "s3://bucket/out"):
        assert log(out) == logs / "ussfc-%j.out"
    assert log(tmp_path, cluster__options={"log_directory": "/logs"}) == Path("/logs/ussfc-%j.out")
    (tmp_path / "slurm").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="slurm: is a link"):
        log(tmp_path)
