"""A batch kept in order from its folder alone: products made again, the index renewed, leftovers removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ussfc import ModelError
from ussfc.pipeline.batches.folder_checks import is_batch, read_table
from ussfc.pipeline.errors import PipelineError, StoreError
from ussfc.pipeline.events import Advanced, Event, Notice, Subscriber
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.runs.stages import stage_clock
from ussfc.pipeline.runs.status import clean
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder

if TYPE_CHECKING:
    from ussfc.pipeline.batches.index import BatchIndex, PairResult

Finish = Callable[[Folder, Subscriber], RunRecord]
"""Makes the products in a folder again, and returns their record."""


def finish_pairs(
    out: Folder | Path | str, stage: str, finish: Finish, subscriber: Subscriber
) -> list[PairResult]:
    """Make the products of all pairs again, and renew table, items and collection.

    A pair that cannot be finished, since its inference has not ended, does not stop the others and stays as it is.

    Args:
        out: folder of a batch, path or URI.
        stage: name of what is done, for the progress.
        finish: does it for one pair.
        subscriber: receives notices with the pair's name before them, and how many pairs are done.

    Returns:
        One result for each pair, in the order of the table.
    """
    from ussfc.pipeline.batches.index import PairResult

    out = Folder.of(out)
    index, names = _index(out)
    results = []
    with stage_clock(stage, len(names), 0, subscriber):
        for name in names:
            try:
                result = PairResult(name, finish(out / name, _named(name, subscriber)), None)
                index.add(result)
                index.write()
            except (PipelineError, ModelError) as error:
                result = PairResult(name, None, " ".join(str(error).split()))
            results.append(result)
            subscriber(Advanced(stage, 1, 0))
    return results


def refresh_pair(out: Folder | Path | str, record: RunRecord) -> None:
    """Renew what a batch holds of a pair whose products were made again; nothing where OUT is no folder of a pair.

    Args:
        out: folder of the pair.
        record: its ``run.json``.
    """
    out = Folder.of(out)
    if not out.exists(layout.ITEM):
        return
    parent, _, name = out.address.rpartition("/")
    batch = _batch_at(parent)
    if batch is not None and name in (row["name"] for row in read_table(batch)):
        from ussfc.pipeline.batches.index import PairResult

        index, _ = _index(batch)
        index.add(PairResult(name, record, None))
        index.write()


def clean_batch(out: Folder | Path | str, dry_run: bool = False) -> dict[str, list[str]]:
    """Do as :func:`ussfc.pipeline.runs.status.clean` does, in the folders of all pairs and beside them."""
    out = Folder.of(out)
    found: dict[str, list[str]] = {"uploads": [], "files": []}
    for name in (row["name"] for row in read_table(out)):
        folder = out / name
        if folder.exists(layout.WORK) or folder.exists(layout.MANIFEST):
            for kind, names in clean(folder, dry_run).items():
                found[kind] += [f"{name}/{each}" for each in names]
    loose = sorted(name for name in out.sizes() if "/" not in name and layout.is_partial(name))
    for name in () if dry_run else loose:
        out.remove(name)
    found["files"] += loose
    return found


def _index(out: Folder) -> tuple[BatchIndex, list[str]]:
    """Return the index as it stands in the table, and the names of the pairs."""
    # pystac and shapely, which most folders need not wait for.
    from ussfc.pipeline.batches.index import BatchIndex, PairResult
    from ussfc.pipeline.batches.pair_lists import PairEntry

    rows = read_table(out)
    index = BatchIndex(out, [PairEntry(row["name"], row["before"], row["after"], {}) for row in rows])
    for row in rows:
        if row["error"]:
            index.add(PairResult(row["name"], None, row["error"]))
    return index, [row["name"] for row in rows]


def _batch_at(address: str) -> Folder | None:
    try:
        folder = Folder.of(address or "/")
        return folder if is_batch(folder) else None
    except StoreError:
        # A bucket of which the pair alone may be seen.
        return None


def _named(name: str, subscriber: Subscriber) -> Subscriber:
    def pass_on(event: Event) -> None:
        # Progress is by pairs.
        if isinstance(event, Notice):
            subscriber(Notice(f"{name}: {event.message}", event.warning))

    return pass_on
