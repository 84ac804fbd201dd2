"""The command line end to end, on a small real pair."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rioxarray
import shapely
import xarray as xr
from click.testing import CliRunner, Result
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

import ussfc as package
from tests.support.paths import DEMO
from tests.support.scenes import write_toy_model
from ussfc import cli
from ussfc.pipeline import detect_changes
from ussfc.pipeline.clusters.base import QUIET
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.terminal.exit_statuses import ExitStatus

SIDE = 300
THRESHOLD = package.find_model("ussfc-s2-rgb").threshold
SMALL = ("--set", "tiling.tile_size=128")


def ussfc(*args: object) -> Result:
    return CliRunner().invoke(cli.main, [str(arg) for arg in args], catch_exceptions=False)


@pytest.fixture(scope="module")
def real_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write 300 x 300 pixels of the demo; a nodata wedge in before, another grid of the same place in after."""
    folder = tmp_path_factory.mktemp("pair")
    paths = []
    for date, offset in (("before", 0), ("after", 7)):
        with rasterio.open(DEMO / f"beirut_{date}.tif") as source:
            window = Window(200 + offset, 200, SIDE, SIDE)
            values = source.read(window=window)
            profile = source.profile | {
                "width": SIDE, "height": SIDE, "transform": source.window_transform(window), "nodata": 0,
            }  # fmt: skip
            descriptions = source.descriptions
        if date == "before":
            values[:, :60, :90] = 0
        path = folder / f"{date}.tif"
        with rasterio.open(path, "w", **profile) as target:
            target.write(values)
            target.descriptions = descriptions
        paths.append(path)
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def finished(real_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    result = ussfc("run", *real_pair, "--out", out, *SMALL, "-q")
    assert result.exit_code == 0, result.output
    return out


def manifest(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "run.json").read_text("utf-8")))


def products(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("change.tif", "probability.tif", "changes.parquet")}


def test_products(finished: Path) -> None:
    for name in ("change.tif", "probability.tif"):
        valid, errors, warnings = cog_validate(finished / name, strict=True, quiet=True)
        assert valid, (errors, warnings)
    with (
        rasterio.open(finished / "change.tif") as change,
        rasterio.open(finished / "probability.tif") as chance,
    ):
        assert change.shape == chance.shape == (SIDE, SIDE - 7)
        classes, levels = change.read(1), chance.read(1)
        assert change.nodata == chance.nodata == 255
        assert chance.scales == (1 / 254,)
        assert change.colormap(1)[1][0] > 200
        assert change.tags()["USSFC_MODEL"] == "ussfc-s2-rgb"
    assert (classes[:60, :83] == 255).all()
    np.testing.assert_array_equal(classes == 255, levels == 255)
    np.testing.assert_array_equal(classes == 1, (levels >= THRESHOLD * 254) & (levels != 255))
    record = manifest(finished)
    frame = geopandas.read_parquet(finished / "changes.parquet")
    assert record["counts"]["changed_pixels"] == (classes == 1).sum() == frame["pixels"].sum() > 0
    assert record["counts"]["polygons"] == len(frame) == frame["id"].nunique()
    assert record["counts"]["tiles"] == 9
    assert frame.is_valid.all()
    assert frame.crs == "EPSG:4326"
    assert 60 < frame["area_m2"].sum() / frame["pixels"].sum() < 140
    assert (
        (frame["mean_probability"] >= THRESHOLD) & (frame["max_probability"] >= frame["mean_probability"])
    ).all()
    assert record["peak_memory_bytes"] > 1e8


def test_log_has_the_run_from_its_first_line(real_pair: tuple[Path, Path], finished: Path) -> None:
    log = (finished / "run.log").read_text("utf-8")
    first, *_, last = log.splitlines()
    for part in (
        "model ussfc-s2-rgb",
        "CC BY-NC-SA 4.0, not for commercial use",
        "threshold 0.15",
        "300 x 293 px",
    ):
        assert part in first
    assert last.endswith(" ended")
    # A run that is done already does nothing, and takes the time of this call.
    result = ussfc("run", *real_pair, "--out", finished, *SMALL)
    for line in result.stderr.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d (note|warning): ", line), line
    assert first[len("2026-01-01 12:00:00+00:00") :] in result.stderr.splitlines()[0]
    assert (finished / "run.log").read_text("utf-8") == log
    taken = re.search(r"Mpx in ([0-9.]+) s", result.stdout)
    assert taken is not None
    assert float(taken[1]) < sum(stage["seconds"] for stage in manifest(finished)["stages"].values())


