"""The Zarr group of a run: its metadata, coordinates and reference system, which follow from the run's key."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from odc.geo.geobox import GeoBox
from zarr.codecs import ZstdCodec
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.storage import layout, remote
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS

UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, KeyError, IndexError, MemoryError, NotImplementedError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""Errors of zarr and its codecs about bytes that are not theirs, depending on the damaged one."""


LATER = ("coordinates", "_CRS")
"""Attributes that groups of earlier versions lack, and are whole without."""


def zarr_store(folder: Folder) -> Any:
    """Return a folder as zarr takes it."""
    if folder.local is not None:
        return folder.local
    system, path = remote.filesystem(folder.address, asynchronous=True)
    remote.close_at_exit(system, sync(_running_loop()))
    return FsspecStore(system, path=path)


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def create_group(store: Any, grid: GeoBox, dtype: str, tile_size: int, run: str) -> None:
    """Create the group without a chunk of probabilities.

    Args:
        store: of :func:`zarr_store`.
        grid: the common grid.
        dtype: ``uint8`` or ``float32``.
        tile_size: side of a chunk, pixels.
        run: name of the run.
    """
    group = zarr.open_group(store, mode="w", zarr_format=3)
    rows, cols = grid.shape
    coded = dtype == "uint8"
    attributes: dict[str, Any] = {"long_name": "change probability", "units": "1", "ussfc_run": run}
    if coded:
        attributes |= {"scale_factor": 1 / PROBABILITY_STEPS, "add_offset": 0.0, "_FillValue": NODATA_BYTE}
    if grid.crs is not None:
        # The first is of CF, as GDAL 3.12 reads it; of the others xarray makes a coordinate, and older GDAL a CRS.
        attributes |= {"grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
        attributes["_CRS"] = {"wkt": grid.crs.to_wkt()}
    group.create_array(
        layout.PROBABILITY_ARRAY,
        shape=(rows, cols),
        chunks=(min(tile_size, rows), min(tile_size, cols)),
        dtype=dtype,
        fill_value=NODATA_BYTE if coded else np.nan,
        compressors=ZstdCodec(level=3),
        dimension_names=("y", "x"),
        attributes=attributes,
    )
    _write_coordinates(group, grid)


def _write_coordinates(group: Any, grid: GeoBox) -> None:
    """Write pixel centres and the CRS after the CF conventions (section 5.6), as rioxarray and GDAL read them."""
    affine = grid.affine
    rows, cols = grid.shape
    axes = {
        "y": affine.f + affine.e * (np.arange(rows) + 0.5),
        "x": affine.c + affine.a * (np.arange(cols) + 0.5),
    }
    geographic = grid.crs is not None and grid.crs.geographic
    names = {"y": "latitude", "x": "longitude"} if geographic else {
        "y": "projection_y_coordinate", "x": "projection_x_coordinate"
    }  # fmt: skip
    for name, values in axes.items():
        attributes = {"standard_name": names[name]} if grid.crs is not None else {}
        array = group.create_array(
            name, shape=values.shape, dtype="float64", dimension_names=(name,), attributes=attributes
        )
        array[:] = values
    if grid.crs is not None:
        wkt = grid.crs.to_wkt()
        transform = " ".join(repr(float(v)) for v in affine.to_gdal())
        reference = group.create_array("spatial_ref", shape=(), dtype="int64", dimension_names=())
        reference.attrs.update({"crs_wkt": wkt, "spatial_ref": wkt, "GeoTransform": transform})


def damaged_metadata(
    root: Folder, grid: GeoBox, dtype: str, tile_size: int, run: str, repair: bool = False
) -> list[str]:
    """Return the files of the group, beside the chunks of probabilities, that differ from those of the run's key.

    Args:
        root: the run's ``work`` folder.
        grid: the common grid.
        dtype: ``uint8`` or ``float32``.
        tile_size: side of a chunk, pixels.
        run: name of the run.
        repair: write them again.

    Returns:
        Names in the group.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    with tempfile.TemporaryDirectory(prefix="ussfc-group-") as made:
        create_group(Path(made), grid, dtype, tile_size, run)
        expected = Folder.of(made)
        group = root / layout.PROBABILITIES
        damaged = [name for name in sorted(expected.sizes()) if not _agrees(group, expected, name)]
        for name in damaged if repair else ():
            group.write(name, expected.read(name))
    return damaged


def _agrees(group: Folder, expected: Folder, name: str) -> bool:
    """Compare a file with what it should be; other libraries may write the same in other bytes."""
    try:
        found = group.read(name)
    except (FileNotFoundError, StoreError):
        return False
    like = expected.read(name)
    if found == like:
        return True
    try:
        if name.endswith(".json"):
            return bool(_with_later(json.loads(found), json.loads(like)) == json.loads(like))
        array = name.partition("/")[0]
        values, others = (
            np.asarray(zarr.open_array(zarr_store(place), path=array, mode="r")[...])
            for place in (group, expected)
        )
    except (OSError, *UNREADABLE):
        return False
    return bool(np.array_equal(values, others))


def _with_later(found: Any, like: Any) -> Any:
    """Return metadata with the attributes that an earlier version did not write."""
    if not isinstance(found, dict) or not isinstance(found.get("attributes"), dict):
        return found
    later = {name: value for name, value in like.get("attributes", {}).items() if name in LATER}
    return found | {"attributes": later | found["attributes"]}
