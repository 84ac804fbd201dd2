"""Comparison of a run's files with what was written: products by their hashes, records and chunks by checksums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ussfc.pipeline.errors import DamagedRecord, StoreError
from ussfc.pipeline.runs.manifest import (
    FailureRecord,
    InferenceRecord,
    ProductFileRecord,
    ProductRecord,
    RadiometryRecord,
    Record,
    RegistrationRecord,
)
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.run_name import run_name
from ussfc.pipeline.types import Index

MISSING = "is missing"
"""Fault of a record that is not there."""

MOST_NAMED = 5
"""Files or tiles that a finding names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A part of OUT/work, compared."""

    name: str
    """File or folder, relative to OUT."""
    fault: str | None
    """Fault that was found; None: there is none."""
    tiles: tuple[Index, ...] = ()
    """Tiles whose chunks are not what was written."""


def is_intact(out: Folder, name: str, record: ProductRecord) -> bool:
    """Return whether a product is what was written: the file is read whole.

    Args:
        out: output folder.
        name: of the product.
        record: of the product.

    Raises:
        StoreError: it cannot be read.
    """
    return out.size(name) == record.bytes and out.sha256(name) == record.sha256


def compare_work(out: Folder, facts: InferenceRecord | None, trust_marks: bool = False) -> Iterator[Finding]:
    """Compare every file in OUT/work that decides a byte; nothing where the work was removed.

    Args:
        out: output folder.
        facts: of the run; None where no record of it can be read.
        trust_marks: in an object store, only the chunks are read that were written again since.

    Raises:
        StoreError: the folder cannot be read.
    """
    work = out / layout.WORK
    if not work.exists(layout.RUN_KEY) and not work.exists(layout.INFERENCE):
        return
    yield from _records(work, facts)
    if facts is None:
        return
    yield Finding(layout.in_work(layout.PROBABILITIES), _metadata_fault(work, facts))
    yield _compare_chunks(work, facts, trust_marks)


def _records(work: Folder, facts: InferenceRecord | None) -> Iterator[Finding]:
    # Of a run.json, each product has its own record beside it.
    products = {layout.product_record(name) for name in getattr(facts, "products", ())}
    products |= {f"products/{name}" for name in work.sizes("products")}
    kinds: dict[str, type[Record]] = {
        layout.RADIOMETRY: RadiometryRecord,
        layout.INFERENCE: InferenceRecord,
        **dict.fromkeys(sorted(products), ProductFileRecord),
        **{f"{layout.FAILED}/{name}": FailureRecord for name in sorted(work.sizes(layout.FAILED))},
    }
    yield Finding(layout.in_work(layout.RUN_KEY), _key_fault(work, facts))
    # Earlier versions measured none.
    if work.exists(layout.REGISTRATION):
        kinds[layout.REGISTRATION] = RegistrationRecord
    for name, kind in kinds.items():
        if not layout.is_partial(name):
            yield Finding(layout.in_work(name), _fault_of(partial(kind.find, work, name)))


def _key_fault(work: Folder, facts: InferenceRecord | None) -> str | None:

    fault = _fault_of(partial(work.find_json, layout.RUN_KEY))
    if fault is None and facts is not None and run_name(work.read_json(layout.RUN_KEY)) != facts.run:
        return "is not that of the run"
    return fault


def _fault_of(read: Callable[[], object]) -> str | None:
    try:
        return None if read() is not None else MISSING
    except DamagedRecord as error:
        return str(error)


def damaged_metadata_of(work: Folder, facts: InferenceRecord, repair: bool = False) -> list[str]:
    """Return the files of the store of a run, beside its chunks, that differ from its record.

    Args:
        work: the run's ``work`` folder.
        facts: of the run.
        repair: write them again.

    Raises:
        DamagedRecord: the record lacks what is needed for that.
        StoreError: the folder cannot be read or written.
    """
    from ussfc.pipeline.storage.store_metadata import damaged_metadata

    try:
        tile_size, dtype = facts.config["tiling"]["tile_size"], facts.config["output"]["probability_dtype"]
        return damaged_metadata(work, facts.grid.geobox, dtype, tile_size, facts.run, repair)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedRecord(f"{work}: its record lacks a part ({type(error).__name__}: {error})") from error


def _metadata_fault(work: Folder, facts: InferenceRecord) -> str | None:
    try:
        damaged = damaged_metadata_of(work, facts)
    except DamagedRecord as error:
        return str(error)
    return f"is not what was written: {_listed(damaged)}" if damaged else None


def _compare_chunks(work: Folder, facts: InferenceRecord, trust_marks: bool) -> Finding:
    from ussfc.pipeline.storage.probability_store import ProbabilityStore

    name = layout.in_work(layout.CHUNKS)
    try:
        store = ProbabilityStore(work)
        missing = facts.counts.tiles - facts.counts.tiles_failed - len(store.known())
        damaged = store.damaged(trust_marks)
    except StoreError as error:
        return Finding(name, str(error))
    faults = [f"lacks chunk or record of {missing} tile(s)"] if missing else []
    if damaged:
        faults.append(f"is not what was written in {_listed([f'{row}/{col}' for row, col in damaged])}")
    return Finding(name, "; ".join(faults) or None, tuple(damaged))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
