"""The state of a folder of a run, and its cleaning; from the folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.runs.manifest import FailureRecord, RunRecord, RunStatus, TileCounts
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.run_name import STARTING, run_name
from ussfc.pipeline.storage.tile_records import TileLedger
from ussfc.pipeline.tiling.lattice import TilePlan


def status(out: Folder | Path | str, waiting: bool = False) -> RunStatus:
    """Return the tiles that are done, failed and left in OUT, and its products.

    Args:
        out: output folder.
        waiting: a folder without a run is no error: its job may still be in a queue.

    Raises:
        StoreError: no run there, or it cannot be reached.
    """
    out = Folder.of(out)
    out.ping()
    work = out / layout.WORK
    key = work.find_json(layout.RUN_KEY)
    record = RunRecord.find(out, layout.MANIFEST)
    if key is None and record is None and not waiting:
        raise StoreError(f"{out}: holds no run of ussfc; check the folder")
    total = done = 0
    failed: tuple[FailureRecord, ...] = ()
    if key is None or key == STARTING:
        name = None
        if key is None and record is not None:
            # Its work was removed, which only a complete run does.
            name, total = record.run, record.counts.tiles
            done = total
    else:
        name = run_name(key)
        try:
            tile_size, patch_size, stride, _ = key["tiling"]
            total = TilePlan(tuple(key["grid"]["shape"]), tile_size, patch_size, stride).tile_count
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{work / layout.RUN_KEY}: damaged ({type(error).__name__}: {error}); overwrite it to start over"
            ) from error
        done = len(TileLedger(work, name).records())
        # A run that begins removes them meanwhile.
        found = (
            FailureRecord.find(work, f"{layout.FAILED}/{file}") for file in sorted(work.sizes(layout.FAILED))
        )
        failed = tuple(failure for failure in found if failure is not None)
    sizes = {product: out.size(product) for product in layout.PRODUCTS}
    made: dict[str, Any] = (
        {} if record is None else {"counts": record.counts, "thresholds": record.thresholds}
    )
    return RunStatus(
        state=_state(record, name, total, done, len(failed)),
        run=name,
        tiles=TileCounts(total=total, done=done, failed=len(failed), left=total - done - len(failed)),
        failed_tiles=failed,
        products={product: size for product, size in sizes.items() if size is not None},
        uploads=_uploads(out),
        **made,
    )


def _state(
    record: RunRecord | None, name: str | None, total: int, done: int, failed: int
) -> Literal["complete", "incomplete", "unfinished", "waiting"]:
    finished = record is not None and record.run == name and bool(record.products)
    # Products that lack tiles which are there by now are still to be made again.
    if finished and record is not None and record.complete and done == total:
        return "complete"
    if finished and failed and done + failed == total:
        return "incomplete"
    return "waiting" if name is None and record is None else "unfinished"


def _uploads(out: Folder) -> tuple[str, ...]:
    try:
        return tuple(upload.name for upload in out.uploads())
    except StoreError:
        # Credentials that may not list uploads may still read how far a run is.
        return ()


def clean(out: Folder | Path | str, dry_run: bool = False) -> dict[str, list[str]]:
    """Remove what stopped runs left in OUT and nothing reads: unfinished uploads, files written aside.

    Args:
        out: output folder.
        dry_run: list only.

    Returns:
        Names of ``uploads`` and ``files``.

    Raises:
        StoreError: OUT cannot be reached, or a run is going on in it.
    """
    out = Folder.of(out)
    out.ping()
    if not out.exists(layout.WORK) and not out.exists(layout.MANIFEST):
        raise StoreError(f"{out}: holds no run of ussfc; check the folder")
    with out.lock():
        files = sorted(name for name in out.sizes() if layout.is_partial(name))
        if dry_run:
            return {"uploads": [upload.name for upload in out.uploads()], "files": files}
        for name in files:
            out.remove(name)
        return {"uploads": [upload.name for upload in out.abort()], "files": files}
