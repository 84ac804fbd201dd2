"""Scenes over HTTP, from a real server on loopback that answers range requests."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import cli
from pipeline.errors import ReadError
from pipeline.reading import SceneRecipe, describe_scene
from pipeline.types import Box

DEMO = Path(cli.__file__).parent / "configs" / "demo"


class RangeHandler(SimpleHTTPRequestHandler):
    """Files of a folder, whole or by range; counts the bytes it sends."""

    sent = 0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start = int(wanted[1])
            stop = min(int(wanted[2]) + 1 if wanted[2] else len(content), len(content))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            content = content[start:stop]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        type(self).sent += len(content)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[str]:
    RangeHandler.sent = 0
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: RangeHandler(*args, directory=str(DEMO))
    ) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_window_over_http_is_the_local_one_and_reads_only_its_blocks(server: str) -> None:
    remote, local = f"{server}/beirut_before.tif", str(DEMO / "beirut_before.tif")
    grid = describe_scene(remote).geobox
    assert grid == describe_scene(local).geobox
    box = Box(10, 20, 200, 220)
    found, expected = (
        SceneRecipe(uri, grid, (1, 2, 3), "bilinear").open().read(box) for uri in (remote, local)
    )
    np.testing.assert_array_equal(found.values, expected.values)
    assert RangeHandler.sent < 0.4 * (DEMO / "beirut_before.tif").stat().st_size


def test_what_is_not_there_is_named(server: str) -> None:
    with pytest.raises(ReadError, match=r"absent\.tif: cannot be opened"):
        describe_scene(f"{server}/absent.tif?token=secret")
    with pytest.raises(ReadError) as caught:
        describe_scene(f"{server}/absent.tif?token=secret")
    assert "secret" not in str(caught.value)
