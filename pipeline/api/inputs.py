"""Inputs of Python callers: two arrays or data sets of xarray, on their common grid."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import xarray as xr
from odc.geo.geobox import GeoBox

import ussfc
from ussfc.addresses import shown_address
from ussfc.pipeline.choices import NO_MASK
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.reading import AreaOfInterest, choose_bands
from ussfc.pipeline.reading.array import ArrayReader, describe_array, runs_north, with_bands
from ussfc.pipeline.reading.bands import with_possible_scales
from ussfc.pipeline.reading.stacking import image_of
from ussfc.pipeline.runs.alteration import measure_readers
from ussfc.pipeline.runs.comparison import ArrayRecipe, compare_recipes, moved_recipe
from ussfc.pipeline.runs.manifest import AlterationRecord, RegistrationRecord
from ussfc.pipeline.runs.model_choice import configured_model, fitting_model
from ussfc.pipeline.runs.normalisation import normalise_readers
from ussfc.pipeline.runs.numbers import find_numbers
from ussfc.pipeline.runs.pair import (
    cut_to_area,
    pair_notices,
    refuse_fatal,
    run_grid,
    sample_scenes,
    scene_mapping,
    with_numbers,
)
from ussfc.pipeline.runs.registration import register
from ussfc.pipeline.runs.resolve import alteration_terms, resolve_layout
from ussfc.pipeline.types import RadiometricMapping

THREADS = 1
"""Windows that are measured at a time. rasterio changes Python's filters of warnings around a warp, which are those of
all threads: with several, the caller's own would be lost."""

DATES = ("before", "after")
"""Names of the arrays in messages."""


@dataclass(frozen=True)
class ArrayPair:
    """Both dates on their common grid."""

    arrays: tuple[xr.DataArray, xr.DataArray]
    """(band, y, x), rows running south."""
    southward: tuple[bool, bool]
    """False where the rows of the caller's array run north."""
    readers: tuple[ArrayReader, ArrayReader]
    mappings: tuple[RadiometricMapping, RadiometricMapping]
    grid: GeoBox
    area: AreaOfInterest | None
    notices: tuple[str, ...]
    """Warnings for the caller."""
    registration: RegistrationRecord
    """Shift between both dates."""
    model: ussfc.ModelSpec
    alteration: AlterationRecord | None
    """IR-MAD beside the network; None: the network alone answers."""


