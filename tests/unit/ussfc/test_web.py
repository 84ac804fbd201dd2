"""Requests to web servers that refuse, stop, stay silent or trickle."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ussfc import web


@contextlib.contextmanager
def answering(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection; yield the address of a file there."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as connection:
                # A connection that is closed with something unread is reset, not ended.
                connection.recv(4096)
                talk(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://me:PassWord@127.0.0.1:{server.getsockname()[1]}/a?sig=SigNature"
        thread.join(5)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ANSWER_SECONDS", 0.2)


def trickle(connection: socket.socket) -> None:
    """Send a header letter by letter, each well within the time that a silent server gets."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(40):
        connection.sendall(b"x")
        time.sleep(0.05)


def drip(connection: socket.socket) -> None:
    """Send a body byte by byte."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(40):
        connection.sendall(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize(
    "talk", [lambda connection: time.sleep(2), trickle, drip], ids=["silent", "trickle", "drip"]
)
def test_no_server_is_waited_for_without_end(quick: None, talk: Callable[[socket.socket], None]) -> None:
    with answering(talk) as url:
        begun = time.monotonic()
        with pytest.raises(OSError, match=r"timed out|no proper answer|slower") as caught:
            web.fetch(url, 100_000)
        assert time.monotonic() - begun < 1.5
    assert "PassWord" not in str(caught.value)


@pytest.mark.parametrize(
    "end", [ConnectionResetError(104, "Connection reset by peer"), http.client.BadStatusLine("")], ids=repr
)
def test_a_server_that_was_given_up_timed_out_however_its_connection_ends(
    monkeypatch: pytest.MonkeyPatch, end: Exception
) -> None:
    def cut_off(connection: http.client.HTTPConnection) -> None:
        assert connection.sock is not None
        while connection.sock.recv(4096):
            pass
        raise end

    monkeypatch.setattr(web, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(http.client.HTTPConnection, "getresponse", cut_off)
    with answering(trickle) as url, pytest.raises(OSError, match="timed out"):
        web.fetch(url, 100)


def test_a_short_answer_is_no_whole_one() -> None:
    def stop(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")

    with answering(stop) as url, pytest.raises(OSError, match=r"ends after 5 of 9 bytes|no proper answer"):
        web.fetch(url, 100)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, PermissionError), (404, FileNotFoundError), (410, FileNotFoundError), (500, OSError)],
)
def test_refusals_are_errors_of_the_system(status: int, kind: type[OSError]) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())

    with answering(refuse) as url, pytest.raises(kind, match=f"^HTTP {status} No$") as caught:
        web.fetch(url, 100)
    assert web.status_of(caught.value) == status


@pytest.mark.parametrize(
    "url",
    [
        "http://me:Pass/Word@host/a",
        "http://me:PassWord@/a",
        "http://[PassWord/a",
        "http://host/a b?sig=SigNature",
    ],
)
def test_an_unusable_address_is_not_quoted(url: str) -> None:
    with pytest.raises(web.UnusableAddress) as caught:
        web.fetch(url, 100)
    assert "Word" not in str(caught.value)
    assert "SigNature" not in str(caught.value)
