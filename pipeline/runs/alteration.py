"""IR-MAD of a pair beside the network: found from a sample of both dates, once a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ussfc.pipeline.pixels.alteration import Alteration
from ussfc.pipeline.pixels.radiometry import pair as mapped_pair
from ussfc.pipeline.runs.manifest import AlterationRecord
from ussfc.pipeline.runs.pair_sample import SAMPLE_PIXELS, Readers, open_sample, read_sample
from ussfc.pipeline.types import FloatArray, Pixels, RadiometricMapping

if TYPE_CHECKING:
    from ussfc.pipeline.runs.pair import ScenePair
    from ussfc.spec import AlterationTerms

VERSION = 3
"""Version of the measurement, part of the key of runs that combine the network's answer with IR-MAD."""

NOT_FOUND = (
    "IR-MAD could not be found beside the network: too few valid pixels, or no band that varies in both dates; the "
    "network's answer alone counts"
)

Mappings = tuple[RadiometricMapping, RadiometricMapping]


def measure_pair(
    pair: ScenePair, mappings: Mappings, terms: AlterationTerms, threads: int
) -> AlterationRecord:
    """Measure IR-MAD of a registered pair; see :func:`measure_readers`."""
    readers, threads, most = open_sample(pair, threads)
    shape = pair.grid.shape[0], pair.grid.shape[1]
    return measure_readers(readers, shape, mappings, terms, threads, most)


def measure_readers(
    readers: Readers,
    shape: tuple[int, int],
    mappings: Mappings,
    terms: AlterationTerms,
    threads: int,
    most: int = SAMPLE_PIXELS,
) -> AlterationRecord:
    """Measure IR-MAD of two dates.

    Args:
        readers: of before and after, on the common grid, registered.
        shape: (rows, cols) of the grid.
        mappings: radiometric constants of both.
        terms: of the model's card.
        threads: windows that are read at a time.
        most: size of the windows that are read, pixels.
    """

    def take(before: Pixels, after: Pixels) -> tuple[FloatArray, FloatArray]:
        images = mapped_pair(before, after, mappings)
        return images.before[:, images.valid], images.after[:, images.valid]

    parts, unread = read_sample(readers, shape, threads, most, take)
    empty = np.empty((len(mappings[0].low), 0), np.float32)
    before, after = (np.concatenate([empty, *(part[date] for part in parts)], axis=1) for date in (0, 1))
    return record_of(Alteration.of(before, after), terms, before.shape[1], unread)


def record_of(
    found: Alteration | None, terms: AlterationTerms, sampled: int, unread: int = 0
) -> AlterationRecord:
    """Return the record of what was found of a pair, with the terms of a model's card.

    Args:
        found: IR-MAD; None: it could not be found.
        terms: of the card.
        sampled: valid pixels that it was looked for in.
        unread: windows that could not be read.
    """
    missing = f"IR-MAD was found without {unread} window(s) of its sample that could not be read"
    warning = NOT_FOUND if found is None else missing if unread else None
    measured = (
        {}
        if found is None
        else {
            "factors": found.factors,
            "offsets": found.offsets,
            "typical": found.typical,
            "sampled": sampled,
        }
    )
    return AlterationRecord(
        network=terms.network,
        distance=terms.distance,
        offset=terms.offset,
        blur=terms.blur_px,
        margin=terms.margin_px,
        **measured,
        **({} if warning is None else {"warning": warning}),
    )
