"""Files of a raster in the making: a part that becomes the product, a scratch folder, and one form of their errors."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rasterio._err import CPLE_BaseError  # what rasterio.shutil.copy raises; it has no public name
from rasterio.errors import RasterioError

from ussfc.pipeline.errors import StoreError


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of one raster in the making."""

    target: Path
    """The product."""
    part: Path
    """File beside the target that is renamed to it when complete."""
    folder: Path
    """Folder of scratch files."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn errors of the body, which works on this raster's files and nothing else, into one of the store.

        Raises:
            ussfc.pipeline.errors.StoreError: naming the product, the cause, and the folders that need room.
        """
        try:
            yield
        # SystemError: how rasterio reports a failure in one of GDAL's own threads, which leaves no message.
        # ValueError: a TIFF made in memory is not whole.
        except (OSError, RasterioError, CPLE_BaseError, SystemError, ValueError) as error:
            found = " ".join(str(error.__cause__ or error).split())
            raise StoreError(
                f"cannot write {self.target}: {found}; make sure that its folder and {self.folder.parent} are"
                " writable and have room, then run this stage again"
            ) from error


@contextmanager
def workspace(target: Path, scratch: Path) -> Iterator[Workspace]:
    """Yield a workspace with an empty scratch folder; its part becomes ``target`` when the body ends well.

    Both names follow from the target's alone: what a killed run left is overwritten.

    Args:
        target: the product; an older one is replaced.
        scratch: the folder in which the scratch folder is made and removed again.

    Raises:
        ussfc.pipeline.errors.StoreError: the folder or the product cannot be written.
    """
    part = target.with_name(f"{target.stem}.part{target.suffix}")
    work = Workspace(target, part, scratch / f"{target.stem}-levels")
    try:
        with work.writing():
            _discard(work)
            work.folder.mkdir(parents=True)
        yield work
        with work.writing():
            # GDAL puts into a sidecar what GeoTIFF has no words for, a derived CRS for example. It goes first, and
            # one of an older product, with that one's statistics, must not describe this.
            if sidecar(part).exists():
                sidecar(part).replace(sidecar(target))
            else:
                sidecar(target).unlink(missing_ok=True)
            part.replace(target)
    finally:
        _discard(work)


def sidecar(file: Path) -> Path:
    """Return the path of GDAL's auxiliary metadata of a raster."""
    return file.with_name(f"{file.name}.aux.xml")


def _discard(work: Workspace) -> None:
    work.part.unlink(missing_ok=True)
    sidecar(work.part).unlink(missing_ok=True)
    if work.folder.exists():
        shutil.rmtree(work.folder)