def test_validate_accepts_and_finds_damage(finished: Path, tmp_path: Path) -> None:
    result = ussfc("validate", finished)
    assert result.exit_code == 0, result.output
    import shutil

    damaged = tmp_path / "damaged"
    shutil.copytree(finished, damaged)
    frame = geopandas.read_parquet(damaged / "changes.parquet")
    frame.iloc[1:].to_parquet(damaged / "changes.parquet")
    result = ussfc("validate", damaged)
    assert result.exit_code == ExitStatus.INVALID
    assert "FAILED  changes.parquet is what the run wrote: SHA-256 differs" in result.output


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(("tiling.tile_size=2048", "cluster.kind=serial"), marks=pytest.mark.soak),
        ("tiling.tile_size=128", "cluster.kind=local", "cluster.workers=2"),
        pytest.param(
            ("tiling.tile_size=200", "cluster.kind=serial", "cluster.threads=1"), marks=pytest.mark.soak
        ),
    ],
)
def test_same_bytes_whatever_the_machinery(
    real_pair: tuple[Path, Path], finished: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    # In a process of its own, as a user starts it: Dask's workers import the main module again.
    command = [
        sys.executable,
        "-m",
        "ussfc.cli",
        "run",
        *map(str, real_pair),
        "--out",
        str(tmp_path / "out"),
        "-q",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert products(tmp_path / "out") == products(finished)


def test_scheduler_gives_the_same_bytes(real_pair: tuple[Path, Path], finished: Path, tmp_path: Path) -> None:
    import dask
    from distributed import LocalCluster

    with dask.config.set(QUIET), LocalCluster(
        n_workers=1, threads_per_worker=2, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path),
    ) as cluster:  # fmt: skip
        result = ussfc("run", *real_pair, "--out", tmp_path / "out", *SMALL, "-q",
                       "--scheduler", cluster.scheduler_address)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert products(tmp_path / "out") == products(finished)


def test_resume_other_key_and_overwrite(real_pair: tuple[Path, Path], finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert ussfc("infer", *real_pair, "--out", out, *SMALL, "-q").exit_code == 0
    (record,) = (out / "work" / "done").glob("*/1.1.*")
    record.unlink()
    refused = ussfc("mosaic", out)
    assert refused.exit_code == ExitStatus.OUTPUT
    assert "1 tile(s) are not computed yet" in refused.output
    again = ussfc("run", *real_pair, "--out", out, *SMALL)
    assert again.exit_code == 0
    assert "resuming: 8 of 9 tiles" in again.output
    assert products(out) == products(finished)
    other = ussfc("run", *real_pair, "--out", out, *SMALL, "--set", "tiling.overlap=0.5")
    assert other.exit_code == ExitStatus.OUTPUT
    assert "differs in tiling" in other.output
    assert products(out) == products(finished)
    assert (
        ussfc(
            "run", *real_pair, "--out", out, *SMALL, "--set", "tiling.overlap=0.5", "--overwrite", "-q"
        ).exit_code
        == 0
    )


def test_products_are_made_without_the_network(finished: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = manifest(out)["counts"]
    assert ussfc("mosaic", out, "--threshold", THRESHOLD / 2, "-q").exit_code == 0
    result = ussfc("vectorise", out, "--threshold", THRESHOLD / 2, "--set", "vector.format=gpkg", "--json")
    assert result.exit_code == 0
    counts = json.loads(result.stdout)["counts"]
    assert counts["changed_pixels"] == counts["polygon_pixels"] > before["changed_pixels"]
    frame = geopandas.read_file(out / "changes.gpkg")
    assert len(frame) == counts["polygons"]
    assert len(geopandas.read_parquet(out / "changes.parquet")) == len(frame)
    assert ussfc("validate", out).exit_code == 0, ussfc("validate", out).output
    assert (
        ussfc(
            "vectorise", out, "--threshold", THRESHOLD / 2, "--set", "vector.min_area_m2=2000", "-q"
        ).exit_code
        == 0
    )
    assert 0 < manifest(out)["counts"]["polygons"] < counts["polygons"]
    assert ussfc("validate", out).exit_code == 0


def test_area_of_interest_is_nodata_outside(
    real_pair: tuple[Path, Path], finished: Path, tmp_path: Path
) -> None:
    with rasterio.open(finished / "probability.tif") as source:
        whole, transform = source.read(1), source.transform
    corner, opposite = transform * (100, 110), transform * (220, 250)
    triangle = shapely.Polygon([corner, (opposite[0], corner[1]), opposite])
    geopandas.GeoDataFrame(geometry=[triangle], crs="EPSG:4326").to_file(tmp_path / "aoi.geojson")
    out = tmp_path / "out"
    assert ussfc("run", *real_pair, "--out", out, "--aoi", tmp_path / "aoi.geojson", "-q").exit_code == 0
    with rasterio.open(out / "probability.tif") as source:
        part = source.read(1)
    assert part.shape == (140, 120)
    assert 0.45 < (part != 255).mean() < 0.55
    assert whole.shape != part.shape


@pytest.mark.parametrize(
    ("west", "width", "status", "line"),
    [
        (0, 1, 2, "lies outside the overlap of the two images"),
        (-150, 1, 2, "lies outside the overlap of the two images"),
        (None, 1e-7, 2, "covers the centre of no pixel"),
        (None, 0, 3, "empty or have no area"),
    ],
)
def test_areas_that_cover_nothing(
    real_pair: tuple[Path, Path], tmp_path: Path, west: float | None, width: float, status: int, line: str
) -> None:
    with rasterio.open(real_pair[0]) as source:
        corner = source.transform * (100.1, 100.1) if west is None else (west, 0)
    ring = [corner, (corner[0] + width, corner[1]), (corner[0] + width, corner[1] + width), corner]
    (tmp_path / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    done = ussfc("plan", *real_pair, "--aoi", tmp_path / "area.geojson")
    assert done.exit_code == status, done.output
    assert line in done.output
    assert done.output.count("\n") == 1


def test_vrts_that_lead_elsewhere_need_a_flag(
    real_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far").mkdir()
    for date, image in zip(("before", "after"), real_pair, strict=True):
        rasterio.shutil.copy(image, tmp_path / "far" / f"{date}.vrt", driver="VRT")
    pair = [tmp_path / "far" / f"{date}.vrt" for date in ("before", "after")]
    done = ussfc("plan", *pair)
    assert done.exit_code == 3, done.output
    assert done.output.startswith(f"error: {pair[0]}: leads to {real_pair[0]}, ")
    assert done.output.endswith("allow it with --allow-vrt-sources if you trust the file\n")
    assert ussfc("plan", *pair, "--allow-vrt-sources").exit_code == 0
    assert ussfc("plan", *pair, "--set", "inputs.vrt_sources=any").exit_code == 0


def test_float_probabilities(real_pair: tuple[Path, Path], finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert ussfc("run", *real_pair, "--out", out, *SMALL, "-q", "--set", "output.probability_dtype=float32",
                 "--set", "output.compression=zstd", "--set", "output.keep_work=false").exit_code == 0  # fmt: skip
    exact = rioxarray.open_rasterio(out / "probability.tif", masked=True).squeeze()
    coded = rioxarray.open_rasterio(finished / "probability.tif", mask_and_scale=True).squeeze()
    np.testing.assert_allclose(exact.values, coded.values, atol=0.5 / 254 + 1e-6)
    assert not (out / "work").exists()
    assert ussfc("validate", out).exit_code == 0


def test_store_opens_georeferenced(finished: Path) -> None:
    with xr.open_dataset(
        finished / "work" / "probability.zarr", engine="zarr", consolidated=False, decode_coords="all"
    ) as dataset:
        with rasterio.open(finished / "probability.tif") as source:
            assert dataset.rio.crs == source.crs
            assert dataset.rio.transform().almost_equals(source.transform)
            levels = source.read(1)
        np.testing.assert_array_equal(np.isnan(dataset["probability"].values), levels == 255)


def test_detect_changes_equals_the_command_line(real_pair: tuple[Path, Path], finished: Path) -> None:
    arrays = [rioxarray.open_rasterio(path, chunks=100) for path in real_pair]
    lazy = detect_changes(arrays[0], arrays[1], config=load_config(sets=["tiling.tile_size=150"]))
    assert lazy.chunks == ((150, 150), (150, 143))
    with rasterio.open(finished / "probability.tif") as source:
        levels = source.read(1)
        assert lazy.odc.geobox.crs == source.crs.to_string()
    expected = np.where(levels == 255, np.nan, levels / np.float32(254)).astype(np.float32)
    np.testing.assert_array_equal(lazy.values, expected)


def test_plan_reads_no_pixel(real_pair: tuple[Path, Path], tmp_path: Path) -> None:
    # A file that is all header: its blocks were never written, and GDAL would report reading them.
    huge = tmp_path / "huge.tif"
    with rasterio.open(real_pair[0]) as source:
        profile = source.profile | {"width": 50_000, "height": 40_000, "sparse_ok": True, "bigtiff": "yes"}
    with rasterio.open(huge, "w", **profile):
        pass
    result = ussfc("plan", huge, huge, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["tiles"] == 20 * 25
    assert summary["megapixels"] == 2000
    assert summary["memory_bytes"] < 3e9


CASES = {
    "missing file": (["run", "absent.tif", "{after}", "--out", "{out}"], ExitStatus.INPUT, "absent.tif: no such file"),
    "unknown key": (["run", "{before}", "{after}", "--out", "{out}", "--set", "tiling.tilesize=1"], ExitStatus.USAGE,
                    "did you mean tiling.tile_size"),
    "bad value": (["run", "{before}", "{after}", "--out", "{out}", "--set", "tiling.overlap=1.5"], ExitStatus.USAGE,
                  "tiling.overlap = 1.5"),
    "unknown model": (["run", "{before}", "{after}", "--out", "{out}", "--model", "ussfc-s2-rgv"], ExitStatus.INPUT,
                      "ussfc-s2-rgb"),
    "memory": (["run", "{before}", "{after}", "--out", "{out}", "--set", "compute.memory_gb=0.1"], ExitStatus.MEMORY,
               "may use 0.10 GB"),
    "no run here": (["vectorise", "{out}"], ExitStatus.OUTPUT, "holds no run of ussfc"),
    "no scheduler": (["run", "{before}", "{after}", "--out", "{out}", "--scheduler", "tcp://127.0.0.1:1"],
                     ExitStatus.CLUSTER, "no Dask scheduler answers"),
    "out is a file": (["run", "{before}", "{after}", "--out", "{before}"], ExitStatus.OUTPUT, "choose another --out"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
def test_errors_are_one_line_with_a_status(
    name: str, real_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ussfc.pipeline.execution.connection.CONNECT_SECONDS", 1)
    args, status, text = CASES[name]
    places = {"before": real_pair[0], "after": real_pair[1], "out": tmp_path / "out"}
    result = ussfc(*(arg.format(**places) for arg in args))
    assert result.exit_code == status, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert text in errors[0]
    assert "Traceback" not in result.output


def test_help_is_documented_for_every_command(tmp_path: Path) -> None:
    context = cli.click.Context(cli.main)
    for name in cli.main.list_commands(context):
        command = cli.main.get_command(context, name)
        assert command is not None
        assert command.help, name
    assert ussfc("models", "list").stdout.startswith("ussfc-s2-rgb")
    # A small one, whose speed is measured in a moment.
    assert "random weights, for tests" in ussfc("models", "show", write_toy_model(tmp_path)).stdout
    assert "tiling.tile_size" in ussfc("config").stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_output(real_pair: tuple[Path, Path], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = ussfc("run", *real_pair, "--out", tmp_path / "out")
    assert result.exit_code == ExitStatus.OUTPUT
