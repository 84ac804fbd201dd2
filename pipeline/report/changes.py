"""The polygons of a run as a report needs them: the largest, and how sizes and probabilities are spread."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.polygons.geoparquet import KIND
from ussfc.pipeline.polygons.kinds import KINDS
from ussfc.pipeline.storage import layout

LARGEST = 20
"""Polygons that are shown one by one."""

PROBABILITY_BINS = np.linspace(0, 1, 21)
"""Ends of the classes of mean probability."""

SIZES = tuple(sign * 10.0**power for power in range(-1, 9) for sign in (1, 3))
"""Ends of the classes of size: m2, or pixels on a grid without CRS."""

ROWS = 65536
"""Polygons that are read at a time."""


@dataclass(frozen=True)
class Change:
    """One polygon."""

    id: int
    area_m2: float | None
    pixels: int
    mean_probability: float
    bounds: tuple[float, float, float, float]
    """Left, bottom, right, top in the CRS of the layer."""


@dataclass(frozen=True)
class ChangeSummary:
    """All polygons of a run."""

    largest: tuple[Change, ...]
    """The largest first."""
    sizes: npt.NDArray[np.int64]
    """(len(SIZES) - 1,) polygons by size."""
    probabilities: npt.NDArray[np.int64]
    """(20,) polygons by mean probability."""
    in_metres: bool
    """False: sizes are pixels."""
    kinds: npt.NDArray[np.float64] | None = None
    """(len(KINDS),) m2, or pixels, of each kind of change; None where the layer does not have it."""


def summarise(folder: Path, layer: str) -> ChangeSummary:
    """Go once through the polygons, a batch at a time.

    Args:
        folder: local folder that holds the layer.
        layer: its name.

    Raises:
        ReadError: it cannot be read.
    """
    import pyarrow as pa
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        return _summary(folder / layer, layer)
    except (OSError, ValueError, LookupError, pa.ArrowException, DataLayerError, DataSourceError) as error:
        line = " ".join(str(error).split())
        raise ReadError(
            f"{folder / layer}: cannot be read ({line}); run `ussfc validate` on the folder"
        ) from error


def _summary(path: Path, layer: str) -> ChangeSummary:
    sizes = np.zeros(len(SIZES) - 1, np.int64)
    probabilities = np.zeros(len(PROBABILITY_BINS) - 1, np.int64)
    largest: list[tuple[float, int, Change]] = []
    in_metres = True
    areas, counts = np.zeros(len(KINDS)), np.zeros(len(KINDS))
    for batch in _batches(path, layer):
        pixels, area, mean = (_numbers(batch, name) for name in ("pixels", "area_m2", "mean_probability"))
        in_metres &= bool(np.isfinite(area).all())
        size = area if in_metres else pixels
        sizes += np.histogram(np.clip(size, SIZES[0], SIZES[-1]), SIZES)[0]
        probabilities += np.histogram(mean, PROBABILITY_BINS)[0]
        if KIND in batch.schema.names:
            kind = _kind_numbers(batch.column(KIND))
            known = kind >= 0
            for sums, values in ((areas, area), (counts, pixels)):
                sums += np.bincount(kind[known], values[known], len(KINDS))
        for row in np.argsort(-size, kind="stable")[:LARGEST].tolist():
            change = Change(
                int(batch.column("id")[row].as_py()),
                float(area[row]) if in_metres else None,
                int(pixels[row]),
                float(mean[row]),
                _bounds(batch, row),
            )
            largest.append((float(size[row]), -change.id, change))
        largest = heapq.nlargest(LARGEST, largest, key=lambda entry: entry[:2])
    kinds = (areas if in_metres else counts) if counts.any() else None
    return ChangeSummary(tuple(entry[2] for entry in largest), sizes, probabilities, in_metres, kinds)


def _kind_numbers(column: Any) -> npt.NDArray[np.int64]:
    """Return the places of words in :data:`KINDS`, -1 for null and for others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: npt.NDArray[np.int64] = (
        pc.index_in(column.cast(pa.string()), pa.array(KINDS))
        .fill_null(-1)
        .to_numpy(zero_copy_only=False)
        .astype(np.int64)
    )
    return found


def _numbers(batch: Any, name: str) -> npt.NDArray[np.float64]:
    """Return a column, null as NaN."""
    found: npt.NDArray[np.float64] = batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
    return found


def _bounds(batch: Any, row: int) -> tuple[float, float, float, float]:
    if "bbox" in batch.schema.names:
        box = batch.column("bbox")[row].as_py()
        return box["xmin"], box["ymin"], box["xmax"], box["ymax"]
    import shapely

    left, bottom, right, top = shapely.from_wkb(batch.column("geometry")[row].as_py()).bounds
    return left, bottom, right, top


def _batches(path: Path, layer: str) -> Iterator[Any]:
    """Yield record batches of Arrow with the columns used, and ``bbox`` or ``geometry``."""
    columns = ["id", "area_m2", "pixels", "mean_probability"]
    if layer == layout.LAYERS["parquet"]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            # The outlines are most of the file, and not needed.
            kind = [KIND] if KIND in file.schema_arrow.names else []
            yield from file.iter_batches(ROWS, columns=[*columns, *kind, "bbox"])
        return
    import pyogrio

    columns += [KIND] if KIND in pyogrio.read_info(path)["fields"] else []
    with pyogrio.open_arrow(path, columns=columns, batch_size=ROWS, use_pyarrow=True) as (meta, reader):
        geometry = meta["geometry_name"] or "wkb_geometry"
        for batch in reader:
            names = ["geometry" if name == geometry else name for name in batch.schema.names]
            yield batch.rename_columns(names)