def open_arrays(before: Any, after: Any, config: RunConfig, own_network: bool = True) -> ArrayPair:
    """Find the common grid and the bands of two arrays, register them, and check a sample of their numbers.

    Args:
        before: earlier date, see :func:`image_array`.
        after: later date.
        config: names model, grid, bands, resampling and area of interest.
        own_network: False where another detector than the model's network answers, and IR-MAD is left out.

    Raises:
        ReadError, GridError, ConfigError, ussfc.ModelError: each names the date and the way out.
    """
    card = configured_model(config)
    for date, mask in zip(DATES, (config.masks.before, config.masks.after), strict=True):
        if mask not in (None, NO_MASK):
            raise ConfigError(
                f"masks.{date}: is for files; make masked pixels of the array NaN or nodata, and leave it out"
            )
    if config.masks.clouds != "off":
        raise ConfigError(
            "masks.clouds: is for files; make clouds NaN or nodata in the array, and leave it out"
        )
    images = image_array(before, DATES[0]), image_array(after, DATES[1])
    arrays = with_bands(images[0], DATES[0]), with_bands(images[1], DATES[1])
    infos = (
        with_numbers(with_possible_scales(describe_array(arrays[0], DATES[0], "")), config.before),
        with_numbers(with_possible_scales(describe_array(arrays[1], DATES[1], "")), config.after),
    )
    card = card or fitting_model(infos, config)
    grid = run_grid(infos, config, card)
    area = None
    if config.grid.aoi is not None:
        grid, area = cut_to_area(grid, config.grid.aoi)
    notices = [note for info in infos for note in info.notes]
    notices += [] if grid.crs is not None else _bare_notices(arrays)
    model_bands = [(band.name, band.common_name) for band in card.bands]
    taken = []
    for info, chosen in zip(infos, (config.bands.before, config.bands.after), strict=True):
        bands, notice = choose_bands(info, model_bands, chosen)
        notices += [notice] if notice else []
        taken.append(bands)
    first, second = (
        ArrayRecipe(array, grid, bands, config.grid.resampling, info.uri)
        for array, info, bands in zip(arrays, infos, taken, strict=True)
    )
    record = register(compare_recipes((first, second), infos, card), config.registration, THREADS)
    notices += [record.warning] if record.warning else []
    if record.matrix is not None:
        second = moved_recipe(second, record.matrix)
    readers = [first.open(), second.open()]
    mappings = [
        scene_mapping(card, reader, info.uri, info.scales(bands))
        for reader, info, bands in zip(readers, infos, taken, strict=True)
    ]
    both = mappings[0], mappings[1]
    patch_size = resolve_layout(config, card).patch_size
    notices += pair_notices(infos, (taken[0], taken[1]), grid, card, patch_size)
    names = tuple(band.name for band in card.bands)
    scenes = [(name, lambda reader=reader: reader) for name, reader in zip(DATES, readers, strict=True)]
    found = find_numbers(
        config.radiometry,
        both,
        sample_scenes(card, scenes, both),
        lambda: normalise_readers((readers[0], readers[1]), (grid.shape[0], grid.shape[1]), names, THREADS),
    )
    refuse_fatal(found.findings, config.force)
    notices += found.warnings
    terms, alteration = alteration_terms(config, card) if own_network else None, None
    if terms is not None:
        shape = grid.shape[0], grid.shape[1]
        alteration = measure_readers((readers[0], readers[1]), shape, found.mappings, terms, THREADS)
        notices += [alteration.warning] if alteration.warning else []
    if config.strict and notices:
        raise ReadError(f"{notices[0]} (strict: a warning ends the computation)")
    southward = not runs_north(images[0]), not runs_north(images[1])
    return ArrayPair(
        arrays,
        southward,
        (readers[0], readers[1]),
        found.mappings,
        grid,
        area,
        tuple(notices),
        record,
        card,
        alteration,
    )


def image_array(scene: Any, name: str) -> xr.DataArray:
    """Return the image that a caller gives: an array, or a data set whose variables are the bands.

    Args:
        scene: what the caller gives.
        name: its name in messages.

    Raises:
        ReadError: something else; the message shows the way for paths.
    """
    if isinstance(scene, str | os.PathLike):
        raise ReadError(
            f"{name}: is the path {shown_address(os.fspath(scene))}, expected an array of xarray; open it with "
            "rioxarray.open_rasterio(path, chunks={'x': 2048, 'y': 2048}), or give paths to ussfc.run"
        )
    if isinstance(scene, xr.Dataset):
        return _image_of(scene, name)
    if not isinstance(scene, xr.DataArray):
        kind = f"{type(scene).__module__}.{type(scene).__qualname__}"
        raise ReadError(
            f"{name}: is a {kind}, expected an xarray.DataArray or xarray.Dataset; wrap the numbers in one, with "
            "coordinates y and x and a CRS"
        )
    return scene


def _image_of(dataset: xr.Dataset, name: str) -> xr.DataArray:
    # Opened without decode_coords="all", the CRS is a variable like others, and its name an attribute.
    named = {variable.attrs.get("grid_mapping") for variable in dataset.data_vars.values()}
    mappings = [
        key
        for key, variable in dataset.data_vars.items()
        if variable.ndim == 0 and (key in named or {"crs_wkt", "spatial_ref"} & set(variable.attrs))
    ]
    image = image_of(dataset.set_coords(mappings), name, by_name=False)
    return image.assign_attrs({key: value for key, value in dataset.attrs.items() if key not in image.attrs})


def _bare_notices(arrays: tuple[xr.DataArray, xr.DataArray]) -> list[str]:
    """Return the warnings about two arrays without a CRS."""
    axes = [tuple(array.coords.get(name) for name in array.dims[1:]) for array in arrays]
    differ = any(
        one is not None and other is not None and (one.values != other.values).any()
        for one, other in zip(*axes, strict=True)
    )
    found = ", though their coordinates differ" if differ else ""
    return [
        f"neither array has a CRS: they are compared pixel by pixel{found}; assign one with rio.write_crs"
    ]
