"""Batches of pairs generated from single dates.

Single-temporal supervision (Zheng et al., "Change is Everywhere", ICCV 2021, arXiv 2108.07002): no labelled pair is
needed, because two masks show where two dates differ. Instances are pasted into tiles and backgrounds or removed from
them, unrelated tiles are paired, and most pairs show the same ground twice. What season, camera and sun do to ground
that has not changed is imitated on each date separately and never labelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ussfc.training.crops import Batch
from ussfc.training.data import BoolArray, FloatArray, LabelledPair
from ussfc.training.recipe import SamplingSection
from ussfc.training.synthesis.appearance import Sun, change_ground, cut_middle, lean, photograph, shade
from ussfc.training.synthesis.filters import blend, draw_direction, grow
from ussfc.training.synthesis.instances import SMALLEST, Scene, choose_some, cover, paste_into
from ussfc.training.synthesis.roofs import Roof, draw_paving
from ussfc.training.synthesis.settings import MARGIN, SynthesisSection
from ussfc.training.synthesis.store import TileStore
from ussfc.training.synthesis.tiles import MaskTiles
from ussfc.training.synthesis.views import Frame, Point, View, cut_view

MIRRORED = 1.25
"""Largest side of a crop's ground over the side of its tile; beyond the tile its mirror image is seen."""

COMMON = 0.05
"""Share of a crop up to which an instance is pasted as often as it is drawn; larger ones are rare."""

LARGEST = 1.25
"""Largest side of an instance with its surroundings over the side of a crop."""


