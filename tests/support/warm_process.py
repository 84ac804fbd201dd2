"""Processes that begin with everything imported: forks of a server that has done so once.

A run of a small scene spends half of its time on imports, and the fault tests start dozens, hundreds in the
soak. A fork is a process like any other, with a session, an environment and streams of its own.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any

SERVERS = multiprocessing.get_context("forkserver")


def preload(*modules: str) -> None:
    """Let the server import modules; only before its first process."""
    SERVERS.set_forkserver_preload(list(modules))


class WarmProcess:
    """A function in a process of its own, with the part of :class:`subprocess.Popen` that the tests need."""

    def __init__(
        self, function: Callable[..., None], *arguments: Any, environment: Mapping[str, str]
    ) -> None:
        """Start it in a session of its own; the function and its arguments must pickle."""
        self.returncode: int | None = None
        """Exit status, negative for a signal but Ctrl-C's, which gives 1; None while it runs, as far as was asked."""
        folder = Path(tempfile.mkdtemp(prefix="warm-process-"))
        self._streams = [folder / name for name in ("stdout", "stderr")]
        names = [str(path) for path in self._streams]
        self._process = SERVERS.Process(target=_begin, args=(names, dict(environment), function, arguments))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        """Of the process and of its group."""
        # multiprocessing would wait for it at the end of the tests, where one has failed and left it.
        weakref.finalize(self, _discard, self._process, folder)
        # Until it has a group of its own no signal to that would reach it.
        while not self._streams[1].exists():
            if not self._process.is_alive():
                raise RuntimeError(f"{function} ended with {self._process.exitcode} before it began")
            time.sleep(0.001)

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended.

        Raises subprocess.TimeoutExpired after ``timeout`` seconds.
        """
        self._process.join(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it has printed once it has ended; as :meth:`wait`."""
        self.wait(timeout)
        out, error = (path.read_text() for path in self._streams)
        return out, error

    def __enter__(self) -> WarmProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()


def _discard(process: ForkServerProcess, folder: Path) -> None:
    if process.is_alive() and process.pid is not None:
        os.killpg(process.pid, signal.SIGKILL)
    shutil.rmtree(folder)


def _begin(
    names: list[str], environment: dict[str, str], function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for stream, name in zip((sys.stdout, sys.stderr), names, strict=True):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    # PYTHONPATH was read before.
    sys.path[:0] = [
        path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path
    ]
    try:
        function(*arguments)
    finally:
        # A fork of multiprocessing ends without these.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
