"""Loading of the configuration: precedence, unknown keys, origins of unusable values, presets."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfc.pipeline.config.load import as_config, documented_keys, load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError

LAYERS = ("file", "environment", "set", "flag")
sizes = st.integers(64, 16384)


def packaged() -> dict[str, Any]:
    loaded = yaml.safe_load(resources.files("ussfc.configs").joinpath("default.yaml").read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def flattened(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= (
            flattened(value, f"{prefix}{name}.")
            if isinstance(value, dict) and value
            else {prefix + name: value}
        )
    return flat


def refused(**arguments: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_documented_keys_are_the_packaged_ones() -> None:
    documented = {key: default for key, default, _ in documented_keys()}
    assert documented == flattened(packaged())
    assert all(description for _, _, description in documented_keys())


def test_the_packaged_file_makes_the_defaults() -> None:
    assert load_config() == RunConfig()


@settings(deadline=None, max_examples=40)
@given(layers=st.dictionaries(st.sampled_from(LAYERS), sizes))
def test_later_layers_win(tmp_path_factory: pytest.TempPathFactory, layers: dict[str, int]) -> None:
    file = None
    if "file" in layers:
        file = tmp_path_factory.mktemp("config") / "user.yaml"
        file.write_text(
            yaml.safe_dump({"tiling": {"tile_size": layers["file"]}, "vector": {"connectivity": 8}})
        )
    config = load_config(
        file,
        [f"tiling.tile_size={layers['set']}"] if "set" in layers else [],
        {"USSFC_TILING__TILE_SIZE": str(layers["environment"])} if "environment" in layers else {},
        {"tiling.tile_size": layers.get("flag")},
    )
    highest = [layer for layer in LAYERS if layer in layers]
    assert config.tiling.tile_size == (layers[highest[-1]] if highest else 2048)
    # A layer moves only what it names.
    assert config.vector.connectivity == (8 if "file" in layers else 4)
    assert config.tiling.overlap is None  # the model's


def test_the_last_of_two_settings_counts() -> None:
    assert load_config(sets=["threshold=0.2", "threshold=0.7"]).threshold == 0.7


def test_null_takes_a_value_back(tmp_path: Path) -> None:
    file = tmp_path / "user.yaml"
    file.write_text("threshold: 0.3\n")
    assert load_config(file).threshold == 0.3
    assert load_config(file, ["threshold=null"]).threshold is None


def test_a_flag_without_a_value_changes_nothing() -> None:
    assert load_config(sets=["threshold=0.7"], flags={"threshold": None, "model": None}).threshold == 0.7


def test_other_variables_do_not_matter() -> None:
    assert load_config(environment={"PATH": "/bin", "TILING__TILE_SIZE": "64"}) == RunConfig()


def test_values_are_read_as_yaml() -> None:
    config = load_config(
        sets=[
            "bands.before=[3, 2, 1]",
            "grid.crs=EPSG:32636",
            "grid.resolution=10",
            "output.keep_work=false",
        ],
        environment={
            "USSFC_CLUSTER__KIND": "scheduler",
            "USSFC_CLUSTER__ADDRESS": "tcp://10.0.0.1:8786",
            "USSFC_BANDS__AFTER": "[1,2,3]",
        },
    )
    assert config.bands.before == (3, 2, 1)
    assert config.bands.after == (1, 2, 3)
    assert config.grid.crs == "EPSG:32636"
    assert config.grid.resolution == 10
    assert config.output.keep_work is False
    assert config.cluster.address == "tcp://10.0.0.1:8786"


def test_a_base_replaces_the_packaged_defaults() -> None:
    recorded = load_config(sets=["tiling.tile_size=512", "threshold=0.4"]).model_dump(mode="json")
    again = load_config(base=recorded, sets=["threshold=0.6"])
    assert again.tiling.tile_size == 512
    assert again.threshold == 0.6


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("tiling.tilesize", "tiling.tile_size"),
        ("treshold", "threshold"),
        ("grid.resampeling", "grid.resampling"),
        ("vector.min_area", "vector.min_area_m2"),
        ("cluster.worker", "cluster.workers"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(tmp_path: Path, key: str, nearest: str) -> None:
    hint = f"unknown key {key}; did you mean {nearest}?"
    assert refused(sets=[f"{key}=1"]).startswith(f"--set {key}=1: {hint}")
    variable = "USSFC_" + key.upper().replace(".", "__")
    assert refused(environment={variable: "1"}).startswith(f"environment variable {variable}: {hint}")
    assert refused(flags={key: 1}).startswith(f"the command line: {hint}")
    section, _, name = key.rpartition(".")
    file = tmp_path / "user.yaml"
    file.write_text(yaml.safe_dump({section: {name: 1}} if section else {name: 1}))
    assert refused(file=file).startswith(f"{file}: {hint}")


def test_a_key_like_no_other_gets_no_hint() -> None:
    assert "did you mean" not in refused(sets=["qqqq=1"])


@pytest.mark.parametrize(
    "setting",
    [
        "tiling.tile_size=63",
        "tiling.tile_size=big",
        "tiling.tile_size=20000",
        "tiling.overlap=1",
        "tiling.overlap=-0.1",
        "tiling.overlap=.nan",
        "tiling.taper=triangle",
        "threshold=1.5",
        "threshold=.nan",
        "grid.reference=later",
        "grid.resolution=0",
        "grid.resampling=nearest",
        "bands.before=[red, true]",
        "bands.before=[-1]",
        "inference.batch_size=0",
        "cluster.kind=magic",
        "cluster.workers=0",
        "compute.memory_gb=0",
        "output.probability_dtype=int8",
        "output.block_size=500",
        "vector.format=shp",
        "vector.min_area_m2=-1",
        "vector.connectivity=6",
    ],
)
def test_an_unusable_value_names_its_origin(setting: str) -> None:
    key, _, text = setting.partition("=")
    message = refused(sets=[setting])
    assert message.startswith(f"{key} = ")
    assert f"from --set {setting}: " in message
    assert text.strip("[]").lstrip(".") in message


@pytest.mark.parametrize("key", ["threshold", "tiling.tile_size", "vector.min_area_m2", "cluster.workers"])
@pytest.mark.parametrize("value", ["true", "False"])
def test_true_and_false_are_no_numbers(key: str, value: str) -> None:
    message = refused(sets=["cluster.kind=local", f"{key}={value}"])
    assert message == f"{key} = {value.title()} from --set {key}={value}: input should be a number"


@pytest.mark.parametrize(
    "setting", ["grid.resolution=.inf", "vector.simplify_m=.inf", "compute.memory_gb=.inf"]
)
def test_an_infinite_number_is_refused(setting: str) -> None:
    assert refused(sets=[setting]).startswith(setting.partition("=")[0])


def test_a_setting_without_equals_shows_an_example() -> None:
    assert refused(sets=["tiling.tile_size"]).startswith("--set tiling.tile_size: expected key=value")


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "", "\x00"])
def test_a_file_that_holds_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "user.yaml"
    file.write_text(text)
    assert refused(file=file).startswith(f"{file}: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refused(file=tmp_path / "no.yaml").startswith(f"{tmp_path / 'no.yaml'}: cannot be read")


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config().threshold = 0.1  # type: ignore[misc]


CLUSTERS = {
    "allocation": {},
    "kubernetes": {"cluster.image": "ussfc:1"},
    "local": {},
    "local-cuda": {},
    "scheduler": {"cluster.address": "tcp://10.0.0.5:8786"},
    "slurm": {},
}
"""The packaged presets, with the keys that each leaves to the user."""


def test_every_preset_loads_with_its_open_keys_set() -> None:
    folder = resources.files("ussfc.configs").joinpath("clusters")
    assert {entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml")} == {
        f"{name}.yaml" for name in CLUSTERS
    }
    for name, needed in CLUSTERS.items():
        config = load_config(cluster=name, flags=needed)
        assert config.cluster.kind == name
        # A preset decides the cluster alone.
        assert config.model_copy(update={"cluster": RunConfig().cluster}) == RunConfig()
        for key in needed:
            assert f"cluster.kind {name}: {key} is not set" in refused(cluster=name)


def test_every_key_of_a_preset_is_of_its_kind() -> None:
    """Also a key that it leaves null: a user who fills it in gets no error."""
    examples = {
        "workers": 2, "threads": 2, "gpu": True, "jobs": 2, "minimum_jobs": 1, "maximum_jobs": 2, "memory": "4GiB",
        "walltime": "01:00:00", "queue": "q", "account": "a", "image": "i", "namespace": "n",
        "address": "tcp://10.0.0.5:8786", "options": {"a": 1},
    }  # fmt: skip
    folder = resources.files("ussfc.configs").joinpath("clusters")
    for name, needed in CLUSTERS.items():
        preset = yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text("utf-8"))["cluster"]
        for key, value in examples.items():
            if key not in preset:
                message = refused(cluster=name, flags={**needed, f"cluster.{key}": value})
                assert message.startswith(f"cluster.{key} from the command line: of no use")
                continue
            jobs = {"cluster.jobs": value if key == "jobs" else None} if "jobs" in preset else {}
            if key in ("minimum_jobs", "maximum_jobs"):
                jobs["cluster.maximum_jobs"] = 2
            elif jobs:
                jobs["cluster.jobs"] = 2
            file_sets = [f"{k}={yaml.safe_dump(v).splitlines()[0]}" for k, v in jobs.items() if v is None]
            flags = {**needed, **{k: v for k, v in jobs.items() if v is not None}, f"cluster.{key}": value}
            config = load_config(cluster=name, sets=file_sets, flags=flags)
            assert getattr(config.cluster, key) == value


@settings(deadline=None, max_examples=40)
@given(layers=st.dictionaries(st.sampled_from(("preset", *LAYERS)), st.integers(1, 64)))
def test_a_preset_precedes_the_file(tmp_path_factory: pytest.TempPathFactory, layers: dict[str, int]) -> None:
    folder = tmp_path_factory.mktemp("config")
    preset, file = folder / "preset.yaml", folder / "user.yaml"
    preset.write_text(yaml.safe_dump({"cluster": {"kind": "local", "workers": layers.get("preset")}}))
    # Each of them names another kind, and none of them is asked.
    file.write_text(yaml.safe_dump({"cluster": {"kind": "serial"}}))
    if "file" in layers:
        file.write_text(yaml.safe_dump({"cluster": {"kind": "serial", "workers": layers["file"]}}))
    environment, sets = {"USSFC_CLUSTER__KIND": "auto"}, ["cluster.kind=slurm"]
    if "environment" in layers:
        environment["USSFC_CLUSTER__WORKERS"] = str(layers["environment"])
    if "set" in layers:
        sets.append(f"cluster.workers={layers['set']}")
    config = load_config(
        file, sets, environment, {"cluster.workers": layers.get("flag")}, cluster=str(preset)
    )
    highest = [layer for layer in ("preset", *LAYERS) if layer in layers]
    assert config.cluster.workers == (layers[highest[-1]] if highest else None)
    assert config.cluster.kind == "local"


def test_the_highest_layer_decides_the_kind(tmp_path: Path) -> None:
    file = tmp_path / "user.yaml"
    file.write_text("cluster: {kind: local}\n")
    assert load_config(file).cluster.kind == "local"
    assert load_config(file, ["cluster.kind=serial"]).cluster.kind == "serial"
    flags = {"cluster.kind": "scheduler", "cluster.address": "tcp://10.0.0.5:8786"}
    # The command line has an own flag for it, which is as explicit as --cluster.
    assert load_config(file, flags=flags, cluster="local").cluster.kind == "scheduler"


def test_options_are_merged_by_entry(tmp_path: Path) -> None:
    preset, file = tmp_path / "preset.yaml", tmp_path / "user.yaml"
    preset.write_text(
        yaml.safe_dump(
            {"cluster": {"kind": "local", "options": {"a": 1, "b": {"c": 1, "d": 1}, "e": [1, 2], "f": 1}}}
        )
    )
    file.write_text(yaml.safe_dump({"cluster": {"options": {"b": {"d": 2}, "e": [3], "g": 2}}}))
    sets = ["cluster.options.b.h=3", "cluster.options.g=4", "cluster.options={a: 5}"]
    config = load_config(file, sets, {"USSFC_CLUSTER__OPTIONS__F": "6"}, cluster=str(preset))
    assert config.cluster.options == {"a": 5, "b": {"c": 1, "d": 2, "h": 3}, "e": [3], "f": 6, "g": 4}


def test_the_number_of_a_preset_yields_to_a_range(tmp_path: Path) -> None:
    found = load_config(sets=["cluster.maximum_jobs=20"], cluster="slurm").cluster
    assert (found.jobs, found.minimum_jobs, found.maximum_jobs) == (None, None, 20)
    file = tmp_path / "user.yaml"
    file.write_text("cluster: {jobs: 3}")
    with pytest.raises(ConfigError, match="is for always the same number"):
        load_config(file, ["cluster.maximum_jobs=20"], cluster="slurm")


def test_options_over_a_base_leave_the_base_alone() -> None:
    base = RunConfig().model_dump() | {"cluster": {"kind": "local", "options": {"a": {"b": 1}}}}
    assert load_config(base=base, sets=["cluster.options.a.c=2"]).cluster.options == {"a": {"b": 1, "c": 2}}
    assert base["cluster"]["options"] == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("kind", "setting", "kinds"),
    [
        ("serial", "cluster.workers=2", "auto, local, local-cuda, slurm"),
        ("local", "cluster.memory=8GiB", "slurm, kubernetes"),
        ("local", "cluster.gpu=true", "slurm, allocation, kubernetes, scheduler"),
        ("local-cuda", "cluster.threads=2", "auto, serial, local, slurm, allocation, kubernetes, scheduler"),
        ("allocation", "cluster.walltime='01:00:00'", "slurm"),
        ("allocation", "cluster.options={a: 1}", "local, local-cuda, slurm, kubernetes"),
        ("kubernetes", "cluster.queue=long", "slurm"),
        ("slurm", "cluster.image=here:1", "kubernetes"),
        ("scheduler", "cluster.jobs=2", "slurm, kubernetes"),
        ("auto", "cluster.tls_key=key.pem", "scheduler"),
    ],
)
def test_a_key_of_another_kind_names_its_kinds(tmp_path: Path, kind: str, setting: str, kinds: str) -> None:
    key, _, value = setting.partition("=")
    needed = {**CLUSTERS.get(kind, {}), "cluster.kind": kind}
    found = f"of no use to cluster.kind {kind}, only to {kinds}; "
    base = load_config(cluster="slurm").model_dump()["cluster"] if kind == "slurm" else {}
    packaged_ = RunConfig().model_dump() | {"cluster": base}
    assert refused(sets=[setting], flags=needed, base=packaged_).startswith(
        f"{key} from --set {setting}: {found}"
    )
    file = tmp_path / "user.yaml"
    file.write_text(f"cluster: {{{key.removeprefix('cluster.')}: {value}}}\n")
    assert refused(file=file, flags=needed, base=packaged_).startswith(f"{key} from {file}: {found}")


@pytest.mark.parametrize(
    ("kind", "given", "missing"),
    [
        ("slurm", {}, "cluster.memory"),
        ("slurm", {"memory": "8GiB"}, "cluster.walltime"),
        ("slurm", {"memory": "8GiB", "walltime": "01:00:00"}, "cluster.jobs or cluster.maximum_jobs"),
        ("kubernetes", {"memory": "8GiB"}, "cluster.image"),
        ("kubernetes", {"memory": "8GiB", "image": "here:1"}, "cluster.jobs or cluster.maximum_jobs"),
        ("scheduler", {}, "cluster.address"),
    ],
)
def test_a_key_that_a_kind_needs_is_named(kind: str, given: dict[str, str], missing: str) -> None:
    flags = {f"cluster.{key}": value for key, value in {**given, "kind": kind}.items()}
    assert refused(flags=flags).startswith(f"cluster.kind {kind}: {missing} is not set")


def test_jobs_are_a_number_or_a_range() -> None:
    for setting in ("cluster.minimum_jobs=0", "cluster.maximum_jobs=8"):
        sets = ["cluster.jobs=3", setting]
        assert "set the one or the others" in refused(cluster="slurm", sets=sets)
    # The preset's own number gives way.
    changing = load_config(cluster="slurm", sets=["cluster.maximum_jobs=8"]).cluster
    assert (changing.jobs, changing.most_jobs) == (None, 8)
    assert "cluster.maximum_jobs is not set" in refused(cluster="slurm", sets=["cluster.minimum_jobs=0"])
    between = ["cluster.jobs=null", "cluster.minimum_jobs=3", "cluster.maximum_jobs=8"]
    assert load_config(cluster="slurm", sets=between).cluster.most_jobs == 8
    assert load_config(cluster="slurm").cluster.most_jobs == 2
    message = refused(cluster="slurm", sets=[*between, "cluster.maximum_jobs=2"])
    assert message.startswith("cluster.minimum_jobs: 3 is more than maximum_jobs, 2")


def test_tls_needs_all_three_files() -> None:
    files = [f"cluster.tls_{name}={name}.pem" for name in ("ca", "certificate", "key")]
    address = "cluster.address=tls://10.0.0.5:8786"
    assert load_config(cluster="scheduler", sets=[address, *files]).cluster.tls_key == "key.pem"
    for count in (1, 2):
        for left in (files[:count], files[3 - count :]):
            assert "set all three" in refused(cluster="scheduler", sets=[address, *left])
    message = refused(cluster="scheduler", sets=[address])
    assert message.startswith("cluster.address tls://10.0.0.5:8786: needs cluster.tls_ca, ")
    assert (
        load_config(cluster="scheduler", sets=["cluster.address=tcp://10.0.0.5:8786"]).cluster.tls_ca is None
    )


UNFIT = {
    "memory": ["16", "16 gb", "16gb", "GiB", "-1GiB", "1e3GiB", "16GiB\n", "16GiB; reboot", "\u0661GiB", "0GiB"],
    "walltime": ["120", "1:00", "1:0:0", "02:00:00\n", "02:00:00 --wrap=x", "-02:00:00", "\u0662:00:00", "00:00:00",
                 "0-00:00:00"],
    "queue": ["a b", "", "$(reboot)", "`reboot`", "a;b", "a\n#SBATCH --wrap=reboot", "a\n", "\n", "a'b", 'a"b', "é",
              "a/b", "a\\b", "a&b", "a|b", "a>b", "a\rb", "a\x85b", "a\u2028b"],
}  # fmt: skip
UNFIT["account"] = UNFIT["queue"]


@pytest.mark.parametrize("key", sorted(UNFIT))
def test_more_than_a_word_of_a_script_is_refused(tmp_path: Path, key: str) -> None:
    file = tmp_path / "user.yaml"
    for text in UNFIT[key]:
        file.write_text(yaml.safe_dump({"cluster": {key: text}}))
        for arguments in ({"file": file}, {"flags": {f"cluster.{key}": text}}):
            assert refused(cluster="slurm", **arguments).startswith(f"cluster.{key} = {text!r} from "), text


@pytest.mark.parametrize(
    "setting",
    ["memory=16GiB", "memory=1.5 TB", "memory=500MB", "walltime=1:30:00", "walltime=12:00:00",
     "walltime=7-00:00:00", "walltime=100-23:59:59", "queue=long,short", "queue=gpu_v100-32@site.1+x", "account=0123",
     "account=12345", "account=1_000", "queue=1e3"],
)  # fmt: skip
def test_words_of_a_script_arrive_as_written(tmp_path: Path, setting: str) -> None:
    """Unquoted as well, where YAML's rules would make a number of some."""
    key, _, text = setting.partition("=")
    file = tmp_path / "user.yaml"
    file.write_text(f"cluster: {{{key}: {text if ',' not in text else repr(text)}}}\n")
    assert getattr(load_config(cluster="slurm", sets=[f"cluster.{setting}"]).cluster, key) == text
    assert getattr(load_config(file, cluster="slurm").cluster, key) == text


