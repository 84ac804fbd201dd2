"""Georeferenced scenes with labels, read as a run reads scenes, so that training and inference see the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from odc.geo.geobox import GeoBox

from ussfc.errors import DataError
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import RunConfig
from ussfc.pipeline.errors import ConfigError, InsufficientMemoryError, PipelineError, ReadError
from ussfc.pipeline.pixels import radiometry
from ussfc.pipeline.reading import SceneRecipe, choose_bands, describe_scene
from ussfc.pipeline.runs.comparison import compare_recipes, moved_recipe
from ussfc.pipeline.runs.pair import scene_mapping
from ussfc.pipeline.runs.registration import register
from ussfc.pipeline.tiling.grid import common_grid
from ussfc.pipeline.types import BoolArray, Box, SceneInfo
from ussfc.training.data import LabelledPair, mask_of
from ussfc.training.recipe import InputSpec

ROLES = ("before", "after", "label")

SUFFIXES = (".tif", ".tiff")

MEMORY_SHARE = 0.8
"""Share of the free memory that the scenes of a training may take."""

T = TypeVar("T")


@dataclass(frozen=True)
class LabelledScene:
    """The three files of one place."""

    name: str
    before: Path
    after: Path
    label: Path


def find_scenes(folder: Path, names: Sequence[str] | None = None) -> tuple[LabelledScene, ...]:
    """List the labelled scenes of a folder: ``NAME_before.tif``, ``NAME_after.tif``, ``NAME_label.tif``.

    Args:
        folder: other files in it are ignored.
        names: take these only, in this order; None: all, sorted.

    Raises:
        ReadError: no such folder, no scene in it, or a scene without one of its files.
        ConfigError: a name that has no scene.
    """
    scenes, lone = match_scenes(folder)
    if lone:
        more = f" (and {len(lone) - 1} more such files)" if len(lone) > 1 else ""
        raise ReadError(lone[0] + more)
    by_name = {scene.name: scene for scene in scenes}
    if names is not None and (odd := [name for name in names if name not in by_name]):
        raise ConfigError(f"scene {odd[0]!r}: not in {folder}; there are {', '.join(by_name)}")
    return scenes if names is None else tuple(by_name[name] for name in names)


def match_scenes(folder: Path) -> tuple[tuple[LabelledScene, ...], tuple[str, ...]]:
    """List the complete scenes of a folder, sorted, and one line for every scene that lacks a file.

    Raises:
        ReadError: no such folder, or no scene in it.
    """
    if not folder.is_dir():
        raise ReadError(
            f"{folder}: no such folder; give the one with NAME_before.tif, NAME_after.tif, NAME_label.tif"
        )
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir()):
        name, _, role = file.stem.rpartition("_")
        if file.suffix.lower() in SUFFIXES and name and role in ROLES:
            found.setdefault(name, {})[role] = file
    if not found:
        raise ReadError(f"{folder}: no NAME_before.tif, NAME_after.tif, NAME_label.tif in it")
    lone = [
        f"{next(iter(files.values()))}: no {name}_{role}.tif beside it; add it, or take the others of {name} away"
        for name, files in sorted(found.items())
        for role in ROLES
        if role not in files
    ]
    complete = [
        LabelledScene(name, **files) for name, files in sorted(found.items()) if len(files) == len(ROLES)
    ]
    return tuple(complete), tuple(lone)


def label_on_grid(scene: LabelledScene, grid: GeoBox, box: Box) -> tuple[BoolArray, BoolArray]:
    """Read the label of a scene over a window of the grid.

    Args:
        scene: the scene.
        grid: the common grid.
        box: the window.

    Returns:
        Two (rows, cols) masks: change, and valid. A label on other pixels is taken by the nearest one.

    Raises:
        ReadError: the label cannot be read, has no CRS where the images have one, or has odd values.
    """
    info = describe_scene(str(scene.label))
    if (info.geobox.crs is None) != (grid.crs is None):
        has, lacks = (
            ("images have", "label has not") if info.geobox.crs is None else ("label has", "images have not")
        )
        raise ReadError(
            f"{scene.label}: the {has} a CRS, the {lacks}; write the label on the grid of {scene.before.name}"
        )
    if grid.crs is None and tuple(info.geobox.shape) != tuple(grid.shape):
        raise ReadError(
            f"{scene.label}: {_size(info.geobox)} pixels, the images have {_size(grid)}; they must agree"
        )
    pixels = SceneRecipe(str(scene.label), grid, (1,), "nearest").open().read(box)
    try:
        change = mask_of(pixels.values[0][pixels.valid], str(scene.label))
    except DataError as error:
        raise ReadError(str(error)) from error
    if change.size and change.all() and not pixels.valid.all():
        raise ReadError(
            f"{scene.label}: every valid pixel is change, so 0 is its nodata value; 0 must mean no change: take the "
            "nodata value away with gdal_edit.py -unsetnodata"
        )
    result = np.zeros(box.shape, bool)
    result[pixels.valid] = change
    return result, pixels.valid


class ScenePairs:
    """Labelled scenes as training pairs, each read whole.

    Args:
        scenes: from :func:`find_scenes`.
        spec: bands and radiometry of the network's input.
        config: grid, bands and registration of :func:`ussfc.pipeline.config.load.load_config`; the packaged defaults
            without it.
        notify: receives what a run would warn of about the dates of a scene, a line each.
    """

    def __init__(
        self,
        scenes: Sequence[LabelledScene],
        spec: InputSpec,
        config: RunConfig | None = None,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._scenes = tuple(scenes)
        self._notify = notify
        self._spec = spec
        self._config = config or load_config()

    def refuse_beyond_memory(self) -> None:
        """Refuse scenes that would not fit, before the first is read; opens every header.

        Raises:
            InsufficientMemoryError: they would not.
            PipelineError: a scene cannot be used.
        """
        # Both dates in float32, label and validity.
        pixel = 2 * 4 * len(self._spec.bands) + 2
        needed = sum(int(np.prod(self._grid(scene).shape)) * pixel for scene in self._scenes)
        allowed = int(MEMORY_SHARE * psutil.virtual_memory().available)
        if needed > allowed:
            raise InsufficientMemoryError(
                f"labelled scenes: {needed / 1e9:.1f} GB in memory, {allowed / 1e9:.1f} GB may be used; take fewer "
                "scenes, or cut them into smaller ones"
            )

    @property
    def names(self) -> Sequence[str]:
        """Names of the scenes."""
        return [scene.name for scene in self._scenes]

    def pair(self, index: int) -> LabelledPair:
        """Read one scene, registered: float32 in [0, 1]; pixels without data are 0.5 and not valid.

        Raises:
            DataError: it cannot be read.
        """
        return _as_data_error(lambda: self._read(self._scenes[index]))

    def _grid(self, scene: LabelledScene) -> GeoBox:
        sources = self._config.inputs.vrt_sources
        infos = [describe_scene(str(file), sources) for file in (scene.before, scene.after)]
        chosen = self._config.grid
        return common_grid(infos[0], infos[1], chosen.reference, chosen.crs, chosen.resolution)

    def _read(self, scene: LabelledScene) -> LabelledPair:
        grid = self._grid(scene)
        model_bands = [(band.name, band.common_name) for band in self._spec.bands]
        box = Box(0, 0, *grid.shape)
        infos, recipes = [], []
        for file, chosen in (
            (scene.before, self._config.bands.before),
            (scene.after, self._config.bands.after),
        ):
            info = describe_scene(str(file), self._config.inputs.vrt_sources)
            bands, _ = choose_bands(info, model_bands, chosen)
            infos.append(info)
            recipes.append(SceneRecipe.of(str(file), info, grid, bands, self._config.grid.resampling))
        recipes[1] = self._registered(scene.name, (recipes[0], recipes[1]), (infos[0], infos[1]))
        pixels, mappings = [], []
        for recipe, info in zip(recipes, infos, strict=True):
            reader = recipe.open()
            pixels.append(reader.read(box))
            mappings.append(scene_mapping(self._spec, reader, recipe.uri, info.scales(recipe.bands)))
        images = radiometry.pair(pixels[0], pixels[1], (mappings[0], mappings[1]))
        label, known = label_on_grid(scene, grid, box)
        return LabelledPair(scene.name, images.before, images.after, label, images.valid & known)

    def _registered(
        self, name: str, recipes: tuple[SceneRecipe, SceneRecipe], infos: tuple[SceneInfo, SceneInfo]
    ) -> SceneRecipe:
        """Return the recipe of the later date as a run reads it: where the earlier one lies."""
        comparison = compare_recipes(recipes, infos, self._spec)
        # Scenes are read one at a time, by a thread that has nothing else to do.
        record = register(comparison, self._config.registration, 1)
        if record.warning:
            self._notify(f"scene {name}: {record.warning}")
        return recipes[1] if record.matrix is None else moved_recipe(recipes[1], record.matrix)


def _as_data_error(read: Callable[[], T]) -> T:
    """Call a reader; its errors become those that a source of pairs may raise."""
    try:
        return read()
    except PipelineError as error:
        raise DataError(str(error)) from error


def _size(grid: GeoBox) -> str:
    return f"{grid.shape[0]} x {grid.shape[1]}"
