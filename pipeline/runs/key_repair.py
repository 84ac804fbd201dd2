"""Repair of a run's key that is damaged or lost: it follows from the inputs, and the tiles beside it carry its hash."""

from __future__ import annotations

from contextlib import suppress

from ussfc.pipeline.errors import DamagedRecord
from ussfc.pipeline.events import Notice, Subscriber
from ussfc.pipeline.runs.detector import possible_detectors
from ussfc.pipeline.runs.plan import RunPlan
from ussfc.pipeline.runs.run_key import run_key
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.run_name import STARTING, run_name
from ussfc.pipeline.types import DetectorSpec


def repair_key(plan: RunPlan, work: Folder, detector: DetectorSpec | None, subscriber: Subscriber) -> None:
    """Write ``run_key.json`` again where it is not what was written and the finished tiles are of this very run.

    Without a finished tile nothing is lost, and the run starts over.

    Args:
        plan: of the run, registered.
        work: the run's ``work`` folder.
        detector: another detector than the model's network.
        subscriber: receives the notice.

    Raises:
        DamagedRecord: the tiles are of another run, which only its own command can continue.
        StoreError: the folder cannot be read or written.
    """
    try:
        found = work.find_json(layout.RUN_KEY, sealed=True)
        if found is not None:
            return
    except DamagedRecord:
        found = {}
        with suppress(DamagedRecord):
            # An earlier version wrote no checksum: that of such a key is the name of the tiles' folder.
            found = work.find_json(layout.RUN_KEY)
    tiles = [name.partition("/")[0] for name in work.sizes(layout.DONE)]
    where, fault = work / layout.RUN_KEY, "is missing" if found is None else "is not what was written"
    if not tiles:
        if found is not None and found != STARTING:
            subscriber(Notice(f"{where}: {fault}; no tile was finished, and the run starts over"))
            work.write_record(layout.RUN_KEY, STARTING)
        return
    if found and run_name(found) in tiles:
        return
    for candidate in possible_detectors(plan, detector):
        key = run_key(plan, candidate)
        if (name := run_name(key)) in tiles:
            subscriber(
                Notice(f"{where}: {fault}, and is made again: {tiles.count(name)} finished tiles agree")
            )
            work.write_record(layout.RUN_KEY, key)
            return
    raise DamagedRecord(
        f"{where}: {fault}, and the {len(tiles)} finished tiles "
        "beside it are of other inputs, settings or another model; give the command that began the run, choose another "
        "output folder, or overwrite it"
    )
