"""The packaged pair as a model's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio

import ussfc
from tests.support.paths import DEMO
from tests.support.scenes import write_bare_weights
from ussfc.pipeline.benchmark.demo_scene import demo_patches, write_pair
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.pixels.radiometry import pair
from ussfc.pipeline.runs.pair import inspect_pair, scene_mappings
from ussfc.pipeline.types import Box


def test_pair_is_the_demo_mirrored(tmp_path: Path) -> None:
    paths = write_pair(ussfc.find_model("ussfc-s2-rgb"), tmp_path, 1600)
    for path, date in zip(paths, ("before", "after"), strict=True):
        with rasterio.open(path) as written, rasterio.open(DEMO / f"beirut_{date}.tif") as demo:
            assert (written.crs, written.transform, written.descriptions) == (
                demo.crs,
                demo.transform,
                demo.descriptions,
            )
            assert written.block_shapes[0] == (512, 512)
            assert written.compression.name == "deflate"
            values, source = written.read(), demo.read()
        padding = ((0, 0), (0, 1600 - 768), (0, 1600 - 768))
        np.testing.assert_array_equal(values, np.pad(source, padding, "symmetric"))


def test_pair_has_the_range_of_its_model(tmp_path: Path) -> None:
    with rasterio.open(
        write_pair(ussfc.find_model(str(write_bare_weights(tmp_path))), tmp_path, 256)[0]
    ) as written:
        values = written.read()
    assert values.dtype == np.uint8
    assert 20 < np.median(values) < 235
    with rasterio.open(write_pair(ussfc.find_model("ussfc-s2-rgbn"), tmp_path, 256)[0]) as written:
        assert written.descriptions == ("B04", "B03", "B02", "B08")


def test_patches_are_the_networks_own_input() -> None:
    spec = ussfc.find_model("ussfc-s2-rgb")
    found = inspect_pair(*(str(DEMO / f"beirut_{date}.tif") for date in ("before", "after")), load_config())
    readers = [recipe.open() for recipe in found.recipes]
    images = pair(*(reader.read(Box(0, 0, 256, 256)) for reader in readers), scene_mappings(found))
    before, after = demo_patches(spec, 256)
    assert len(before) == 9
    np.testing.assert_allclose(before[0], images.before, atol=1e-6)
    np.testing.assert_allclose(after[0], images.after, atol=1e-6)
