"""The proxy that injects faults: it counts, breaks as its rules name, and passes the rest unchanged."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.support.fault_proxy import FaultProxy


class Echo(BaseHTTPRequestHandler):
    """A server that answers a body with its digest, and `GET /N` with N bytes in chunks."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        content = b""
        if "Transfer-Encoding" in self.headers:
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers["Content-Length"]))
        answer = f"{self.headers['Host']} {hashlib.sha256(content).hexdigest()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(int(self.path[1:])):
            self.wfile.write(b"1\r\nx\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Stay silent."""


class EchoServer(ThreadingHTTPServer):
    daemon_threads = False  # so that its end waits for them

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent about requests that were cut."""


@pytest.fixture
def echo() -> Iterator[FaultProxy]:
    """A proxy before a server that needs nothing installed."""
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            with FaultProxy(f"http://127.0.0.1:{server.server_port}") as proxy:
                yield proxy
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def line(echo: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    """One connection to that proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", echo.port, timeout=30)
    yield connection
    connection.close()


def ask(line: http.client.HTTPConnection, method: str, path: str, **options: object) -> tuple[int, bytes]:
    line.request(method, path, **options)  # type: ignore[arg-type]
    with line.getresponse() as answer:
        return answer.status, answer.read()


def test_bodies_of_every_framing_pass(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    content = os.urandom(300_000)
    expected = f"127.0.0.1:{echo.port} {hashlib.sha256(content).hexdigest()}".encode()
    assert ask(line, "PUT", "/a", body=content) == (200, expected)
    first = line.sock
    pieces = iter([content[:7], content[7:]])
    assert ask(line, "PUT", "/b", body=pieces, encode_chunked=True) == (200, expected)
    assert ask(line, "HEAD", "/c") == (200, b"")
    assert ask(line, "GET", "/500") == (200, b"x" * 500)
    assert ask(line, "GET", "/0") == (200, b"")
    assert line.sock is first
    assert echo.requests == {"PUT": 2, "HEAD": 1, "GET": 2}
    assert (echo.request_bytes, echo.response_bytes) == (600_000, 2 * len(expected) + 500)


def test_a_client_that_expects_100_gets_it(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    line.connect()
    line.sock.sendall(b"PUT /a HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert line.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    line.sock.sendall(b"abc")
    answer = b""
    while not answer.endswith(hashlib.sha256(b"abc").hexdigest().encode()):
        answer += line.sock.recv(1000)
        assert answer
    assert b"here " in answer


def test_dropped_requests_get_no_answer(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    rule = echo.inject("drop", "GET", "^/3$", times=2, skip=1)
    assert ask(line, "GET", "/3") == (200, b"xxx")
    for _ in range(2):
        with pytest.raises(http.client.RemoteDisconnected):
            ask(line, "GET", "/3")
        line.close()
    assert ask(line, "GET", "/3") == (200, b"xxx")
    assert (echo.fired(rule), echo.injected) == (2, {"drop": 2})
    assert [exchange.status for exchange in echo.log] == [200, None, None, 200]


def test_an_injected_error_never_asks_the_server(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    for status, code in ((503, b"SlowDown"), (500, b"InternalError"), (403, b"AccessDenied")):
        echo.inject("status", "PUT", status=status)
        found, body = ask(line, "PUT", "/a", body=b"x" * 100_000)
        assert found == status
        assert b"<Code>" + code + b"</Code>" in body
    echo.inject("status", status=503)
    assert ask(line, "HEAD", "/a") == (503, b"")
    assert ask(line, "GET", "/1") == (200, b"x")
    assert echo.injected == {"status": 4}


def test_a_delayed_answer_is_whole(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    echo.inject("delay", headers={"x-slow": "^yes$"}, seconds=0.3)
    began = time.monotonic()
    assert ask(line, "GET", "/2", headers={"X-Slow": "yes"}) == (200, b"xx")
    assert time.monotonic() - began >= 0.3


def test_a_truncated_body_ends_early(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    echo.inject("truncate", after=5, times=2)
    with pytest.raises(http.client.IncompleteRead):
        ask(line, "GET", "/9")
    line.close()
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(line, "PUT", "/a", body=b"abc")
    assert len(caught.value.partial) == 5
    assert echo.response_bytes == 10


def test_a_request_is_cut_in_its_body(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    echo.inject("cut_request", "PUT", after=100_000)
    with pytest.raises(OSError):  # noqa: PT011 - reset, broken pipe or no answer, as the timing falls
        ask(line, "PUT", "/a", body=b"x" * 20_000_000)
    line.close()
    assert 100_000 <= echo.request_bytes < 1_000_000
    assert ask(line, "GET", "/1") == (200, b"x")


def test_a_client_that_leaves_is_no_defect(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    for framing in (b"Content-Length: 3", b"Transfer-Encoding: chunked"):
        line.connect()
        line.sock.sendall(b"PUT /a HTTP/1.1\r\nHost: here\r\n" + framing + b"\r\n\r\n")
        line.close()
    assert ask(line, "GET", "/1") == (200, b"x")
    # The fixture's end raises the errors of the proxy.


def test_chances_repeat_with_their_seed(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    found = []
    for _ in range(2):
        echo.heal()
        echo.inject("status", probability=0.5, seed=1, times=None)
        found.append([ask(line, "GET", "/1")[0] for _ in range(20)])
    assert found[0] == found[1]
    assert set(found[0]) == {200, 503}


def test_an_outage_refuses_cuts_and_ends(echo: FaultProxy, line: http.client.HTTPConnection) -> None:
    assert ask(line, "GET", "/1") == (200, b"x")
    echo.inject("delay", path="^/7$", seconds=60)
    with ThreadPoolExecutor(1) as pool:
        slow = http.client.HTTPConnection("127.0.0.1", echo.port, timeout=30)
        pending = pool.submit(ask, slow, "GET", "/7")
        while not echo.injected:
            time.sleep(0.01)
        echo.pause()
        with pytest.raises(OSError):  # noqa: PT011
            pending.result()
        slow.close()
    with pytest.raises(OSError):  # noqa: PT011
        ask(line, "GET", "/1")
    line.close()
    with pytest.raises(ConnectionRefusedError):
        line.connect()
    echo.resume()
    assert ask(line, "GET", "/1") == (200, b"x")
