"""One bit of any file of a finished run, flipped: listed by validate, and mended by the same command."""

from __future__ import annotations

import json
import random
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.city import TALLY
from tests.support.scenes import write_scene
from tests.support.stubs import StubRecipe
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import PipelineError, StoreError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.products import recorded_config, write_manifest
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.runs.status import status
from ussfc.pipeline.runs.validate import validate
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

SETS = [
    "tiling.tile_size=64", "tiling.patch_size=32", "threshold=0.3", "cluster.kind=serial",
    "vector.format=[geoparquet, gpkg]",
]  # fmt: skip
CONFIG = load_config(sets=SETS)
COMPUTATION = Computation(StubRecipe(32, 4, 1, 3))
FLIPS = 2
"""Flips of each file."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    write_scene(folder, "a", (100, 100))
    return str(folder / "a_before.tif"), str(folder / "a_after.tif")


@pytest.fixture(scope="module")
def finished(pair: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    run(*pair, out, CONFIG, computation=COMPUTATION)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def files_of(out: Path) -> list[Path]:
    """List every file with content; the log is for people."""
    return sorted(
        file for file in out.rglob("*") if file.is_file() and file.stat().st_size and file.suffix != ".log"
    )


def flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def content(out: Path) -> dict[str, bytes]:
    """Return every file that a repair makes again byte for byte: records hold times."""
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in files_of(out)
        if "products" not in file.parts and file.name not in ("run.json", "infer.json", "changes.gpkg")
    }


def test_validate_lists_what_is_broken(out: Path) -> None:
    chance = random.Random(1)
    assert [check.name for check in validate(out) if not check.ok] == []
    files = files_of(out)
    assert len(files) > 15
    for file in files:
        whole, name = file.read_bytes(), str(file.relative_to(out))
        for _ in range(FLIPS):
            flip(file, chance)
            TALLY.injected("bit of a finished run")
            failed = [check for check in validate(out) if not check.ok]
            assert failed, f"{name} is broken, and not listed"
            assert all("\n" not in check.detail for check in failed)
            assert any(
                name.startswith(check.name.removesuffix(" is what the run wrote")) for check in failed
            ), name
            file.write_bytes(whole)
    assert [check.name for check in validate(out) if not check.ok] == []


def test_the_same_command_mends_it(out: Path, pair: tuple[str, str]) -> None:
    chance = random.Random(2)
    expected = content(out)
    for file in files_of(out):
        name = str(file.relative_to(out))
        flip(file, chance)
        events: list[Event] = []
        run(*pair, out, CONFIG, subscriber=events.append, computation=COMPUTATION)
        notices = [event.message for event in events if isinstance(event, Notice)]
        assert "everything is done already" not in notices, name
        assert [check.name for check in validate(out) if not check.ok] == [], name
        assert content(out) == expected, name
    events = []
    run(*pair, out, CONFIG, subscriber=events.append, computation=COMPUTATION)
    assert Notice("everything is done already", warning=False) in events
    assert any("comparing" in event.message for event in events if isinstance(event, Notice))


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def unsealed(file: Path) -> None:
    """Change numbers, and take the checksum away."""
    record = json.loads(file.read_bytes())
    del record["checksum"]
    file.write_text(re.sub(r"[12]", "3", json.dumps(record)))


def no_json(file: Path) -> None:
    file.write_text("null")


HARMS = {
    "truncated": truncated,
    "unsealed": unsealed,
    "no json": no_json,
    "flipped": lambda file: flip(file, random.Random(3)),
}


@pytest.mark.parametrize(
    "harm",
    [
        "truncated",
        "unsealed",
        *(pytest.param(harm, marks=pytest.mark.soak) for harm in ("no json", "flipped")),
    ],
)
def test_a_damaged_record_of_an_unfinished_run_is_made_again(
    harm: str, out: Path, pair: tuple[str, str]
) -> None:
    expected = content(out)
    for file in sorted((out / "work").rglob("*.json")):
        if "probability.zarr" in file.parts:
            continue
        (out / "run.json").unlink()
        HARMS[harm](file)
        if harm != "unsealed":
            failed = {check.name for check in validate(out) if not check.ok}
            assert f"{file.relative_to(out)} is what the run wrote" in failed
        events: list[Event] = []
        run(*pair, out, CONFIG, subscriber=events.append, computation=COMPUTATION)
        notices = [event.message for event in events if isinstance(event, Notice)]
        assert "resuming: 4 of 4 tiles are done" in notices, file.name
        assert [check.name for check in validate(out) if not check.ok] == [], file.name
        assert content(out) == expected, file.name


def test_a_damaged_key_is_refused_to_another_run(out: Path, pair: tuple[str, str]) -> None:
    (out / "run.json").unlink()
    key = out / "work" / "run_key.json"
    truncated(key)
    with pytest.raises(StoreError, match=r"run_key\.json: .*the same `ussfc run` makes it again"):
        status(out)
    other = load_config(sets=[*SETS, "grid.resampling=average"])
    with pytest.raises(StoreError, match="4 finished tiles beside it are of other inputs"):
        run(*pair, out, other, computation=COMPUTATION)
    key.unlink()
    with pytest.raises(StoreError, match="is missing, and the 4 finished tiles"):
        run(*pair, out, other, computation=COMPUTATION)
    run(*pair, out, CONFIG, computation=COMPUTATION)
    assert status(out).state == "complete"


def test_a_damaged_key_without_a_tile_starts_over(out: Path, pair: tuple[str, str]) -> None:
    expected = content(out)
    (out / "run.json").unlink()
    shutil.rmtree(out / "work" / "done")
    truncated(out / "work" / "run_key.json")
    run(*pair, out, CONFIG, computation=COMPUTATION)
    assert content(out) == expected


def test_a_chunk_in_a_store_is_compared(pair: tuple[str, str]) -> None:
    out, events = Folder.of("memory://flips/out"), list[Event]()
    run(*pair, out, CONFIG, computation=COMPUTATION)
    chunk = f"work/{layout.chunk((0, 1))}"
    whole = bytearray(out.read(chunk))
    flipped = whole.copy()
    flipped[len(whole) // 2] ^= 1
    out.write(chunk, bytes(flipped))
    assert [check.name for check in validate(out) if not check.ok] == [
        f"work/{layout.CHUNKS} is what the run wrote"
    ]
    run(*pair, out, CONFIG, subscriber=events.append, computation=COMPUTATION)
    assert Notice("everything is done already", warning=False) not in events
    assert out.read(chunk) == bytes(whole)


@pytest.mark.parametrize(
    "name", ["infer.json", "radiometry.json", "run_key.json", "products/change.tif.json"]
)
def test_a_record_that_lacks_parts_is_one_line(name: str, out: Path, pair: tuple[str, str]) -> None:
    """As of an earlier version, without a checksum: every command ends in a documented way."""
    (out / "work" / name).write_text('{"config": {}, "model": "other"}')
    for command in (
        lambda: run(*pair, out, CONFIG, computation=COMPUTATION),
        lambda: recorded_config(out),
        lambda: write_manifest(out),
        lambda: status(out),
        lambda: validate(out),
    ):
        with suppress(PipelineError):
            command()
