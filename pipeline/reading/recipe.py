"""Scenes as they are passed to workers: small and picklable, never an open handle."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from odc.geo.geobox import GeoBox

from ussfc.addresses import shown_address
from ussfc.local_files import UNDECODABLE, undecodable
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.bands import with_possible_scales
from ussfc.pipeline.reading.identity import VRT_TEXT, combined_identity, is_array, is_zarr, scene_identity
from ussfc.pipeline.reading.mosaic import MosaicReader, merged, placed
from ussfc.pipeline.reading.raster import RasterReader, describe_raster
from ussfc.pipeline.reading.sources.bands import BandSet
from ussfc.pipeline.reading.sources.resolve import resolve_source
from ussfc.pipeline.reading.sources.stacks import shifted_notes, stack
from ussfc.pipeline.reading.sources.trees import folder_remedy
from ussfc.pipeline.reading.vrt import check_sources
from ussfc.pipeline.storage import remote
from ussfc.pipeline.tiling.memory import GDAL_CACHE
from ussfc.pipeline.types import SceneInfo, ScenePart, SceneReader
from ussfc.pipeline.waiting import waiting_for

JPEG2000 = re.compile(r"\.(?:jp2|j2k|jpx)(?![a-z0-9])", re.IGNORECASE)
"""End of the name of a JPEG 2000 file, in the text of a VRT as well."""


def describe_scene(uri: str, vrt_sources: str = "near") -> SceneInfo:
    """Read the header of a raster that GDAL reads, or of a Zarr or NetCDF that xarray reads; no pixel is read.

    Args:
        uri: local path, or a URI (http, https, s3, gs, az).
        vrt_sources: files that a VRT may name: ``near`` it, or ``any``, those on a network included.

    Raises:
        ReadError: the scene does not exist, cannot be reached, is no image, or a VRT that leads elsewhere.
    """
    if (odd := undecodable(uri)) is not None:
        raise ReadError(f"{odd}: {UNDECODABLE}")
    shown = shown_address(uri)
    with waiting_for(remote.host_of(uri)):
        found = resolve_source(uri, vrt_sources == "any")
    if found is not None:
        return _describe_parts(found, shown, vrt_sources == "any")
    if (
        not remote.is_remote(uri)
        and not uri.startswith("/vsi")
        and ":" not in uri
        and not os.path.exists(uri)
    ):
        raise ReadError(f"{shown}: no such file; check the path (looked from {Path.cwd()})")
    with waiting_for(remote.host_of(uri)):
        # Before GDAL opens it, and so what it leads to.
        looked_at = check_sources(uri, shown, vrt_sources == "any") or vrt_sources == "any"
        identity, size = scene_identity(uri, shown)
        if is_array(uri):
            from ussfc.pipeline.reading.array import describe_array, open_array

            return with_possible_scales(describe_array(open_array(uri, shown, is_zarr(uri)), shown, identity))
        try:
            return with_possible_scales(describe_raster(uri, shown, identity, size, looked_at))
        except ReadError as error:
            # GDAL opens folders of a few kinds by itself.
            if (remedy := folder_remedy(uri)) is None:
                raise
            raise ReadError(f"{shown}: {remedy}") from error


def _describe_parts(found: Sequence[str | BandSet], shown: str, everywhere: bool) -> SceneInfo:
    """Read the headers of rasters that make up one scene."""
    infos = []
    for part in found:
        looked_at, notes, mask = True, tuple[str, ...](), None
        if isinstance(part, str):
            uri, name = part, shown_address(part)
            if is_array(part):
                raise ReadError(
                    f"{name}: is read by xarray and cannot be one of several files; give it alone"
                )
            looked_at = check_sources(uri, name, everywhere) or everywhere
        else:
            uri, name, mask = stack(part, everywhere), part.shown, part.mask
            notes = (*part.notes, *shifted_notes(uri, name))
        with waiting_for(remote.host_of(uri)):
            identity, size = scene_identity(uri, name)
            info = with_possible_scales(describe_raster(uri, name, identity, size, looked_at))
        own = ScenePart(uri, name, info.geobox, mask=mask or info.mask)
        infos.append(replace(info, notes=(*info.notes, *notes), parts=(own,)))
    identity = combined_identity([info.identity for info in infos])
    return replace(merged(infos, shown), identity=identity)


@dataclass(frozen=True)
class SceneRecipe:
    """A scene on the grid, which each worker opens for itself."""

    # Dask logs the arguments of a task that fails.
    uri: str = field(repr=False)
    """Path or URI, as given."""
    grid: GeoBox
    """Common grid."""
    bands: tuple[int, ...]
    """Band numbers from 1, in the model's order."""
    resampling: str
    """rasterio's name of the kernel for imagery."""
    block_cache: int = GDAL_CACHE
    """GDAL's cache of decoded blocks in the process that reads, bytes; one for all scenes of a process."""
    identity: str = ""
    """Identity of :class:`ussfc.pipeline.types.SceneInfo`; a scene with another one is refused. Empty: any is
    accepted."""
    labels: tuple[str | None, ...] = ()
    """Names of these bands when the run was planned, None where they have none. A file whose bands are called otherwise
    by then is refused; arrays are opened by name. Empty: any name is accepted."""
    parts: tuple[ScenePart, ...] = ()
    """Rasters that the scene is made of, the first on top; empty: ``uri`` is opened as it is."""

    def open(self) -> SceneReader:
        """Return a reader on the grid.

        Raises:
            ReadError: the scene cannot be opened, or has changed.
        """
        shown = shown_address(self.uri)
        self.check_unchanged()
        if not self.parts and is_array(self.uri):
            from ussfc.pipeline.reading.array import ArrayReader, array_labels, open_array

            array = open_array(self.uri, shown, is_zarr(self.uri))
            bands = self._bands_by_name(array_labels(array), shown)
            return ArrayReader(array, self.grid, bands, self.resampling, shown)
        parts = self.parts or (ScenePart(self.uri, shown, self.grid),)
        readers = [
            RasterReader(part.uri, part.shown, self.grid, self.bands, self.resampling, self.block_cache)
            for part in parts
        ]
        if len(readers) == 1:
            return readers[0]
        return MosaicReader(
            [
                placed(part, reader, self.grid, self.bands)
                for part, reader in zip(parts, readers, strict=True)
            ],
            self.grid.shape,
            len(self.bands),
        )

    @property
    def opened(self) -> tuple[str, ...]:
        """Return what GDAL or xarray opens."""
        return tuple(part.uri for part in self.parts) or (self.uri,)

    @property
    def is_stack(self) -> bool:
        """Return True if each band is in a file of its own."""
        return bool(self.parts) and all(part.uri.startswith(VRT_TEXT) for part in self.parts)

    @property
    def costly(self) -> bool:
        """Return True if decoding is slow: JPEG 2000 by the names of the files."""
        return any(JPEG2000.search(uri) for uri in self.opened)

    def check_unchanged(self) -> None:
        """Compare the scene with the one that the run was planned for.

        Raises:
            ReadError: it has changed.
        """
        shown = shown_address(self.uri)
        if not self.identity:
            return
        names = [part.shown for part in self.parts] or [shown]
        marks = []
        for uri, name in zip(self.opened, names, strict=True):
            with waiting_for(remote.host_of(uri)):
                marks.append(scene_identity(uri, name)[0])
        found = combined_identity(marks)
        if found != self.identity:
            raise ReadError(
                f"{shown}: has changed since the run began, and tiles of both states would mix; give the same command "
                "again once it is whole"
            )

    def _bands_by_name(self, labels: Sequence[str], shown: str) -> tuple[int, ...]:
        """Return the numbers of the planned bands, by their names where they have such."""
        if not self.labels or None in self.labels:
            return self.bands
        missing = [label for label in self.labels if list(labels).count(str(label)) != 1]
        if missing:
            raise ReadError(
                f"{shown}: has no band {missing[0]} any more (its bands: {', '.join(labels)}); it has changed since "
                "the run was planned: run again"
            )
        return tuple(list(labels).index(str(label)) + 1 for label in self.labels)

    @classmethod
    def of(
        cls, uri: str, info: SceneInfo, grid: GeoBox, bands: tuple[int, ...], resampling: str
    ) -> SceneRecipe:
        """Return the recipe of a scene whose header was read.

        Args:
            uri: path or URI, as given.
            info: its header.
            grid: common grid.
            bands: band numbers from 1, in the model's order.
            resampling: rasterio's name of the kernel for imagery.
        """
        names = {band.index: band.description for band in info.bands}
        return cls(
            uri,
            grid,
            bands,
            resampling,
            labels=tuple(names[index] for index in bands),
            parts=info.parts,
        )
