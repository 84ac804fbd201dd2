"""Two dates as their registration compares them: bands that both have, in windows spread over the grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.pixels.phase_correlation import WindowShift, choose_windows, measure_shift
from ussfc.pipeline.reading import SceneRecipe, over_network
from ussfc.pipeline.reading.bands import find_band
from ussfc.pipeline.tiling.grid import moved_grid
from ussfc.pipeline.types import Box, FloatArray, Pixels, SceneInfo, SceneReader

if TYPE_CHECKING:
    import xarray as xr
    from odc.geo.geobox import GeoBox

    from ussfc import ModelSpec
    from ussfc.pipeline.pixels.phase_correlation import Window
    from ussfc.pipeline.reading.array import ArrayReader
    from ussfc.pipeline.reading.date_masks import DateMask
    from ussfc.pipeline.runs.pair import ScenePair
    from ussfc.training.recipe import InputSpec

WINDOWS = 100
"""Largest number of windows measured; a smaller grid has as many as lie on it side by side."""

LEAST_WINDOWS = 9
"""Number of windows on the smallest grids, where they overlap."""

LARGE_BLOCKS = 64 * 1024 * 1024
"""Decoded size of a block of both files, bytes, from which only the least number of windows is read: each decodes a
whole block, and a file of one strip is one block."""

SIDES = ((1024, 256), (256, 128), (128, 64))
"""Side of a window, pixels, for grids from a shortest side on; smaller grids are not measured."""

VISIBLE = ("red", "green", "blue")
"""Common names of the bands whose mean is compared, besides the near infrared."""

REQUESTS = 8
"""Windows of remote scenes that are read at a time."""

WHOLE = 1024 * 1024
"""Largest grid of which both dates are read at once, pixels: its windows overlap, or lie side by side."""


@dataclasses.dataclass(frozen=True)
class ArrayRecipe:
    """An array of a Python caller on the grid, as :class:`ussfc.pipeline.reading.SceneRecipe` is of a file."""

    array: xr.DataArray
    """(band, y, x), rows running south."""
    grid: GeoBox
    bands: tuple[int, ...]
    """Band numbers from 1."""
    resampling: str
    """rasterio's name of the kernel."""
    uri: str
    """Name of the array in messages."""

    @property
    def opened(self) -> tuple[str, ...]:
        """Return the files that are opened: none."""
        return ()

    def open(self) -> ArrayReader:
        """Return a reader on the grid."""
        from ussfc.pipeline.reading.array import ArrayReader

        return ArrayReader(self.array, self.grid, self.bands, self.resampling, self.uri)


