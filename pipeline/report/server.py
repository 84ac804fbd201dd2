"""The server of a map: one run, on the loopback interface, behind a random token."""

from __future__ import annotations

import json
import re
import secrets
import sys
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs

from ussfc.pipeline.errors import PipelineError, StoreError
from ussfc.pipeline.report.view import RunView
from ussfc.pipeline.report.view_polygons import Filter

HOST = "127.0.0.1"
"""Interface that is listened on: this machine alone."""

MOST_BODY = 16_384
"""Largest request, bytes."""

MOST_NOTE = 1000
"""Characters of a note that are kept."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

FILES = {
    "": ("view.html", "text/html; charset=utf-8"),
    "theme.css": ("theme.css", "text/css; charset=utf-8"),
    "view.css": ("view.css", "text/css; charset=utf-8"),
    "view.js": ("view.js", "text/javascript; charset=utf-8"),
}
"""Parts of the page by the end of their address."""

JSON = "application/json"

DIGITS = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    body: bytes
    kind: str
    keep: bool = False
    """True: the browser may keep it for the session."""
    name: str = ""
    """Name of a file to be saved; empty: shown."""
    status: HTTPStatus = HTTPStatus.OK


NOTHING = Answer(b"not found\n", "text/plain", status=HTTPStatus.NOT_FOUND)


def as_json(value: Any) -> Answer:
    """Return JSON, or the answer that there is nothing for None."""
    return NOTHING if value is None else Answer(json.dumps(value).encode(), JSON)


class ViewServer(ThreadingHTTPServer):
    """Serves one run until it is shut down."""

    daemon_threads = True

    def __init__(self, view: RunView, port: int = 0) -> None:
        """Listen.

        Args:
            view: the run.
            port: to listen on; 0 takes a free one.

        Raises:
            StoreError: the port is in use.
        """
        self.view = view
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise StoreError(
                f"port {port}: cannot be listened on ({error.strerror or error}); listen on another port"
            ) from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent where the browser went away: it does so with every page that is closed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """Address of the page, with the token."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    @property
    def hosts(self) -> tuple[str, str]:
        """Values of the header Host that are answered: pages of other names that lead here are not."""
        return f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ViewServer
    server_version = "ussfc"
    sys_version = ""
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the base class
        """Stay silent: addresses hold the token."""

    def do_GET(self) -> None:
        """Answer with a part of the page, a tile or facts."""
        path = self._checked()
        if path is not None:
            self._answer(lambda: read(self.server.view, path, self._arguments()))

    def do_POST(self) -> None:
        """Keep a verdict or a label."""
        path = self._checked()
        if path is None:
            return
        length = self.headers.get("Content-Length", "")
        if path not in KEEPERS or self.headers.get("Content-Type") != JSON:
            self._send(NOTHING)
        elif not DIGITS.fullmatch(length) or int(length) > MOST_BODY:
            self._send(Answer(b"too large\n", "text/plain", status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
        else:
            body = self.rfile.read(int(length))
            self.close_connection = False
            self._answer(lambda: KEEPERS[path](self.server.view, body))

    def _checked(self) -> str | None:
        """Return the path below the token; refuse requests that are not of the page itself."""
        if self.headers.get("Content-Length") or self.headers.get("Transfer-Encoding"):
            # A body that is not read must not be taken for the next request.
            self.close_connection = True
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        from_elsewhere = self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
        foreign = origin is not None and origin not in [f"http://{name}" for name in self.server.hosts]
        if host not in self.server.hosts or from_elsewhere or foreign:
            self._send(Answer(b"refused\n", "text/plain", status=HTTPStatus.FORBIDDEN))
            return None
        # An address may be one of a proxy, and need not be one at all: only what follows the host counts.
        token, _, path = self.path.partition("?")[0].lstrip("/").partition("/")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._send(NOTHING)
            return None
        return path

    def _arguments(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(self.path.partition("?")[2]).items()}

    def _answer(self, make: Any) -> None:
        try:
            self._send(make())
        except (ValueError, KeyError, OverflowError, RecursionError) as error:
            body = f"not understood: {error}\n".encode()
            self._send(Answer(body, "text/plain; charset=utf-8", status=HTTPStatus.BAD_REQUEST))
        except PipelineError as error:
            body = f"{error}\n".encode()
            self._send(Answer(body, "text/plain; charset=utf-8", status=HTTPStatus.INTERNAL_SERVER_ERROR))

    def _send(self, answer: Answer) -> None:
        try:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Cache-Control", "private, max-age=3600" if answer.keep else "no-store")
            if answer.name:
                self.send_header("Content-Disposition", f'attachment; filename="{answer.name}"')
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)
        except (BrokenPipeError, ConnectionResetError):
            # The page moved on.
            self.close_connection = True


def read(view: RunView, path: str, arguments: dict[str, str]) -> Answer:
    """Return the answer to a request that reads.

    Args:
        view: the run.
        path: below the token.
        arguments: of the query.

    Raises:
        ValueError, KeyError: an argument is missing or no number.
        PipelineError: a file cannot be read.
    """
    if path in FILES:
        name, kind = FILES[path]
        return Answer(_file(name), kind)
    kind, *parts = path.split("/")
    if kind == "tiles" and len(parts) == 4:
        level, row, column = (int(part) for part in parts[1:])
        found = view.tiles.tile(parts[0], level, row, column)
        if found is None:
            return NOTHING
        return Answer(
            found, "application/octet-stream" if parts[0] == "probability" else "image/webp", keep=True
        )
    if path == "facts":
        return as_json(view.facts())
    if path == "sample":
        return as_json(None if view.labels is None else view.labels.facts())
    if path == "polygons":
        top, left, bottom, right = (float(part) for part in arguments["view"].split(","))
        return as_json(view.within((top, left, bottom, right), _filter(arguments)))
    if path == "at" and view.polygons is not None:
        return as_json(
            view.polygon(view.polygons.at(float(arguments["row"]), float(arguments["column"]))) or {}
        )
    if kind == "polygon" and len(parts) == 1 and view.polygons is not None:
        return as_json(view.polygon(view.polygons.row(int(parts[0]))))
    if path == "queue":
        order = arguments.get("order", "size")
        if order not in ("size", "probability", "doubt"):
            raise ValueError(f"order {order}")
        return as_json(view.queue(order, _filter(arguments), arguments.get("state", "open")))
    if path == "export.csv" and view.reviews is not None:
        return Answer(view.reviews.as_csv().encode(), "text/csv; charset=utf-8", name="review.csv")
    if path == "export.geojson" and view.reviews is not None:
        return Answer(view.export().encode(), "application/geo+json", name="review.geojson")
    return NOTHING


def keep_verdict(view: RunView, body: bytes) -> Answer:
    """Keep the verdict that a page sends.

    Args:
        view: the run.
        body: JSON with ``id``, ``verdict`` (null takes it back) and perhaps ``note``.

    Raises:
        ValueError, KeyError: it is none.
        StoreError: it cannot be kept.
    """
    if view.reviews is None or view.polygons is None:
        return NOTHING
    given, number = _given(body)
    note = given.get("note", "")
    if not isinstance(note, str):
        raise ValueError("a text is expected as note")
    if view.polygons.row(number) is None:
        raise ValueError(f"no polygon {number}")
    view.reviews.set(number, given["verdict"], note[:MOST_NOTE])
    return as_json(view.reviews.counts())


def keep_label(view: RunView, body: bytes) -> Answer:
    """Keep the label of a point of the sample that a page sends.

    Args:
        view: the run.
        body: JSON with ``id`` and ``label`` (null takes it back).

    Raises:
        ValueError, KeyError: it is none.
        StoreError: it cannot be kept.
    """
    if view.labels is None:
        return NOTHING
    given, number = _given(body)
    view.labels.set(number, given["label"])
    return as_json({"id": number})


KEEPERS = {"review": keep_verdict, "label": keep_label}
"""Functions that keep the body of a request that writes, by its path."""


def _given(body: bytes) -> tuple[dict[str, Any], int]:
    """Return what a page sends, and the id in it."""
    given = json.loads(body)
    if not isinstance(given, dict):
        raise ValueError("an object is expected")
    if type(given["id"]) is not int:
        raise ValueError("a whole number is expected as id")
    return given, given["id"]


def _filter(arguments: dict[str, str]) -> Filter:
    return Filter(float(arguments.get("size", 0)), float(arguments.get("probability", 0)))


def _file(name: str) -> bytes:
    return resources.files("ussfc.pipeline.report").joinpath("templates", name).read_bytes()
