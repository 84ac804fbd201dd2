"""Tiles that keep failing, cleaned folders and repeated runs, as a user sees them."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import rasterio
from click.testing import CliRunner, Result

from tests.support.scenes import DEMO, write_toy_model
from tests.support.stubs import StubRecipe
from ussfc import cli
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import StoreError, TileError
from ussfc.pipeline.events import Advanced, Event
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.products import mosaic
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.runs.status import clean, status
from ussfc.pipeline.runs.validate import validate
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.layout import RUN_KEY
from ussfc.pipeline.storage.run_name import STARTING
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

PAIR = str(DEMO / "beirut_before.tif"), str(DEMO / "beirut_after.tif")
SETS = (
    "tiling.tile_size=128", "tiling.patch_size=32", "threshold=0.3", "cluster.kind=serial",
    # Windows that cannot be read take no part in it: the shift of a damaged scene is another one in its last digits.
    "registration=off",
)  # fmt: skip
COMPUTATION = Computation(StubRecipe(32, 4, 1, 3))
PRODUCTS = ("change.tif", "probability.tif", "changes.parquet")


def config(*sets: str) -> Any:
    return load_config(sets=[*SETS, "compute.retries=0", *sets])


def products(out: Path | str) -> dict[str, bytes]:
    return {name: Folder.of(out).read(name) for name in PRODUCTS}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the products of a run that meets with no trouble."""
    out = tmp_path_factory.mktemp("expected") / "out"
    run(*PAIR, out, config(), computation=COMPUTATION)
    return products(out)


