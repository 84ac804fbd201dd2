"""Secrets in addresses are in no file, message, log or Dask task name, whatever kind of address holds them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import rasterio
import yaml
from click.testing import CliRunner

import ussfc
from tests.support.scenes import write_scene, write_toy_model
from tests.support.web_server import LOGIN, SECRETS, SIGNED, TOKEN, locked_server
from ussfc import cli
from ussfc.errors import ModelError
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.storage.folder import Folder
from ussfc.spec import ModelSpec, find_model

DATES = ("before", "after")


@dataclass(frozen=True)
class Served:
    """Files on a server that wants a password or a signature."""

    host: str
    folder: Path

    def login(self, name: str) -> str:
        return f"http://{LOGIN}@{self.host}/{name}"

    def signed(self, name: str) -> str:
        return f"http://{self.host}/{name}?{SIGNED}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    write_scene(folder, "scene", (200, 200))
    with rasterio.open(folder / "scene_before.tif") as source:
        west, south, east, north = source.bounds
    ring = [
        (west, south),
        (east, south),
        (east, (south + north) / 2),
        (west, (south + north) / 2),
        (west, south),
    ]
    (folder / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    with zipfile.ZipFile(folder / "scenes.zip", "w") as archive:
        for date in DATES:
            archive.write(folder / f"scene_{date}.tif", f"scene_{date}.tif")
    with locked_server(folder) as host:
        found = Served(host, folder)
        card = yaml.safe_load(write_toy_model(folder).read_text())
        card["weights"]["uri"] = found.signed("toy.safetensors")
        (folder / "signed.yaml").write_text(yaml.safe_dump(card))
        yield found


def addresses(served: Served) -> dict[str, list[str]]:
    """Return a pair of scenes by every kind of address."""
    login, signed = served.login, served.signed
    plain = {date: quote(f"http://{served.host}/scene_{date}.tif", safe="") for date in DATES}
    kinds = {
        "login": login,
        "signed": signed,
        "vsi-login": lambda name: "/vsicurl/" + login(name),
        "vsi-signed": lambda name: "/vsicurl/" + signed(name),
        "vsi-url": lambda name: "/vsicurl?url=" + quote(signed(name), safe=""),
        "archive": lambda name: f"/vsizip//vsicurl/{login('scenes.zip')}/{name}",
        "archive-signed": lambda name: f"/vsizip/{{/vsicurl/{signed('scenes.zip')}}}/{name}",
        "netcdf": lambda name: f'NETCDF:"{login(name)}":red',
        "absent": lambda name: signed(f"absent_{name}"),
        "absent-vsi": lambda name: "/vsicurl/" + login(f"absent_{name}"),
        "unsigned": lambda name: signed(name) + "SigNature",
        "no-address": lambda name: f"http://ursula:PassWord/x@{served.host}/{name}",
        "s3": lambda name: f"s3://bucket/{name}?{SIGNED}",
    }
    found = {kind: [place(f"scene_{date}.tif") for date in DATES] for kind, place in kinds.items()}
    # Options that not every GDAL knows.
    found["vsi-user"] = [f"/vsicurl?userpwd={LOGIN}&url={plain[date]}" for date in DATES]
    header = quote(f"Basic {TOKEN}", safe="")
    found["vsi-header"] = [f"/vsicurl?header.Authorization={header}&url={plain[date]}" for date in DATES]
    return found


@dataclass(frozen=True)
class Batch:
    """One command over pairs by every kind of address."""

    out: Path
    rows: dict[str, dict[str, str]]
    printed: str


@pytest.fixture(scope="module")
def batch(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    place = tmp_path_factory.mktemp("batch")
    with (place / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "before", "after", "grid.aoi"])
        for number, (kind, pair) in enumerate(addresses(served).items()):
            area = served.signed("area.geojson") if number % 2 else served.login("area.geojson")
            writer.writerow([kind, *pair, area])
    sets = (
        "cluster.kind=local", "cluster.workers=1", "tiling.tile_size=64", "tiling.patch_size=32", "threshold=0.5",
        "compute.retries=0",
    )  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "ussfc.cli",
        "batch",
        str(place / "pairs.csv"),
        "--out",
        str(place / "out"),
        "-v",
    ]
    command += ["--model", served.signed("signed.yaml"), *(part for text in sets for part in ("--set", text))]
    unfriendly = {
        "DASK_LOGGING__DISTRIBUTED": "debug",
        "AWS_NO_SIGN_REQUEST": "YES",
        "AWS_ENDPOINT_URL": f"http://{served.host}",
        "AWS_MAX_ATTEMPTS": "1",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **unfriendly}, check=False
    )
    assert done.returncode == 8, done.stderr[-3000:]
    with (place / "out" / "results.csv").open() as table:
        rows = {row["name"]: row for row in csv.DictReader(table)}
    return Batch(place / "out", rows, done.stdout + done.stderr)


def test_every_kind_of_address_works_or_is_refused_in_one_line(batch: Batch) -> None:
    states = {kind: row["state"] for kind, row in batch.rows.items()}
    failing = {"vsi-user", "vsi-header", "netcdf", "absent", "absent-vsi", "unsigned", "no-address", "s3"}
    assert {kind for kind, state in states.items() if state != "complete"} == failing, batch.rows
    for kind in failing:
        assert batch.rows[kind]["before"].removeprefix("/vsicurl/") in batch.rows[kind]["error"]
    assert len({row["changed_pixels"] for kind, row in batch.rows.items() if kind not in failing}) == 1


def test_no_secret_is_in_files_messages_and_logs(batch: Batch, served: Served) -> None:
    assert "distributed.worker" in batch.printed, "the logs of Dask are among what is searched"
    files = [file for file in batch.out.rglob("*") if file.is_file()]
    expected = {
        "results.csv",
        "collection.json",
        "run.json",
        "run.log",
        "run_key.json",
        "change.tif",
        "item.json",
    }
    assert expected <= {file.name for file in files}
    for secret in SECRETS:
        assert secret not in batch.printed
        assert not [file for file in files if secret in str(file) or secret.encode() in file.read_bytes()]
    with rasterio.open(batch.out / "vsi-signed" / "change.tif") as raster:
        assert raster.tags()["USSFC_BEFORE"] == "scene_before.tif"
    shown = json.loads((batch.out / "vsi-login" / "run.json").read_text())
    assert shown["inputs"]["before"]["uri"] == f"/vsicurl/http://{served.host}/scene_before.tif"
    assert shown["config"]["model"] == f"http://{served.host}/signed.yaml"
    assert shown["config"]["grid"]["aoi"] == f"http://{served.host}/area.geojson"


def test_another_signature_is_the_same_scene(served: Served) -> None:
    for first, second in (
        (served.signed("scene_before.tif"), served.login("scene_before.tif")),
        ("/vsicurl/" + served.signed("scene_before.tif"), "/vsicurl/" + served.login("scene_before.tif")),
    ):
        here, there = describe_scene(first), describe_scene(second)
        assert (here.uri, here.identity) == (there.uri, there.identity)
        assert not here.identity.startswith("uri:")


@pytest.mark.parametrize("option", ["--aoi", "--model"])
def test_options_with_addresses_that_fail(served: Served, option: str) -> None:
    suffix = "yaml" if option == "--model" else "geojson"
    pair = [str(served.folder / f"scene_{date}.tif") for date in DATES]
    model = () if option == "--model" else ("--model", str(served.folder / "toy.yaml"))
    for address in (
        served.signed(f"absent.{suffix}"),
        served.signed(f"area.{suffix}") + "SigNature",
        f"http://ursula:PassWord/x@{served.host}/a.{suffix}",
        f"nosuch://ursula:PassWord@host/a.{suffix}?sig=SigNature",
        f"http://ursula:PassWord@/a.{suffix}",
    ):
        done = CliRunner().invoke(cli.main, ["plan", *pair, *model, option, address])
        assert done.exit_code == 3, done.output
        assert done.output.count("\n") == 1
        assert not [secret for secret in SECRETS if secret in done.output]


def test_addresses_longer_than_a_name(served: Served) -> None:
    """Tokens of temporary credentials have a thousand letters, slashes among them."""
    token = "&X-Amz-Security-Token=" + "SigNature/" * 5 + "s" * 1000
    scene = describe_scene(served.signed("scene_before.tif") + token)
    assert scene.uri == f"http://{served.host}/scene_before.tif"
    for prefix in ("/vsicurl/", "/vsizip//vsicurl/", "NETCDF:"):
        try:
            found = describe_scene(prefix + served.signed("scene_before.tif") + token).uri
        except ReadError as error:
            found = str(error)
        assert not [secret for secret in SECRETS if secret in found]


def test_weights_beside_a_remote_card(served: Served) -> None:
    card = ModelSpec.load(served.login("toy.yaml"))
    assert card.weights_path() == served.login("toy.safetensors")
    # A signature is of one file: the line names the weights, which need an address of their own.
    card = find_model(served.signed("toy.yaml"))
    assert card.weights_path() == f"http://{served.host}/toy.safetensors"
    from ussfc.weights import load_weights

    with pytest.raises(
        ModelError, match=r"^weights http://[0-9.:]+/toy\.safetensors: cannot be read \(HTTP 403"
    ):
        load_weights(card.weights_path())


def test_what_travels_to_workers_is_written_without_secrets(served: Served) -> None:
    """Dask logs the arguments of a task that fails."""
    scene, weights = served.login("scene_before.tif"), served.signed("toy.safetensors")
    info = describe_scene(scene)
    spec = ussfc.detector_spec(find_model(weights), ussfc.DetectorOptions(patch_size=32, ssfc="patch"))
    sent = (
        SceneRecipe.of(scene, info, info.geobox, (1,), "bilinear"),
        spec,
        Folder.of(f"s3://{LOGIN}@bucket/out"),
    )
    assert not [secret for secret in SECRETS if secret in repr(sent)]


def test_tracebacks_show_no_secrets(served: Served) -> None:
    pair = [str(served.folder / f"scene_{date}.tif") for date in DATES]
    command = [
        sys.executable,
        "-m",
        "ussfc.cli",
        "--debug",
        "plan",
        *pair,
        "--aoi",
        served.signed("absent.geojson"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr
    assert not [secret for secret in SECRETS if secret in done.stderr]
