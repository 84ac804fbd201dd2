"""Standard streams that are closed, full or read by a program that has ended: text may be lost, work may not."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ussfc.pipeline.terminal.exit_statuses import ExitStatus

DESCRIPTORS = (0, 1, 2)
"""Numbers of standard input, output and error."""


class LossyFile(io.FileIO):
    """An open descriptor whose writes never fail: what it does not take is lost."""

    failure: OSError | None = None
    """First error of a write."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: Any) -> int:
        """Write bytes; return the number of those that were written or lost."""
        try:
            written = super().write(data)
            while written is None:
                # A descriptor that does not block: its reader is slow.
                select.select([], [self], [])
                written = super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            return len(data)
        return written


@contextmanager
def lossy_streams() -> Iterator[None]:
    """Let the body print where it cannot: standard error loses text, standard output does and is reported at the end.

    Streams that a test or a notebook has put in place of the process's own are left as they are. The process keeps the
    new streams: Python writes to them until it ends.

    Raises:
        SystemExit: the body ended well, but standard output could not be written.
    """
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__:
        yield
        return
    _open_closed_descriptors()
    sys.stderr, _ = _lossy(sys.stderr, 2)
    sys.stdout, file = _lossy(sys.stdout, 1)
    try:
        yield
    except SystemExit as ending:
        if ending.code:
            raise
    sys.stdout.flush()
    if file.failure is None:
        sys.exit(ExitStatus.DONE)
    # A reader that has seen enough (`| head`) needs no explanation.
    if file.failure.errno != errno.EPIPE:
        sys.stderr.write(
            f"error: standard output: cannot be written ({file.failure.strerror}); the work itself is done\n"
        )
    sys.exit(ExitStatus.OUTPUT)


def _open_closed_descriptors() -> None:
    """Open closed descriptors of the standard streams: the next file would get their number, and prints in it."""
    for descriptor in DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _lossy(stream: TextIO | None, descriptor: int) -> tuple[TextIO, LossyFile]:
    """Return a stream over a descriptor like a given one, and its file; over the null device where there is none."""
    if stream is None:
        # The descriptor was closed when Python began, and may be of another file by now.
        file = LossyFile(os.open(os.devnull, os.O_WRONLY))
        return io.TextIOWrapper(
            io.BufferedWriter(file), "utf-8", "backslashreplace", line_buffering=True
        ), file
    file = LossyFile(descriptor)
    lossy = io.TextIOWrapper(
        io.BufferedWriter(file),
        stream.encoding,
        # A name that the terminal's encoding lacks is shown in escapes.
        "backslashreplace" if stream.errors == "strict" else stream.errors,
        line_buffering=bool(stream.line_buffering),
        write_through=getattr(stream, "write_through", False),
    )
    return lossy, file