@dataclass
class Patient:
    """A copy of the before image with a hole in its compressed blocks, which can be mended."""

    path: Path

    def __post_init__(self) -> None:
        content = Path(PAIR[0]).read_bytes()
        self.path.write_bytes(content)
        self.whole = self.path.stat()
        with rasterio.open(self.path) as source:
            # Band 1, the block in the second row and second column of blocks.
            offset = int(source.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
        self.path.write_bytes(content[:offset] + bytes(2000) + content[offset + 2000 :])
        self._remember()

    def mend(self) -> None:
        """Write the whole file again, with the same size and date."""
        self.path.write_bytes(Path(PAIR[0]).read_bytes())
        self._remember()

    def _remember(self) -> None:
        os.utime(self.path, ns=(self.whole.st_atime_ns, self.whole.st_mtime_ns))


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(tmp_path / "beirut_before.tif")


def interrupt(event: Event) -> None:
    if isinstance(event, Advanced) and event.done:
        raise KeyboardInterrupt


def test_failing_tile_is_nodata_and_tried_again(
    patient: Patient, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    pair = str(patient.path), PAIR[1]
    manifest = run(*pair, out, config("compute.retries=1"), computation=COMPUTATION)
    assert manifest.complete is False
    failed = manifest.failed_tiles
    # The block lies under four tiles, and in the halo of those around them.
    assert [failure.index for failure in failed] == [
        (row, col) for row in (1, 2, 3, 4) for col in (1, 2, 3, 4)
    ]
    for failure in failed:
        row, col = failure.index
        assert failure.rows == (128 * row, 128 * row + 128)
        assert failure.columns == (128 * col, 128 * col + 128)
        assert failure.attempts == 2
        assert f"tile {row},{col} (rows {128 * row}..{128 * row + 128}" in failure.error
        assert "beirut_before.tif" in failure.error
        assert "\n" not in failure.error
    assert manifest.counts.tiles_failed == len(failed)
    assert [check for check in validate(out) if not check.ok] == []
    for name in ("change.tif", "probability.tif"):
        with rasterio.open(out / name) as source:
            pixels = source.read(1)
        for failure in failed:
            assert (pixels[slice(*failure.rows), slice(*failure.columns)] == 255).all()
        assert (pixels == 255).sum() == 128 * 128 * len(failed)
    found = status(out)
    assert found.state == "incomplete"
    assert found.tiles.dump() == {"total": 36, "done": 20, "failed": 16, "left": 0}
    assert found.failed_tiles == failed

    # While the failed ones are tried again, what is there is no result.
    with pytest.raises(KeyboardInterrupt):
        run(*pair, out, config(), subscriber=interrupt, computation=COMPUTATION)
    assert status(out).state == "unfinished"
    with pytest.raises(StoreError, match="not all computed yet"):
        mosaic(out, config())

    # Again, and nothing is better: the same. Then the disk is mended.
    assert run(*pair, out, config(), computation=COMPUTATION).complete is False
    patient.mend()
    events: list[Event] = []
    manifest = run(*pair, out, config(), subscriber=events.append, computation=COMPUTATION)
    assert manifest.complete is True
    assert manifest.failed_tiles == ()
    assert sum(event.done for event in events if isinstance(event, Advanced) and event.stage == "infer") == 16
    assert products(out) == expected
    assert status(out).state == "complete"
    assert status(out).failed_tiles == ()


def test_fail_fast_stops_at_the_first_error(patient: Patient, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TileError, match=r"beirut_before\.tif"):
        run(
            str(patient.path),
            PAIR[1],
            out,
            config("compute.retries=5"),
            computation=replace(COMPUTATION, fail_fast=True),
        )
    found = status(out)
    assert found.state == "unfinished"
    assert found.tiles.failed == 1
    assert found.tiles.left == 36 - 1 - found.tiles.done > 0
    assert found.products == {}
    with pytest.raises(StoreError, match="not all computed yet; run `ussfc infer` or `ussfc run` again"):
        mosaic(out, config())


@dataclass(frozen=True)
class BrokenRecipe(StubRecipe):
    def build(self) -> Any:
        raise RuntimeError("no kernel image is available")


def test_run_without_a_good_tile_names_the_reason(tmp_path: Path) -> None:
    """End soon: failing tiles alone are no result, and ten thousand of them would take long."""
    events: list[Event] = []
    for size, failed in ((512, 4), (128, 8)):
        with pytest.raises(TileError, match=r"tile \d,\d .*RuntimeError: no kernel image is available"):
            run(
                *PAIR,
                tmp_path,
                config(f"tiling.tile_size={size}"),
                True,
                events.append,
                Computation(BrokenRecipe(32, 4, 1, 3)),
            )
        assert not (tmp_path / "change.tif").exists()
        found = status(tmp_path).tiles
        assert (found.done, found.failed, found.left) == (0, failed, found.total - failed)


def test_run_into_memory(expected: dict[str, bytes]) -> None:
    out = f"memory://{secrets.token_hex(6)}/out"
    manifest = run(*PAIR, out, config(), computation=COMPUTATION)
    assert products(out) == expected
    assert [check for check in validate(out) if not check.ok] == []
    assert status(out).state == "complete"
    assert run(*PAIR, out, config(), computation=COMPUTATION) == manifest
    with pytest.raises(StoreError, match="holds another run, which differs in tiling"):
        run(*PAIR, out, config("tiling.tile_size=256"), computation=COMPUTATION)
    run(*PAIR, out, config("tiling.tile_size=256"), True, computation=COMPUTATION)
    assert products(out) == expected
    run(*PAIR, out, config("tiling.tile_size=256", "output.keep_work=false"), computation=COMPUTATION)
    assert set(Folder.of(out).sizes()) == {*PRODUCTS, "changes.gpkg", "run.json", "run.log"}


def test_missing_scratch_folder_is_reported(tmp_path: Path) -> None:
    out = f"memory://{secrets.token_hex(6)}/out"
    with pytest.raises(StoreError, match=r"absent: cannot be written .*output\.scratch"):
        run(*PAIR, out, config(f"output.scratch={tmp_path / 'absent'}"), computation=COMPUTATION)


def test_complete_run_is_not_repeated(tmp_path: Path, expected: dict[str, bytes]) -> None:
    """Also when its work is gone, which a kill may have cut short."""
    first = run(*PAIR, tmp_path, config("output.keep_work=false"), computation=COMPUTATION)
    assert not (tmp_path / "work").exists()
    assert run(*PAIR, tmp_path, config(), computation=COMPUTATION) == first
    assert status(tmp_path).state == "complete"
    (tmp_path / "work" / "probability.zarr").mkdir(parents=True)
    (tmp_path / "work" / "probability.zarr" / "half").write_bytes(b"removed")
    assert run(*PAIR, tmp_path, config("output.keep_work=false"), computation=COMPUTATION) == first
    assert not (tmp_path / "work").exists()
    assert products(tmp_path) == expected
    with pytest.raises(StoreError, match="whose work was removed"):
        run(*PAIR, tmp_path, config("threshold=0.9"), computation=COMPUTATION)


def test_products_are_not_made_twice(tmp_path: Path, expected: dict[str, bytes]) -> None:
    run(*PAIR, tmp_path, config(), computation=COMPUTATION)
    made = {name: (tmp_path / name).stat().st_mtime_ns for name in PRODUCTS}
    (tmp_path / "run.json").unlink()
    run(*PAIR, tmp_path, config(), computation=COMPUTATION)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in PRODUCTS} == made
    run(*PAIR, tmp_path, config("threshold=0.6"), computation=COMPUTATION)
    assert (tmp_path / "probability.tif").stat().st_mtime_ns == made["probability.tif"]
    assert (tmp_path / "change.tif").stat().st_mtime_ns != made["change.tif"]
    assert json.loads((tmp_path / "run.json").read_text())["thresholds"] == {"mosaic": 0.6, "vectorise": 0.6}
    assert [check for check in validate(tmp_path) if not check.ok] == []
    run(*PAIR, tmp_path, config(), computation=COMPUTATION)
    assert products(tmp_path) == expected


def test_product_without_its_record_is_made_again(
    tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the product and before its record: of another threshold, and maybe of the same size."""
    run(*PAIR, tmp_path, config(), computation=COMPUTATION)
    write = Folder.write_record

    def stopped(folder: Folder, name: str, content: Any) -> None:
        if name == "work/products/change.tif.json":
            raise KeyboardInterrupt
        write(folder, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write_record", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(*PAIR, tmp_path, config("threshold=0.6"), computation=COMPUTATION)
    assert (tmp_path / "change.tif").read_bytes() != expected["change.tif"]
    assert not (tmp_path / "run.json").exists()
    assert not (tmp_path / "work" / "products" / "change.tif.json").exists()
    assert status(tmp_path).state == "unfinished"
    run(*PAIR, tmp_path, config(), computation=COMPUTATION)
    assert products(tmp_path) == expected


def test_killed_overwrite_goes_on(tmp_path: Path, expected: dict[str, bytes]) -> None:
    run(*PAIR, tmp_path, config("tiling.overlap=0.5"), computation=COMPUTATION)
    Folder.of(tmp_path / "work").write_record(RUN_KEY, STARTING)
    assert status(tmp_path).state == "unfinished"
    run(*PAIR, tmp_path, config(), computation=COMPUTATION)
    assert products(tmp_path) == expected


def test_run_killed_at_its_start_goes_on(tmp_path: Path, expected: dict[str, bytes]) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / f"{RUN_KEY}.part").write_text("{")
    run(*PAIR, tmp_path, config(), computation=COMPUTATION)
    assert products(tmp_path) == expected


def test_leftovers_of_stopped_runs_are_cleaned(tmp_path: Path) -> None:
    run(*PAIR, tmp_path, config(), computation=COMPUTATION)
    before = sorted(tmp_path.rglob("*"))
    left = ["change.part.tif", "work/infer.json.part", "work/probability.zarr/probability/c/0/0.a1.partial"]
    for name in left:
        (tmp_path / name).write_bytes(b"half")
    assert clean(tmp_path, dry_run=True) == {"uploads": [], "files": sorted(left)}
    assert all((tmp_path / name).exists() for name in left)
    assert clean(tmp_path) == {"uploads": [], "files": sorted(left)}
    assert sorted(tmp_path.rglob("*")) == before
    assert [check for check in validate(tmp_path) if not check.ok] == []


# --- on the command line


def ussfc(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_model(tmp_path_factory.mktemp("model"))


def test_incomplete_run_exits_8(patient: Patient, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["run", patient.path, PAIR[1], "--out", out, "--model", model]
    for setting in ("tiling.tile_size=128", "compute.retries=0", "cluster.kind=serial"):
        arguments += ["--set", setting]
    result = ussfc(*arguments)
    assert result.exit_code == ExitStatus.INCOMPLETE
    last = result.stderr.splitlines()[-1]
    assert last.startswith("incomplete: ")
    assert "16 of 36 tiles kept failing" in last
    assert "the same command tries them again" in last
    shown = ussfc("status", out)
    assert shown.exit_code == ExitStatus.INCOMPLETE
    assert shown.stdout.startswith("incomplete: ")
    assert "failed   tile 4,4" in shown.stdout
    assert json.loads(ussfc("status", out, "--json").stdout)["state"] == "incomplete"
    assert ussfc("mosaic", out, "--threshold", "0.9", "-q").exit_code == ExitStatus.INCOMPLETE
    stopped = ussfc(*arguments, "--fail-fast")
    assert stopped.exit_code == ExitStatus.INPUT
    assert stopped.stderr.splitlines()[-1].startswith("error: tile ")
    patient.mend()
    assert ussfc(*arguments, "--resume").exit_code == 0
    shown = ussfc("status", out)
    assert shown.exit_code == 0
    assert shown.stdout.startswith("complete: 36 of 36 tiles done")
    assert "nothing to clean" in ussfc("clean", out).stdout


@pytest.mark.parametrize("command", ["status", "clean", "validate", "mosaic"])
def test_folder_without_a_run_exits_4(command: str, tmp_path: Path) -> None:
    result = ussfc(command, tmp_path)
    assert result.exit_code == ExitStatus.OUTPUT
    assert "holds no run of ussfc" in result.stderr
    assert list(tmp_path.iterdir()) == []
