"""Search for clouds in a date that has no mask: decided from headers, before any pixel is read."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from odc.geo.geobox import GeoBox

import ussfc
from ussfc.clouds import BANDS, CLOUD_CLASSES, PIXEL_M, CloudNetwork
from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.pixels import radiometry
from ussfc.pipeline.pixels.dilation import reach
from ussfc.pipeline.reading import SceneRecipe, choose_bands
from ussfc.pipeline.reading.date_masks import MADE, DateMask, RasterMask
from ussfc.pipeline.reading.mask_files import pixel_size
from ussfc.pipeline.reading.mask_rules import MaskRule
from ussfc.pipeline.tiling.grid import grid_record, metres_per_pixel
from ussfc.pipeline.types import RadiometricMapping, SceneInfo

FINEST_M, COARSEST_M = 4.0, 45.0
"""Pixel sizes of the common grid with which clouds are looked for, metres."""

SENTINEL2_UNIT = 10000.0
"""Number of a reflectance of 1 in a product of Sentinel-2 that declares nothing."""

CORE, MARGIN = 192, 32
"""Side of the part of a window that is kept, and the pixels around it, coarse pixels."""


@dataclass(frozen=True)
class CloudSearch:
    """A date in which clouds are looked for."""

    recipe: SceneRecipe = field(repr=False)
    """Its blue, green, red and near infrared on the common grid, not moved."""
    mapping: RadiometricMapping
    """Numbers of reflectances 0 and 1."""
    network: CloudNetwork
    factor: int
    """Pixels of the grid along a side of those that the network sees."""
    digest: str
    """Name of the result: it follows from this alone."""


def plan_search(
    info: SceneInfo,
    recipe: SceneRecipe,
    model: ussfc.ModelSpec,
    dilation: float,
    date: str,
) -> tuple[CloudSearch, DateMask]:
    """Return the search for clouds in a date, and the mask that will come of it.

    Args:
        info: header of the date.
        recipe: the bands that the model takes.
        model: its card, for the unit of the numbers.
        dilation: distance that masked areas grow by, metres.
        date: ``before`` or ``after``.

    Raises:
        ConfigError: the date cannot be searched: bands, pixel size or unit.
        ussfc.ModelError: the package is not installed.
    """
    network = CloudNetwork("l1c" if re.search(r"\bL1", info.product or "") else "l2a")
    grid, bands = recipe.grid, _bands(info, recipe, model)
    factor = _factor(info, grid)
    mapping = _mapping(info, bands, model)
    search = SceneRecipe.of(recipe.uri, info, grid, bands, recipe.resampling)
    facts = [
        network.identity, info.uri, info.identity, bands, mapping.low, mapping.high, grid_record(grid), factor,
        recipe.resampling, CORE, MARGIN,
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    rule, pixel = MaskRule("clouds", classes=CLOUD_CLASSES), pixel_size(dilation, grid)
    # Its file is named when the folder of the run is known.
    source = RasterMask("", grid, 1, rule, reach(dilation, pixel))
    name = f"ukis-csmask {network.version} on {date}"
    mask = DateMask(source, name, f"{MADE}{digest}", "clouds", rule, dilation, pixel)
    return CloudSearch(search, mapping, network, factor, digest), mask


def _bands(info: SceneInfo, recipe: SceneRecipe, model: ussfc.ModelSpec) -> tuple[int, ...]:
    """Return the numbers of the bands that the network takes: those of the model where it has them all."""
    taken = {band.common_name: number for band, number in zip(model.bands, recipe.bands, strict=True)}
    if all(common in taken for _, common in BANDS):
        return tuple(taken[common] for _, common in BANDS)
    try:
        bands, by_position = choose_bands(info, BANDS, None)
    except ReadError:
        bands, by_position = (), "missing"
    if by_position is not None:
        have = ", ".join(band.description or f"band {band.index}" for band in info.bands)
        raise ConfigError(
            f"{info.uri}: clouds are looked for in blue, green, red and near infrared, which its bands ({have}) do not "
            "name; give a file with their names, a mask of clouds, or masks.clouds=off"
        )
    return bands


def _factor(info: SceneInfo, grid: GeoBox) -> int:
    metres = metres_per_pixel(grid)
    if metres is None or not FINEST_M <= metres <= COARSEST_M:
        size = "unknown size, since no image has a CRS" if metres is None else f"{metres:.3g} m"
        raise ConfigError(
            f"{info.uri}: clouds are looked for in pixels of {FINEST_M:g} to {COARSEST_M:g} m, and those of the grid "
            f"have {size}; give a mask of clouds, or masks.clouds=off"
        )
    return max(1, round(PIXEL_M / metres))


def _mapping(info: SceneInfo, bands: tuple[int, ...], model: ussfc.ModelSpec) -> RadiometricMapping:
    """Return the numbers of reflectances 0 and 1 of each band."""
    scales = info.scales(bands)
    declared = any(tuple(scale) != (1.0, 0.0) for scale in scales)
    unit = model.radiometry.reflectance if model.radiometry.kind == "range" else None
    if unit is None:
        if not declared and not (info.product or "").startswith("Sentinel-2"):
            raise ConfigError(
                f"{info.uri}: clouds are looked for in reflectances, and neither it nor model {model.name} states the "
                "unit of its numbers; set before.scale and after.scale, or masks.clouds=off"
            )
        unit = SENTINEL2_UNIT
    ends = radiometry.range_mapping(0.0, float(unit), len(bands))
    return radiometry.declared_mapping(ends, scales, float(unit)) if declared else ends
