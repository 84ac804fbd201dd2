"""Progress of a command on standard error: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from ussfc.pipeline.events import Advanced, Event, StageFinished, StageStarted, Subscriber, ignore
from ussfc.pipeline.progress import StageMeter, format_duration, notice_line
from ussfc.pipeline.terminal.advice import with_flags
from ussfc.pipeline.terminal.output import Output, log_line
from ussfc.pipeline.waiting import report_waits

if TYPE_CHECKING:
    from ussfc.pipeline.batches.folder_checks import PairStatus
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
    with ExitStack() as stack:
        subscriber: Subscriber = ProgressLines(output)
        if output.quiet:
            subscriber = ignore
        elif sys.stderr.isatty() and not output.as_json:
            subscriber = stack.enter_context(_bar())
        stack.enter_context(report_waits(subscriber))
        yield subscriber


class ProgressLines:
    """A subscriber that prints progress as lines on standard error."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._meter: StageMeter | None = None
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Print a line about an event, where one is due."""
        if isinstance(event, StageStarted):
            self._meter = StageMeter(event)
            self._last = time.monotonic()
        elif isinstance(event, Advanced):
            self._advance(event)
        elif isinstance(event, StageFinished):
            if self._output.verbose or event.seconds >= PLAIN_SECONDS:
                self._output.log(f"{event.stage}: done in {format_duration(event.seconds)}")
        else:
            self._output.log(with_flags(notice_line(event)))

    def _advance(self, event: Advanced) -> None:
        if self._meter is None:
            return
        self._meter.add(event)
        # Pixels that are taken back are counted with their unit the next moment.
        if event.pixels >= 0 and time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            self._output.log(self._meter.line)


@contextmanager
def _bar() -> Iterator[Subscriber]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[units]}"),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}
        meters: dict[str, StageMeter] = {}

        def subscriber(event: Event) -> None:
            if isinstance(event, StageStarted):
                meter = meters[event.stage] = StageMeter(event)
                tasks[event.stage] = bar.add_task(
                    event.stage, total=meter.total, speed="", units=meter.units, left=""
                )
            elif isinstance(event, Advanced):
                meter = meters[event.stage]
                meter.add(event)
                bar.update(
                    tasks[event.stage],
                    completed=meter.done,
                    units=meter.units,
                    speed=meter.speed,
                    left=meter.left,
                )
            elif isinstance(event, StageFinished):
                meter = meters[event.stage]
                meter.finish()
                bar.update(tasks[event.stage], completed=meter.done, units=meter.units, left="")
            else:
                bar.console.print(
                    with_flags(notice_line(event)), markup=False, highlight=False, soft_wrap=True
                )

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
            line = f"step {event.step}: validation F1 {event.f1:.4f} at threshold {event.threshold:g}{mark}"
            click.echo(log_line(line), err=True)
        elif isinstance(event, TrainingNotice):
            click.echo(log_line(event.message), err=True)

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
            click.echo(log_line(line), err=True)


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
            output.log(f"{found.state}: {done} of {tiles.total} tiles{left if tiles.left else ''}")
        elif now - last >= STALLED_SECONDS:
            last = now
            output.log(
                f"no new tile for {format_duration(STALLED_SECONDS)}; the run may wait in a queue or have ended "
                "(`squeue` shows the jobs of SLURM); the same `ussfc run` or `ussfc submit` continues it"
            )
        time.sleep(FOLLOW_SECONDS)


def follow_batch(out: str, output: Output) -> list[PairStatus]:
    """Return the states of a batch's pairs once each has ended; print a line whenever one did."""
    from ussfc.pipeline.batches.folder_checks import batch_status

    ended = -1
    while True:
        pairs = batch_status(out)
        now = sum(pair.state in ("complete", "incomplete", "failed") for pair in pairs)
        if now == len(pairs):
            return pairs
        if now != ended:
            ended = now
            output.log(f"{now} of {len(pairs)} pairs have ended")
        time.sleep(FOLLOW_SECONDS)
