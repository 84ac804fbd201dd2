"""``item.json``: a STAC Item of a run, for catalogues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pystac
from odc.geo.geobox import GeoBox
from pystac.extensions.projection import ProjectionExtension

from ussfc.pipeline.dates import moment
from ussfc.pipeline.errors import DamagedRecord
from ussfc.pipeline.report.footprint import footprint
from ussfc.pipeline.report.sources import source_links
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS

COLLECTION = "ussfc-batch"
"""Id of the collection of a batch."""

EXTENSIONS = {
    "raster": "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "file": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "processing": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
}
"""Extensions beside that of projections. Not that of models (MLM): it describes a model and demands its file as an
asset, which the products of one are not."""

SHA256 = "1220"
"""Prefix of a SHA-256 digest as multihash: its kind and its 32 bytes."""

MEDIA_TYPES = {
    ".tif": pystac.MediaType.COG,
    ".parquet": "application/vnd.apache.parquet",
    ".gpkg": pystac.MediaType.GEOPACKAGE,
    ".fgb": pystac.MediaType.FLATGEOBUF,
    ".geojson": pystac.MediaType.GEOJSON,
}

TITLES = {
    "change": "Change: 1 changed, 0 unchanged",
    "probability": "Probability of change",
    "changes": "Polygons of change",
}
"""Titles of the assets, by the stem of their file."""

PICTURES = {
    layout.REPORT: ("report", "Report: a page about the run", pystac.MediaType.HTML, ["overview"]),
    layout.PREVIEW: ("preview", "The later date with its change", pystac.MediaType.PNG, ["thumbnail"]),
}
"""Key, title, media type and roles of what there is to look at. Without checksum: `ussfc report` renews it."""


def write_item(out: Folder, record: RunRecord, name: str | None = None) -> dict[str, Any]:
    """Write the item of a run, unless it differs from the one there in the time of its writing alone.

    Args:
        out: folder of the run.
        record: its ``run.json``.
        name: of the pair in a batch, which becomes the id beside links to the collection; None: id and links of the
            item that is there stay, a new one is named by the folder and has no collection.

    Returns:
        The item in the file.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    earlier = None
    with suppress(DamagedRecord):
        earlier = out.find_json(layout.ITEM)
    in_batch = name is not None or (earlier or {}).get("collection") == COLLECTION
    made = run_item(
        name or _name(out, earlier),
        record,
        datetime.now(UTC).replace(microsecond=0),
        folder=out.local,
        in_batch=in_batch,
        pictures=[picture for picture in PICTURES if out.exists(picture)],
        manifest=out.read(layout.MANIFEST),
    )
    # As it comes back from its file: coordinates are tuples, which JSON does not know.
    item: dict[str, Any] = json.loads(json.dumps(made))
    if earlier is not None and _without_time(earlier) == _without_time(item):
        return earlier
    out.write_json(layout.ITEM, item)
    return item


def run_item(
    name: str,
    record: RunRecord,
    made: datetime,
    *,
    folder: Path | None = None,
    in_batch: bool = False,
    pictures: Collection[str] = (),
    manifest: bytes | None = None,
) -> dict[str, Any]:
    """Return the item of a run, for the file ``item.json`` beside its products.

    Its time is the span from one image to the other where both have a time of acquisition, else ``made``. Its
    geometry is the outline of the grid; null where the grid has no CRS, or an outline that longitudes and latitudes
    cannot draw (around a pole, or beyond what its projection is made for).

    Args:
        name: id of the item.
        record: ``run.json`` of the run.
        made: when the products were made, with its time zone.
        folder: local folder of the item, from which local images are named; None: they are named whole.
        in_batch: link to the collection in the folder above.
        pictures: files of :data:`PICTURES` that are there.
        manifest: bytes of ``run.json``; None: it is no asset.

    Returns:
        JSON of a STAC Item whose links to files of the run are relative.
    """
    grid = record.grid.geobox
    geometry, bbox = footprint(grid)
    inputs = record.inputs
    taken = [moment(scene.acquired) for scene in (inputs.before, inputs.after)]
    times = sorted(time for time in taken if time is not None)
    start, end = times if len(times) == 2 else (None, None)
    item = pystac.Item(
        name,
        geometry,
        bbox,
        made if start is None else None,
        _properties(record),
        start,
        end,
        stac_extensions=list(EXTENSIONS.values()),
        collection=COLLECTION if in_batch else None,
    )
    code = f"EPSG:{grid.crs.epsg}" if grid.crs is not None and grid.crs.epsg else None
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=code,
        wkt2=grid.crs.to_wkt() if grid.crs is not None and code is None else None,
        shape=list(grid.shape),
        transform=list(grid.affine)[:6],
    )
    for key, asset in _products(record).items():
        item.add_asset(key, asset)
    for file, (key, title, kind, roles) in PICTURES.items():
        if file in pictures:
            item.add_asset(key, pystac.Asset(f"./{file}", title, None, kind, roles))
    if manifest is not None:
        fields = _file(hashlib.sha256(manifest).hexdigest(), len(manifest))
        item.add_asset(
            "run",
            pystac.Asset(
                f"./{layout.MANIFEST}", "Record of the run", None, pystac.MediaType.JSON, ["metadata"], fields
            ),
        )
    item.add_links(source_links(inputs, folder))
    for relation in ("root", "parent", "collection") if in_batch else ():
        item.add_link(pystac.Link(relation, f"../{layout.COLLECTION}", pystac.MediaType.JSON))
    return item.to_dict(include_self_link=False, transform_hrefs=False)