def test_a_message_keeps_its_capital_letters() -> None:
    """In lower case it would name as expected the very text that it refuses."""
    assert "such as 16GB or 16GiB" in refused(cluster="slurm", sets=["cluster.memory=16gb"])


def test_an_unknown_preset_lists_the_known_ones(tmp_path: Path) -> None:
    message = refused(cluster="slum")
    assert message == f"--cluster slum: neither a file nor one of {', '.join(sorted(CLUSTERS))}"
    assert refused(cluster=str(tmp_path)).startswith(f"{tmp_path}: cannot be read as YAML")


@pytest.mark.parametrize("text", ["cluster: {workers: 2}\n", "threshold: 0.5\n", "cluster: {kind: null}\n"])
def test_a_preset_that_names_no_kind_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert refused(cluster=str(file)).startswith(f"--cluster {file}: cluster.kind is not set")


def test_a_preset_may_be_a_file_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("cluster: {kind: local, workers: 3}\ntiling: {tile_size: 512}\n")
    config = load_config(cluster="mine.yaml", sets=["cluster.kind=auto"])
    assert (config.cluster.kind, config.cluster.workers, config.tiling.tile_size) == ("local", 3, 512)
    # A packaged name is meant even where a file is called so.
    Path("slurm").write_text("cluster: {kind: local}\n")
    assert load_config(cluster="slurm").cluster.kind == "slurm"


