"""Chunks that are torn, changed or gone, and disks that are full: found, reported, mended."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.city import CALLS_OF_A_TILE, MOST_CALLS, TALLY, TILES, City, assert_clean, assert_same

Undisturbed = tuple[dict[str, bytes], int]


def chunks_of(city: City) -> list[Path]:
    folder = Path(city.out) / "work/probability.zarr/probability/c"
    return sorted(path for path in folder.rglob("*") if path.is_file())


def torn(chunk: Path, chance: random.Random) -> None:
    content = chunk.read_bytes()
    chunk.write_bytes(content[: chance.randrange(len(content))])


def padded(chunk: Path, chance: random.Random) -> None:
    """Keep the size and lose the end, as after a crash of the machine."""
    content = chunk.read_bytes()
    kept = chance.randrange(len(content) - 16)
    chunk.write_bytes(content[:kept] + bytes(len(content) - kept))


def flipped(chunk: Path, chance: random.Random) -> None:
    content = bytearray(chunk.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    chunk.write_bytes(bytes(content))


def gone(chunk: Path, chance: random.Random) -> None:
    chunk.unlink()


def test_damaged_chunks_are_computed_again(undisturbed: Undisturbed, city: City) -> None:
    assert city.run()["status"] == 0
    (Path(city.out) / "run.json").unlink()
    (Path(city.out) / "change.tif").unlink()
    chance = random.Random(3)
    harms = [torn, padded, flipped, gone, flipped, padded]
    for harm, chunk in zip(harms, chance.sample(chunks_of(city), len(harms)), strict=True):
        harm(chunk, chance)
        TALLY.injected(f"chunk {harm.__name__}")
    before = city.calls
    result = city.run()
    assert result["status"] == 0, result["error"]
    assert_same(city.content(), undisturbed[0])
    assert city.calls <= before + len(harms) * CALLS_OF_A_TILE


def test_a_product_that_is_gone_is_made_again(undisturbed: Undisturbed, city: City) -> None:
    assert city.run()["status"] == 0
    for name in ("probability.tif", "changes.parquet"):
        (Path(city.out) / name).unlink()
        TALLY.injected("product gone")
        before = city.calls
        assert city.run()["status"] == 0
        assert_same(city.content(), undisturbed[0])
        assert city.calls == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of half a megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("step", [pytest.param(640, marks=pytest.mark.soak), 1792])
def test_a_full_disk_at_every_size_until_it_fits(
    undisturbed: Undisturbed, small_disk: Path, tmp_path: Path, step: int
) -> None:
    """The disk grows by little until a run comes through: it was full at every stage before."""
    city = City(str(small_disk / "out"), tmp_path / "log")
    refused = 0
    for kilobytes in range(512, 12_000, step):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(small_disk)], check=True)
        result = city.run()
        if result["status"] == 0:
            break
        assert result["status"] == 4, result["error"]
        message = result["error"].splitlines()[-1]
        assert message.startswith("StoreError: ")
        assert "room" in message
        assert str(small_disk) in message
        assert not (Path(city.out) / "run.json").exists()
        refused += 1
        TALLY.injected("full disk")
    assert refused >= 2
    assert_same(city.content(), undisturbed[0])
    assert_clean(Path(city.out))
    # Tiles that were done stayed done: at most one a refusal was lost.
    assert city.calls <= MOST_CALLS + refused * CALLS_OF_A_TILE * 2
    assert len(chunks_of(city)) == TILES
