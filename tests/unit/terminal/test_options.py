"""Options that reach a command as one object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ussfc.pipeline.errors import ConfigError, StoreError
from ussfc.pipeline.terminal import options
from ussfc.pipeline.terminal.options import Settings, grouped


@dataclasses.dataclass(frozen=True)
class Group:
    size: int
    name: str = "default"


def test_options_reach_the_command_as_one_object() -> None:
    received: list[object] = []

    @click.command()
    @click.argument("place")
    @grouped("group", Group, click.option("--size", type=int), click.option("--unused", "name"))
    @click.option("--last", is_flag=True)
    def command(place: str, group: Group, last: bool) -> None:
        received.extend([place, group, last])

    result = CliRunner().invoke(command, ["here", "--size", "3", "--unused", "x"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert received == ["here", Group(3, "x"), False]
    # The help page has the order of the source.
    assert [parameter.name for parameter in command.params] == ["place", "size", "name", "last"]


def test_missing_option_keeps_its_default() -> None:
    received: list[Group] = []

    @click.command()
    @grouped("group", Group, click.option("--size", type=int))
    def command(group: Group) -> None:
        received.append(group)

    CliRunner().invoke(command, ["--size", "3"], catch_exceptions=False)
    assert received == [Group(3)]


def test_settings_become_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USSFC_TILING__TILE_SIZE", "256")
    settings = Settings(sets=("tiling.tile_size=512", "threshold=0.1"), threshold=0.2, engine="torch")
    config = settings.load({"tiling.patch_size": 64})
    assert (config.tiling.tile_size, config.tiling.patch_size) == (512, 64)
    assert (config.threshold, config.inference.engine) == (0.2, "torch")
    assert settings.load({"threshold": 0.3}).threshold == 0.3
    assert Settings().load().tiling.tile_size == 256


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--before-bands", "3", "2", "1"], (3, 2, 1)),
        (["--before-bands", "B04", "b03", "SR_B2", "nir"], ("B04", "b03", "SR_B2", "nir")),
        (["--before-bands", "4,3,2"], (4, 3, 2)),
        (["--before-bands=4,3,2"], (4, 3, 2)),
        (["--before-bands", "city", "2"], ("city", 2)),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_bands_are_words_up_to_the_next_file_or_option(
    words: list[str], expected: tuple[int | str, ...], first: bool
) -> None:
    received: list[object] = []

    @click.command()
    @options.pair_arguments
    @options.config_options
    def command(before: str, after: str, settings: Settings) -> None:
        received.extend([before, after, settings.load().bands.before, settings.strict])

    names = ["b.tif", "2018"]
    given = [*words, *names, "--strict"] if first else [*names, *words, "--strict"]
    result = CliRunner().invoke(command, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert received == [*names, expected, True]


def test_a_file_is_no_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "4").mkdir()
    received: list[object] = []

    @click.command()
    @options.pair_arguments
    @options.config_options
    def command(before: str, after: str, settings: Settings) -> None:
        received.extend([before, after, settings.before_bands])

    CliRunner().invoke(command, ["--before-bands", "3", "2", "1", "4", "after.tif"], catch_exceptions=False)
    assert received == ["4", "after.tif", "3,2,1"]


def test_scheduler_chooses_its_kind_of_cluster() -> None:
    cluster = Settings(scheduler="tcp://host:1").load().cluster
    assert (cluster.kind, getattr(cluster, "address", None)) == ("scheduler", "tcp://host:1")
    with pytest.raises(ConfigError, match="threshold"):
        Settings(threshold=7).load()


@pytest.mark.parametrize("value", ["memory://out", "MEMORY:out"])
def test_the_memory_of_the_process_is_no_folder(value: str) -> None:
    @click.command()
    @options.FOLDER
    def command(out: str) -> None:
        raise AssertionError(out)

    with pytest.raises(StoreError, match="is the memory of this process"):
        CliRunner().invoke(command, ["--out", value], catch_exceptions=False)


def test_an_address_is_no_local_path(tmp_path: Path) -> None:
    kind = options.LocalPath()
    assert kind.convert(str(tmp_path), None, None) == tmp_path
    with pytest.raises(StoreError, match=r"^s3://bucket/out: is an address"):
        kind.convert("s3://bucket/out?key=secret", None, None)


@pytest.mark.parametrize(
    "decorate", [options.config_options, options.scoring_settings], ids=["run", "evaluate"]
)
def test_runs_and_scores_choose_how_the_network_computes(decorate: Callable[..., click.Command]) -> None:
    received: list[Settings] = []
    command = click.command()(decorate(lambda settings: received.append(settings)))
    given = ["--model", "ussfc-s2-rgb", "--quality", "best", "--engine", "torch", "--precision", "float32"]
    result = CliRunner().invoke(command, given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    inference = received[0].load().inference
    assert (inference.quality, inference.engine, inference.precision) == ("best", "torch", "float32")
