"""The server of a map, as its page and as strangers meet it."""

from __future__ import annotations

import dataclasses
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.shown_runs import CHANGES, copied
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.report.server import ViewServer
from ussfc.pipeline.report.view import open_view

PIXELS = [rows * cols for _, _, rows, cols in CHANGES]


@contextmanager
def served(out: Path) -> Iterator[ViewServer]:
    """Serve a folder from a thread."""
    with ExitStack() as stack, ViewServer(open_view(out, stack)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewServer]:
    with served(copied(finished, tmp_path_factory.mktemp("served") / "out")) as found:
        yield found


def ask(
    server: ViewServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """Send a request; names of headers have underscores, the token stands before the path."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path.replace("TOKEN", server.token), body, named)
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def found(server: ViewServer, path: str) -> Any:
    status, body, _ = ask(server, f"/TOKEN/{path}")
    assert status == 200, body
    return json.loads(body)


def judge(server: ViewServer, **values: Any) -> tuple[int, bytes]:
    body = json.dumps(values).encode()
    return ask(server, "/TOKEN/review", "POST", body, Content_Type="application/json")[:2]


def test_page_and_its_parts(server: ViewServer) -> None:
    for name, kind in (
        ("", "text/html"),
        ("theme.css", "text/css"),
        ("view.css", "text/css"),
        ("view.js", "text/javascript"),
    ):
        status, body, headers = ask(server, f"/TOKEN/{name}")
        assert (status, headers["content-type"].partition(";")[0]) == (200, kind)
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert b"http://" not in body
        assert b"https://" not in body
    facts = found(server, "facts")
    assert facts["shape"] == [400, 560]
    assert facts["polygons"]["count"] == len(CHANGES)
    assert sum(facts["histogram"]) == 400 * 560 - 2500


def test_tiles(server: ViewServer) -> None:
    status, body, headers = ask(server, "/TOKEN/tiles/probability/0/0/0")
    assert (status, len(body), headers["cache-control"]) == (200, 65536, "private, max-age=3600")
    status, body, headers = ask(server, "/TOKEN/tiles/before/1/0/0")
    assert (status, headers["content-type"], body[8:12]) == (200, "image/webp", b"WEBP")
    for path in ("probability/0/9/0", "x/0/0/0", "probability/99999999999/0/0", "probability/0/0"):
        assert ask(server, f"/TOKEN/tiles/{path}")[0] == 404


def test_polygons(server: ViewServer) -> None:
    ids = found(server, "queue?order=size&state=all")["ids"]
    assert [found(server, f"polygon/{number}")["pixels"] for number in ids] == sorted(PIXELS, reverse=True)
    row, column, rows, cols = CHANGES[1]
    here = found(server, f"at?row={row + rows / 2}&column={column + cols / 2}")
    assert here["pixels"] == rows * cols
    assert here["rings"] == [[[column, row], [column, row + rows], [column + cols, row + rows], [column + cols, row],
                              [column, row]]] or len(here["rings"][0]) == 5  # fmt: skip
    assert found(server, "at?row=0.5&column=0.5") == {}
    view = found(server, f"polygons?view={row},{column},{row + 1},{column + 1}&size=0&probability=0")
    assert [each["id"] for each in view["polygons"]] == [here["id"]]
    assert (
        found(server, f"polygons?view=0,0,400,560&size={0.99 * here['area_m2']}&probability=0")["count"] == 2
    )
    assert ask(server, "/TOKEN/polygon/99999999")[0] == 404


class Labels:
    """A sample of two points."""

    def __init__(self) -> None:
        self.given: dict[int, str | None] = {}

    def facts(self) -> dict[str, Any]:
        return {"points": [[1, 0, 0], [2, 5, 5]], "labels": self.given}

    def set(self, number: int, label: str | None) -> None:
        if number not in (1, 2):
            raise ValueError(f"no point {number}")
        self.given[number] = label


def test_labels_of_a_sample(server: ViewServer) -> None:
    def label(body: str, **headers: str) -> int:
        return ask(
            server, "/TOKEN/label", "POST", body.encode(), **({"Content_Type": "application/json"} | headers)
        )[0]

    assert ask(server, "/TOKEN/sample")[0] == 404
    assert label('{"id": 1, "label": "change"}') == 404
    assert found(server, "facts")["sample"] is False
    view, labels = server.view, Labels()
    server.view = dataclasses.replace(view, labels=labels)
    try:
        assert found(server, "facts")["sample"] is True
        assert label('{"id": 1, "label": "change"}') == 200
        assert found(server, "sample")["labels"] == {"1": "change"}
        for body in ('{"id": 3, "label": null}', '{"id": true, "label": null}', '{"id": 1}', "[]", "x"):
            assert label(body) == 400, body
        for headers in (
            {"Origin": "http://elsewhere"}, {"Host": "elsewhere"}, {"Sec_Fetch_Site": "cross-site"},
        ):  # fmt: skip
            assert label('{"id": 2, "label": "change"}', **headers) == 403
        assert label('{"id": 2, "label": "change"}', Content_Type="text/plain") == 404
        assert labels.given == {1: "change"}
    finally:
        server.view = view


def test_review_and_its_exports(server: ViewServer, finished: Path) -> None:
    ids = found(server, "queue?order=size")["ids"]
    assert judge(server, id=ids[0], verdict="accepted", note='=1+1,"x"')[0] == 200
    assert judge(server, id=ids[1], verdict="rejected")[0] == 200
    assert judge(server, id=ids[1], verdict=None)[0] == 200
    assert judge(server, id=ids[2], verdict="unsure")[0] == 200
    try:
        assert found(server, "facts")["review"]["verdicts"] == {
            str(ids[0]): "accepted",
            str(ids[2]): "unsure",
        }
        assert found(server, "queue?order=size")["ids"] == [ids[1], ids[3]]
        assert found(server, "queue?order=size&state=unsure")["ids"] == [ids[2]]
        _, body, headers = ask(server, "/TOKEN/export.csv")
        assert headers["content-disposition"] == 'attachment; filename="review.csv"'
        assert sorted(line.split(b",")[0] for line in body.splitlines()) == sorted(
            [b"id", str(ids[0]).encode(), str(ids[2]).encode()]
        )
        features = found(server, "export.geojson")["features"]
        layer = json.loads((finished / "changes.geojson").read_text())["features"]
        for feature in features:
            (same,) = (each for each in layer if each["properties"]["id"] == feature["id"])
            mine, theirs = (sorted(each["geometry"]["coordinates"][0]) for each in (feature, same))
            assert mine[0] == pytest.approx(theirs[0], abs=1e-6)
            assert mine[-1] == pytest.approx(theirs[-1], abs=1e-6)
    finally:
        for number in ids:
            judge(server, id=number, verdict=None)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff", b"[" * 9000, b'{"id": 1}', b'{"id": "1", "verdict": "accepted"}',
        b'{"id": 1.5, "verdict": "accepted"}', b'{"id": true, "verdict": "accepted"}', b'{"id": [], "verdict": null}',
        b'{"id": 1e999, "verdict": null}', b'{"id": 123456789, "verdict": "accepted"}',
        b'{"id": 11230, "verdict": "good"}', b'{"id": 11230, "verdict": ["accepted"]}',
        b'{"id": 11230, "verdict": "accepted", "note": 5}', b'{"id": 11230, "verdict": "accepted", "note": "\\ud800"}',
    ],
)  # fmt: skip
def test_verdicts_that_are_none(server: ViewServer, body: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    known = found(server, "queue?state=all")["ids"][0]
    body = body.replace(b"11230", str(known).encode())
    status, answer, _ = ask(server, "/TOKEN/review", "POST", body, Content_Type="application/json")
    assert (status, answer[:15]) == (400, b"not understood:")
    assert found(server, "facts")["review"]["verdicts"] == {}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "path",
    [
        "tiles/probability/a/0/0", "tiles/probability/0/0/" + "9" * 5000, "polygons", "polygons?view=1",
        "polygons?view=1,2,3,4,5", "polygons?view=0,0,1,x", "polygons?view=0,0,1,1&size=x", "at?row=1",
        "at?row=&column=1",
        "polygon/x", "queue?order=name", "queue?size=big",
    ],
)  # fmt: skip
def test_arguments_that_are_none(server: ViewServer, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, body, _ = ask(server, f"/TOKEN/{path}")
    assert (status, body.count(b"\n")) == (400, 1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "path",
    [
        "/", "/facts", "/wrong/facts", "/TOKENx/facts", "/TOKEN", "/TOKEN/run.json", "/TOKEN/../run.json",
        "/TOKEN/change.tif",
        "/TOKEN/%2e%2e/run.json", "/TOKEN//etc/passwd", "/TOKEN/..%2f..%2fetc%2fpasswd", "/TOKEN/view.html",
        "/TOKEN/tiles/../../run.json", "/TOKEN/view.js/", "/TOKEN/\\..\\run.json",
        "*", "/%00",
    ],
)  # fmt: skip
def test_nothing_else_is_served(server: ViewServer, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, body, headers = ask(server, path)
    if path == "/TOKEN":
        assert b"<main>" in body or status == 404
    else:
        assert (status, body) == (404, b"not found\n")
    assert headers["x-content-type-options"] == "nosniff"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "evil.example:{port}"}, {"Host": "127.0.0.1"}, {"Host": ""},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1"},
        {"Origin": "https://127.0.0.1:{port}"}, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
    ],
)  # fmt: skip
def test_pages_of_others_are_refused(server: ViewServer, headers: dict[str, str]) -> None:
    given = {name: value.replace("{port}", str(server.server_port)) for name, value in headers.items()}
    assert ask(server, "/TOKEN/facts", **given)[:2] == (403, b"refused\n")
    body = b'{"id": 1, "verdict": "accepted"}'
    assert ask(server, "/TOKEN/review", "POST", body, Content_Type="application/json", **given)[0] == 403


def test_own_page_is_answered(server: ViewServer) -> None:
    origin = f"http://localhost:{server.server_port}"
    headers = {"Host": origin[7:], "Origin": origin, "Sec_Fetch_Site": "same-origin"}
    assert ask(server, "/TOKEN/facts", **headers)[0] == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "<script>"])
def test_other_methods(server: ViewServer, method: str, capfd: pytest.CaptureFixture[str]) -> None:
    status, body, _ = ask(server, "/TOKEN/facts", method)
    assert status == 501
    assert b"<script>" not in body
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("review", {"Content_Type": "application/json", "Content_Length": "99999999"}, 413),
        ("review", {"Content_Type": "application/json", "Content_Length": "9" * 6000}, 413),
        ("review", {"Content_Type": "application/json", "Content_Length": "-1"}, 413),
        ("review", {"Content_Type": "application/json", "Transfer_Encoding": "chunked"}, 413),
        ("review", {"Content_Type": "text/plain", "Content_Length": "2"}, 404),
        ("facts", {"Content_Type": "application/json", "Content_Length": "2"}, 404),
    ],
)
def test_bodies_that_are_not_read(
    server: ViewServer, path: str, headers: dict[str, str], status: int
) -> None:
    """What a refused request brings along is not taken for the next one."""
    with socket.create_connection(("127.0.0.1", server.server_port), 20) as client:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        head = [f"POST /{server.token}/{path} HTTP/1.1", f"Host: 127.0.0.1:{server.server_port}", *lines]
        smuggled = f"GET /{server.token}/facts HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n"
        client.sendall(("\r\n".join(head) + "\r\n\r\n" + smuggled).encode())
        received = b""
        while part := receive(client):
            received += part
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    assert received.count(b"HTTP/1.1 ") == 1


def receive(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except ConnectionResetError:
        return b""


def test_browser_that_goes_away_is_no_news(server: ViewServer, capfd: pytest.CaptureFixture[str]) -> None:
    for request in (
        b"",
        b"GET /",
        f"GET /{server.token}/view.js HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n".encode(),
    ):
        with socket.create_connection(("127.0.0.1", server.server_port), 20) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            client.sendall(request)
    assert found(server, "facts")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("address", ["http://[::1/", "//[", "http://127.0.0.1/TOKEN/facts"])
def test_addresses_that_are_none(server: ViewServer, address: str, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), 20) as client:
        line = f"GET {address.replace('TOKEN', server.token)} HTTP/1.0"
        client.sendall(f"{line}\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode())
        assert client.recv(99).startswith(b"HTTP/1.1 404 ")
    assert capfd.readouterr().err == ""


def test_loopback_alone(server: ViewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32


def test_port_in_use(server: ViewServer, finished: Path) -> None:
    with ExitStack() as stack:
        view = open_view(finished, stack)
        with pytest.raises(StoreError, match=f"port {server.server_port}: cannot be listened on"):
            ViewServer(view, server.server_port)


def test_files_that_go_bad_meanwhile(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with served(own) as server:
        number = found(server, "queue?state=all")["ids"][0]
        for name in ("probability.tif", "changes.parquet", "review.parquet"):
            (own / name).write_bytes(b"gone")
        for path in ("tiles/probability/0/1/1", f"polygon/{number}", "facts"):
            status, body, _ = ask(server, f"/TOKEN/{path}")
            assert (status, body.count(b"\n")) == (500, 1)
        assert judge(server, id=number, verdict="accepted")[0] == 500
    assert capfd.readouterr().err == ""
