"""Part of a mapped change that looks like clouds, from a sample of windows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ussfc.pipeline.errors import DamagedTiles, ReadError
from ussfc.pipeline.pixels.cloud_likeness import cloud_like, pixels_of_pieces
from ussfc.pipeline.pixels.encoding import is_change
from ussfc.pipeline.pixels.radiometry import pair
from ussfc.pipeline.reading.sampling import SAMPLE_PIXELS, SAMPLE_WINDOW, spread_windows
from ussfc.pipeline.runs.comparison import REQUESTS, VISIBLE
from ussfc.pipeline.runs.manifest import CloudLikeRecord
from ussfc.pipeline.tiling.grid import ground_steps
from ussfc.pipeline.types import blocks

if TYPE_CHECKING:
    from ussfc.pipeline.runs.manifest import RadiometryRecord
    from ussfc.pipeline.runs.plan import RunPlan
    from ussfc.pipeline.types import Box, ProbabilitySource

LEAST_M2 = 40_000.0
"""Smallest piece that counts, m2. On 14 real pairs without clouds (benchmark cities at 10 m) no piece of this size was
found in the change of any; pasted clouds over a tenth of a scene were 43 to 74 % of its change."""

LEAST_PX = 400
"""The same without a CRS, pixels."""

BLOCK = 512
"""Side of the parts in which a scene is read that is no larger than a sample, pixels."""

SUSPICIOUS = 0.1
"""Share of the change beyond which a warning is due."""


def check_clouds(
    plan: RunPlan, store: ProbabilitySource, radiometry: RadiometryRecord
) -> CloudLikeRecord | None:
    """Measure how much of the change is bright in one date alone.

    Windows without a piece of change as large as a cloud are not read. Masked pixels are no change.

    Args:
        plan: of the run, registered.
        store: its probabilities.
        radiometry: its constants.

    Returns:
        None where the model has no fixed range, in which a number would be bright, or a window cannot be read.
    """
    if plan.model.radiometry.kind != "range":
        return None
    names = [band.common_name for band in plan.model.bands]
    visible = [place for place, name in enumerate(names) if name in VISIBLE] or list(range(len(names)))
    mappings = radiometry.before.mapping, radiometry.after.mapping
    least = _least_pixels(plan)

    def counted(box: Box) -> tuple[int, int, int]:
        changed = np.asarray(is_change(store.read(box), plan.threshold))
        # What is bright in one date alone is a part of such a piece.
        if not pixels_of_pieces(changed, least):
            return int(changed.sum()), 0, 0
        images = pair(readers[0].read(box), readers[1].read(box), mappings)
        changed &= images.valid
        bright = cloud_like(images.before[visible], images.after[visible], changed, least)
        return int(changed.sum()), *bright

    try:
        readers = plan.pair.recipes[0].open(), plan.pair.recipes[1].open()
        rows, cols = store.shape
        small = rows * cols <= SAMPLE_PIXELS
        windows = list(blocks(store.shape, BLOCK)) if small else spread_windows(store.shape)
        with ThreadPoolExecutor(min(REQUESTS, max(2, plan.threads)), "ussfc-clouds") as pool:
            found = list(pool.map(counted, windows))
    except (ReadError, DamagedTiles):
        # Both are reported with the tiles over them; a check must not end a run that is computed.
        return None
    changed, before, after = (sum(counts) for counts in zip(*found, strict=True))
    return CloudLikeRecord(sampled_change=changed, before=before, after=after)


def _least_pixels(plan: RunPlan) -> int:
    steps = ground_steps(plan.pair.grid)
    pixels = LEAST_PX if steps is None else round(LEAST_M2 / (steps[0] * steps[1]))
    # A window must be able to hold one.
    return min(max(1, pixels), SAMPLE_WINDOW**2 // 4)


def cloud_warnings(record: CloudLikeRecord | None, searched: bool = False) -> list[str]:
    """Return a warning where much of the change looks like clouds.

    Args:
        record: of :func:`check_clouds`.
        searched: clouds were looked for in the dates.
    """
    if record is None or record.share < SUSPICIOUS:
        return []
    dates = {"earlier": record.before, "later": record.after}
    where = " and the ".join(
        date for date, count in dates.items() if count >= SUSPICIOUS * max(dates.values())
    )
    return [
        f"about {record.share:.0%} of the mapped change is bright in the {where} date alone, in pieces as large as "
        "clouds; look at the images, and give a mask of the clouds"
        + ("" if searched else ", or let them be found with masks.clouds=auto")
    ]
