"""Commands that show a run: ``ussfc report`` and ``ussfc view``."""

# Imports of what computes stay inside the commands: `ussfc --help` must not wait for GDAL.
from __future__ import annotations

import sys
import webbrowser
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ussfc.addresses import shown_address
from ussfc.pipeline.terminal import options
from ussfc.pipeline.terminal.output import Output
from ussfc.pipeline.terminal.progress import progress

if TYPE_CHECKING:
    from ussfc.pipeline.events import Event


@click.command()
@options.OUT
@options.output_options
def report(out: str, output: Output) -> None:
    """Write report.html and preview.png of OUT: both dates, change, largest polygons, and what speaks against it.

    `ussfc run` does so at its end. One file without any part elsewhere, below 3 MB for every scene.
    """
    from ussfc.pipeline.report.write import write_report
    from ussfc.pipeline.storage import layout

    with progress(output) as subscriber:
        written = write_report(out, subscriber)
    paths = [f"{shown_address(out).rstrip('/')}/{name}" for name in (layout.REPORT, layout.PREVIEW)]
    output.result({"written": written, "files": paths}, paths)


def _notices(event: Event) -> None:
    from ussfc.pipeline.events import Notice

    if isinstance(event, Notice):
        click.echo(event.message, err=True)


@click.command()
@options.OUT
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on; 0: a free one.")
@click.option(
    "--review",
    type=options.LocalPath(dir_okay=False),
    metavar="FILE",
    help="File of the verdicts; by default review.parquet in OUT, or here where OUT is in an object store.",
)
@click.option(
    "--sample",
    type=options.LocalPath(),
    metavar="FILE",
    help="Sample to label, as `ussfc sample` wrote it; by default that of OUT-sample beside OUT.",
)
@click.option("--browser/--no-browser", default=None, help="Open the page, by default from a terminal.")
def view(out: str, port: int, review: Path | None, sample: Path | None, browser: bool | None) -> None:
    """Show OUT as a map in the browser: both dates, probability at any threshold, polygons and their review.

    With a sample also its points, one after the other, to be labelled for `ussfc assess`.

    Serves OUT alone, to this machine alone, until Ctrl-C. The address holds a random token.
    """
    from ussfc.pipeline.assessment.label_table import open_labels
    from ussfc.pipeline.report.server import ViewServer
    from ussfc.pipeline.report.view import open_view

    with ExitStack() as stack:
        shown = open_view(out, stack, review, open_labels(out, sample, _notices), _notices)
        server = stack.enter_context(ViewServer(shown, port))
        click.echo(server.address)
        click.echo("Ctrl-C ends it", err=True)
        sys.stdout.flush()
        if sys.stdout.isatty() if browser is None else browser:
            webbrowser.open(server.address)
        with suppress(KeyboardInterrupt):
            server.serve_forever()
