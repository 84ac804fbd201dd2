"""Probabilities on disk: a Zarr v3 group, one chunk per tile, and a record per finished tile.

The group opens in xarray and rioxarray as a georeferenced array. A tile counts as done when its record
exists, and the record is written after the chunk: chunks alone prove nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from zarr.codecs import ZstdCodec

from pipeline.errors import StoreError
from pipeline.storage import read_json, remove, write_json
from pipeline.types import NODATA_BYTE, PROBABILITY_STEPS, Box, StoredArray, TileResult

FORMAT_VERSION = 1
ARRAY = "probability"


class ProbabilityStore:
    """The store of one run; safe for one writer per tile, on any number of processes."""

    def __init__(self, root: Path) -> None:
        """Open what :meth:`create` made.

        Args:
            root: the run's ``work`` folder.

        Raises:
            StoreError: there is no store, or it is damaged.
        """
        self.root = root
        try:
            array = zarr.open_array(root / "probability.zarr" / ARRAY, mode="r+", zarr_format=3)
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise StoreError(
                f"{root}: holds no probabilities; run `ussfc infer` or `ussfc run` first"
            ) from error
        # Opened with the flag as an argument, zarr ignores it, and a chunk of nothing but nodata leaves no file.
        self._array: Any = array.with_config({"write_empty_chunks": True})

    @classmethod
    def create(cls, root: Path, grid: GeoBox, dtype: str, tile_size: int) -> ProbabilityStore:
        """A new store; an older one in the same place is removed.

        Args:
            root: the run's ``work`` folder.
            grid: the common grid.
            dtype: ``uint8`` or ``float32``, see :func:`pipeline.thresholding.encode`.
            tile_size: side of a chunk, pixels.
        """
        path = root / "probability.zarr"
        remove(path)
        remove(root / "done")
        (root / "done").mkdir(parents=True)
        group = zarr.open_group(path, mode="w", zarr_format=3)
        rows, cols = grid.shape
        coded = dtype == "uint8"
        attributes: dict[str, Any] = {"long_name": "change probability", "units": "1"}
        if coded:
            attributes |= {
                "scale_factor": 1 / PROBABILITY_STEPS,
                "add_offset": 0.0,
                "_FillValue": NODATA_BYTE,
            }
        if grid.crs is not None:
            attributes["grid_mapping"] = "spatial_ref"
        group.create_array(
            ARRAY,
            shape=(rows, cols),
            chunks=(min(tile_size, rows), min(tile_size, cols)),
            dtype=dtype,
            fill_value=NODATA_BYTE if coded else np.nan,
            compressors=ZstdCodec(level=3),
            dimension_names=("y", "x"),
            attributes=attributes,
        )
        _write_coordinates(group, grid)
        return cls(root)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the grid."""
        rows, cols = self._array.shape
        return int(rows), int(cols)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or float32."""
        dtype: np.dtype[Any] = np.dtype(self._array.dtype)
        return dtype

    def write(self, core: Box, stored: StoredArray, result: TileResult) -> None:
        """Write a tile's chunk, then its record.

        Args:
            core: the tile's core: a whole chunk.
            stored: ``core.shape``, in the store's dtype.
            result: what is recorded.

        Raises:
            StoreError: the folder cannot be written.
        """
        try:
            self._array[core.slices] = stored
        except OSError as error:
            raise StoreError(
                f"{self.root}: cannot be written ({error.strerror}); check space and permissions"
            ) from error
        write_json(
            self._record(result.index),
            {
                "index": result.index,
                "patches": result.patches,
                "valid_pixels": result.valid_pixels,
                "seconds": result.seconds,
            },
        )

    def done(self) -> dict[tuple[int, int], TileResult]:
        """Every finished tile; a record that cannot be read counts as not done."""
        found = {}
        for path in (self.root / "done").glob("*.json"):
            try:
                record = json.loads(path.read_text("utf-8"))
                result = TileResult(
                    (record["index"][0], record["index"][1]),
                    record["patches"],
                    record["valid_pixels"],
                    record["seconds"],
                )
            except (ValueError, LookupError, TypeError):
                continue
            found[result.index] = result
        return found

    def read(self, box: Box) -> StoredArray:
        """Probabilities of ``box`` as stored, (rows, cols)."""
        stored: StoredArray = np.asarray(self._array[box.slices])
        return stored

    def _record(self, index: tuple[int, int]) -> Path:
        return self.root / "done" / f"{index[0]}.{index[1]}.json"


def _write_coordinates(group: Any, grid: GeoBox) -> None:
    """Pixel centres and the CRS after the CF conventions (section 5.6), as rioxarray and GDAL read them."""
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


def grid_record(grid: GeoBox) -> dict[str, Any]:
    """The grid as JSON: WKT of the CRS (null without one), affine in GDAL's order, shape (rows, cols)."""
    return {
        "crs": grid.crs.to_wkt() if grid.crs is not None else None,
        "transform": [float(v) for v in grid.affine.to_gdal()],
        "shape": list(grid.shape),
    }


def grid_from_record(record: Mapping[str, Any]) -> GeoBox:
    """The inverse of :func:`grid_record`."""
    return GeoBox(tuple(record["shape"]), Affine.from_gdal(*record["transform"]), record["crs"])


def start_store(
    root: Path, key: Mapping[str, Any], grid: GeoBox, dtype: str, tile_size: int, overwrite: bool
) -> ProbabilityStore:
    """The store of a run: the one that is there if its key agrees, else a new one.

    Args:
        root: the run's ``work`` folder.
        key: everything that decides a stored byte, by name.
        grid: the common grid.
        dtype: of the store.
        tile_size: side of a chunk, pixels.
        overwrite: start anew whatever is there.

    Raises:
        StoreError: another run's store; the message says in which parts the keys differ.
    """
    wanted = json.loads(json.dumps({**key, "format": FORMAT_VERSION}))
    record = root / "run_key.json"
    if record.exists() and not overwrite:
        found = read_json(record)
        differing = sorted(
            name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
        )
        if differing:
            raise StoreError(
                f"{root.parent}: holds another run, different in {', '.join(differing)}; choose another --out, or "
                "replace it with --overwrite"
            )
        return ProbabilityStore(root)
    remove(record)
    root.mkdir(parents=True, exist_ok=True)
    store = ProbabilityStore.create(root, grid, dtype, tile_size)
    # Last: a store without its key was never finished being made, and is made again.
    write_json(record, wanted)
    return store
