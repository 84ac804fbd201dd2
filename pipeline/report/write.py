"""``report.html`` and ``preview.png`` of a run, and all else that shows it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from PIL import Image

import ussfc
from ussfc.pipeline.errors import ConfigError, DamagedRecord, GridError, ReadError, StoreError
from ussfc.pipeline.events import Notice, Subscriber, ignore
from ussfc.pipeline.parallel.free_memory import return_free_memory
from ussfc.pipeline.report.changes import ChangeSummary, summarise
from ussfc.pipeline.report.item import write_item
from ussfc.pipeline.report.metadata import write_metadata
from ussfc.pipeline.report.overviews import ChangeLevel, ChangeOverview, DateViews, read_dates, read_level
from ussfc.pipeline.report.page import Pictures, Report, render
from ussfc.pipeline.report.pictures import (
    EMPTY_COLOR,
    color_bands,
    colored,
    data_address,
    png,
    stretch_ends,
    tinted,
    webp,
)
from ussfc.pipeline.report.qgis import write_styles
from ussfc.pipeline.report.thumbnails import Presentation, Thumbnail, make_thumbnails, unchecked
from ussfc.pipeline.runs.manifest import DistrictsRecord, RegistrationRecord, RunRecord
from ussfc.pipeline.runs.pair import ScenePair
from ussfc.pipeline.runs.recorded_pair import recorded_pair
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import BoolArray, ByteArray, FloatArray, RadiometricMapping

SIDES = (1280, 960, 640, 400)
"""Longest sides of the pictures of a whole scene, pixels; a smaller one where the page would grow too large."""

MOST_BYTES = 2_400_000
"""Size of all pictures of a whole scene as text, bytes: with thumbnails and the rest a page stays below 3 MB."""

PREVIEW_SIDE = 800
"""Longest side of ``preview.png``, pixels."""

MARK = '<meta name="ussfc-run" content="{}">'
"""Line of a page that names the state of the run that it was made from."""

MOST_POLYGON_BYTES = 2_000_000_000
"""Layer in an object store beyond which its polygons are not copied here to be counted."""


@dataclass(frozen=True)
class _Overview:
    """Overviews that fit a page."""

    change: ChangeOverview
    probability: bytes
    views: DateViews | None
    dates: tuple[ByteArray, ByteArray] | None
    encoded: tuple[bytes, bytes] | None
    absent: str


def write_report(out: Folder | str, subscriber: Subscriber = ignore, pair: ScenePair | None = None) -> bool:
    """Write ``report.html`` and ``preview.png`` from the files of a run; a page of the same state stays.

    Both dates are read where they lie; where they cannot be, the page names the reason and shows the rest.

    Args:
        out: output folder, path or URI.
        subscriber: receives notices.
        pair: the scenes of the run as it read them; None: they are opened again, as ``run.json`` names them.

    Returns:
        False where the page was there already.

    Raises:
        StoreError: no finished run in OUT, or the page cannot be written.
        ReadError: a raster of the run cannot be read.
    """
    out = Folder.of(out)
    out.ping()
    record = RunRecord.read(out, layout.MANIFEST)
    return _write_page(out, record, pair, lambda: read_level(out, record.grid.shape))


def _write_page(
    out: Folder, record: RunRecord, pair: ScenePair | None, read: Callable[[], ChangeLevel]
) -> bool:
    """Do as :func:`write_report`; ``read`` reads the rasters of the run."""
    digest = _digest(out)
    if _is_current(out, digest):
        return False
    missing = [name for name in (layout.CHANGE, layout.PROBABILITY) if name not in record.products]
    if missing:
        raise StoreError(
            f"{out}: has no {missing[0]} yet; run `ussfc mosaic` on the folder, then `ussfc report`"
        )
    page, preview = _make(out, record, digest, pair, read())
    out.write(layout.PREVIEW, preview)
    out.write(layout.REPORT, page.encode())
    write_item(out, record)
    return True


def conclude(out: Folder | str, subscriber: Subscriber = ignore, pair: ScenePair | None = None) -> None:
    """Write everything that makes a finished run easy to look at; what prevents it is a notice, and spoils no run.

    Args:
        out: output folder, path or URI.
        subscriber: receives notices.
        pair: as :func:`write_report` takes it.
    """
    out = Folder.of(out)
    # The memory of a run is projected without its page.
    return_free_memory()
    try:
        record = RunRecord.read(out, layout.MANIFEST)
        # First, so that what follows cannot prevent it; again where that is new to it.
        write_item(out, record)
        write_styles(out, record)
        # Once for both, and not where everything is there already.
        read = functools.cache(lambda: read_level(out, record.grid.shape))
        write_metadata(out, record, read)
        if record.config.get("output", {}).get("report", True):
            _write_page(out, record, pair, read)
    except (ReadError, StoreError) as error:
        subscriber(Notice(f"not everything to look at could be made: {error}"))


def _digest(out: Folder) -> str:
    """Return a digest of all that a page is made from, but the pixels."""
    found = hashlib.sha256()
    for name in (layout.MANIFEST, layout.DISTRICTS, layout.ASSESSMENT):
        with suppress(FileNotFoundError):
            found.update(out.read(name))
        found.update(b"\n")
    return found.hexdigest()


def _districts(out: Folder, record: RunRecord) -> DistrictsRecord | None:
    """Return the change by district, where it was counted on this map."""
    with suppress(DamagedRecord):
        found = DistrictsRecord.find(out, layout.DISTRICTS)
        if found is not None and found.change == record.products[layout.CHANGE].sha256:
            return found
    return None


def _assessment(out: Folder, record: RunRecord) -> dict[str, Any] | None:
    """Return the accuracy of the map, where it was estimated for this run and threshold."""
    with suppress(DamagedRecord):
        found = out.find_json(layout.ASSESSMENT)
        if found is not None and (found.get("run"), found.get("threshold")) == (record.run, record.threshold):
            return found
    return None


def _is_current(out: Folder, digest: str) -> bool:
    with suppress(FileNotFoundError):
        return MARK.format(digest).encode() in out.read(layout.REPORT) and out.exists(layout.PREVIEW)
    return False


def _make(
    out: Folder, record: RunRecord, digest: str, pair: ScenePair | None, level: ChangeLevel
) -> tuple[str, bytes]:
    model, absent = None, ""
    try:
        pair = pair or recorded_pair(record)
        model = pair.model
    except (ReadError, GridError, ConfigError, ussfc.ModelError) as error:
        absent = str(error)
        with suppress(ussfc.ModelError):
            model = ussfc.find_model(record.model.name)
    found = _overview(level, record, pair, absent)
    with ThreadPoolExecutor(1, "ussfc-report") as pool:
        # A tenth of a second, while the changes are pictured.
        preview = pool.submit(_preview, found)
        changes, thumbnails = _changes(out, record, pair, found.views)
    dates = None if found.encoded is None else Pictures(*map(data_address, found.encoded))
    report = Report(
        record=_with_vectors(out, record),
        # Without the dates the page is made again by the next call: they may be back by then.
        digest=f"{digest} without dates" if found.absent else digest,
        model=model,
        overview=found.change,
        probability=data_address(found.probability),
        dates=dates,
        absent=found.absent,
        changes=changes,
        thumbnails=thumbnails,
        districts=_districts(out, record),
        assessment=_assessment(out, record),
    )
    return render(report), preview.result()


def _changes(
    out: Folder, record: RunRecord, pair: ScenePair | None, views: DateViews | None
) -> tuple[ChangeSummary | None, list[Thumbnail]]:
    """Return the polygons, where they can be read, and pictures of the largest ones, where both dates can."""
    changes, layer = _polygons(out, record)
    if pair is None or views is None or changes is None:
        return changes, []
    bands = color_places(pair)
    presentation = Presentation(mappings_of(record), bands, stretch_ends(views, bands))
    # GeoJSON has coordinates of its own.
    crs = "OGC:CRS84" if layer == layout.LAYERS["geojson"] else None
    return changes, make_thumbnails(out, unchecked(pair.recipes), changes.largest, crs, presentation)


def mappings_of(record: RunRecord) -> tuple[RadiometricMapping, RadiometricMapping]:
    """Return the radiometric constants of both dates."""
    return record.radiometry.before.mapping, record.radiometry.after.mapping


def color_places(pair: ScenePair) -> tuple[int, int, int]:
    """Return the places of red, green and blue among the bands of a pair's model."""
    return color_bands([band.common_name for band in pair.model.bands])


