"""Configuration: precedence, unknown keys, unusable values, and the documented defaults."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import RunConfig, documented_keys, load_config
from pipeline.errors import ConfigError

LAYERS = ("file", "environment", "set", "flag")
sizes = st.integers(64, 16384)


def packaged() -> dict[str, Any]:
    loaded = yaml.safe_load(resources.files("configs").joinpath("default.yaml").read_text("utf-8"))
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


def test_every_documented_key_is_in_the_packaged_file_with_its_default_and_the_other_way_round() -> None:
    documented = {key: default for key, default, _ in documented_keys()}
    assert documented == flattened(packaged())
    assert all(description for _, _, description in documented_keys())


def test_the_packaged_file_makes_the_default_configuration() -> None:
    assert load_config() == RunConfig()


@settings(deadline=None, max_examples=40)
@given(layers=st.dictionaries(st.sampled_from(LAYERS), sizes))
def test_flags_beat_sets_beat_the_environment_beats_the_file_beats_the_defaults(
    tmp_path_factory: pytest.TempPathFactory, layers: dict[str, int]
) -> None:
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


def test_a_flag_that_was_not_given_leaves_the_rest_alone() -> None:
    assert load_config(sets=["threshold=0.7"], flags={"threshold": None, "model": None}).threshold == 0.7


def test_other_variables_of_the_environment_do_not_matter() -> None:
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


def test_a_base_stands_in_for_the_packaged_defaults() -> None:
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
def test_an_unknown_key_names_the_nearest_and_where_it_was_found(
    tmp_path: Path, key: str, nearest: str
) -> None:
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
        "bands.before=red",
        "bands.before=[one]",
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
def test_an_unusable_value_names_key_value_and_origin(setting: str) -> None:
    key, _, text = setting.partition("=")
    message = refused(sets=[setting])
    assert message.startswith(f"{key} = ")
    assert f"from --set {setting}: " in message
    assert text.strip("[]").lstrip(".") in message


@pytest.mark.parametrize(
    "setting", ["grid.resolution=.inf", "vector.simplify_m=.inf", "compute.memory_gb=.inf"]
)
def test_a_number_that_means_nothing_is_refused(setting: str) -> None:
    assert refused(sets=[setting]).startswith(setting.partition("=")[0])


def test_a_setting_without_an_equals_sign_shows_how_it_is_written() -> None:
    assert refused(sets=["tiling.tile_size"]).startswith("--set tiling.tile_size: wanted key=value")


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
