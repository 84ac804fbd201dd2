"""Probabilities of a run: a Zarr v3 group, one chunk per tile, and a record per finished tile.

The group opens in xarray and rioxarray as a georeferenced array. A tile counts as done when its record
exists, and the record is written after the chunk: chunks alone prove nothing. A record is an empty file whose name
says everything, so that one listing tells what is done, a record cannot be torn, and two writers cannot collide.
Among the facts is a checksum of the pixels: what is read is what was written, or an error, never a guess.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from affine import Affine
from odc.geo.geobox import GeoBox
from zarr.codecs import ZstdCodec
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from ussfc.pipeline.errors import DamagedTiles, StoreError
from ussfc.pipeline.storage import remote
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.types import NODATA_BYTE, PROBABILITY_STEPS, Box, StoredArray, TileResult

FORMAT_VERSION = 2
GROUP = "probability.zarr"
ARRAY = "probability"
KEY = "run_key.json"

STARTING = {"starting": True}
"""The key of a store in the making."""

CHUNKS_AT_ONCE = 4
"""Chunks of one read that are fetched and decoded at the same time."""

RECORD = re.compile(r"(\d+)\.(\d+)\.p(\d+)\.v(\d+)\.b(\d+)\.([0-9a-f]{8})((?:\.[a-z]+\d+)*)")
"""row.column, patches, valid pixels, bytes of the chunk, CRC-32 of its pixels, milliseconds by step."""

Index = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TileRecord:
    """What is known of a finished tile."""

    result: TileResult
    size: int
    """Bytes of the chunk as stored."""
    checksum: int
    """CRC-32 of the pixels, row by row, before compression."""

    @property
    def name(self) -> str:
        """The record as a file name."""
        result = self.result
        steps = "".join(f".{step}{round(1000 * seconds)}" for step, seconds in sorted(result.seconds.items()))
        return (
            f"{result.index[0]}.{result.index[1]}.p{result.patches}.v{result.valid_pixels}.b{self.size}"
            f".{self.checksum:08x}{steps}"
        )

    @classmethod
    def of(cls, name: str) -> TileRecord | None:
        """The inverse of :attr:`name`; None for a file that is no record."""
        found = RECORD.fullmatch(name)
        if found is None:
            return None
        row, col, patches, valid, size = (int(text) for text in found.groups()[:5])
        seconds = {step: int(text) / 1000 for step, text in re.findall(r"\.([a-z]+)(\d+)", found[7])}
        return cls(TileResult((row, col), patches, valid, seconds), size, int(found[6], 16))


class ProbabilityStore:
    """The store of one run; safe for one writer per tile, on any number of processes."""

    def __init__(self, root: Folder | Path | str) -> None:
        """Open what :meth:`create` made.

        Args:
            root: the run's ``work`` folder.

        Raises:
            StoreError: there is no store, it is damaged, or it cannot be reached.
        """
        self.root = Folder.of(root)

        def opened() -> Any:
            return zarr.open_array(_zarr_store(self.root / GROUP), path=ARRAY, mode="r+", zarr_format=3)

        try:
            array = self.root.retry_request(opened)
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise StoreError(
                f"{self.root}: holds no probabilities; run `ussfc infer` or `ussfc run` first"
            ) from error
        except remote.store_exceptions() as error:
            raise self.root.trouble(GROUP, "opened", error) from error
        run = array.attrs.get("ussfc_run")
        if run is None:
            raise StoreError(f"{self.root}: was written by an older version; start anew with --overwrite")
        # Opened with the flag as an argument, zarr ignores it, and a chunk of nothing but nodata leaves no file.
        self._array: Any = array.with_config({"write_empty_chunks": True})
        self._done = f"done/{run}"
        self._records: dict[Index, TileRecord] | None = None

    @classmethod
    def create(
        cls, root: Folder | Path | str, grid: GeoBox, dtype: str, tile_size: int, run: str = "0"
    ) -> ProbabilityStore:
        """A new store; an older one in the same place is removed.

        Args:
            root: the run's ``work`` folder.
            grid: the common grid.
            dtype: ``uint8`` or ``float32``, see :func:`ussfc.pipeline.pixels.encoding.encode`.
            tile_size: side of a chunk, pixels.
            run: names the run; records of another one, by a worker that outlived it, say nothing here.

        Raises:
            StoreError: the folder cannot be written.
        """
        root = Folder.of(root)
        root.remove(GROUP)
        root.remove("done")
        try:
            root.retry_request(lambda: _create_group(_zarr_store(root / GROUP), grid, dtype, tile_size, run))
        except remote.store_exceptions() as error:
            raise root.trouble(GROUP, "written", error) from error
        return cls(root)

    @property
    def chunk(self) -> int:
        """Side of the chunks, pixels."""
        return int(max(self._array.chunks))

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
        row, col = result.index

        def put() -> None:
            self._array[core.slices] = stored

        try:
            self.root.retry_request(put)
        except remote.store_exceptions() as error:
            raise self.root.trouble(GROUP, "written", error) from error
        # Asked of the store, not of the codec: a chunk that is not there has no size.
        size = self.root.size(f"{GROUP}/{ARRAY}/c/{row}/{col}")
        if size is None:
            raise StoreError(
                f"{self.root / GROUP}: chunk {row}/{col} was written and is not there; check the store"
            )
        record = TileRecord(result, size, _checksum(stored))
        self.root.touch(f"{self._done}/{record.name}")
        if self._records is not None:
            self._records[result.index] = record

    def records(self) -> dict[Index, TileRecord]:
        """Every finished tile, as far as a listing tells: recorded, and its chunk has the recorded size.

        Raises:
            StoreError: the folder cannot be listed.
        """
        chunks = self.root.sizes(f"{GROUP}/{ARRAY}/c")
        found = {}
        for name in self.root.sizes(self._done):
            record = TileRecord.of(name)
            if record is not None:
                row, col = record.result.index
                if chunks.get(f"{row}/{col}") == record.size:
                    found[record.result.index] = record
        return found

    def done(self) -> dict[Index, TileResult]:
        """What :meth:`records` finds, without what only the store needs."""
        return {index: record.result for index, record in self.records().items()}

    def known(self) -> dict[Index, TileRecord]:
        """:meth:`records` as this object first saw them: all that it reads and names goes by these.

        Raises:
            StoreError: the folder cannot be listed.
        """
        if self._records is None:
            self._records = self.records()
        return self._records

    def sweep(self) -> None:
        """Remove what writers that were killed left beside the chunks.

        Raises:
            StoreError: a file cannot be removed.
        """
        if self.root.local is None:
            return  # an object is there whole or not at all, and a listing of all chunks takes its time
        for name in self.root.sizes(f"{GROUP}/{ARRAY}/c"):
            if not re.fullmatch(r"\d+/\d+", name):
                self.root.remove(f"{GROUP}/{ARRAY}/c/{name}")

    def content(self) -> str:
        """Names the stored pixels, tile by tile: what is made of them need not be made twice."""
        facts = sorted((index, record.checksum) for index, record in self.known().items())
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def read(self, box: Box) -> StoredArray:
        """Probabilities of ``box`` as stored, (rows, cols); nodata where a tile is not done.

        Raises:
            DamagedTiles: a chunk does not hold what was recorded of it.
            StoreError: the store cannot be read.
        """
        known = self.known()
        rows, cols = self._array.chunks
        touched = [
            index
            for index in itertools.product(
                range(box.y0 // rows, -(-box.y1 // rows)), range(box.x0 // cols, -(-box.x1 // cols))
            )
            if index in known
        ]
        if len(touched) == 1 and self._core(touched[0]) == box:
            return self._chunk(known[touched[0]], box)
        stored: StoredArray = np.full(box.shape, self._array.fill_value, self.dtype)

        def place(index: Index) -> None:
            core = self._core(index)
            common = core.intersect(box)
            pixels = self._chunk(known[index], core)
            stored[common.within(box).slices] = pixels[common.within(core).slices]

        if len(touched) > 1:
            with ThreadPoolExecutor(min(len(touched), CHUNKS_AT_ONCE), "ussfc-store") as pool:
                for _ in pool.map(place, touched):
                    pass
        elif touched:
            place(touched[0])
        return stored

    def damaged(self) -> list[Index]:
        """The finished tiles whose chunks do not hold what was recorded of them; reads everything.

        Raises:
            StoreError: the store cannot be read.
        """
        found = []
        for index, record in self.known().items():
            try:
                self._chunk(record, self._core(index))
            except DamagedTiles:
                found.append(index)
        return found

    def forget(self, indices: Iterable[Index]) -> None:
        """Take the records of tiles away, so that they are computed again.

        Raises:
            StoreError: a record cannot be removed.
        """
        wanted = set(indices)
        for name in self.root.sizes(self._done):
            record = TileRecord.of(name)
            if record is not None and record.result.index in wanted:
                self.root.remove(f"{self._done}/{name}")
        self._records = None

    def _core(self, index: Index) -> Box:
        rows, cols = self._array.chunks
        y, x = index[0] * rows, index[1] * cols
        return Box(y, x, min(y + rows, self.shape[0]), min(x + cols, self.shape[1]))

    def _chunk(self, record: TileRecord, core: Box) -> StoredArray:
        """The pixels of one chunk, whole, compared with their record."""
        row, col = record.result.index
        try:
            # As a block: zarr decodes it into place instead of copying it there.
            pixels: StoredArray = np.asarray(
                self.root.retry_request(lambda: self._array.get_block_selection((row, col)))
            )
        except remote.store_exceptions() as error:
            raise self.root.trouble(f"{GROUP}/{ARRAY}/c/{row}/{col}", "read", error) from error
        except (RuntimeError, ValueError):
            # How the codecs tell of bytes that are not theirs.
            pixels = np.zeros(0, self.dtype)
        if _checksum(pixels) != record.checksum:
            raise DamagedTiles(
                f"{self.root / GROUP}: chunk {row}/{col} (rows {core.y0}..{core.y1}, columns "
                f"{core.x0}..{core.x1}) is not what was written; `ussfc run` computes it again",
                (record.result.index,),
            )
        return pixels


def _checksum(pixels: StoredArray) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def _zarr_store(folder: Folder) -> Any:
    if folder.local is not None:
        return folder.local
    system, path = remote.filesystem(folder.address, asynchronous=True)
    remote.close_at_exit(system, sync(_running_loop()))
    return FsspecStore(system, path=path)


async def _running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def _create_group(store: Any, grid: GeoBox, dtype: str, tile_size: int, run: str) -> None:
    group = zarr.open_group(store, mode="w", zarr_format=3)
    rows, cols = grid.shape
    coded = dtype == "uint8"
    attributes: dict[str, Any] = {"long_name": "change probability", "units": "1", "ussfc_run": run}
    if coded:
        attributes |= {"scale_factor": 1 / PROBABILITY_STEPS, "add_offset": 0.0, "_FillValue": NODATA_BYTE}
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


def run_name(key: Mapping[str, Any]) -> str:
    """The name of a run: 16 hexadecimal digits of the SHA-256 of its key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def start_store(
    root: Folder | Path | str,
    key: Mapping[str, Any],
    grid: GeoBox,
    dtype: str,
    tile_size: int,
    overwrite: bool,
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
    root = Folder.of(root)
    wanted = json.loads(json.dumps(key))
    found = None if overwrite else root.find_json(KEY)
    if found is not None and found != STARTING:
        differing = sorted(
            name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
        )
        if differing:
            raise StoreError(
                f"{str(root).removesuffix('/work')}: holds another run, different in {', '.join(differing)}; "
                "choose another --out, or replace it with --overwrite"
            )
        return ProbabilityStore(root)
    # First, so that the folder is known as ours whenever we are stopped.
    root.write_json(KEY, STARTING)
    for name in {name.partition("/")[0] for name in root.sizes()} - {KEY}:
        root.remove(name)
    store = ProbabilityStore.create(root, grid, dtype, tile_size, run_name(wanted))
    # Last: a store without its key was never finished being made, and is made again.
    root.write_json(KEY, wanted)
    return store
