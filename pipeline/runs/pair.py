"""Two scenes on their common grid, as a model sees them; found from their headers."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from odc.geo.geobox import GeoBox

import ussfc
from ussfc.addresses import shown_address
from ussfc.pipeline.choices import NO_MASK
from ussfc.pipeline.config.schema import NumbersConfig, RunConfig
from ussfc.pipeline.dates import moment
from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.pixels import radiometry
from ussfc.pipeline.pixels.sample_checks import DateSample, Finding, thin
from ussfc.pipeline.reading import (
    AreaOfInterest,
    SceneRecipe,
    choose_bands,
    describe_scene,
    in_crs_of,
    on_grid,
    read_aoi,
)
from ussfc.pipeline.reading.bands import find_band, sensor_name
from ussfc.pipeline.reading.date_masks import DateMask, masked_reader
from ussfc.pipeline.reading.identity import UNKNOWN, UNLISTED
from ussfc.pipeline.reading.mask_files import MaskChoice, find_mask, own_mask
from ussfc.pipeline.reading.sampling import CHECK_PIXELS
from ussfc.pipeline.reading.sources.resolve import absolute_source
from ussfc.pipeline.runs.cloud_search import CloudSearch, plan_search
from ussfc.pipeline.runs.model_choice import (
    RESOLUTION_TOLERANCE,
    StrongerModel,
    better_model,
    configured_model,
    fitting_model,
    stronger_model,
)
from ussfc.pipeline.runs.resolve import resolve_layout
from ussfc.pipeline.tiling.grid import common_grid, crop, extent, geometry_box, metres_per_pixel, resampled
from ussfc.pipeline.types import Box, RadiometricMapping, SceneInfo, SceneReader

if TYPE_CHECKING:
    from ussfc.training.recipe import InputSpec

CHECKED_PIXELS = 1 << 22
"""Pixels under an area of interest up to which it is made sure that it covers one."""


@dataclasses.dataclass(frozen=True)
class ScenePair:
    """Two scenes on their common grid, and how a model sees them."""

    before: SceneInfo
    after: SceneInfo
    recipes: tuple[SceneRecipe, SceneRecipe]
    grid: GeoBox
    area: AreaOfInterest | None
    model: ussfc.ModelSpec
    notices: tuple[str, ...]
    """Warnings to show before the run."""
    masks: tuple[DateMask | None, DateMask | None] = (None, None)
    """Masks of before and after; what either hides is nodata of both."""
    mask_block_bytes: int = 0
    """Decoded size of one block of each mask together, bytes."""
    clouds: tuple[CloudSearch | None, CloudSearch | None] = (None, None)
    """Searches for clouds in before and after, from which their masks come."""
    stronger: StrongerModel | None = None
    """Packaged model that scored higher than the chosen one and fits both dates as well."""


def inspect_pair(before: str, after: str, config: RunConfig) -> ScenePair:
    """Open both headers, find the common grid, choose the bands. No pixel is read.

    Raises:
        ReadError, GridError, ConfigError, ussfc.ModelError: each names the input and the way out.
    """
    # First: a name that leads nowhere is reported before a scene is waited for.
    model = configured_model(config)
    # Workers have working directories of their own, and the run's key must not depend on ours.
    before, after = absolute_source(before), absolute_source(after)
    infos = describe_pair(before, after, config)
    model = model or fitting_model(infos, config)
    grid = run_grid(infos, config, model)
    area = None
    if config.grid.aoi is not None:
        grid, area = cut_to_area(grid, config.grid.aoi)
    notices = [note for info in infos for note in info.notes]
    notices += [
        f"{info.uri}: changes of this scene cannot be noticed in full, since its chunks are too many to be listed, "
        "or may not be; only those of its metadata are"
        if info.identity.startswith(UNLISTED)
        else f"{info.uri}: changes of this scene cannot be noticed, since its name leads to no file"
        for info in infos
        if info.identity.startswith(UNKNOWN)
    ]
    model_bands = [(band.name, band.common_name) for band in model.bands]
    recipes = []
    for uri, info, chosen in zip(
        (before, after), infos, (config.bands.before, config.bands.after), strict=True
    ):
        bands, notice = choose_bands(info, model_bands, chosen)
        notices += [notice] if notice else []
        recipes.append(SceneRecipe.of(uri, info, grid, bands, config.grid.resampling))
    notices += _order_notices(*infos)
    notices += _level_notices(*infos)
    if grid.crs is None:
        trained = (
            f" (model {model.name} was trained at {model.resolution_m:g} m)" if model.resolution_m else ""
        )
        notices.append(
            "neither image has a CRS: the run and its products are in pixel coordinates, and the size of a pixel is "
            f"unknown{trained}"
        )
    taken = recipes[0].bands, recipes[1].bands
    if (better := better_model(infos, config, model)) is not None:
        notices.append(f"model {better.name} fits both dates ({better.title}): set model={better.name}")
    patch_size = resolve_layout(config, model).patch_size
    notices += pair_notices(infos, taken, grid, model, patch_size, other_fits=better is not None)
    masks, mask_notices, block_bytes = _find_masks(config, infos, grid)
    notices += mask_notices
    pair = ScenePair(
        *infos,
        recipes=(recipes[0], recipes[1]),
        grid=grid,
        area=area,
        model=model,
        notices=tuple(notices),
        masks=masks,
        mask_block_bytes=block_bytes,
        stronger=stronger_model(infos, config, model),
    )
    return _with_searches(pair, config) if config.masks.clouds == "auto" else pair


def describe_pair(before: str, after: str, config: RunConfig) -> tuple[SceneInfo, SceneInfo]:
    """Read the headers of both dates, with the dates, scales and offsets that the configuration states.

    Raises:
        ReadError: one cannot be read.
    """
    sources = config.inputs.vrt_sources
    return (
        with_numbers(_dated(describe_scene(before, sources), config.dates.before), config.before),
        with_numbers(_dated(describe_scene(after, sources), config.dates.after), config.after),
    )


def run_grid(infos: tuple[SceneInfo, SceneInfo], config: RunConfig, model: ussfc.ModelSpec) -> GeoBox:
    """Return the common grid of both dates, with the model's pixels where the configuration wants them.

    Raises:
        GridError: there is none.
        ConfigError: nothing is known of the size of a pixel, of the images or of the model's.
    """
    wanted = config.grid
    grid = common_grid(*infos, wanted.reference, wanted.crs, wanted.resolution)
    if not wanted.resample_to_model:
        return grid
    if wanted.resolution is not None:
        raise ConfigError("grid.resolution, grid.resample_to_model: both state the size of a pixel; set one")
    if model.resolution_m is None:
        raise ConfigError(
            f"grid.resample_to_model: the card of model {model.name} states no resolution; set grid.resolution"
        )
    if metres_per_pixel(grid) is None:
        raise ConfigError(
            "grid.resample_to_model: neither image has a CRS, so the size of a pixel is unknown; assign one "
            "(gdal_edit.py -a_srs, -a_ullr)"
        )
    return resampled(grid, model.resolution_m)


def _with_searches(pair: ScenePair, config: RunConfig) -> ScenePair:
    """Return the pair with a search for clouds in each date that has no mask."""
    masks, searches = list(pair.masks), list(pair.clouds)
    for place, (date, info) in enumerate(zip(("before", "after"), (pair.before, pair.after), strict=True)):
        if masks[place] is None:
            searches[place], masks[place] = plan_search(
                info, pair.recipes[place], pair.model, config.masks.dilation_m, date
            )
    return dataclasses.replace(pair, masks=(masks[0], masks[1]), clouds=(searches[0], searches[1]))


def _find_masks(
    config: RunConfig, infos: tuple[SceneInfo, SceneInfo], grid: GeoBox
) -> tuple[tuple[DateMask | None, DateMask | None], list[str], int]:
    """Return the masks of both dates, warnings, and the size of their blocks, bytes."""
    given = config.masks
    found: list[DateMask | None] = []
    notices: list[str] = []
    block_bytes = 0
    for date, info, uri, kind, classes in zip(
        ("before", "after"), infos, (given.before, given.after), (given.kind_before, given.kind_after),
        (given.classes_before, given.classes_after), strict=True,
    ):  # fmt: skip
        if uri == NO_MASK:
            found.append(None)
            continue
        choice = MaskChoice(uri or "", kind, classes, given.dilation_m, date, config.inputs.vrt_sources)
        mask: DateMask | None
        if uri is None:
            mask, notes, size = own_mask(choice, info, grid)
        else:
            choice = dataclasses.replace(choice, uri=absolute_source(uri))
            mask, notes, size = find_mask(choice, grid, (info.geobox.shape[0], info.geobox.shape[1]))
        found.append(mask)
        notices += notes
        block_bytes += size
    return (found[0], found[1]), notices, block_bytes


def _dated(info: SceneInfo, given: str | None) -> SceneInfo:
    """Return a scene with the date that the user gives it, where one is given."""
    return info if given is None else dataclasses.replace(info, acquired=given)


def _order_notices(before: SceneInfo, after: SceneInfo) -> list[str]:
    """Warn of images in the wrong order, as far as their dates are known."""
    earlier, later = moment(before.acquired), moment(after.acquired)
    if earlier is None or later is None or earlier <= later:
        return []
    return [
        f"{before.uri}: is of {before.acquired}, later than after ({after.acquired}); exchange the two images, or "
        "correct dates.before and dates.after"
    ]


def with_numbers(info: SceneInfo, numbers: NumbersConfig) -> SceneInfo:
    """Return a scene's header with the scale and offset that the configuration states in place of the file's."""
    if numbers.scale is None and numbers.offset is None:
        return info
    bands = tuple(
        dataclasses.replace(
            band,
            scale=band.scale if numbers.scale is None else numbers.scale,
            offset=band.offset if numbers.offset is None else numbers.offset,
        )
        for band in info.bands
    )
    return dataclasses.replace(info, bands=bands)


def _level_notices(before: SceneInfo, after: SceneInfo) -> list[str]:
    """Warn of products of different levels: the haze of the atmosphere is in one of them alone."""
    levels = [re.search(r"\bL(\d)", info.product or "") for info in (before, after)]
    if levels[0] is None or levels[1] is None or levels[0][1] == levels[1][1]:
        return []
    return [
        f"{before.uri} is {before.product} and {after.uri} is {after.product}: one holds reflectances at the top "
        "of the atmosphere, the other at the ground, and the haze between them counts as change; give both "
        "dates of one level"
    ]


def pair_notices(
    infos: tuple[SceneInfo, SceneInfo],
    bands: tuple[tuple[int, ...], tuple[int, ...]],
    grid: GeoBox,
    model: ussfc.ModelSpec,
    patch_size: int,
    other_fits: bool = False,
) -> list[str]:
    """Return warnings about two scenes that their headers give reason for.

    Args:
        infos: headers of before and after.
        bands: numbers from 1 of the bands that the model takes from each.
        grid: the common grid.
        model: the model.
        patch_size: side of a patch, pixels.
        other_fits: True: another model, which fits, was named, and the scenes need not be brought to this one.
    """
    notices = [*_scale_notices(grid, model, patch_size, other_fits), *_coarse_notices(infos, grid)]
    notices += _range_notices(infos, model)
    for info, taken in zip(infos, bands, strict=True):
        notices += _declaration_notices(info, taken, model)
    return notices


def cut_to_area(grid: GeoBox, aoi: str) -> tuple[GeoBox, AreaOfInterest]:
    """Return the part of a grid under the bounds of an area of interest, and the area on it.

    Raises:
        ReadError: the file cannot be read.
        ConfigError: it lies outside the grid, or covers no pixel.
    """
    given = read_aoi(aoi)
    area = in_crs_of(grid, given)
    box = Box(0, 0, 0, 0) if area.is_empty else geometry_box(area, grid)
    if box.pixels == 0:
        raise ConfigError(
            f"grid.aoi {shown_address(aoi)}: lies outside the overlap of the two images: it covers {extent(given)}, "
            f"the overlap {extent(grid)}; check its CRS and the order of its coordinates"
        )
    grid = crop(grid, box)
    placed = on_grid(area, grid)
    if box.pixels <= CHECKED_PIXELS and not placed.mask(Box(0, 0, *grid.shape)).any():
        raise ConfigError(
            f"grid.aoi {shown_address(aoi)}: covers the centre of no pixel; give a larger area or a finer grid"
        )
    return grid, placed


def _range_notices(infos: Iterable[SceneInfo], model: ussfc.ModelSpec) -> list[str]:
    """Warn of numbers that a model with a fixed range cannot see: bytes instead of reflectances."""
    import numpy as np

    mapping = model.radiometry
    if mapping.kind != "range":
        return []
    high = float(np.max(mapping.high))
    return [
        f"{info.uri}: holds {info.dtype}, model {model.name} takes numbers up to {high:g} as its range; the result "
        "will mean little: give data of the kind the model was trained on, or another model"
        for info in infos
        if np.issubdtype(np.dtype(info.dtype), np.integer) and np.iinfo(info.dtype).max < high
    ]


def _declaration_notices(info: SceneInfo, bands: tuple[int, ...], model: ussfc.ModelSpec) -> list[str]:
    """Warn of declared scales and offsets that a model without a unit of reflectance does not use."""
    mapping, scales = model.radiometry, info.scales(bands)
    if mapping.kind != "range" or mapping.reflectance is not None or not is_declared(scales):
        return []
    scale, offset = scales[0]
    return [
        f"{info.uri}: declares scale {scale:g} and offset {offset:g}, which are left out: model {model.name} takes "
        "stored numbers"
    ]


def _coarse_notices(infos: Iterable[SceneInfo], grid: GeoBox) -> list[str]:
    """Return a notice on each date whose pixels are much larger than those of the grid."""
    metres = metres_per_pixel(grid)
    sizes = [(info.uri, metres_per_pixel(info.geobox)) for info in infos]
    finest = min((size for _, size in sizes if size), default=None)
    if not metres or not finest:
        return []
    # Finer pixels than either date has are the user's choice.
    shown = max(metres, finest)
    return [
        f"{uri}: has pixels of {size:.3g} m, the grid of {metres:.3g} m: the other date shows what this one cannot, "
        "and that may count as change; set grid.resolution, or the coarser date as grid.reference"
        for uri, size in sizes
        if size and size > RESOLUTION_TOLERANCE * shown
    ]


def _scale_notices(grid: GeoBox, model: ussfc.ModelSpec, patch_size: int, other_fits: bool) -> list[str]:
    notices = []
    metres = metres_per_pixel(grid)
    if metres and model.resolution_m:
        factor = metres / model.resolution_m
        if not 1 / RESOLUTION_TOLERANCE <= factor <= RESOLUTION_TOLERANCE:
            remedy = "" if other_fits else "; set grid.resample_to_model=true, or choose another model"
            notices.append(
                f"the grid has pixels of {metres:.3g} m, model {model.name} was trained at {model.resolution_m:g} m"
                f"{remedy}"
            )
        elif model.finest_m and metres < model.finest_m:
            notices.append(
                f"the grid has pixels of {metres:.3g} m, and model {model.name} finds less below {model.finest_m:g} m "
                f"than at {model.resolution_m:g} m; set grid.resample_to_model=true"
            )
    if min(grid.shape) < patch_size:
        notices.append(
            f"the scene ({grid.shape[0]} x {grid.shape[1]} px) is smaller than a patch of {patch_size} px and is "
            "mirrored to fill it"
        )
    return notices


def scene_mappings(pair: ScenePair) -> tuple[RadiometricMapping, RadiometricMapping]:
    """Return the radiometric constants of both dates; see :func:`scene_mapping`."""
    before, after = (
        scene_mapping(pair.model, _masked(pair, recipe), info.uri, info.scales(recipe.bands))
        for info, recipe in zip((pair.before, pair.after), pair.recipes, strict=True)
    )
    return before, after


def _masked(pair: ScenePair, recipe: SceneRecipe) -> SceneReader:
    """Return a reader of a date in which masked pixels are invalid."""
    return masked_reader(recipe.open(), pair.masks, (pair.grid.shape[0], pair.grid.shape[1]))


def sample_pair(
    pair: ScenePair, mappings: tuple[RadiometricMapping, RadiometricMapping]
) -> tuple[DateSample, DateSample] | None:
    """Return a sample of both dates; see :func:`sample_scenes`."""
    scenes = [
        (info.uri, functools.partial(_masked, pair, recipe))
        for info, recipe in zip((pair.before, pair.after), pair.recipes, strict=True)
    ]
    return sample_scenes(pair.model, scenes, mappings)


def sample_scenes(
    model: ussfc.ModelSpec,
    scenes: Sequence[tuple[str, Callable[[], SceneReader]]],
    mappings: tuple[RadiometricMapping, RadiometricMapping],
) -> tuple[DateSample, DateSample] | None:
    """Return a sample of both dates, whose numbers can be checked; None where there is nothing to check.

    Args:
        model: the model; one that takes percentiles fits any numbers.
        scenes: name of each date, and a function that opens it on the common grid.
        mappings: their radiometric constants.
    """
    if model.radiometry.kind != "range":
        return None
    try:
        before, after = (
            DateSample(name, thin(opened().sample(CHECK_PIXELS), CHECK_PIXELS), mapping, key)
            for (name, opened), mapping, key in zip(scenes, mappings, ("before", "after"), strict=True)
        )
    except ReadError:
        # A damaged block costs the tiles over it and is reported with them; a check must not end the run for it.
        return None
    return before, after


def refuse_fatal(findings: Sequence[Finding], forced: bool) -> None:
    """Refuse numbers of which any map would be worthless.

    Args:
        findings: of a sample.
        forced: True: they are for a warning alone.

    Raises:
        ReadError: there is such a finding.
    """
    fatal = next((found for found in findings if found.fatal and not forced), None)
    if fatal is not None:
        raise ReadError(f"{fatal.text}; or set force to compute all the same")


def scene_mapping(
    model: ussfc.ModelSpec | InputSpec,
    reader: SceneReader,
    scene: str,
    scales: Sequence[tuple[float, float]],
) -> RadiometricMapping:
    """Return the constants that bring one scene into the model's input range.

    Args:
        model: a model, or the input of one to be trained: whose mapping to follow.
        reader: the scene on the grid; sampled only if the mapping asks for percentiles.
        scene: its name, for the error.
        scales: (scale, offset) that the file declares for each band that the model takes.

    Raises:
        ReadError: no valid pixel to take percentiles from.
    """
    mapping, ends = model.radiometry, model_range(model)
    if mapping.kind == "range" and ends is not None:
        if mapping.reflectance is None or not is_declared(scales):
            return ends
        return radiometry.declared_mapping(ends, scales, mapping.reflectance)
    assert mapping.kind == "percentiles"
    return radiometry.percentile_mapping(reader.sample(), mapping.low, mapping.high, scene)


def model_range(model: ussfc.ModelSpec | InputSpec) -> RadiometricMapping | None:
    """Return the range of numbers that a model takes; None where it follows from each scene."""
    mapping = model.radiometry
    if mapping.kind != "range":
        return None
    return radiometry.range_mapping(_ends(mapping.low), _ends(mapping.high), len(model.bands))


def infrared_bands(infos: tuple[SceneInfo, SceneInfo], model: ussfc.ModelSpec) -> tuple[int, int] | None:
    """Return the numbers of the near infrared bands of both dates; None where the model has it, or one names none."""
    bands = [(band.name, band.common_name) for band in model.bands]
    if "nir" in [common for _, common in bands]:
        return None
    before, after = (find_band(info, "nir", sensor_name("nir", bands)) for info in infos)
    return None if before is None or after is None else (before, after)


def kept_bands(pair: ScenePair) -> int:
    """Return the number of bands of each date that tiles keep for the values of polygons; 0 where they keep none.

    Those are the bands of the model, and the near infrared where polygons have it and where reading it with the others
    neither costs anything nor changes which pixels are valid: in blocks that hold all bands, of integers.
    """
    bands, infos = len(pair.model.bands), (pair.before, pair.after)
    if infrared_bands(infos, pair.model) is None:
        return bands
    plain = all(info.interleaved and not info.parts and np.dtype(info.dtype).kind in "iu" for info in infos)
    return bands + 1 if plain else 0


def is_declared(scales: Sequence[tuple[float, float]]) -> bool:
    """Return True if a file declares that its numbers are to be scaled."""
    return any(tuple(scale) != (1.0, 0.0) for scale in scales)


def _ends(value: float | Iterable[float]) -> float | tuple[float, ...]:
    return float(value) if isinstance(value, int | float) else tuple(value)
