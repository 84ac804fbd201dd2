"""The client's side of a scheduler: its loss, and the versions of those who take part."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import Any

import pytest

from ussfc.pipeline import waiting
from ussfc.pipeline.clusters.base import Started
from ussfc.pipeline.errors import ClusterError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.execution import connection
from ussfc.pipeline.execution.connection import (
    check_versions,
    describe_freezing,
    detect_loss,
    holds_results,
    may_freeze,
    orphaned_tasks,
    run_on_all_workers,
    worker_threads,
)
from ussfc.pipeline.execution.errors import SchedulerLostError
from ussfc.pipeline.execution.worker_tasks import versions


class Future:
    """A task that has ended, or will not."""

    def __init__(self, status: str, answer: Any = None) -> None:
        self.status = status
        self.answer = answer

    def result(self, timeout: float) -> Any:
        return self.answer

    def exception(self, timeout: float) -> Exception:
        error: Exception = self.answer
        return error


class Client:
    """A client whose workers answer as a test wants."""

    def __init__(self, **answers: Callable[[], Future]) -> None:
        self.status = "running"
        self.answers = answers
        self.threads = dict.fromkeys(answers, 1)
        self.scheduler = SimpleNamespace(tasks={}, workers={})
        self.found_versions = versions()

    def nthreads(self, callback_timeout: float) -> dict[str, int]:
        return dict(self.threads)

    def submit(self, function: Callable[..., Any], *args: Any, workers: list[str], **options: Any) -> Future:
        assert options == {"allow_other_workers": False, "pure": False, "priority": 1}
        return self.answers[workers[0]]()

    def run_on_scheduler(self, function: Callable[..., Any]) -> Any:
        if function.__code__.co_argcount:
            return function(self.scheduler)
        return self.found_versions


def answer(value: Any) -> Callable[[], Future]:
    return lambda: Future("finished", value)


@pytest.mark.parametrize("error", [OSError("broken pipe"), CancelledError()])
def test_error_of_the_connection_is_a_loss(error: Exception) -> None:
    with pytest.raises(SchedulerLostError) as caught, detect_loss(Client()):
        raise error
    assert caught.value.__cause__ is error


def test_any_error_of_a_closed_client_is_a_loss() -> None:
    client = Client()
    with pytest.raises(KeyError), detect_loss(client):
        raise KeyError
    client.status = "closed"
    with pytest.raises(SchedulerLostError), detect_loss(client):
        raise KeyError
    with pytest.raises(SchedulerLostError):
        worker_threads(client)


def test_orphans_wait_for_a_worker() -> None:
    client = Client()
    states = {"a": "no-worker", "b": "processing"}
    client.scheduler.tasks = {key: SimpleNamespace(state=state) for key, state in states.items()}
    assert orphaned_tasks(client, ["a", "b", "gone"]) == ["a"]


def test_worker_that_left_holds_no_results() -> None:
    client = Client()
    client.scheduler.workers = {"a": SimpleNamespace(has_what={"x"}), "b": SimpleNamespace(has_what={})}
    assert [holds_results(client, name) for name in ("a", "b", "gone")] == [True, False, False]


def test_all_workers_answer() -> None:
    client = Client(a=answer(1), b=answer(2))
    assert run_on_all_workers(client, ["a", "b"], max) == {"a": 1, "b": 2}


def test_worker_that_left_is_left_out() -> None:
    client = Client(a=answer(1), b=lambda: Future("pending"))
    del client.threads["b"]
    assert run_on_all_workers(client, ["a", "b"], max) == {"a": 1}


def test_silent_worker_is_a_cluster_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CHECK_SECONDS", 0)
    with pytest.raises(ClusterError, match=r"^worker a: does not answer within 0 s; its log shows why$"):
        run_on_all_workers(Client(a=lambda: Future("pending")), ["a"], max)


def test_failing_worker_is_a_cluster_error() -> None:
    client = Client(a=lambda: Future("error", ImportError("no\n module")))
    with pytest.raises(ClusterError, match=r"^Dask cannot run a tile \(ImportError: no module\); "):
        run_on_all_workers(client, ["a"], max)


def test_versions_must_agree() -> None:
    other = versions() | {"zarr": "0.1"}
    assert check_versions(Client(a=answer(versions()), b=answer(versions())), "scheduler") == ["a", "b"]
    message = rf" has zarr 0\.1, here {versions()['zarr']}; install the same versions there as here$"
    with pytest.raises(ClusterError, match=f"^worker b{message}"):
        check_versions(Client(a=answer(versions()), b=answer(other)), "scheduler")
    client = Client(a=answer(versions()))
    client.found_versions = other
    with pytest.raises(ClusterError, match=f"^scheduler there{message}"):
        check_versions(client, "scheduler there")


def test_workers_that_may_freeze_are_named() -> None:
    mended, affected = answer(((3, 11, 9), True)), answer(((3, 11, 7), True))
    assert describe_freezing(Client(a=mended, b=mended)) is None
    assert describe_freezing(Client(a=affected, b=mended)) == (
        "1 of 2 workers may freeze for minutes: Dask's profiler is on, which Python 3.11.7 does not bear "
        "(python/cpython#106883, mended in 3.11.9); start them with DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False"
    )


@pytest.mark.parametrize(
    ("python", "profiled", "expected"),
    [
        ((3, 10, 14), True, False), ((3, 11, 0), True, True), ((3, 11, 8), True, True), ((3, 11, 8), False, False),
        ((3, 11, 9), True, False), ((3, 12, 0), True, False),
    ],
)  # fmt: skip
def test_freezing_is_of_early_python_311_with_the_profiler(
    python: tuple[int, int, int], profiled: bool, expected: bool
) -> None:
    assert may_freeze(python, profiled) is expected


@pytest.fixture
def web_server() -> Iterator[str]:
    """Run a server that answers with HTTP whatever it is sent, as a dashboard does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            while True:
                try:
                    taken, _ = server.accept()
                except OSError:
                    return
                with taken:
                    taken.recv(1)
                    taken.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                    time.sleep(0.2)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_web_server_is_no_scheduler(web_server: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ClusterError, match=f"^{web_server}: answers, but is no Dask scheduler"):
        connection.connect(Started(web_server)).__enter__()
    assert time.monotonic() - begun < 20


def test_scheduler_that_is_waited_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(connection, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 0.1)
    events: list[Event] = []
    with socket.create_server(("127.0.0.1", 0)) as silent, waiting.report_waits(events.append):
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match="no Dask scheduler answers"):
            connection.connect(Started(address)).__enter__()
    assert events == [Notice(f"waiting for {address}", warning=False)]
