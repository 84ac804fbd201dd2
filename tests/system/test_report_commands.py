"""Commands that show a run, as a program and in object stores."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.paths import ROOT
from tests.support.servers import SeaweedFS
from tests.support.shown_runs import CHANGES, copied, make_run
from ussfc import cli
from ussfc.pipeline.events import Notice
from ussfc.pipeline.report import view as shown
from ussfc.pipeline.report.view import open_view
from ussfc.pipeline.report.view_polygons import Filter
from ussfc.pipeline.report.write import conclude
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.terminal.exit_statuses import ExitStatus


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose page is switched off; it is not to be changed."""
    out = make_run(tmp_path_factory.mktemp("finished"), "output.report=false")
    conclude(out)
    return out


def ussfc(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_page_can_be_left_out_and_made_later(finished: Path, tmp_path: Path) -> None:
    assert not (finished / "report.html").exists()
    out = copied(finished, tmp_path / "a b #1 ü?x=%41")
    assert ussfc("report", out).exit_code == ExitStatus.DONE
    assert (out / "report.html").read_text().count("<img") == 3 + 3 * len(CHANGES)
    assert (out / "preview.png").is_file()


@pytest.mark.parametrize("command", ["report", "view"])
@pytest.mark.parametrize("trouble", ["nothing", "no rasters", "damaged record", "damaged raster"])
def test_out_that_cannot_be_shown_is_one_line(
    finished: Path, tmp_path: Path, command: str, trouble: str
) -> None:
    out = tmp_path / "out"
    if trouble != "nothing":
        copied(finished, out)
    if trouble == "no rasters":
        (out / "probability.tif").unlink()
    elif trouble == "damaged record":
        (out / "run.json").write_text('{"run": 5')
    elif trouble == "damaged raster":
        (out / "probability.tif").write_bytes(b"II*\x00")
    result = ussfc(command, out)
    assert result.exit_code in (ExitStatus.INPUT, ExitStatus.OUTPUT)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")


def test_port_in_use_is_one_line(finished: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = ussfc("view", finished, "--port", port)
    assert result.exit_code == ExitStatus.OUTPUT
    assert result.stderr.startswith(f"error: port {port}: cannot be listened on (Address already in use)")
    assert "--port" in result.stderr
    assert result.stderr.count("\n") == 1


def test_map_is_served_until_ctrl_c(finished: Path, tmp_path: Path) -> None:
    out = copied(finished, tmp_path / "a b #1 ü?x=%41")
    command = [sys.executable, "-m", "ussfc.cli", "view", str(out)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=tmp_path, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{address}facts", timeout=20) as answer:
            assert b"a b #1" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            opener.open(address[:-2], timeout=20)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (ExitStatus.DONE, "", "Ctrl-C ends it\n")


def test_run_in_an_object_store(
    finished: Path, seaweed: SeaweedFS, s3_environment: dict[str, str], bucket: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in ("run.json", "change.tif", "probability.tif", "changes.parquet"):
        seaweed.put(bucket, f"city/{name}", (finished / name).read_bytes())
    address = f"s3://{bucket}/city"
    result = ussfc("report", address)
    assert (result.exit_code, result.stderr) == (ExitStatus.DONE, "")
    assert seaweed.get(bucket, "city/report.html").count(b"<img") == 3 + 3 * len(CHANGES)
    assert seaweed.get(bucket, "city/preview.png")[:4] == b"\x89PNG"
    with ExitStack() as stack:
        view = open_view(address, stack)
        assert view.absent == ()
        near = view.tiles.tile("probability", 0, 0, 0)
        assert near is not None
        ids = view.queue("size", Filter(), "all")["ids"]
        assert len(ids) == len(CHANGES)
        assert view.reviews is not None
        view.reviews.set(ids[0], "accepted")
    # Polygons are copied up to a size; without them the map still shows the rest.
    monkeypatch.setattr(shown, "MENTIONED", 1)
    events: list[object] = []
    with ExitStack() as stack:
        assert open_view(address, stack, subscriber=events.append).polygons is not None
    assert [event.message for event in events if isinstance(event, Notice)] == [
        f"copying 0 MB of polygons from {address}/changes.parquet"
    ]
    monkeypatch.setattr(shown, "MOST_COPIED", 100)
    with ExitStack() as stack:
        large = open_view(address, stack)
        assert large.polygons is None
        (line,) = large.absent
        assert "changes.parquet: 0.0 GB, and up to 0.0 GB are copied from a store for a map; copy" in line
        assert large.facts()["polygons"] is None
        assert large.tiles.tile("probability", 0, 0, 0) == near
    with ExitStack() as stack:
        local = open_view(finished, stack)
        assert near == local.tiles.tile("probability", 0, 0, 0)
        assert local.review() != view.review()
    # Where the command runs, not in the store.
    assert (tmp_path / "review.parquet").is_file()
    assert not Folder.of(address).exists("review.parquet")
