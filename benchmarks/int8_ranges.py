"""Ranges of the packaged models for `--precision int8`, written beside their weights.

    python benchmarks/int8_ranges.py [MODEL ...] [--data DIR [--scenes a,b,c]] [--masks DIR]

The network runs in float32 over patches of the packaged pair, for models of its bands, of the scenes in --data
(NAME_before.tif, NAME_after.tif, NAME_label.tif; labels are not used), and over pairs generated from --masks, as the
recipe vhr trains on them. Printed: the share of these pixels that change their class at the card's threshold, and the
largest deviation of a probability. To run again for new weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ussfc
from ussfc.engines.int8_graph import measure_activations, round_convolutions
from ussfc.engines.openvino_engine import OpenVINOEngine
from ussfc.engines.openvino_graph import network_graph
from ussfc.int8_ranges import Int8Ranges, ranges_path
from ussfc.pipeline.benchmark.demo_scene import demo_patches
from ussfc.pipeline.evaluation.labelled_scenes import ScenePairs, find_scenes
from ussfc.pipeline.types import FloatArray
from ussfc.training.recipe import InputSpec, load_recipe
from ussfc.training.synthesis.batches import MaskBatches
from ussfc.training.synthesis.tiles import open_masks
from ussfc.weights import load_weights

DEMO_BANDS = {"B04", "B03", "B02"}

PATCHES = 6
"""Patches of a scene, evenly spread."""

GENERATED = 96
"""Pairs generated from masks."""

Pair = tuple[FloatArray, FloatArray]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=ussfc.list_models())
    parser.add_argument("--data", type=Path)
    parser.add_argument("--scenes")
    parser.add_argument("--masks", type=Path)
    args = parser.parse_args()
    for name in args.models:
        model = ussfc.find_model(name)
        size = model.tiling.patch_size or model.patch_size
        pairs: list[Pair] = []
        images = []
        if {band.name for band in model.bands} <= DEMO_BANDS:
            pairs += [
                (before[None], after[None]) for before, after in zip(*demo_patches(model, size), strict=True)
            ]
            images.append("the demo pair")
        if args.data is not None:
            scenes = find_scenes(args.data, args.scenes and args.scenes.split(","))
            inputs = InputSpec(
                bands=model.bands, resolution_m=model.resolution_m, radiometry=model.radiometry
            )
            labelled = ScenePairs(scenes, inputs)
            for number, scene in enumerate(scenes):
                pair = labelled.pair(number)
                pairs += patches(np.asarray(pair.before), np.asarray(pair.after), size)
                images.append(scene.name)
        if args.masks is not None:
            if model.radiometry != load_recipe("vhr").input_spec.radiometry:
                parser.error(f"{name}: --masks is for models of bytes; name those")
            pairs += generated(args.masks, size)
            images.append(f"{GENERATED} generated pairs")
        if not pairs:
            parser.error(f"{name}: the demo pair lacks its bands; give scenes with --data, or --masks")
        measure(model, size, pairs, ", ".join(images))


def patches(before: FloatArray, after: FloatArray, size: int) -> Iterator[Pair]:
    _, rows, cols = before.shape
    corners = [(y, x) for y in range(0, rows - size + 1, size) for x in range(0, cols - size + 1, size)]
    for at in np.unique(np.linspace(0, len(corners) - 1, min(PATCHES, len(corners))).round().astype(int)):
        y, x = corners[at]
        cut = [np.ascontiguousarray(image[None, :, y : y + size, x : x + size]) for image in (before, after)]
        yield cut[0], cut[1]


def generated(folder: Path, size: int) -> Iterator[Pair]:
    recipe = load_recipe("vhr")
    sampling = recipe.sampling.model_copy(update={"crop_size": size, "batch_size": 1})
    batches = MaskBatches(open_masks(folder), sampling, recipe.synthesis, recipe.seed)
    for step in range(GENERATED):
        batch = batches.batch(step)
        yield batch.before, batch.after


def measure(model: ussfc.ModelSpec, size: int, pairs: list[Pair], images: str) -> None:
    network = load_weights(model.weights_path(), sha256=model.weights.sha256)
    graph = network_graph(network, (1, len(model.bands), size, size))
    measured = [(channels, float(f"{high:.5g}")) for channels, high in measure_activations(graph, pairs)]
    ranges = Int8Ranges(weights_sha256=model.weights.sha256, images=images, activations=tuple(measured))
    lines = [
        f'  "{key}": {json.dumps(value)},'
        for key, value in ranges.model_dump(exclude={"activations"}).items()
    ]
    numbers = ",\n".join(f"    [{channels}, {high!r}]" for channels, high in ranges.activations)
    path = ranges_path(model.weights_path())
    path.write_text("\n".join(["{", *lines, '  "activations": [', numbers, "  ]", "}", ""]))
    plain = OpenVINOEngine(graph)
    round_convolutions(graph, ranges.activations)
    rounded = OpenVINOEngine(graph, "int8")
    expected, found = (np.concatenate([engine.run(*pair) for pair in pairs]) for engine in (plain, rounded))
    flipped = ((expected >= model.threshold) != (found >= model.threshold)).mean()
    print(
        f"{path.name}: {len(pairs)} patches of {size} px ({images}); {flipped:.3%} of the pixels change their class at "
        f"{model.threshold:g}, largest deviation {np.abs(expected - found).max():.3f}"
    )


if __name__ == "__main__":
    main()
