"""Progress of a command on standard error: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ussfc.pipeline.events import Advanced, Event, Notice, StageFinished, StageStarted, Subscriber, ignore
from ussfc.pipeline.terminal.output import Output, format_duration

if TYPE_CHECKING:
    from ussfc.pipeline.runs.manifest import RunStatus

PLAIN_SECONDS = 5
"""Distance of progress lines where the output is no terminal."""

FOLLOW_SECONDS = 5
"""Distance of two readings of a folder by ``ussfc status --follow``."""

STALLED_SECONDS = 300
"""Time without a new tile after which a run that is followed may have ended."""


@contextmanager
def progress(output: Output) -> Iterator[Subscriber]:
    """Yield a subscriber of a run: a live bar in a terminal, plain lines elsewhere, nothing with ``--quiet``."""
    if output.quiet:
        yield ignore
    elif sys.stderr.isatty() and not output.as_json:
        with _bar() as subscriber:
            yield subscriber
    else:
        yield ProgressLines(output)


def _notice_line(event: Notice) -> str:
    return f"{'warning' if event.warning else 'note'}: {event.message}"


class ProgressLines:
    """A subscriber that prints progress as lines on standard error."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._total = self._done = self._pixels = 0
        self._start = self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Print a line about an event, where one is due."""
        if isinstance(event, StageStarted):
            self._total, self._done, self._pixels = event.total, 0, 0
            self._start = self._last = time.monotonic()
        elif isinstance(event, Advanced):
            self._advance(event)
        elif isinstance(event, StageFinished):
            if self._output.verbose or event.seconds >= PLAIN_SECONDS:
                self._output.notice(f"{event.stage}: done in {format_duration(event.seconds)}")
        else:
            self._output.notice(_notice_line(event))

    def _advance(self, event: Advanced) -> None:
        self._done += event.done
        self._pixels += event.pixels
        now = time.monotonic()
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            seconds = now - self._start
            left = seconds * (self._total - self._done) / max(self._done, 1)
            speed = self._pixels / 1e6 / seconds
            self._output.notice(
                f"{event.stage}: {self._done}/{self._total}, {speed:.2f} Mpx/s, {format_duration(left)} left"
            )


@contextmanager
def _bar() -> Iterator[Subscriber]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}
        pixels: dict[str, tuple[int, float]] = {}

        def subscriber(event: Event) -> None:
            if isinstance(event, StageStarted):
                tasks[event.stage] = bar.add_task(event.stage, total=event.total, speed="")
                pixels[event.stage] = (0, time.monotonic())
            elif isinstance(event, Advanced):
                done, start = pixels[event.stage]
                pixels[event.stage] = (done + event.pixels, start)
                speed = (done + event.pixels) / 1e6 / max(time.monotonic() - start, 1e-3)
                bar.update(tasks[event.stage], advance=event.done, speed=f"{speed:.2f} Mpx/s")
            elif isinstance(event, StageFinished):
                task = tasks[event.stage]
                bar.update(task, completed=bar.tasks[task].total)
            else:
                bar.console.print(_notice_line(event), markup=False)

        yield subscriber


class TrainingProgress:
    """A subscriber of a training: one live line in a terminal, a line every few seconds elsewhere."""

    def __init__(self, output: Output) -> None:
        self._quiet = output.quiet
        self._live = sys.stderr.isatty()
        self._every = PLAIN_SECONDS if output.verbose else 6 * PLAIN_SECONDS
        self._last = time.monotonic()
        self._speed: float | None = None

    def __call__(self, event: Any) -> None:
        """Print a line about an event, where one is due."""
        from ussfc.training.events import StepCompleted, TrainingNotice, Validated

        if self._quiet:
            return
        if isinstance(event, StepCompleted):
            self._step(event)
            return
        if self._live:
            click.echo("\r\033[K", err=True, nl=False)
        if isinstance(event, Validated):
            mark = ", best so far" if event.best else ""
            click.echo(
                f"step {event.step}: validation F1 {event.f1:.4f} at threshold {event.threshold:g}{mark}",
                err=True,
            )
        elif isinstance(event, TrainingNotice):
            click.echo(event.message, err=True)

    def _step(self, event: Any) -> None:
        # Smoothed: a step may share the machine with another program.
        speed = event.patches_per_s
        self._speed = speed if self._speed is None else 0.8 * self._speed + 0.2 * speed
        line = f"step {event.step}/{event.steps}, loss {event.loss:.4f}, {self._speed:.1f} crops/s"
        now = time.monotonic()
        if self._live:
            click.echo(f"\r\033[K{line}", err=True, nl=False)
        elif now - self._last >= self._every:
            self._last = now
            click.echo(line, err=True)


def follow(out: str, output: Output) -> RunStatus:
    """Return the status of a run once it has ended; print a line whenever tiles were added."""
    from ussfc.pipeline.runs.status import status

    first = last = time.monotonic()
    begun = done = None
    while True:
        found = status(out, waiting=True)
        if found.state in ("complete", "incomplete"):
            return found
        now, tiles = time.monotonic(), found.tiles
        begun = tiles.done if begun is None else begun
        if tiles.done != done:
            done, last = tiles.done, now
            added = done - begun
            left = f", {format_duration((now - first) / added * tiles.left)} left" if added else ""
            output.notice(f"{found.state}: {done} of {tiles.total} tiles{left if tiles.left else ''}")
        elif now - last >= STALLED_SECONDS:
            last = now
            output.notice(
                f"no new tile for {format_duration(STALLED_SECONDS)}; the job may wait in its queue or have ended "
                "(check with squeue); the same `ussfc run` or `ussfc submit` continues it"
            )
        time.sleep(FOLLOW_SECONDS)
