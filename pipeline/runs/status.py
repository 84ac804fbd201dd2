"""Looking after a folder of a run, from the folder alone: what is done in it, and what nobody needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.runs.products import PRODUCTS
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.tiling.lattice import TilePlan


def status(out: Folder | Path | str, waiting: bool = False) -> dict[str, Any]:
    """What is done in OUT, what failed, what is left; from the folder alone.

    Args:
        out: output folder.
        waiting: a folder without a run is no error: its job may still be in a queue.

    Returns:
        ``state`` (``complete``; ``incomplete``: done but for tiles that kept failing; ``unfinished``; ``waiting``: no
        run is there yet, or it has no worker yet to ask what it computes fastest), ``run``,
        ``tiles`` (total, done, failed, left), ``failed_tiles``, ``products`` (bytes by name), ``uploads``
        (unfinished ones, by name).

    Raises:
        StoreError: no run there, or it cannot be reached.
    """
    from ussfc.pipeline.storage.probability_store import KEY, STARTING, ProbabilityStore, run_name

    out = Folder.of(out)
    out.ping()
    work = out / "work"
    key = work.find_json(KEY)
    manifest = out.find_json("run.json")
    if key is None and manifest is None and not waiting:
        raise StoreError(f"{out}: holds no run of ussfc; check --out")
    total = done = 0
    failed: list[dict[str, Any]] = []
    if key is None or key == STARTING:
        name = None
        if key is None and manifest is not None:
            # Its work was removed, which only a complete run does.
            name, total = manifest.get("run"), manifest["counts"]["tiles"]
            done = total
    else:
        name = run_name(key)
        tile_size, patch_size, stride, _ = key["tiling"]
        total = TilePlan(tuple(key["grid"]["shape"]), tile_size, patch_size, stride).tile_count
        done = len(ProbabilityStore(work).done())
        # A run that begins removes them meanwhile.
        found = (work.find_json(f"failed/{file}") for file in sorted(work.sizes("failed")))
        failed = [record for record in found if record is not None]
    products = {}
    for product in PRODUCTS[:-1]:
        size = out.size(product)
        if size is not None:
            products[product] = size
    finished = manifest is not None and manifest.get("run") == name and "products" in manifest
    # Products that lack tiles which are there by now are still to be made again.
    whole = manifest is not None and manifest["complete"]
    if finished and whole and done == total:
        state = "complete"
    elif finished and failed and done + len(failed) == total:
        state = "incomplete"
    else:
        state = "waiting" if name is None and manifest is None else "unfinished"
    return {
        "state": state,
        "run": name,
        "tiles": {"total": total, "done": done, "failed": len(failed), "left": total - done - len(failed)},
        "failed_tiles": failed,
        "products": products,
        "uploads": _uploads(out),
    }


def _uploads(out: Folder) -> list[str]:
    try:
        return [upload.name for upload in out.uploads()]
    except StoreError:
        # Who may not list uploads may still ask how far a run is.
        return []


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
    if not out.exists("work") and not out.exists("run.json"):
        raise StoreError(f"{out}: holds no run of ussfc; check --out")
    with out.lock():
        files = sorted(
            name for name in out.sizes() if name.endswith((".part", ".partial")) or ".part." in name
        )
        if dry_run:
            return {"uploads": [upload.name for upload in out.uploads()], "files": files}
        for name in files:
            out.remove(name)
        return {"uploads": [upload.name for upload in out.abort()], "files": files}
