"""Mask files as they are found: raster or polygons, their kind, and their place on the common grid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError

from ussfc.addresses import shown_address
from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.pixels.dilation import reach
from ussfc.pipeline.reading.aoi import read_polygons
from ussfc.pipeline.reading.areas import in_crs_of
from ussfc.pipeline.reading.date_masks import DateMask, LayeredMask, PolygonMask, RasterMask
from ussfc.pipeline.reading.identity import UNKNOWN, combined_identity, is_array
from ussfc.pipeline.reading.mask_rules import KINDS, PLAIN, MaskRule, band_of, kind_of, rule_of
from ussfc.pipeline.reading.opening import opened_raster, retry_gdal
from ussfc.pipeline.reading.recipe import describe_scene
from ussfc.pipeline.storage import remote
from ussfc.pipeline.tiling.grid import crs_name, footprint_box, pixel_steps
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import Box, SceneInfo, SceneMask, ScenePart

VECTORS = (".geojson", ".json", ".gpkg", ".fgb", ".parquet", ".shp", ".kml", ".kmz", ".gml", ".topojson")
"""Ends of the names of files of polygons."""

MOST_REACH = 1024
"""Largest distance that a mask grows by, pixels."""

LOOKED_AT = 1024
"""Side of the part of a mask of unknown kind that is looked at, pixels."""

FEW = 0.995
"""Share of the grid that a mask covers below which a warning is due."""


@dataclass(frozen=True)
class MaskChoice:
    """A mask as the configuration has it."""

    uri: str
    """Path or address; empty: the one that the product has."""
    kind: str
    """``auto``, or a kind of :data:`ussfc.pipeline.reading.mask_rules.KINDS`."""
    classes: tuple[int, ...] | None
    distance: float
    """Distance that masked areas grow by, metres."""
    date: str
    """``before`` or ``after``; empty: neither."""
    vrt_sources: str = "near"
    """Files that a VRT may name; see :func:`ussfc.pipeline.reading.recipe.describe_scene`."""

    @property
    def shown(self) -> str:
        """The file in messages."""
        return shown_address(self.uri)


def find_mask(
    choice: MaskChoice, grid: GeoBox, scene_shape: tuple[int, int]
) -> tuple[DateMask, list[str], int]:
    """Open the header of a mask and find out what it marks.

    Pixels are read only where neither the name nor the bands state the kind of a raster.

    Args:
        choice: the mask.
        grid: the common grid.
        scene_shape: (rows, cols) of the file of its date, which a mask without a CRS must have.

    Returns:
        The mask; warnings; and the decoded size of a block of its file, bytes.

    Raises:
        ReadError: the file cannot be read.
        ConfigError: its kind is not known, or the mask and the grid do not fit.
    """
    pixel = pixel_size(choice.distance, grid)
    if _is_vector(choice.uri):
        return _polygon_mask(choice, grid, pixel), [], 0
    if is_array(choice.uri):
        raise ReadError(
            f"{choice.shown}: is a Zarr or NetCDF; give the mask as a raster that GDAL reads, or as polygons"
        )
    info = describe_scene(choice.uri, choice.vrt_sources)
    if len(info.parts) > 1:
        raise ConfigError(
            f"{choice.shown}: is made of {len(info.parts)} files; build one mask of them (gdalbuildvrt)"
        )
    uri = info.parts[0].uri if info.parts else choice.uri
    choice = replace(choice, uri=uri)
    notes = _fit(choice, info, grid, scene_shape)
    if info.identity.startswith(UNKNOWN):
        notes.append(
            f"{choice.shown}: changes of this mask cannot be noticed, since its name leads to no file"
        )
    band, rule = _rule(choice, info)
    source = RasterMask(choice.uri, grid, band, rule, reach(choice.distance, pixel))
    mask = DateMask(source, choice.uri, info.identity, rule.kind, rule, choice.distance, pixel)
    return mask, notes, info.block_bytes


def own_mask(choice: MaskChoice, info: SceneInfo, grid: GeoBox) -> tuple[DateMask | None, list[str], int]:
    """Open the mask that the product of a date has beside its bands.

    Args:
        choice: what the configuration has for masks of this date; it names no file.
        info: header of the date.
        grid: the common grid.

    Returns:
        As :func:`find_mask` does; no mask where the products have none.

    Raises:
        ReadError, ConfigError: a file cannot be used; the message names the way to do without.
    """
    parts = info.parts or (ScenePart(info.uri, info.uri, info.geobox, mask=info.mask),)
    found = [(part.mask, part) for part in parts if part.mask is not None]
    if not found:
        return None, [], 0
    if len(found) < len(parts):
        bare = next(part.shown for part in parts if part.mask is None)
        way = f"; give masks.{choice.date}" if choice.date else ""
        note = f"{bare}: has no mask of clouds while other scenes of its date have one, so that none is used{way}"
        return None, [note], 0
    # A scene beside others covers a part of the grid alone, as its bands do.
    opened = [_open_own(choice, own, part, grid) for own, part in found]
    masks, sizes = [mask for mask, _ in opened], [size for _, size in opened]
    first = replace(masks[0], own=True)
    if len(masks) == 1:
        return first, [], sizes[0]
    sources = tuple(mask.source for mask in masks if isinstance(mask.source, RasterMask))
    layered = replace(
        first,
        source=LayeredMask(sources, grid),
        uri=",".join(mask.uri for mask in masks),
        identity=combined_identity([mask.identity for mask in masks]),
    )
    return layered, [], max(sizes)


def _open_own(choice: MaskChoice, own: SceneMask, part: ScenePart, grid: GeoBox) -> tuple[DateMask, int]:
    """Return the mask of one scene, and the decoded size of a block of its file, bytes."""
    kind = own.kind if choice.kind == "auto" else choice.kind
    try:
        mask, _, size = find_mask(
            replace(choice, uri=own.uri, kind=kind), grid, (part.geobox.shape[0], part.geobox.shape[1])
        )
    except (ReadError, ConfigError) as error:
        way = f"masks.{choice.date}=none does without" if choice.date else "get the product again"
        raise type(error)(f"{error}; it is the mask of clouds of {part.shown}; {way}") from error
    return mask, size


def _is_vector(uri: str) -> bool:
    path = urlsplit(uri).path if remote.is_remote(uri) else uri
    return path.lower().endswith(VECTORS)


def pixel_size(distance: float, grid: GeoBox) -> tuple[float, float]:
    """Return height and width of a pixel, metres; ones where nothing grows.

    Args:
        distance: that masked areas grow by, metres.
        grid: the common grid.

    Raises:
        ConfigError: nothing is known of metres, or the distance is too large.
    """
    if not distance:
        return 1.0, 1.0
    steps = pixel_steps(grid)
    if steps is None:
        raise ConfigError(
            f"masks.dilation_m {distance:g}: the images have no CRS, so nothing is known of metres; leave it out"
        )
    pixels = max(reach(distance, steps))
    if pixels > MOST_REACH:
        raise ConfigError(
            f"masks.dilation_m {distance:g}: is {pixels} pixels of the grid; at most {MOST_REACH} are possible"
        )
    return steps


def _polygon_mask(choice: MaskChoice, grid: GeoBox, pixel: tuple[float, float]) -> DateMask:
    if choice.kind != "auto" or choice.classes is not None:
        raise ConfigError(
            f"masks.kind_{choice.date}, masks.classes_{choice.date}: are for rasters, and {choice.shown} has polygons; "
            "leave them out"
        )
    area = read_polygons(choice.uri)
    area = area if area.is_empty else in_crs_of(grid, area)
    wkb = bytes(area.geom.wkb)
    identity = f"polygons:{hashlib.sha256(wkb).hexdigest()[:16]}"
    return DateMask(PolygonMask(wkb, grid), choice.uri, identity, "polygons", None, choice.distance, pixel)


def _fit(choice: MaskChoice, info: SceneInfo, grid: GeoBox, scene_shape: tuple[int, int]) -> list[str]:
    """Return a warning where a mask covers a part of the grid alone.

    Raises:
        ConfigError: it covers nothing of it, or lies nowhere.
    """
    if grid.crs is None:
        if tuple(info.geobox.shape) != tuple(scene_shape):
            raise ConfigError(
                f"{choice.shown}: the mask has {info.geobox.shape[1]} x {info.geobox.shape[0]} px and the image "
                f"{choice.date} {scene_shape[1]} x {scene_shape[0]} px; without a CRS both must have the same size"
            )
        return []
    if info.geobox.crs is None:
        raise ConfigError(
            f"{choice.shown}: the mask has no CRS while the images have {crs_name(grid)}; assign one "
            "(gdal_edit.py -a_srs, -a_ullr)"
        )
    try:
        box = footprint_box(info.geobox, grid)
    except ProjError as error:
        raise ConfigError(
            f"{choice.shown}: PROJ knows no way from the mask's CRS ({crs_name(info.geobox)}) to that of the images "
            f"({crs_name(grid)}); assign the right one (gdal_edit.py -a_srs)"
        ) from error
    if not box.pixels:
        raise ConfigError(
            f"{choice.shown}: the mask lies outside of the images' overlap; check that it belongs to the image "
            f"{choice.date}"
        )
    share = box.pixels / (grid.shape[0] * grid.shape[1])
    if share >= FEW:
        return []
    return [
        f"{choice.shown}: the mask covers {share:.0%} of the common grid; pixels beyond it are not masked"
    ]


def _rule(choice: MaskChoice, info: SceneInfo) -> tuple[int, MaskRule]:
    """Return band and rule of a raster.

    Raises:
        ConfigError: nothing states what its numbers mean.
    """
    kind, key = choice.kind, f"masks.kind_{choice.date}"
    if kind == "auto":
        path = urlsplit(choice.uri).path if remote.is_remote(choice.uri) else choice.uri
        labels = [band.description for band in info.bands if band.description]
        stated = kind_of([*labels, PurePosixPath(path).name])
        if stated is not None:
            _refuse_other_numbers(choice, info, stated, key)
        kind = stated or ("nonzero" if choice.classes is not None or _is_plain(choice, info) else "")
        if not kind:
            raise ConfigError(
                f"{choice.shown}: nothing states what the numbers of this mask mean; set {key} to one of "
                f"{', '.join(KINDS)}, or masks.classes_{choice.date} to the numbers that are masked"
            )
    place = band_of(kind, [band.description for band in info.bands])
    if place is None:
        raise ConfigError(
            f"{choice.shown}: has {len(info.bands)} bands and none is called {kind}; give a raster of one band"
        )
    if choice.classes is not None and KINDS[kind].rule.bits is not None:
        raise ConfigError(f"masks.classes_{choice.date}: {kind} has bits and no classes; leave it out")
    return info.bands[place - 1].index, rule_of(kind, choice.classes)


def _is_plain(choice: MaskChoice, info: SceneInfo) -> bool:
    """Return whether a raster of one band marks pixels and nothing else, as far as a part in its middle shows."""
    return len(info.bands) == 1 and _numbers_in_the_middle(choice, info, 1) <= PLAIN


def _refuse_other_numbers(choice: MaskChoice, info: SceneInfo, kind: str, key: str) -> None:
    """Refuse a raster whose name states a kind of mask that has no such numbers, as far as its middle shows.

    Raises:
        ConfigError: names the numbers.
    """
    numbers, band = KINDS[kind].numbers, band_of(kind, [band.description for band in info.bands])
    if numbers is None or band is None or choice.classes is not None:
        return
    found = _numbers_in_the_middle(choice, info, info.bands[band - 1].index, with_nodata=False)
    other = sorted(found - numbers)
    if other:
        raise ConfigError(
            f"{choice.shown}: is a mask of kind {kind} by its name, and holds numbers that this kind has not "
            f"({', '.join(map(str, other[:3]))}); set {key} to one of {', '.join(KINDS)}, or "
            f"masks.classes_{choice.date} to the numbers that are masked"
        )


def _numbers_in_the_middle(
    choice: MaskChoice, info: SceneInfo, band: int, with_nodata: bool = True
) -> set[Any]:
    """Return the numbers of a band of a mask in a part in its middle, with or without NaN and its nodata number."""
    sides = [min(LOOKED_AT, length) for length in info.geobox.shape]
    first = [(length - side) // 2 for length, side in zip(info.geobox.shape, sides, strict=True)]

    def look(_: Mapping[str, str]) -> Sequence[Any]:
        with opened_raster(choice.uri, choice.shown) as source:
            box = Box(first[0], first[1], first[0] + sides[0], first[1] + sides[1])
            values = source.read(band, window=box.slices, masked=not with_nodata)
            if not with_nodata:
                values = values.compressed()
                values = values[np.isfinite(values)]
            found: Sequence[Any] = np.unique(values).tolist()
            return found

    failure = "the mask cannot be read ({}); the file is damaged, cut short or out of reach"
    return set(retry_gdal(choice.uri, choice.shown, GDAL_CACHE, look, failure))