class MaskBatches:
    """Batches of generated pairs; implements :class:`ussfc.training.crops.Batches`.

    Args:
        source: the tiles; each is read once at the start, so that broken files are named before training.
        sampling: side of a crop and number of crops in a batch; its other keys do not apply.
        synthesis: shares of the kinds of pairs, and amplitudes.
        seed: a batch depends on it and on the number of the step only.

    Raises:
        DataError: files cannot be read or do not fit their masks (all of them are named), or no mask has an instance.
    """

    def __init__(
        self,
        source: MaskTiles,
        sampling: SamplingSection,
        synthesis: SynthesisSection,
        seed: int,
    ) -> None:
        self._tiles = TileStore(source)
        self._sampling = sampling
        self._how = synthesis
        self._seed = seed
        self._side = sampling.crop_size + 2 * MARGIN

    @property
    def steps_per_epoch(self) -> None:
        """Generated pairs have no epochs."""
        return None

    def batch(self, step: int) -> Batch:
        """Generate the batch of a step.

        Args:
            step: number of the step, from 0.

        Returns:
            ``before`` and ``after`` (N, 3, size, size) float32 in [0, 1], on the 256 levels of 8-bit pictures;
            ``label`` (N, size, size), True where exactly one date has an instance; ``valid`` True everywhere.
        """
        rng = np.random.default_rng((self._seed, 2, step))
        pairs = [self._pair(rng) for _ in range(self._sampling.batch_size)]
        before, after, label = (np.stack(parts) for parts in zip(*pairs, strict=True))
        return Batch(before, after, label, np.ones(label.shape, bool))

    def _pair(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Generate before and after, (3, size, size), and the label, (size, size)."""
        scene = self._scene(rng)
        unchanged = scene.stands_earlier & scene.stands_later
        images = []
        for image in (scene.earlier, scene.later):
            seen = lean(image, unchanged, rng) if rng.random() < self._how.leaning else image
            if rng.random() < self._how.cast_shadows:
                seen = shade(seen, unchanged, Sun.draw(rng), unchanged)
            images.append(seen)
        size = self._sampling.crop_size
        # Changed instances stand in the later image; as only the earlier one moves, the label fits them exactly.
        away = self._how.shift * rng.random() * draw_direction(rng)
        earlier, later = cut_middle(images[0], away, size), cut_middle(images[1], np.zeros(2), size)
        label = (scene.stands_earlier ^ scene.stands_later)[MARGIN:-MARGIN, MARGIN:-MARGIN]
        before, after = (photograph(image, self._how, rng) for image in (earlier, later))
        if rng.random() < self._how.reverse:
            before, after = after, before
        return before, after, label

    def _scene(self, rng: np.random.Generator) -> Scene:
        how = self._how
        shares = np.cumsum([how.paste, how.remove, how.unrelated_tiles, how.unrelated_backgrounds])
        kind = int(np.searchsorted(shares, rng.random(), side="right"))
        makers = (self._paste, self._remove, self._two_tiles, self._two_backgrounds, self._unchanged)
        scene, resolution_m = makers[kind](rng)
        if rng.random() >= how.ground_changes:
            return scene
        stands = scene.stands_earlier | scene.stands_later
        for _ in range(int(rng.integers(1, 4))):
            image = scene.earlier if (early := rng.random() < 0.5) else scene.later
            if how.drawn and rng.random() < 0.4:
                paving, share = draw_paving(self._side, resolution_m, rng)
                image = blend(image, paving, share * ~grow(stands, 1))
            else:
                ground = self._ground(resolution_m, rng) if rng.random() < 0.6 else None
                image = change_ground(image, stands, ground, rng)
            scene = scene._replace(earlier=image) if early else scene._replace(later=image)
        return scene

    def _unchanged(self, rng: np.random.Generator) -> tuple[Scene, float]:
        tile = self._tiles.draw_tile(rng) if rng.random() < 0.7 else self._tiles.draw_background(rng)
        resolution_m = self._resolution(tile, rng)
        return self._with_roofs(*self._anywhere(tile, resolution_m, rng), resolution_m, rng), resolution_m

    def _two_backgrounds(self, rng: np.random.Generator) -> tuple[Scene, float]:
        return self._two((self._tiles.draw_background(rng), self._tiles.draw_background(rng)), rng)

    def _two_tiles(self, rng: np.random.Generator) -> tuple[Scene, float]:
        first = self._tiles.draw_background(rng) if rng.random() < 0.7 else self._tiles.draw_tile(rng)
        scene, resolution_m = self._two((first, self._tiles.draw_tile(rng)), rng)
        earlier = self._with_roofs(scene.earlier, scene.stands_earlier, resolution_m, rng)
        later = self._with_roofs(scene.later, scene.stands_later, resolution_m, rng)
        return Scene(earlier.earlier, later.later, earlier.stands_earlier, later.stands_later), resolution_m

    def _two(self, tiles: tuple[int, int], rng: np.random.Generator) -> tuple[Scene, float]:
        resolution_m = min(self._resolution(tile, rng) for tile in tiles)
        (earlier, stood), (later, stands) = (self._anywhere(tile, resolution_m, rng) for tile in tiles)
        return Scene(earlier, later, stood, stands), resolution_m

    def _paste(self, rng: np.random.Generator) -> tuple[Scene, float]:
        tile = self._tiles.draw_tile(rng) if rng.random() < 0.5 else self._tiles.draw_background(rng)
        resolution_m = self._resolution(tile, rng)
        scene = self._with_roofs(*self._anywhere(tile, resolution_m, rng), resolution_m, rng)
        sun = Sun.draw(rng)
        for _ in range(min(int(rng.geometric(0.5)), 8)):
            pieces = (self._piece(resolution_m, rng) for _ in range(4))
            if piece := next((piece for piece in pieces if piece is not None), None):
                scene = paste_into(scene, piece, sun, rng)
        return scene, resolution_m

    def _with_roofs(
        self, image: FloatArray, stands: BoolArray, resolution_m: float, rng: np.random.Generator
    ) -> Scene:
        """Return an unchanged scene, with drawn roofs in some."""
        scene = Scene(image, image, stands, stands)
        if self._how.drawn and rng.random() < self._how.drawn:
            sun = Sun.draw(rng)
            for _ in range(min(int(rng.geometric(0.5)), 4)):
                if (roof := self._roof(resolution_m, rng)) is not None:
                    scene = paste_into(scene, roof, sun, rng)
        return scene._replace(earlier=scene.later, stands_earlier=scene.stands_later)

    def _remove(self, rng: np.random.Generator) -> tuple[Scene, float]:
        instance = self._tiles.draw_instance(rng)
        resolution_m = self._resolution(instance.tile, rng)
        tile_m = self._tiles.resolution_m(instance.tile)
        off = rng.uniform(-0.35, 0.35, 2) * self._side * resolution_m / tile_m
        view = self._view(instance.tile, instance.centre + off, resolution_m, rng)
        image, stands = view.image, view.stands > 0.5
        gone = choose_some(stands, rng)
        if not gone.any():
            return Scene(image, image, stands, stands), resolution_m
        ground = self._ground(resolution_m, rng) if rng.random() < 0.8 else None
        covered = cover(image, gone, stands & ~gone, ground, rng)
        return Scene(covered, image, stands & ~gone, stands), resolution_m

    def _resolution(self, tile: int, rng: np.random.Generator) -> float:
        """Draw the ground size of a crop's pixel, metres; its logarithm is uniform."""
        enough = MIRRORED * self._tiles.shortest_side(tile) * self._tiles.resolution_m(tile) / self._side
        high = min(self._how.coarsest_m, enough)
        low = min(self._how.finest_m, high)
        return math.exp(rng.uniform(math.log(low), math.log(high)))

    def _anywhere(
        self, tile: int, resolution_m: float, rng: np.random.Generator
    ) -> tuple[FloatArray, BoolArray]:
        """Draw a view of a tile: its image, and True where instances stand."""
        half = self._side * resolution_m / self._tiles.resolution_m(tile) / 2
        sides = np.array(self._tiles.read(tile).numbers.shape)
        low = np.where(2 * half <= sides, half, 0.0)
        view = self._view(tile, rng.uniform(low, sides - low), resolution_m, rng)
        return view.image, view.stands > 0.5

    def _ground(self, resolution_m: float, rng: np.random.Generator) -> FloatArray | None:
        """Draw a view of a background; None where the source has no backgrounds."""
        if not self._tiles.has_backgrounds:
            return None
        return self._anywhere(self._tiles.draw_background(rng), resolution_m, rng)[0]

    def _view(self, tile: int, centre: Point, resolution_m: float, rng: np.random.Generator) -> View:
        step = resolution_m / self._tiles.resolution_m(tile)
        return cut_view(*self._tiles.read(tile), Frame.draw(centre, step, self._side, rng), None)

    def _piece(self, resolution_m: float, rng: np.random.Generator) -> View | None:
        """Draw an instance with its surroundings; None if it is too small or too large."""
        if self._how.drawn and rng.random() < self._how.drawn:
            return self._roof(resolution_m, rng)
        instance = self._tiles.draw_instance(rng)
        # Some are enlarged to the size of halls, which images of villages lack.
        larger = math.exp(rng.uniform(0.4, 1.2)) if rng.random() < 0.12 else math.exp(rng.uniform(-0.3, 0.3))
        step = resolution_m / self._tiles.resolution_m(instance.tile) / larger
        side = math.ceil(math.hypot(*instance.sides) / step) + 2 * int(rng.integers(4, 17))
        area = instance.area / step**2
        if side > LARGEST * self._side or not self._fits(area, 0.85, rng):
            return None
        frame = Frame.draw(instance.centre, step, side, rng)
        return cut_view(*self._tiles.read(instance.tile), frame, instance.number)

    def _roof(self, resolution_m: float, rng: np.random.Generator) -> View | None:
        """Draw a roof; None if it is too small or too large."""
        roof = Roof.choose(rng)
        if not self._fits(roof.length_m * roof.width_m / resolution_m**2, 0.6, rng):
            return None
        return roof.draw(resolution_m, int(LARGEST * self._side), rng)

    def _fits(self, area: float, refused: float, rng: np.random.Generator) -> bool:
        """Return True where an instance of an area, pixels of a crop, may be pasted; a share of large ones may not."""
        return area >= SMALLEST and (area <= COMMON * self._side**2 or rng.random() >= refused)


class GeneratedPairs:
    """Generated pairs as a validation set; implements :class:`ussfc.training.data.LabelledPairs`.

    Args:
        source: the tiles; all are read at once.
        crop_size: side of a pair, pixels.
        synthesis: shares of the kinds of pairs, and amplitudes.
        seed: a pair depends on it and on its number only.
        count: number of pairs.

    Raises:
        DataError: as of :class:`MaskBatches`.
    """

    def __init__(
        self, source: MaskTiles, crop_size: int, synthesis: SynthesisSection, seed: int, count: int
    ) -> None:
        self.source = source
        self._batches = MaskBatches(
            source, SamplingSection(crop_size=crop_size, batch_size=1), synthesis, seed
        )
        self._count = count

    @property
    def names(self) -> Sequence[str]:
        """Names: ``generated 0``, ``generated 1`` and so on."""
        return [f"generated {index}" for index in range(self._count)]

    def pair(self, index: int) -> LabelledPair:
        """Generate one pair, float32 in [0, 1]."""
        batch = self._batches.batch(index)
        return LabelledPair(self.names[index], batch.before[0], batch.after[0], batch.label[0])
