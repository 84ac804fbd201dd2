"""Normalisation of a run: the later date's radiometric constants follow the earlier one's, by unchanged ground."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.pixels.normalisation import normalise
from ussfc.pipeline.reading.date_masks import masked_reader
from ussfc.pipeline.reading.sampling import CHECK_PIXELS, spread_windows
from ussfc.pipeline.runs.comparison import REQUESTS, have_large_blocks
from ussfc.pipeline.runs.manifest import NormalisationRecord
from ussfc.pipeline.types import Box, FloatArray, Pixels, RadiometricMapping, SceneReader, blocks

if TYPE_CHECKING:
    from ussfc.pipeline.runs.pair import ScenePair

VERSION = 1
"""Version of the measurement, part of the key of runs with ``radiometry: match``."""

SAMPLE_PIXELS = 1_700_000
"""Size of the sample of both dates, pixels: 25 windows; smaller grids are read whole."""

BLOCK = 512
"""Side of the parts in which a small grid is read, pixels."""

AVERAGED = 2
"""Side of the squares whose mean is compared, pixels: half a pixel of misregistration weighs less in them."""


def normalise_pair(pair: ScenePair, threads: int) -> NormalisationRecord:
    """Measure the lines between both dates of a registered pair; see :func:`normalise_readers`."""
    shape = pair.grid.shape[0], pair.grid.shape[1]
    before, after = (masked_reader(recipe.open(), pair.masks, shape) for recipe in pair.recipes)
    names = tuple(band.name for band in pair.model.bands)
    if have_large_blocks((pair.before, pair.after)):
        return normalise_readers((before, after), shape, names, 1, CHECK_PIXELS)
    return normalise_readers((before, after), shape, names, min(REQUESTS, max(2, threads)))


def normalise_readers(
    readers: tuple[SceneReader, SceneReader],
    shape: tuple[int, int],
    names: tuple[str, ...],
    threads: int,
    most: int = SAMPLE_PIXELS,
) -> NormalisationRecord:
    """Measure the lines that bring the later date to the numbers of the earlier one.

    Args:
        readers: of before and after, on the common grid, registered.
        shape: (rows, cols) of the grid.
        names: of the bands that both read.
        threads: windows that are read at a time.
        most: size of the sample, pixels.

    Returns:
        The lines of all bands, or a warning where one of them is not seen: colours would be torn apart by the rest.
    """

    def read(box: Box) -> tuple[FloatArray, FloatArray] | None:
        try:
            before, after = (reader.read(box) for reader in readers)
        except ReadError:
            # A damaged block costs the tiles over it and is reported with them.
            return None
        return _averaged(before, after)

    small = shape[0] * shape[1] <= most
    windows = list(blocks(shape, BLOCK)) if small else spread_windows(shape, most)
    if threads == 1:
        parts = [read(box) for box in windows]
    else:
        with ThreadPoolExecutor(threads, "ussfc-normalisation") as pool:
            parts = list(pool.map(read, windows))
    empty = np.empty((len(names), 0), np.float32)
    before, after = (
        np.concatenate([empty, *(part[date] for part in parts if part is not None)], axis=1)
        for date in (0, 1)
    )
    found = normalise(before, after, np.ones(before.shape[1], np.bool_))
    fields = {
        "correlation": tuple(round(line.correlation, 4) for line in found.lines),
        "unchanged": round(found.weight),
        "sampled": found.pixels,
    }
    if not found.sure:
        unlike = ", ".join(name for name, line in zip(names, found.lines, strict=True) if not line.sure)
        warning = (
            f"the numbers of both dates could not be matched: no unchanged ground found in {unlike} among "
            f"{found.pixels} places; the later date keeps its own (radiometry: model)"
        )
        return NormalisationRecord(**fields, warning=warning)
    # Digits that do not depend on the machine.
    gains = tuple(float(f"{line.gain:.5g}") for line in found.lines)
    offsets = tuple(float(f"{line.offset:.5g}") for line in found.lines)
    return NormalisationRecord(gain=gains, offset=offsets, **fields)


def _averaged(before: Pixels, after: Pixels) -> tuple[FloatArray, FloatArray]:
    """Return the means of squares in which all pixels are valid on both dates, each (bands, squares) float32."""
    rows, cols = (length // AVERAGED * AVERAGED for length in before.valid.shape)
    squares = (rows // AVERAGED, AVERAGED, cols // AVERAGED, AVERAGED)
    valid = (before.valid & after.valid)[:rows, :cols].reshape(squares).all(axis=(1, 3))
    first, second = (
        date.values[:, :rows, :cols].reshape(-1, *squares).mean(axis=(2, 4), dtype=np.float32)[:, valid]
        for date in (before, after)
    )
    return first, second


def matched_mappings(
    mappings: tuple[RadiometricMapping, RadiometricMapping], record: NormalisationRecord | None
) -> tuple[RadiometricMapping, RadiometricMapping]:
    """Return the constants of both dates, those of the later one by the earlier one's where there are lines.

    Args:
        mappings: of before and after, each by itself.
        record: the lines; None: nothing is matched.
    """
    if record is None or record.gain is None or record.offset is None:
        return mappings
    before, _ = mappings
    lines = list(zip(record.gain, record.offset, strict=True))
    low, high = (
        tuple((end - offset) / gain for end, (gain, offset) in zip(ends, lines, strict=True))
        for ends in (before.low, before.high)
    )
    return before, RadiometricMapping(low, high)


def describe(record: NormalisationRecord) -> str | None:
    """Return the lines in words; None where nothing was matched."""
    if record.gain is None or record.offset is None:
        return None
    lines = ", ".join(
        f"{gain:.4g} x {offset:+.4g}" for gain, offset in zip(record.gain, record.offset, strict=True)
    )
    return (
        f"radiometry: the later date is brought to the numbers of the earlier one, band by band {lines}; "
        f"{record.unchanged} of {record.sampled} places look unchanged"
    )
