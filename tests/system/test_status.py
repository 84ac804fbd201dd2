"""`ussfc status` of a folder in which a run of another process is going on, and once it has ended."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest
import rasterio
from click.testing import CliRunner, Result

from tests.support.scenes import write_scene, write_toy_model
from ussfc import cli
from ussfc.pipeline.terminal import progress
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

SETS = ("tiling.tile_size=64", "tiling.patch_size=32", "cluster.kind=serial", "compute.retries=0")


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_scene(folder, "a", (100, 100), side=160)
    write_toy_model(folder)
    return folder


def command(place: Path, out: Path, name: str = "run", before: Path | None = None) -> list[str]:
    pair = [str(before or place / "a_before.tif"), str(place / "a_after.tif")]
    sets = [part for text in SETS for part in ("--set", text)]
    return [name, *pair, "--out", str(out), "--model", str(place / "toy.yaml"), *sets]


def test_follow_ends_with_the_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a run in a folder without one; without --follow that is an error."""
    out = tmp_path / "out"
    monkeypatch.setattr(progress, "FOLLOW_SECONDS", 0.02)
    plain = ussfc("status", out)
    assert plain.exit_code == ExitStatus.OUTPUT
    assert "holds no run of ussfc" in plain.stderr
    followed: list[Result] = []
    # The first line of the follower starts the run, which ends on its own.
    echo, waiting = click.echo, threading.Event()

    def listening(message: object = None, **arguments: object) -> None:
        echo(message, **arguments)
        if str(message).endswith("waiting: 0 of 0 tiles"):
            waiting.set()

    monkeypatch.setattr(click, "echo", listening)
    follower = threading.Thread(target=lambda: followed.append(ussfc("status", out, "--follow")))
    follower.start()
    assert waiting.wait(30)
    assert follower.is_alive()
    done = subprocess.run(
        [sys.executable, "-m", "ussfc.cli", *command(place, out), "-q"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    follower.join(30)
    (result,) = followed
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("complete: 9 of 9 tiles done, 0 left, 0 failed")
    # After the date and the time.
    lines = [line.split(" ", 2)[2] for line in result.stderr.splitlines()]
    assert lines[0] == "waiting: 0 of 0 tiles"
    assert lines[1].startswith("unfinished: ")
    counts = [int(line.split()[1]) for line in lines]
    assert counts == sorted(counts)
    assert any(" left" in line for line in lines)
    # A run that is over is reported at once.
    again = ussfc("status", out, "-f", "--json")
    assert again.exit_code == 0
    assert again.stderr == ""


def test_follow_ends_with_failed_tiles(place: Path, tmp_path: Path) -> None:
    broken, out = tmp_path / "broken.tif", tmp_path / "out"
    with rasterio.open(place / "a_before.tif") as source:
        profile = source.profile | {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}
        values = source.read()
    with rasterio.open(broken, "w", **profile) as target:
        target.write(values)
    with rasterio.open(broken) as source:
        places = [source.get_tag_item(f"BLOCK_{what}_0_0", "TIFF", bidx=1) for what in ("OFFSET", "SIZE")]
    offset, size = map(int, places)
    content = broken.read_bytes()
    broken.write_bytes(content[:offset] + b"\xff" * size + content[offset + size :])
    assert ussfc(*command(place, out, before=broken), "-q").exit_code == ExitStatus.INCOMPLETE
    result = ussfc("status", out, "--follow")
    assert result.exit_code == ExitStatus.INCOMPLETE
    assert result.stdout.startswith("incomplete: 8 of 9 tiles done, 0 left, 1 failed")
    assert result.stderr == ""

    # Mended, without a trace in what identifies it.
    seen = broken.stat()
    broken.write_bytes(content)
    os.utime(broken, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert ussfc(*command(place, out, "infer", before=broken), "-q").exit_code == 0
    # All tiles are there, and the products still lack one.
    result = ussfc("status", out)
    assert result.exit_code == ExitStatus.INCOMPLETE
    assert result.stdout.startswith("unfinished: 9 of 9 tiles done, 0 left, 0 failed")
    assert ussfc(*command(place, out, before=broken), "-q").exit_code == 0
    assert ussfc("status", out, "--follow").stdout.startswith("complete: 9 of 9 tiles done")
