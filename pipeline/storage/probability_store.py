"""Probabilities of a run: a Zarr v3 group, one chunk per tile, and a record per finished tile.

The group opens in xarray and rioxarray as a georeferenced array. A tile counts as done when its record exists, see
:mod:`ussfc.pipeline.storage.tile_records`. A read gives the pixels that were written, or an error, never a guess.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from odc.geo.geobox import GeoBox

from ussfc.pipeline.errors import DamagedTiles, StoreError
from ussfc.pipeline.parallel.ordered_map import in_order
from ussfc.pipeline.storage import layout, remote
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.run_name import STARTING, run_name
from ussfc.pipeline.storage.store_metadata import UNREADABLE, create_group, damaged_metadata, zarr_store
from ussfc.pipeline.storage.tile_records import TileLedger, TileRecord, checksum
from ussfc.pipeline.types import Box, Index, StoredArray, TileResult

SETTINGS = {"alteration": "alteration (inference.alteration: IR-MAD beside the network)"}
"""Parts of a run's key whose setting does not go without saying, as messages name them."""

FORMAT_VERSION = 2
"""Version of the group and its records, a part of the run's key."""

CHUNKS_AT_ONCE = 4
"""Chunks of one read that are fetched and decoded at the same time."""


class ProbabilityStore:
    """The store of one run; safe for one writer per tile, on any number of processes."""

    def __init__(self, root: Folder | Path | str) -> None:
        """Open a store that :meth:`create` made.

        Args:
            root: the run's ``work`` folder.

        Raises:
            StoreError: there is no store, it is damaged, or it cannot be reached.
        """
        self.root = Folder.of(root)

        def open_array() -> Any:
            group = zarr_store(self.root / layout.PROBABILITIES)
            return zarr.open_array(group, path=layout.PROBABILITY_ARRAY, mode="r+", zarr_format=3)

        try:
            array = self.root.retry_request(open_array)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.root}: holds no probabilities; run `ussfc infer` or `ussfc run` first"
            ) from error
        except remote.store_exceptions() as error:
            raise self.root.store_error(layout.PROBABILITIES, "opened", error) from error
        except UNREADABLE as error:
            raise StoreError(
                f"{self.root / layout.PROBABILITIES}: its metadata are damaged ({type(error).__name__}); `ussfc run` "
                "writes them again"
            ) from error
        run = array.attrs.get("ussfc_run")
        if run is None:
            raise StoreError(f"{self.root}: was written by an older version; overwrite it to start over")
        # Opened with the flag as an argument, zarr ignores it, and a chunk of nothing but nodata leaves no file.
        self._array: Any = array.with_config({"write_empty_chunks": True})
        self.run: str = run
        """Name of the run."""
        self._ledger = TileLedger(self.root, run)
        self._records: dict[Index, TileRecord] | None = None

    @classmethod
    def create(
        cls, root: Folder | Path | str, grid: GeoBox, dtype: str, tile_size: int, run: str = "0"
    ) -> ProbabilityStore:
        """Create a store; an older one in the same place is removed.

        Args:
            root: the run's ``work`` folder.
            grid: the common grid.
            dtype: ``uint8`` or ``float32``, see :func:`ussfc.pipeline.pixels.encoding.encode`.
            tile_size: side of a chunk, pixels.
            run: name of the run; records of another one, by a worker that outlived it, do not count.

        Raises:
            StoreError: the folder cannot be written.
        """
        root = Folder.of(root)
        root.remove(layout.PROBABILITIES)
        root.remove(layout.DONE)
        group = root / layout.PROBABILITIES
        try:
            root.retry_request(lambda: create_group(zarr_store(group), grid, dtype, tile_size, run))
        except remote.store_exceptions() as error:
            raise root.store_error(layout.PROBABILITIES, "written", error) from error
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

    def write(self, core: Box, stored: StoredArray, result: TileResult) -> int:
        """Write a tile's chunk, then its record; return the checksum of its pixels.

        Args:
            core: the tile's core: a whole chunk.
            stored: ``core.shape``, in the store's dtype.
            result: facts for the record.

        Raises:
            StoreError: the folder cannot be written.
        """

        def write_chunk() -> None:
            self._array[core.slices] = stored

        try:
            self.root.retry_request(write_chunk)
        except remote.store_exceptions() as error:
            raise self.root.store_error(layout.PROBABILITIES, "written", error) from error
        # Asked of the store, not of the codec: a chunk that is not there has no size.
        state = self.root.state(layout.chunk(result.index))
        if state is None:
            row, col = result.index
            raise StoreError(
                f"{self.root / layout.PROBABILITIES}: chunk {row}/{col} was written and is not there; check the store"
            )
        record = TileRecord(result, state.size, checksum(stored), state.mark)
        self._ledger.add(record)
        if self._records is not None:
            self._records[result.index] = record
        return record.checksum

    def records(self) -> dict[Index, TileRecord]:
        """Return the record of every finished tile: its chunk has the recorded size.

        Raises:
            StoreError: the folder cannot be listed.
        """
        return self._ledger.records()

    def done(self) -> dict[Index, TileResult]:
        """Return the results in :meth:`records`."""
        return {index: record.result for index, record in self.records().items()}

    def known(self) -> dict[Index, TileRecord]:
        """Return :meth:`records` as this object first saw them: all that it reads goes by these.

        Raises:
            StoreError: the folder cannot be listed.
        """
        if self._records is None:
            self._records = self.records()
        return self._records

    def learn(self, checksums: Mapping[Index, int]) -> None:
        """Note finished tiles instead of listing them, each with the checksum of its pixels."""
        if self._records is None:
            self._records = {}
        for index, number in checksums.items():
            self._records[index] = TileRecord(TileResult(index, 0, 0), 0, number)

    def sweep(self) -> None:
        """Remove the files that killed writers left beside the chunks.

        Raises:
            StoreError: a file cannot be removed.
        """
        if self.root.local is None:
            return  # an object is there whole or not at all, and a listing of all chunks takes its time
        for name in self.root.sizes(layout.CHUNKS):
            if not re.fullmatch(r"\d+/\d+", name):
                self.root.remove(f"{layout.CHUNKS}/{name}")

    def content(self) -> str:
        """Return a digest of the stored pixels, tile by tile: products of the same digest need not be made twice."""
        facts = sorted((index, record.checksum) for index, record in self.known().items())
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def origin(self, box: Box) -> npt.NDArray[np.int64]:
        """Return (tiles, 3) row, column and checksum of each known tile with a pixel in ``box``."""
        known = self.known()
        facts = [(*index, known[index].checksum) for index in self._touching(box) if index in known]
        return np.array(facts, np.int64).reshape(-1, 3)

    def read(self, box: Box) -> StoredArray:
        """Return the probabilities of ``box`` as stored, (rows, cols); nodata where a tile is not done.

        Raises:
            DamagedTiles: a chunk does not hold the pixels that were recorded.
            StoreError: the store cannot be read.
        """
        known = self.known()
        touched = [index for index in self._touching(box) if index in known]
        if len(touched) == 1 and self.core(touched[0]) == box:
            return self._chunk(known[touched[0]], box)
        stored: StoredArray = np.full(box.shape, self._array.fill_value, self.dtype)

        def place(index: Index) -> None:
            core = self.core(index)
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

    def damaged(self, trust_marks: bool = False) -> list[Index]:
        """Return the finished tiles whose chunks do not hold the pixels that were recorded.

        Args:
            trust_marks: chunks to which an object store gives the mark that they were written with are not read; on a
                disk all are.

        Raises:
            StoreError: the store cannot be read.
        """
        records = self.known().values()

        def is_damaged(record: TileRecord) -> bool:
            try:
                self._chunk(record, self.core(record.result.index))
            except DamagedTiles:
                return True
            return False

        answers = in_order(
            is_damaged,
            self._ledger.unmarked(records) if trust_marks else records,
            CHUNKS_AT_ONCE,
            "ussfc-store",
        )
        return [record.result.index for record, damaged in answers if damaged]

    def forget(self, indices: Iterable[Index]) -> None:
        """Remove the records of tiles, so that they are computed again.

        Raises:
            StoreError: a record cannot be removed.
        """
        self._ledger.remove(indices)
        self._records = None

    def _touching(self, box: Box) -> Iterator[Index]:
        """Return the indices of the tiles with a pixel in a box, row by row."""
        rows, cols = self._array.chunks
        return itertools.product(
            range(box.y0 // rows, -(-box.y1 // rows)), range(box.x0 // cols, -(-box.x1 // cols))
        )

    def core(self, index: Index) -> Box:
        """Return the pixels of a tile."""
        rows, cols = self._array.chunks
        y, x = index[0] * rows, index[1] * cols
        return Box(y, x, min(y + rows, self.shape[0]), min(x + cols, self.shape[1]))

    def _chunk(self, record: TileRecord, core: Box) -> StoredArray:
        """Return the pixels of one chunk, whole, compared with their record."""
        row, col = index = record.result.index
        try:
            # As a block: zarr decodes it into place instead of copying it there.
            pixels: StoredArray = np.asarray(
                self.root.retry_request(lambda: self._array.get_block_selection((row, col)))
            )
        except remote.store_exceptions() as error:
            raise self.root.store_error(layout.chunk(index), "read", error) from error
        except UNREADABLE:
            pixels = np.zeros(0, self.dtype)
        if checksum(pixels) != record.checksum:
            raise DamagedTiles(
                f"{self.root / layout.PROBABILITIES}: chunk {row}/{col} (rows {core.y0}..{core.y1}, columns "
                f"{core.x0}..{core.x1}) is not what was written; `ussfc run` computes it again",
                (index,),
            )
        return pixels


def _named(name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return a part in which two keys differ, in words."""
    both = [dict(key[name]) for key in (found, expected) if isinstance(key.get(name), dict)]
    versions = {part.pop("version", None) for part in both}
    if len(both) == 2 and len(versions) == 2 and both[0] == both[1]:
        return f"{name} (found by another version of ussfc)"
    return SETTINGS.get(name, name)


def start_store(
    root: Folder | Path | str,
    key: Mapping[str, Any],
    grid: GeoBox,
    dtype: str,
    tile_size: int,
    overwrite: bool,
) -> ProbabilityStore:
    """Open the store of a run if its key agrees, else create one.

    Args:
        root: the run's ``work`` folder.
        key: everything that decides a stored byte, by name.
        grid: the common grid.
        dtype: of the store.
        tile_size: side of a chunk, pixels.
        overwrite: create one whatever is there.

    Raises:
        StoreError: another run's store; the message names the parts in which the keys differ.
    """
    root = Folder.of(root)
    expected = json.loads(json.dumps(key))
    found = None if overwrite else root.find_json(layout.RUN_KEY)
    if found is not None and found != STARTING:
        differing = sorted(
            name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
        )
        if differing:
            raise StoreError(
                f"{str(root).removesuffix(f'/{layout.WORK}')}: holds another run, which differs in "
                f"{', '.join(_named(name, found, expected) for name in differing)}; choose another output folder, or "
                "overwrite it"
            )
        # They decide what a chunk is, and have no checksum of their own.
        damaged_metadata(root, grid, dtype, tile_size, run_name(expected), repair=True)
        return ProbabilityStore(root)
    # First, so that the folder is known as ours whenever we are stopped.
    root.write_record(layout.RUN_KEY, STARTING)
    # Clouds lie there under names that follow from the scenes.
    for name in {name.partition("/")[0] for name in root.sizes()} - {layout.RUN_KEY, layout.CLOUDS}:
        root.remove(name)
    store = ProbabilityStore.create(root, grid, dtype, tile_size, run_name(expected))
    # Last: a store without its key was not finished, and is created again.
    root.write_record(layout.RUN_KEY, expected)
    return store