SLURM = ("cluster.kind=slurm", "cluster.jobs=1", "cluster.memory=16GB")


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ((*SLURM, "cluster.walltime=1h"),
         "cluster.walltime = '1h' from --set cluster.walltime=1h: expected [days-]hours:"),
        ((*SLURM, "cluster.walltime=60"), "such as 12:00:00 or 1-00:00:00"),
        ((*SLURM, "cluster.walltime=1:00:00", "cluster.memory=16"), "cluster.memory = 16 from --set cluster.memory=16: "
         "expected a number with its unit, such as 16GB or 16GiB"),
        ((*SLURM, "cluster.walltime=1:00:00", "cluster.queue=a b"), "expected a name of letters"),
        (("bands.before=-1",), "bands.before = -1 from --set bands.before=-1: expected band numbers from 1, such"),
        (("bands.after=0,1,2",), "expected band numbers from 1, such as [1,2,3]"),
        (("bands.after={}",), "expected band numbers from 1, such as [1,2,3]"),
        (("dates.before=June",), "expected a date such as 2018-06-30"),
    ],
)  # fmt: skip
def test_values_are_expected_in_words(sets: tuple[str, ...], expected: str) -> None:
    message = refused(sets=sets)
    assert expected in message
    assert "pattern" not in message
    assert "tuple" not in message


