"""Checks of finished products against each other, from the files alone."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pyproj
import rasterio
import rasterio.features
import shapely
from affine import Affine
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from ussfc.pipeline.errors import DamagedRecord, StoreError
from ussfc.pipeline.pixels.encoding import classify
from ussfc.pipeline.reading.cloud_access import GDAL_ERRORS
from ussfc.pipeline.runs.integrity import MISSING, compare_work
from ussfc.pipeline.runs.manifest import InferenceRecord, ProductFileRecord, RunRecord
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.local_folder import sha256_file
from ussfc.pipeline.storage.store_metadata import UNREADABLE
from ussfc.pipeline.types import NODATA_BYTE, Box, blocks

BLOCK = 2048
"""Side of the windows that are compared one by one, pixels."""

FAULTS = (*UNREADABLE, *GDAL_ERRORS, EOFError, OSError, shapely.errors.ShapelyError, struct.error)
"""Errors of the libraries that read products, depending on the damaged bit, and where a record lacks a part."""

RASTERS = (layout.CHANGE, layout.PROBABILITY)


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check."""

    name: str
    ok: bool
    detail: str
    """Finding, in words."""


def validate(out: Folder | Path | str) -> list[Check]:
    """Check every product of a run and its work; products in an object store are copied here first, to be read whole.

    A raster that is not what the run wrote is listed, and not looked into; polygons are, as far as they can be read.

    Args:
        out: output folder, path or URI.

    Raises:
        StoreError: no ``run.json`` and nothing that is damaged, or a product is missing.
    """
    out = Folder.of(out)
    out.ping()
    try:
        manifest = RunRecord.find(out, layout.MANIFEST)
        if manifest is None:
            return _unfinished(out)
    except DamagedRecord as error:
        return [Check(_written(layout.MANIFEST), False, _line(error)), *_without_manifest(out)]
    checks = [Check(_written(layout.MANIFEST), True, "it agrees with its checksum")]
    products = manifest.products
    for name in (*RASTERS, *products):
        if not out.exists(name):
            raise StoreError(f"{out / name}: missing; run `ussfc mosaic` and `ussfc vectorise` on the folder")
    layers = [name for name in layout.LAYERS.values() if name in products]
    if not layers or RASTERS[0] not in products:
        raise StoreError(
            f"{out}: not all products are written; run `ussfc mosaic` and `ussfc vectorise` on the folder"
        )
    foreign = [name for name in layout.LAYERS.values() if name not in products and out.exists(name)]
    with out.local_copies({*RASTERS, *products}) as folder:
        checks += _checks(folder, layers, manifest)
    return [*checks, *map(_foreign, foreign), *_work(out, manifest)]


def _checks(folder: Path, layers: Sequence[str], manifest: RunRecord) -> list[Check]:
    hashes = {name: _hash(folder / name, record.sha256) for name, record in sorted(manifest.products.items())}
    checks = list(hashes.values())
    # GDAL prints, where it cannot raise, what it finds in a damaged file.
    whole = {name for name in RASTERS if name not in hashes or hashes[name].ok}
    for name in RASTERS:
        if name in whole:
            checks += _guarded(f"{name} is a COG", partial(_cog, folder / name))
    if whole.issuperset(RASTERS):
        checks += _guarded("both rasters can be read", partial(_rasters, folder, manifest))
    for layer in layers if RASTERS[0] in whole else ():
        found = _guarded("polygons can be read", partial(_layer, folder, layer, manifest))
        prefix = f"{layer}: " if len(layers) > 1 else ""
        checks += [replace(check, name=f"{prefix}{check.name}") for check in found]
    return checks


def _rasters(folder: Path, manifest: RunRecord) -> list[Check]:
    with rasterio.open(folder / RASTERS[0]) as change, rasterio.open(folder / RASTERS[1]) as probability:
        checks = [_one_threshold(change, manifest), _same_grid(change, probability)]
        return [*checks, *(_classes(change, probability, manifest) if checks[-1].ok else ())]


def _layer(folder: Path, layer: str, manifest: RunRecord) -> list[Check]:
    with rasterio.open(folder / RASTERS[0]) as change:
        return _polygons(folder / layer, change, manifest)