def _properties(record: RunRecord) -> dict[str, Any]:
    model, counts, ussfc = record.model, record.counts, record.versions["ussfc"]
    properties: dict[str, Any] = {
        "processing:lineage": (
            f"Probability of change between two images by the model {model.name} (SHA-256 of its weights "
            f"{model.sha256}){' and IR-MAD' if record.combines else ''}; changed from {record.threshold:g} on."
        ),
        "processing:level": "L4",
        "processing:version": ussfc,
        "processing:software": {"ussfc": ussfc} | dict(sorted(record.versions.items())),
        "ussfc:model": model.name,
        "ussfc:model_sha256": model.sha256,
        "ussfc:threshold": record.threshold,
        "ussfc:complete": record.complete,
    }
    if model.licence is not None:
        properties["ussfc:model_licence"] = model.licence
    for date, scene in (("before", record.inputs.before), ("after", record.inputs.after)):
        taken = moment(scene.acquired)
        if taken is not None:
            properties[f"ussfc:{date}"] = pystac.utils.datetime_to_str(taken)
    if counts.classified_pixels:
        properties["ussfc:changed_share"] = counts.changed_share
    if counts.polygon_area_m2 is not None:
        properties["ussfc:changed_km2"] = round(counts.polygon_area_m2 / 1e6, 6)
    return properties


def _products(record: RunRecord) -> dict[str, pystac.Asset]:
    assets: dict[str, pystac.Asset] = {}
    # In one order, whichever way the record came: the first layer has the plain name.
    for file in (name for name in layout.PRODUCTS if name in record.products):
        path, product = PurePosixPath(file), record.products[file]
        # Layers of further formats beside the first.
        key = f"{path.stem}-{path.suffix[1:]}" if path.stem in assets else path.stem
        fields = _file(product.sha256, product.bytes) | _bands(file, record)
        assets[key] = pystac.Asset(
            f"./{file}", TITLES[path.stem], None, MEDIA_TYPES[path.suffix], ["data"], fields
        )
    return assets


def _file(sha256: str, size: int) -> dict[str, Any]:
    return {"file:size": size, "file:checksum": SHA256 + sha256}


def _bands(file: str, record: RunRecord) -> dict[str, Any]:
    """Return the description of a raster's band; nothing for polygons."""
    as_bytes = {"data_type": "uint8", "nodata": NODATA_BYTE}
    if file == layout.CHANGE:
        band: dict[str, Any] = {
            "name": "change",
            "description": f"1 changed, 0 unchanged, {NODATA_BYTE} no data; changed from {record.threshold:g} on",
            **as_bytes,
        }
    elif file == layout.PROBABILITY:
        band = {"name": "change_probability", "description": "Probability of change, 0 to 1"}
        if record.config.get("output", {}).get("probability_dtype", "uint8") == "uint8":
            band |= as_bytes | {"raster:scale": 1 / PROBABILITY_STEPS, "raster:offset": 0}
        else:
            band |= {"data_type": "float32", "nodata": "nan"}
    else:
        return {}
    return {"bands": [band | {"raster:sampling": "area"} | _resolution(record.grid.geobox)]}


def _resolution(grid: GeoBox) -> dict[str, float]:
    """Return the side of a pixel where it is one, in metres."""
    if grid.crs is None or {axis.unit_name for axis in grid.crs.proj.axis_info} != {"metre"}:
        return {}
    return {"raster:spatial_resolution": float((abs(grid.affine.determinant)) ** 0.5)}


def _name(out: Folder, earlier: Mapping[str, Any] | None) -> str:
    found = (earlier or {}).get("id")
    return found if isinstance(found, str) and found else str(out).rstrip("/").rpartition("/")[2] or "ussfc"


def _without_time(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item without the moment of its writing."""
    found = item.get("properties")
    properties = (
        {key: value for key, value in found.items() if key != "datetime"} if isinstance(found, dict) else {}
    )
    return {**item, "properties": properties}
