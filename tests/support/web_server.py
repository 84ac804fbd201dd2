"""A web server on loopback whose files need a user and password, or a signature; and one that never answers."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from tests.support.paths import ROOT

USER, PASSWORD, SIGNATURE = "ursula", "PassWord/+1", "SigNature+a/b=="
"""What the server asks for."""

TOKEN = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

SECRETS = (
    TOKEN,
    PASSWORD,
    quote(PASSWORD, safe=""),
    "PassWord",
    SIGNATURE,
    quote(SIGNATURE, safe=""),
    "SigNature",
)
"""Texts that no file, message or log may hold."""

LOGIN = f"{USER}:{quote(PASSWORD, safe='')}"
SIGNED = f"X-Amz-Credential=AKIA%2Fx&X-Amz-Signature={quote(SIGNATURE, safe='')}"


class _Handler(SimpleHTTPRequestHandler):
    """Files of a folder, whole or by range."""

    def do_HEAD(self) -> None:
        # As S3: an address is signed for one method.
        self._answer(body=False, signed=False)

    def do_GET(self) -> None:
        self._answer(body=True, signed=True)

    def _answer(self, body: bool, signed: bool) -> None:
        if not self._allowed(signed):
            self.send_error(403)
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = 0, len(content)
        if span:
            start = int(span[1])
            stop = min(int(span[2]) + 1 if span[2] else stop, stop)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if body:
            self.wfile.write(content[start:stop])

    def _allowed(self, signed: bool) -> bool:
        if self.headers.get("Authorization") == f"Basic {TOKEN}":
            return True
        return signed and parse_qs(urlsplit(self.path).query).get("X-Amz-Signature") == [SIGNATURE]

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@contextlib.contextmanager
def locked_server(folder: Path) -> Iterator[str]:
    """Serve a folder from a process of its own; yield host and port.

    GDAL keeps Python's lock while it opens the sources of a VRT: no thread of the same process could answer it.
    """
    command = [sys.executable, "-m", "tests.support.web_server", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """Take connections and never answer; yield host and port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: _Handler(*args, directory=sys.argv[1])) as httpd:
        print(httpd.server_port, flush=True)
        httpd.serve_forever()