def _overview(level: ChangeLevel, record: RunRecord, pair: ScenePair | None, absent: str) -> _Overview:
    """Return overviews of the largest side whose pictures fit a page."""
    for side in SIDES:
        change = level.overview(side)
        views, dates, encoded = None, None, None
        with ThreadPoolExecutor(1, "ussfc-report") as pool:
            # A fifth of a second, while the dates are read.
            lossless = pool.submit(webp, change.probability, lossless=True)
            if pair is not None:
                views, absent = _dates(pair, record, change)
            probability = lossless.result()
        if views is not None and pair is not None:
            bands = color_places(pair)
            ends = stretch_ends(views, bands)
            with ThreadPoolExecutor(2, "ussfc-report") as pool:
                before, after = pool.map(
                    _picture, (views.before, views.after), views.valid, repeat(bands), repeat(ends)
                )
            dates, encoded = (before[0], after[0]), (before[1], after[1])
        size = sum(map(len, (probability, *(encoded or ())))) * 4 / 3
        if size <= MOST_BYTES:
            break
    return _Overview(change, probability, views, dates, encoded, absent)


def _dates(pair: ScenePair, record: RunRecord, change: ChangeOverview) -> tuple[DateViews | None, str]:
    """Return both dates on the grid of an overview, or why they cannot be shown."""
    shape = (change.probability.shape[0], change.probability.shape[1])
    try:
        views = read_dates(unchecked(pair.recipes), mappings_of(record), shape, change.shrink)
    except ReadError as error:
        return None, str(error)
    return views, "" if views else (
        "an image of this size has no overviews; `gdaladdo` adds them, `ussfc prepare` writes a copy with them"
    )  # fmt: skip


