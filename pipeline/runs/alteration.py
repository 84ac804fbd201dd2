"""IR-MAD of a pair beside the network: found from a sample of both dates, once a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.pixels.alteration import Alteration
from ussfc.pipeline.pixels.radiometry import pair as mapped_pair
from ussfc.pipeline.reading.date_masks import masked_reader
from ussfc.pipeline.reading.sampling import CHECK_PIXELS, spread_windows
from ussfc.pipeline.runs.comparison import have_large_blocks
from ussfc.pipeline.runs.manifest import AlterationRecord
from ussfc.pipeline.types import Box, FloatArray, RadiometricMapping, SceneReader, blocks

if TYPE_CHECKING:
    from ussfc.pipeline.runs.pair import ScenePair
    from ussfc.spec import AlterationTerms

VERSION = 1
"""Version of the measurement, part of the key of runs that combine the network's answer with IR-MAD."""

SAMPLE_PIXELS = 1_700_000
"""Size of the windows that the sample is taken from, pixels: 25 of them; smaller grids are read whole."""

BLOCK = 512
"""Side of the parts in which a small grid is read, pixels."""

NOT_FOUND = (
    "IR-MAD could not be found beside the network: too few valid pixels, or no band that varies in both dates; the "
    "network's answer alone counts"
)

Mappings = tuple[RadiometricMapping, RadiometricMapping]


def measure_pair(pair: ScenePair, mappings: Mappings, terms: AlterationTerms) -> AlterationRecord:
    """Measure IR-MAD of a registered pair; see :func:`measure_readers`."""
    shape = pair.grid.shape[0], pair.grid.shape[1]
    before, after = (masked_reader(recipe.open(), pair.masks, shape) for recipe in pair.recipes)
    most = CHECK_PIXELS if have_large_blocks((pair.before, pair.after)) else SAMPLE_PIXELS
    return measure_readers((before, after), shape, mappings, terms, most)


def measure_readers(
    readers: tuple[SceneReader, SceneReader],
    shape: tuple[int, int],
    mappings: Mappings,
    terms: AlterationTerms,
    most: int = SAMPLE_PIXELS,
) -> AlterationRecord:
    """Measure IR-MAD of two dates.

    Args:
        readers: of before and after, on the common grid, registered.
        shape: (rows, cols) of the grid.
        mappings: radiometric constants of both.
        terms: of the model's card.
        most: size of the windows that are read, pixels.
    """
    small = shape[0] * shape[1] <= most
    windows = list(blocks(shape, BLOCK)) if small else spread_windows(shape, most)

    def read(box: Box) -> tuple[FloatArray, FloatArray] | None:
        try:
            before, after = (reader.read(box) for reader in readers)
        except ReadError:
            # A damaged block costs the tiles over it and is reported with them.
            return None
        images = mapped_pair(before, after, mappings)
        return images.before[:, images.valid], images.after[:, images.valid]

    parts = [part for part in map(read, windows) if part is not None]
    empty = np.empty((len(mappings[0].low), 0), np.float32)
    before, after = (np.concatenate([empty, *(part[date] for part in parts)], axis=1) for date in (0, 1))
    return record_of(Alteration.of(before, after), terms)


def record_of(found: Alteration | None, terms: AlterationTerms) -> AlterationRecord:
    """Return the record of what was found of a pair, with the terms of a model's card."""
    fields = {} if found is None else {
        "factors": found.factors, "offsets": found.offsets, "typical": found.typical
    }  # fmt: skip
    return AlterationRecord(
        **fields,
        network=terms.network,
        distance=terms.distance,
        offset=terms.offset,
        blur=terms.blur_px,
        margin=terms.margin_px,
    )
