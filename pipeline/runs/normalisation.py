"""Normalisation of a run: the later date's radiometric constants follow the earlier one's, by unchanged ground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ussfc.pipeline.pixels.normalisation import normalise
from ussfc.pipeline.runs.manifest import NormalisationRecord
from ussfc.pipeline.runs.pair_sample import SAMPLE_PIXELS, Readers, open_sample, read_sample
from ussfc.pipeline.types import FloatArray, Pixels, RadiometricMapping

if TYPE_CHECKING:
    from ussfc.pipeline.runs.pair import ScenePair

VERSION = 2
"""Version of the measurement, part of the key of runs with ``radiometry: match``."""

AVERAGED = 2
"""Side of the squares whose mean is compared, pixels: half a pixel of misregistration weighs less in them."""


def normalise_pair(pair: ScenePair, threads: int) -> NormalisationRecord:
    """Measure the lines between both dates of a registered pair; see :func:`normalise_readers`."""
    readers, threads, most = open_sample(pair, threads)
    names = tuple(band.name for band in pair.model.bands)
    return normalise_readers(readers, (pair.grid.shape[0], pair.grid.shape[1]), names, threads, most)


def normalise_readers(
    readers: Readers,
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
    parts, _ = read_sample(readers, shape, threads, most, _averaged)
    empty = np.empty((len(names), 0), np.float32)
    before, after = (np.concatenate([empty, *(part[date] for part in parts)], axis=1) for date in (0, 1))
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