def _picture(
    image: FloatArray, valid: BoolArray, bands: tuple[int, int, int], ends: tuple[FloatArray, FloatArray]
) -> tuple[ByteArray, bytes]:
    """Return one date in colours, and encoded."""
    picture = colored(image, valid, bands, ends)
    return picture, webp(picture)


def _polygons(out: Folder, record: RunRecord) -> tuple[ChangeSummary | None, str]:
    """Return the polygons and the layer that they were read from; None where there is none, or it cannot be read."""
    layers = [name for name in layout.LAYERS.values() if name in record.products]
    if not layers or (out.local is None and record.products[layers[0]].bytes > MOST_POLYGON_BYTES):
        return None, ""
    with out.local_copies([layers[0]]) as folder:
        return summarise(folder, layers[0]), layers[0]


def _with_vectors(out: Folder, record: RunRecord) -> RunRecord:
    """Return a record with the windows of its registration, which OUT/work holds."""
    with suppress(DamagedRecord):
        found = RegistrationRecord.find(out / layout.WORK, layout.REGISTRATION)
        if found is not None and record.registration is not None:
            registration = record.registration.model_copy(update={"vectors": found.vectors})
            return record.model_copy(update={"registration": registration})
    return record


def _preview(found: _Overview) -> bytes:
    """Return the later date with the change on it, PNG; change on grey where the dates cannot be read."""
    classes = found.change.classes
    if found.dates is not None:
        picture = tinted(found.dates[1], classes == 1)
    else:
        grey = np.where(classes == 255, EMPTY_COLOR[0], 96).astype(np.uint8)
        picture = tinted(np.repeat(grey[..., None], 3, axis=2), classes == 1, opacity=1)
    image = Image.fromarray(picture)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    return png(image)