@pytest.mark.parametrize("text", ["1,2,3", "[1,2,3]", "1 2 3", "1, 2, 3", "(1,2,3)"])
def test_band_numbers_are_taken_as_people_write_them(text: str) -> None:
    assert load_config(sets=(f"bands.before={text}",)).bands.before == (1, 2, 3)
    assert load_config(sets=("bands.before=2",)).bands.before == (2,)


@pytest.mark.parametrize("text", ["B04,B03,B02", "[B04, B03, B02]", "B04 B03 B02"])
def test_bands_may_be_named(text: str) -> None:
    assert load_config(sets=(f"bands.before={text}",)).bands.before == ("B04", "B03", "B02")


def test_dates_are_taken_as_yaml_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("dates: {before: 2018-06-30, after: 2019-06-30T10:15:00Z}")
    dates = load_config(file).dates
    assert (dates.before, dates.after) == ("2018-06-30", "2019-06-30T10:15:00+00:00")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("cluster.partition", "cluster.queue"),
        ("cluster.time", "cluster.walltime"),
        ("cluster.mem", "cluster.memory"),
        ("cluster.cpus-per-task", "cluster.threads"),
        ("cluster.n_workers", "cluster.workers"),
        ("tiling.tilesize", "tiling.tile_size"),
    ],
)
def test_keys_of_other_programs_are_translated(key: str, meant: str) -> None:
    assert f"unknown key {key}; did you mean {meant}?" in refused(sets=(f"{key}=1",))


