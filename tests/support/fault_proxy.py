"""A proxy that counts the requests of a client to a server, and breaks those that its rules name."""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
import re
import socket
import socketserver
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.paths import ROOT
from tests.support.ports import free_port

PIECE = 1 << 16
"""Bytes of a body that the proxy holds at a time."""

KINDS = ("drop", "status", "delay", "truncate", "cut_request", "lost")
CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}


@dataclass
class Fault:
    """A rule: a kind of failure, the requests it meets and the number of times."""

    kind: str
    """`drop` closes the connection without an answer; `status` answers with an S3 error; `cut_request` closes after
    `after` bytes, or a little more, of the request's body. These three never ask the server. `delay` waits and
    passes on; `truncate` passes on and closes after `after` bytes of the answer's body, at least one byte short of
    its end; `lost` passes on and closes without the answer: the request took effect and its client does not know."""
    method: str | None = None
    """None: any."""
    path: str | None = None
    """A pattern searched for in the path with its query."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Patterns searched for in headers."""
    times: int | None = 1
    """Number of times it fires; None: always."""
    skip: int = 0
    """Number of matching requests that pass unharmed before."""
    probability: float = 1.0
    seed: int = 0
    """Seed of the choices by probability, which repeat where the requests come in the same order."""
    status: int = 503
    seconds: float = 1.0
    after: int = 0
    fired: int = 0
    met: int = 0
    """Number of requests that matched."""

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind
        self.chance = random.Random(self.seed)

    def strikes(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        """Return whether it fires for this request; called once for each."""
        if (
            (self.times is not None and self.fired >= self.times)
            or (self.method is not None and self.method != method)
            or (self.path is not None and not re.search(self.path, path))
            or not all(re.search(pattern, headers.get(name, "")) for name, pattern in self.headers.items())
        ):
            return False
        self.met += 1
        if self.met <= self.skip or self.chance.random() >= self.probability:
            return False
        self.fired += 1
        return True


@dataclass
class Exchange:
    """One request and its answer."""

    method: str
    path: str
    range: str | None
    """The Range header."""
    status: int | None = None
    """None: the client got no answer."""
    sent: int = 0
    """Bytes of the answer's body that went to the client."""
    received: int = 0
    """Bytes of the request's body that came from the client."""
    fault: str | None = None
    """The kind of fault injected."""


@dataclass
class Tally:
    """Counts of a proxy; filled in before the client can see the answer."""

    requests: Counter[str] = field(default_factory=Counter)
    """Requests by method."""
    injected: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    response_bytes: int = 0
    request_bytes: int = 0
    log: deque[Exchange] = field(default_factory=lambda: deque(maxlen=10_000))


class FaultProxy:
    """A proxy that passes HTTP/1.1 on to a server, counts the requests, and breaks those that its rules name.

    It is a process of its own: GDAL's calls may hold the interpreter's lock while they wait for an answer, and a
    thread of the test's process could not give it.
    """

    def __init__(self, upstream: str) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {__name__}; "
            f"{__name__}.serve_proxy({upstream!r}, {self.port})"
        )
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests
        )
        try:
            self.resume()
        except BaseException:
            self._process.kill()
            self._process.communicate()
            raise

    def inject(self, kind: str, method: str | None = None, path: str | None = None, **options: Any) -> int:
        """Add a rule, a Fault of these `options`, and return its number; the first that strikes counts."""
        return self._call("inject", Fault(kind, method, path, **options))

    def fired(self, rule: int) -> int:
        """Return the number of times this rule has fired."""
        return self._call("fired", rule)

    def heal(self) -> None:
        """End every rule."""
        self._call("heal")

    def reset(self) -> None:
        """Count from zero; rules stay."""
        self._call("reset")

    def pause(self) -> None:
        """Begin an outage: connections are refused, open ones cut."""
        self._call("pause")

    def resume(self) -> None:
        """End the outage, on the same port."""
        self._call("resume")

    @property
    def tally(self) -> Tally:
        """All counts and the log of one moment."""
        return self._call("count", None)

    @property
    def requests(self) -> Counter[str]:
        """Number of requests by method."""
        return self._call("count", "requests")

    @property
    def injected(self) -> Counter[str]:
        """Number of faults by kind."""
        return self._call("count", "injected")

    @property
    def response_bytes(self) -> int:
        """Bytes of all answers' bodies that went to the clients."""
        return self._call("count", "response_bytes")

    @property
    def request_bytes(self) -> int:
        """Bytes of all requests' bodies that came from the clients."""
        return self._call("count", "request_bytes")

    @property
    def log(self) -> deque[Exchange]:
        """The latest exchanges in the order of their requests."""
        return self._call("count", "log")

    def stop(self) -> None:
        """End for good, and raise an error of the proxy itself."""
        try:
            self._call("stop")
        finally:
            self._process.communicate()

    def _call(self, name: str, *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            pickle.dump((name, arguments), self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve_proxy(upstream: str, port: int) -> None:
    """Run a proxy in this process: answer the calls from the standard input until it ends."""
    proxy = _Proxy(upstream, port)
    with contextlib.suppress(EOFError):
        while True:
            name, arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = getattr(proxy, name)(*arguments)
            except Exception as error:  # noqa: BLE001 - it is raised in the process that called
                answer = error
            pickle.dump(answer, sys.stdout.buffer)
            sys.stdout.flush()
    proxy.pause()


class _Proxy:
    """A proxy in its own process; see FaultProxy."""

    def __init__(self, upstream: str, port: int) -> None:
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        assert parts.port is not None
        self.upstream = (parts.hostname, parts.port)
        self.port = port
        self.lock = threading.RLock()
        self.tally = Tally()
        self.defects: list[BaseException] = []
        self._rules: list[Fault] = []
        self._healed = 0
        self._listener: _Listener | None = None

    def inject(self, fault: Fault) -> int:
        with self.lock:
            self._rules.append(fault)
            return len(self._rules) - 1

    def fired(self, rule: int) -> int:
        return self._rules[rule].fired

    def heal(self) -> None:
        with self.lock:
            self._healed = len(self._rules)

    def reset(self) -> None:
        with self.lock:
            self.tally = Tally()

    def count(self, name: str | None) -> Any:
        with self.lock:
            return copy.deepcopy(getattr(self.tally, name) if name else self.tally)

    def meet(self, exchange: Exchange, headers: Mapping[str, str]) -> tuple[Tally, Fault | None]:
        """Count a request, and return the fault that strikes it, if any."""
        with self.lock:
            self.tally.requests[exchange.method] += 1
            self.tally.log.append(exchange)
            for fault in self._rules[self._healed :]:
                if fault.strikes(exchange.method, exchange.path, headers):
                    exchange.fault = fault.kind
                    self.tally.injected[fault.kind] += 1
                    return self.tally, fault
            return self.tally, None

    def pause(self) -> None:
        if self._listener is not None:
            self._listener.end()
            self._listener = None

    def resume(self) -> None:
        if self._listener is None:
            self._listener = _Listener(self)

    def stop(self) -> None:
        self.pause()
        if self.defects:
            raise self.defects[0]


class _Listener(socketserver.ThreadingTCPServer):
    """The proxy's side towards the clients, between two outages."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, proxy: _Proxy) -> None:
        super().__init__(("127.0.0.1", proxy.port), _Handler)
        self.proxy = proxy
        self.ending = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="fault proxy")
        self._thread.start()

    def track(self, connection: socket.socket) -> None:
        with self._lock:
            if self.ending.is_set():
                raise ConnectionAbortedError("the proxy ends")
            self._open.add(connection)

    def forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def end(self) -> None:
        self.shutdown()
        self._thread.join()
        with self._lock:
            self.ending.set()
            still_open = list(self._open)
        for connection in still_open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()  # waits for the handlers

    def process_request(self, request: Any, client_address: Any) -> None:
        # Here and not in the handler's thread: all accepted connections are known once shutdown() returns.
        self.track(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.forget(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):  # clients may hang up
            self.proxy.defects.append(error)


HOP_BY_HOP = {
    "connection",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, with one request after the other.

    The Host header goes through as it is: S3's signatures cover it.
    """

    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def handle_expect_100(self) -> bool:
        return True  # _body answers "continue" when it needs the body

    def answer(self) -> None:
        self.exchange = Exchange(self.command, self.path, self.headers.get("Range"))
        self.tally, fault = self.server.proxy.meet(self.exchange, self.headers)
        try:
            match fault:
                case Fault(kind="drop"):
                    self.close_connection = True
                case Fault(kind="cut_request"):
                    self._read_part(fault.after)
                    self.close_connection = True
                case Fault(kind="status"):
                    # Read the body first: closing on a client that sends resets what we answer.
                    for _ in self._body():
                        pass
                    self._refuse(fault.status)
                case Fault(kind="delay"):
                    self.server.ending.wait(fault.seconds)
                    self._pass_on(None)
                case _:
                    self._pass_on(fault)
        except (OSError, HTTPException):
            self.close_connection = True  # one side is gone, and the other shall see it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def _body(self) -> Iterator[bytes]:
        """Yield the request's body in pieces, without the framing of its chunks."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._chunked:
            yield from self._pieces(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self._line().split(b";")[0], 16):
            yield from self._pieces(size)
            self._line()
        while self._line().strip():
            pass  # trailers

    def _line(self) -> bytes:
        line = self.rfile.readline(PIECE)
        if not line:
            raise ConnectionResetError("the client left in the middle of its request")
        return line

    def _pieces(self, left: int) -> Iterator[bytes]:
        while left:
            piece = self.rfile.read1(min(left, PIECE))
            if not piece:
                raise ConnectionResetError("the client left in the middle of its request")
            left -= len(piece)
            with self.server.proxy.lock:
                self.exchange.received += len(piece)
                self.tally.request_bytes += len(piece)
            yield piece

    def _read_part(self, length: int) -> None:
        for _ in self._body():
            if self.exchange.received >= length:
                return

    @property
    def _chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def _refuse(self, status: int) -> None:
        code = CODES.get(status, "InternalError")
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>Injected by the test</Message><RequestId>0</RequestId></Error>"
        ).encode()
        self.exchange.status = status
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self._send(body)

    def _pass_on(self, fault: Fault | None) -> None:
        upstream = HTTPConnection(*self.server.proxy.upstream, timeout=300)
        with contextlib.closing(upstream):
            upstream.connect()
            connection = upstream.sock  # getresponse() takes it away where the server closes
            self.server.track(connection)
            try:
                self._ask(upstream)
                answer = upstream.getresponse()
                with answer:
                    if fault is not None and fault.kind == "lost":
                        self.close_connection = True
                    else:
                        self._hand_on(answer, fault)
            finally:
                self.server.forget(connection)

    def _ask(self, upstream: HTTPConnection) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                upstream.putheader(name, value)
        if self._chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        upstream.endheaders()
        listens = True
        for piece in self._body():
            if listens:
                try:
                    upstream.send(_chunk(piece) if self._chunked else piece)
                except OSError:
                    listens = False  # it has refused already, with the reason in its answer
        if self._chunked and listens:
            upstream.send(_chunk(b""))

    def _hand_on(self, answer: HTTPResponse, fault: Fault | None) -> None:
        bodiless = self.command == "HEAD" or answer.status in (204, 304)
        length = None if answer.chunked else answer.length
        self.exchange.status = answer.status
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if answer.chunked and not bodiless:
            self.send_header("Transfer-Encoding", "chunked")
        elif length is None and not bodiless:
            self.send_header("Connection", "close")  # the end of the connection is the end of the body
        self.end_headers()
        if bodiless:
            return
        truncated = fault is not None and fault.kind == "truncate" and length != 0
        left = sys.maxsize
        if truncated:
            left = fault.after if length is None else min(fault.after, length - 1)
        while left and (piece := answer.read(min(PIECE, left))):
            left -= len(piece)
            self._send(piece, chunked=answer.chunked)
        if truncated or (length is not None and self.exchange.sent < length):
            self.close_connection = True
        elif answer.chunked:
            self.wfile.write(_chunk(b""))

    def _send(self, piece: bytes, chunked: bool = False) -> None:
        # Counted first: a test that has its answer looks at once.
        with self.server.proxy.lock:
            self.exchange.sent += len(piece)
            self.tally.response_bytes += len(piece)
        self.wfile.write(_chunk(piece) if chunked else piece)


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