Recipe = TypeVar("Recipe", SceneRecipe, ArrayRecipe)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Both dates on the common grid, and the bands that are compared."""

    recipes: tuple[SceneRecipe, SceneRecipe] | tuple[ArrayRecipe, ArrayRecipe]
    groups: tuple[tuple[int, ...], ...]
    """Places among the bands read; the mean over each group is compared, and all groups speak for the shift."""
    large_blocks: bool = False
    """True: each window costs the decoding of a large block, so that few are measured, and not many at a time."""
    masks: tuple[DateMask | None, DateMask | None] = (None, None)
    """Masks of before and after; what either hides is left out."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid, pixels."""
        rows, cols = self.recipes[0].grid.shape
        return rows, cols

    def moved(self, matrix: tuple[tuple[float, ...], ...]) -> Comparison:
        """Return the comparison whose later date is read elsewhere; see :func:`moved_recipe`."""
        before, after = self.recipes
        # Both are of one kind, though the type of the pair leaves it open.
        moved: Any = (before, moved_recipe(after, matrix))  # type: ignore[type-var]
        masks = moved_masks(self.masks, before.grid, matrix)
        return dataclasses.replace(self, recipes=moved, masks=masks)

    def measure(self, threads: int, most: int = WINDOWS) -> list[WindowShift]:
        """Measure the shift in windows; those without texture or data in both dates are left out.

        Args:
            threads: windows that are read and measured at a time.
            most: largest number of windows.

        Raises:
            ReadError: a scene cannot be opened.
        """
        rows, cols = self.shape
        size = next((size for least, size in SIDES if min(rows, cols) >= least), None)
        if size is None:
            return []
        count = LEAST_WINDOWS if self.large_blocks else min(most, max(LEAST_WINDOWS, rows * cols // size**2))
        readers = self.recipes[0].open(), self.recipes[1].open()
        remote = any(over_network(uri) for recipe in self.recipes for uri in recipe.opened)
        at_once = rows * cols <= WHOLE and not remote
        held = _read_whole(readers, Box(0, 0, rows, cols)) if at_once else None

        def measured(window: Window) -> list[WindowShift]:
            box = Box(window.y, window.x, window.y + window.size, window.x + window.size)
            try:
                valid = np.ones(box.shape, np.bool_)
                for mask in self.masks:
                    if mask is not None:
                        valid &= ~mask.masked(box)
                if not valid.any():
                    return []
                before, after = (
                    [date.part(box) for date in held] if held else [reader.read(box) for reader in readers]
                )
            except ReadError:
                # A damaged block costs the tiles over it and is reported with them.
                return []
            valid &= _known(before) & _known(after)
            found = [
                measure_shift(window, _mean(before, group), _mean(after, group), valid)
                for group in self.groups
            ]
            return [shift for shift in found if shift is not None]

        if remote and not self.large_blocks:
            threads = max(threads, REQUESTS)
        # Of smaller grids nearly every block is decoded in any case.
        windows = choose_windows((rows, cols), 0, count, size, aligned=size == SIDES[0][1])
        if threads == 1:
            return [shift for window in windows for shift in measured(window)]
        with ThreadPoolExecutor(threads, "ussfc-registration") as pool:
            return [shift for shifts in pool.map(measured, windows) for shift in shifts]


def _read_whole(readers: tuple[SceneReader, SceneReader], grid: Box) -> list[Pixels] | None:
    """Return both dates; None where a block is damaged, which costs the windows that lie on it alone."""
    try:
        return [reader.read(grid) for reader in readers]
    except ReadError:
        return None


def compare_pair(pair: ScenePair) -> Comparison:
    """Return the comparison of a pair by the bands of its model; see :func:`compare_recipes`."""
    comparison = compare_recipes(pair.recipes, (pair.before, pair.after), pair.model)
    return dataclasses.replace(comparison, masks=pair.masks)


def compare_recipes(
    recipes: tuple[Recipe, Recipe], infos: tuple[SceneInfo, SceneInfo], model: ModelSpec | InputSpec
) -> Comparison:
    """Return the comparison by the bands of a model and, where both dates name one, the near infrared.

    Args:
        recipes: both dates on the grid, with the bands that the model takes.
        infos: their headers.
        model: the model, or the input of one to be trained.
    """
    names = [band.common_name for band in model.bands]
    visible = tuple(place for place, name in enumerate(names) if name in VISIBLE)
    first: tuple[int, ...] = visible or tuple(range(len(names)))
    large = have_large_blocks(infos)
    if "nir" in names:
        return Comparison(recipes, (first, (names.index("nir"),)), large)
    before, after = (find_band(info, "nir") for info in infos)
    if before is None or after is None:
        return Comparison(recipes, (first,), large)
    extended = with_band(recipes[0], infos[0], before), with_band(recipes[1], infos[1], after)
    return Comparison(extended, (first, (len(names),)), large)


def compare_scenes(
    uris: tuple[str, str], infos: tuple[SceneInfo, SceneInfo], grid: GeoBox, resampling: str
) -> Comparison:
    """Return the comparison of two scenes without a model: by bands that both name, else by the first ones.

    Args:
        uris: paths or URIs of the earlier and the later scene.
        infos: their headers.
        grid: common grid.
        resampling: rasterio's name of the kernel.
    """
    numbers = {name: tuple(find_band(info, name) for info in infos) for name in (*VISIBLE, "nir")}
    shared = {name: (one, other) for name, (one, other) in numbers.items() if one and other}
    if shared:
        bands = [tuple(each[date] for each in shared.values()) for date in (0, 1)]
        visible = tuple(place for place, name in enumerate(shared) if name in VISIBLE)
        infrared = tuple(place for place, name in enumerate(shared) if name not in VISIBLE)
        groups = tuple(group for group in (visible, infrared) if group)
    else:
        count = min(3, *(len(info.bands) for info in infos))
        bands = [tuple(band.index for band in info.bands[:count]) for info in infos]
        groups = (tuple(range(count)),)
    before, after = (
        SceneRecipe.of(uri, info, grid, taken, resampling)
        for uri, info, taken in zip(uris, infos, bands, strict=True)
    )
    return Comparison((before, after), groups, have_large_blocks(infos))


def have_large_blocks(infos: tuple[SceneInfo, SceneInfo]) -> bool:
    """Return True if few windows are to be read, and one after the other: each decodes a large block."""
    return sum(info.block_bytes for info in infos) > LARGE_BLOCKS


def moved_recipe(recipe: Recipe, matrix: tuple[tuple[float, ...], ...]) -> Recipe:
    """Return the recipe of a scene that is read where a matrix takes the pixels of the grid.

    Args:
        recipe: the scene on the common grid.
        matrix: (2, 3), takes (row, column, 1) to (row, column), pixels.
    """
    return dataclasses.replace(recipe, grid=moved_grid(recipe.grid, np.array(matrix)))


def moved_masks(
    masks: tuple[DateMask | None, DateMask | None], grid: GeoBox, matrix: tuple[tuple[float, ...], ...]
) -> tuple[DateMask | None, DateMask | None]:
    """Return the masks of a pair whose later date is moved: its mask moves with it.

    Args:
        masks: of before and after.
        grid: the common grid.
        matrix: of :func:`moved_recipe`.
    """
    before, after = masks
    return before, after and after.on(moved_grid(grid, np.array(matrix)))


def with_band(recipe: Recipe, info: SceneInfo, band: int) -> Recipe:
    """Return the recipe of a scene with one more band.

    Args:
        recipe: the scene.
        info: its header.
        band: number of the band, from 1.
    """
    bands = (*recipe.bands, band)
    if isinstance(recipe, ArrayRecipe):
        return dataclasses.replace(recipe, bands=bands)
    labels = SceneRecipe.of(recipe.uri, info, recipe.grid, bands, recipe.resampling).labels
    return dataclasses.replace(recipe, bands=bands, labels=labels)


def _known(pixels: Pixels) -> Any:
    return pixels.valid & np.isfinite(pixels.values).all(axis=0)


def _mean(pixels: Pixels, bands: Sequence[int]) -> FloatArray:
    result: FloatArray = pixels.values[list(bands)].mean(axis=0, dtype=np.float32)
    return result
