"""Clouds of a run's dates, found once for the whole grid and kept in OUT/work: any tiling sees the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine

from ussfc.clouds import SIDE
from ussfc.pipeline.errors import ReadError, StoreError
from ussfc.pipeline.events import Advanced, Subscriber
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.pixels.coarse import block_means
from ussfc.pipeline.reading.date_masks import DateMask, RasterMask
from ussfc.pipeline.runs.cloud_search import CORE, MARGIN, CloudSearch
from ussfc.pipeline.runs.run_key import mask_keys
from ussfc.pipeline.runs.stages import scratch_folder, stage_clock
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.run_name import STARTING
from ussfc.pipeline.types import Box, ByteArray, FloatArray, SceneReader

if TYPE_CHECKING:
    from ussfc.pipeline.runs.plan import RunPlan
    from ussfc.pipeline.storage.folder import Folder

READERS = 4
"""Windows that are read at the same time; the network has threads of its own."""


def find_clouds(plan: RunPlan, out: Folder, overwrite: bool, subscriber: Subscriber) -> RunPlan:
    """Return the plan with the clouds of its dates in OUT/work, where clouds are looked for.

    Args:
        plan: of the run.
        out: its folder, locked.
        overwrite: another run that is there is replaced.
        subscriber: receives progress.

    Raises:
        StoreError: another run is there.
        ReadError: a date cannot be read.
    """
    if plan.pair.clouds == (None, None):
        return plan
    _refuse_other_run(plan, out, overwrite)
    found: list[DateMask | None] = []
    folder = out / layout.WORK / layout.CLOUDS
    for search, mask in zip(plan.pair.clouds, plan.pair.masks, strict=True):
        if search is not None:
            assert mask is not None
            assert isinstance(mask.source, RasterMask)
            name = f"{search.digest}.tif"
            if not folder.exists(name):
                _search(search, plan, out, subscriber)
            mask = replace(mask, source=replace(mask.source, uri=str(folder / name)))
        found.append(mask)
    return replace(plan, pair=replace(plan.pair, masks=(found[0], found[1])))


def remove_other_clouds(plan: RunPlan, out: Folder) -> None:
    """Remove what was found for another run that was in the folder."""
    folder = out / layout.WORK / layout.CLOUDS
    kept = {f"{search.digest}.tif" for search in plan.pair.clouds if search is not None}
    for name in folder.sizes():
        if name not in kept:
            folder.remove(name)


def _refuse_other_run(plan: RunPlan, out: Folder, overwrite: bool) -> None:
    """Refuse a folder whose run has other masks before minutes go into this one's; else make it known as ours."""
    work = out / layout.WORK
    key = None if overwrite else work.find_json(layout.RUN_KEY)
    if key is None or key == STARTING:
        if not work.exists(layout.RUN_KEY):
            work.write_record(layout.RUN_KEY, STARTING)
        return
    expected = json.loads(json.dumps(mask_keys(plan.pair.masks)[0]))
    if key.get("masks") != expected:
        raise StoreError(
            f"{out}: holds another run, which differs in masks; choose another output folder, or overwrite it"
        )


def _search(search: CloudSearch, plan: RunPlan, out: Folder, subscriber: Subscriber) -> None:
    """Write the clouds of one date."""
    grid, factor = search.recipe.grid, search.factor
    rows, cols = (-(-length // factor) for length in grid.shape)
    affine, crs = grid.affine * Affine.scale(factor), grid.crs
    assert crs is not None
    profile = {
        "driver": "GTiff", "height": rows, "width": cols, "count": 1, "dtype": "uint8", "crs": crs.to_wkt(),
        "transform": affine, "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate",
        "bigtiff": "if_safer",
    }  # fmt: skip
    windows = [Box(y, x, y + CORE, x + CORE) for y in range(0, rows, CORE) for x in range(0, cols, CORE)]
    folder, name = out / layout.WORK / layout.CLOUDS, f"{search.digest}.tif"
    folder.prepare()
    with (
        stage_clock("clouds", len(windows), grid.shape[0] * grid.shape[1], subscriber),
        scratch_folder(out, plan.config, "clouds-scratch") as scratch,
    ):
        raw = scratch / name
        with rasterio.open(raw, "w", **profile) as target:
            for box, classes in _classes(search, plan, windows, (rows, cols)):
                target.write(classes, 1, window=box.slices)
                subscriber(Advanced("clouds", 1, box.pixels * factor**2))
        with folder.atomic_output(name, scratch) as place:
            _replace(raw, place)


def _replace(raw: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(raw, place)
    except OSError:
        # On another file system.
        shutil.copyfile(raw, place)


def _classes(
    search: CloudSearch, plan: RunPlan, windows: list[Box], shape: tuple[int, int]
) -> Iterator[tuple[Box, ByteArray]]:
    """Yield the classes of each window, within the grid."""
    reader = search.recipe.open()

    def read(core: Box) -> tuple[FloatArray, ByteArray] | None:
        kept = core.intersect(Box(0, 0, *shape))
        fine = Box(*(edge * search.factor for edge in (kept.y0, kept.x0, kept.y1, kept.x1)))
        fine = fine.intersect(Box(0, 0, *search.recipe.grid.shape))
        if plan.pair.area is not None and not plan.pair.area.mask(fine).any():
            return None
        return read_window(search, reader, core, shape)

    try:
        for core, found in in_order(read, windows, READERS, "ussfc-clouds"):
            kept = core.intersect(Box(0, 0, *shape))
            classes = np.zeros(kept.shape, np.uint8)
            if found is not None and found[1].any():
                image, seen = found
                inner = slice(MARGIN, MARGIN + kept.shape[0]), slice(MARGIN, MARGIN + kept.shape[1])
                classes = search.network.classify(image)[inner] * seen[inner]
            yield kept, classes
    except ReadError as error:
        raise ReadError(
            f"{error}; it is looked through for clouds, which masks.clouds=off leaves out"
        ) from error


def read_window(
    search: CloudSearch, reader: SceneReader, core: Box, shape: tuple[int, int]
) -> tuple[FloatArray, ByteArray]:
    """Return the reflectances around a window in coarse pixels, and 1 where there are such.

    Args:
        search: the date.
        reader: of it.
        core: the window, coarse pixels.
        shape: (rows, cols) of the coarse grid; beyond it the image is mirrored.

    Returns:
        ``(4, SIDE, SIDE)`` and ``(SIDE, SIDE)``.
    """
    wide = Box(core.y0 - MARGIN, core.x0 - MARGIN, core.y0 - MARGIN + SIDE, core.x0 - MARGIN + SIDE)
    there = wide.intersect(Box(0, 0, *shape))
    factor = search.factor
    fine = Box(there.y0 * factor, there.x0 * factor, there.y1 * factor, there.x1 * factor)
    pixels = reader.read(fine.intersect(Box(0, 0, *search.recipe.grid.shape)))
    low, high = (
        np.array(ends, np.float32)[:, None, None] for ends in (search.mapping.low, search.mapping.high)
    )
    image, valid = block_means((pixels.values.astype(np.float32) - low) / (high - low), pixels.valid, factor)
    pad = (there.y0 - wide.y0, wide.y1 - there.y1), (there.x0 - wide.x0, wide.x1 - there.x1)
    return np.pad(image, ((0, 0), *pad), mode="symmetric"), np.pad(valid, pad).astype(np.uint8)
