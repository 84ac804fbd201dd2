"""Stages of a run: their clock and their scratch files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.events import StageFinished, StageStarted, Subscriber
from ussfc.pipeline.parallel.free_memory import return_free_memory
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder


@contextmanager
def stage_clock(name: str, total: int, pixels: int, subscriber: Subscriber) -> Iterator[list[float]]:
    """Announce a stage and time it; the yielded list holds its seconds once it is over.

    Args:
        name: of the stage.
        total: steps that it will report.
        pixels: that it will go over.
        subscriber: receives the events.
    """
    # Also what was freed since the last stage: the choice of an engine builds several.
    return_free_memory()
    subscriber(StageStarted(name, total, pixels))
    clock: list[float] = []
    start = time.perf_counter()
    yield clock
    clock.append(time.perf_counter() - start)
    return_free_memory()
    subscriber(StageFinished(name, clock[0], pixels))


@contextmanager
def left_absent(out: Folder) -> Iterator[None]:
    """Remove a local folder that the body has created and failed to put anything in."""
    created: list[Path] = []
    if out.local is not None:
        created = [folder for folder in (out.local, *out.local.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        # The innermost first; the first one with something in it ends it.
        with suppress(OSError):
            for folder in created:
                folder.rmdir()
        raise


@contextmanager
def scratch_folder(out: Folder, config: RunConfig, name: str) -> Iterator[Path]:
    """Make a local folder for temporary files: in OUT/work, or where the configuration names one.

    Raises:
        StoreError: the folder of the configuration cannot be written.
    """
    if out.local is not None:
        folder = out.local / layout.WORK / name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
        finally:
            (out / layout.WORK).remove(name)
        return
    try:
        temporary = tempfile.TemporaryDirectory(prefix=f"ussfc-{name}-", dir=config.output.scratch)
    except OSError as error:
        raise StoreError(
            f"{config.output.scratch or tempfile.gettempdir()}: cannot be written ({error.strerror}); set "
            "output.scratch to a local folder with room"
        ) from error
    with temporary as made:
        yield Path(made)