def _guarded(name: str, check: Callable[[], list[Check]]) -> list[Check]:
    """Return the outcome of checks, a failed one where a library cannot read what they look at."""
    try:
        with warnings.catch_warnings():
            # Libraries warn of what they then refuse.
            warnings.simplefilter("ignore")
            return check()
    except FAULTS as error:
        return [Check(name, False, f"cannot be checked ({type(error).__name__}: {_line(error)})")]


def _unfinished(out: Folder) -> list[Check]:
    """Return what is damaged in a folder without a ``run.json``.

    Raises:
        StoreError: nothing is, and there is nothing to check.
    """
    damaged = [check for check in _without_manifest(out) if not check.ok and check.detail != MISSING]
    if not damaged:
        raise StoreError(
            f"{out / layout.MANIFEST}: not found; this folder holds no run of ussfc, or one that `ussfc run` completes"
        )
    return [Check(_written(layout.MANIFEST), False, MISSING), *damaged]


def _without_manifest(out: Folder) -> list[Check]:
    """Compare what can be compared where there is no good ``run.json``: each product with its own record."""
    records = {}
    for name in layout.PRODUCTS:
        with suppress(DamagedRecord):
            records[name] = ProductFileRecord.find(out, layout.in_work(layout.product_record(name)))
    found = [name for name in layout.PRODUCTS if records.get(name) and out.exists(name)]
    with out.local_copies(found) as folder:
        checks = [
            _hash(folder / name, record.sha256) for name in found if (record := records[name]) is not None
        ]
    try:
        facts = InferenceRecord.find(out, layout.in_work(layout.INFERENCE))
    except DamagedRecord:
        facts = None
    return [*checks, *_work(out, facts)]


def _work(out: Folder, facts: InferenceRecord | None) -> list[Check]:
    return [
        Check(_written(finding.name), finding.fault is None, finding.fault or "it agrees with its checksum")
        for finding in compare_work(out, facts)
    ]


def _written(name: str) -> str:
    return f"{name} is what the run wrote"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _foreign(layer: str) -> Check:
    detail = "not in run.json; `ussfc vectorise` makes it again, or remove it"
    return Check(f"{layer} is of this run", False, detail)


def _one_threshold(change: Any, manifest: RunRecord) -> Check:
    stated = {name: record.key.threshold for name, record in manifest.products.items()}
    stated["run.json"] = manifest.threshold
    if (tag := change.tags().get("USSFC_THRESHOLD")) is not None:
        stated["tag of change.tif"] = float(tag)
    found = {name: value for name, value in stated.items() if value is not None}
    same = len(set(found.values())) == 1
    detail = f"{manifest.threshold:g}" if same else ", ".join(f"{name} {found[name]:g}" for name in found)
    return Check("all products are of one threshold", same, detail)


def _cog(path: Path) -> list[Check]:
    _, errors, warnings = cog_validate(path, strict=True, quiet=True)
    with rasterio.open(path) as source:
        # The validator takes the factor of an overview from the width alone, which cannot be halved for ever.
        narrow = source.width < 2 ** len(source.overviews(1))
    findings = [text for text in (*errors, *warnings) if not (narrow and "ecimation" in text)]
    return [Check(f"{path.name} is a COG", not findings, "; ".join(findings) or "strictly valid")]


def _hash(path: Path, expected: str) -> Check:
    try:
        same = sha256_file(path) == expected
    except OSError as error:
        return Check(_written(path.name), False, f"cannot be read ({error.strerror})")
    return Check(_written(path.name), same, "SHA-256 agrees" if same else "SHA-256 differs")


def _same_grid(change: Any, probability: Any) -> Check:
    same = (change.shape, change.transform, change.crs) == (
        probability.shape, probability.transform, probability.crs,
    )  # fmt: skip
    return Check("both rasters have one grid", same, f"{change.shape[0]} x {change.shape[1]} px")


def _windows(raster: Any) -> Iterator[tuple[Box, Window]]:
    for box in blocks(raster.shape, BLOCK):
        yield box, Window(box.x0, box.y0, box.shape[1], box.shape[0])