def test_missing_file_is_one_plain_line(tmp_path: Path) -> None:
    file = tmp_path / "no.yaml"
    assert refused(file=file) == f"{file}: cannot be read, no such file; check the path of the configuration"
    assert refused(file=tmp_path) == f"{tmp_path}: cannot be read as YAML (Is a directory)"


@pytest.mark.parametrize(
    "values", [{"tiling.tile_size": 256, "threshold": 0.3}, {"tiling": {"tile_size": 256}, "threshold": 0.3}]
)
def test_values_of_a_python_caller_are_nested_or_dotted(values: dict[str, Any]) -> None:
    config = as_config(values)
    assert (config.tiling.tile_size, config.threshold) == (256, 0.3)
    assert as_config(config) is config
    assert as_config(None) == load_config()


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("geoparquet", ("parquet",)),
        ("FGB", ("flatgeobuf",)),
        ("gpkg, geojson,gpkg", ("gpkg", "geojson")),
        ("[geopackage, parquet]", ("gpkg", "parquet")),
    ],
)
def test_formats_have_several_names(text: str, formats: tuple[str, ...]) -> None:
    config = load_config(sets=[f"vector.format={text}"])
    assert config.vector.format == formats
    recorded = config.model_dump(mode="json")["vector"]["format"]
    assert recorded == (formats[0] if len(formats) == 1 else list(formats))
    assert load_config(flags={"vector.format": recorded}).vector.format == formats


def test_a_repeated_flag_may_hold_several_formats_each() -> None:
    config = load_config(flags={"vector.format": ["gpkg,geojson", "fgb"]})
    assert config.vector.format == ("gpkg", "geojson", "flatgeobuf")


@pytest.mark.parametrize("text", ["[]", "''", "shp", "[gpkg, shp]", "['gpkg,shp']", "[',']", "3", "null"])
def test_unknown_formats_are_refused(text: str) -> None:
    message = refused(sets=[f"vector.format={text}"])
    assert message.startswith("vector.format = ")
    assert "geoparquet, gpkg, flatgeobuf, geojson" in message