def _classes(change: Any, probability: Any, manifest: RunRecord) -> list[Check]:
    threshold = manifest.thresholds["mosaic"]
    wrong = nodata = changed = 0
    for _, window in _windows(change):
        classes = change.read(1, window=window)
        expected = classify(probability.read(1, window=window), threshold)
        wrong += int((classes != expected).sum())
        nodata += int(((classes == NODATA_BYTE) != (expected == NODATA_BYTE)).sum())
        changed += int((classes == 1).sum())
    counted = manifest.counts.changed_pixels
    return [
        Check("nodata agrees between the rasters", nodata == 0, f"{nodata} pixels differ"),
        Check(f"change is probability >= {threshold:g}", wrong == 0, f"{wrong} pixels differ"),
        Check("changed pixels as counted", changed == counted, f"{changed} found, {counted} in run.json"),
    ]


def _polygons(path: Path, change: Any, manifest: RunRecord) -> list[Check]:
    """Compare the polygons, burnt back into the grid, with the changed pixels; a filter leaves a part of them."""
    geometries, pixels, area = _geometries(path)
    invalid = int((~shapely.is_valid(geometries)).sum())
    checks = [
        Check("polygons are valid", invalid == 0, f"{invalid} of {len(geometries)} are not"),
        Check(
            "polygons as counted",
            len(geometries) == manifest.counts.polygons,
            f"{len(geometries)} found",
        ),
    ]
    stated = manifest.counts.polygon_area_m2
    if stated is not None:
        same = math.isclose(area, stated, rel_tol=1e-9)
        checks.append(Check("area of the polygons as counted", same, f"{area / 1e6:.6g} km2"))
    settings = manifest.config["vector"]
    if settings["simplify_m"] > 0:
        return checks
    to_pixels = ~change.transform if change.crs else Affine.identity()
    if path.suffix == ".geojson" and change.crs is not None:
        geometries = _on_grid(geometries, change)
    placed = shapely.transform(geometries, lambda xy: np.stack(to_pixels * (xy[:, 0], xy[:, 1]), axis=1))
    tree = shapely.STRtree(placed)
    outside = missing = burnt_total = 0
    for box, window in _windows(change):
        changed = change.read(1, window=window) == 1
        hits = placed[tree.query(shapely.box(box.x0, box.y0, box.x1, box.y1))]
        burnt = np.zeros(box.shape, np.uint8)
        if len(hits):
            rasterio.features.rasterize(
                hits, out=burnt, transform=Affine.translation(box.x0, box.y0), default_value=1
            )
        outside += int(((burnt == 1) & ~changed).sum())
        missing += int(((burnt == 0) & changed).sum())
        burnt_total += int(burnt.sum())
    checks.append(Check("polygons lie on changed pixels", outside == 0, f"{outside} pixels outside"))
    checks.append(
        Check("polygons' pixels as stated", burnt_total == pixels, f"{burnt_total} burnt, {pixels} stated")
    )
    if settings["min_area_m2"] == 0:
        checks.append(Check("polygons cover every changed pixel", missing == 0, f"{missing} pixels missing"))
    return checks


def _geometries(path: Path) -> tuple[Any, int, float]:
    """Return the geometries of a layer, and the sums of their pixels and of their areas."""
    columns = ["pixels", "area_m2"]
    if path.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path, columns=["geometry", *columns])
        wkb, pixels, areas = (table[name].to_numpy() for name in ("geometry", *columns))
    else:
        meta, _, wkb, values = pyogrio.raw.read(path, columns=columns)
        # GeoJSON without a feature has no fields either.
        fields = dict(zip(meta["fields"].tolist(), values, strict=True))
        pixels, areas = (fields.get(name, np.zeros(0)) for name in columns)
    geometries = shapely.from_wkb(np.asarray(wkb, object))
    areas = np.asarray(areas, float)
    return geometries, int(np.sum(pixels)), math.fsum(areas[np.isfinite(areas)])


def _on_grid(geometries: Any, change: Any) -> Any:
    """Return geometries in longitude and latitude, as GeoJSON has them, in the grid's reference system."""
    crs = pyproj.CRS(change.crs.to_wkt())
    if crs.geodetic_crs is None:
        return geometries
    to_grid = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    centre = change.transform * (change.width / 2, change.height / 2)

    def place(points: Any) -> Any:
        x, y = to_grid.transform(points[:, 0], points[:, 1])
        if change.crs.is_geographic:
            # Longitudes of the grid may run on past 180, those of GeoJSON do not.
            x = x - 360 * np.round((x - centre[0]) / 360)
        return np.stack([x, y], axis=1)

    return shapely.transform(geometries, place)
