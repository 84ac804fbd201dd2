"""Find the rasters behind an argument: a file, lists and patterns of files, folders, archives, STAC items."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ussfc.addresses import DRIVER, shown_address
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.identity import is_array
from ussfc.pipeline.reading.sources import landsat, sentinel2, stac
from ussfc.pipeline.reading.sources.bands import (
    NUMBERED,
    PIXEL_SIZE,
    BandFile,
    BandSet,
    band_label,
    file_name,
    is_raster,
)
from ussfc.pipeline.reading.sources.stacks import Header, read_header
from ussfc.pipeline.reading.sources.trees import ARCHIVES, open_remote_tree, open_tree
from ussfc.pipeline.storage import remote

MOST_PARTS = 200
"""Scenes that are laid side by side; each has open files in each thread."""

GDAL_STARTS = ("/vsi", "<", "{")
"""Beginnings of names that are GDAL's own."""

NAMED_FILES = "band files"
"""Kind of a scene whose bands are known from the names of its files alone."""

Found = str | BandSet
"""A raster as GDAL opens it, or band files that make up one."""


def split_list(text: str) -> tuple[str, ...]:
    """Return the parts of an argument that lists several files with commas; the argument itself where it is one name.

    A name that exists, and names of GDAL's, are never split; of addresses only lists of addresses.
    """
    if "," not in text or text.startswith(GDAL_STARTS) or os.path.exists(text):
        return (text,)
    parts = tuple(part.strip() for part in text.split(","))
    addresses = [remote.is_remote(part) for part in parts]
    if not all(parts) or any(addresses) != all(addresses) or (DRIVER.match(text) and not addresses[0]):
        return (text,)
    return parts


def absolute_source(text: str) -> str:
    """Return an argument whose local names lead to the same files from any working directory."""
    return ",".join(
        # Path.exists() raises on an address that is longer than a name may be.
        str(Path(name).absolute()) if os.path.exists(name) or (_is_pattern(name) and _matches(name)) else name
        for name in split_list(text)
    )


def _is_local(name: str) -> bool:
    return not (remote.is_remote(name) or DRIVER.match(name) or name.startswith(GDAL_STARTS))


def _is_pattern(name: str) -> bool:
    return bool(re.search(r"[*?\[]", name)) and _is_local(name) and not os.path.exists(name)


def _matches(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - a pattern may be absolute


def resolve_source(uri: str, everywhere: bool = False) -> tuple[Found, ...] | None:
    """Return the rasters behind an argument, the first on top; None where it is one raster that GDAL or xarray opens.

    Args:
        uri: path, address or pattern, or several with commas between them.
        everywhere: True: a VRT among them may lead to any file.

    Raises:
        ReadError: a name in it leads nowhere, or the files do not fit together.
    """
    names = split_list(uri)
    found: list[Found] = []
    loose: list[str] = []
    for place in _places(names):
        products = _products(place, everywhere)
        if products is None:
            loose.append(place)
        else:
            found += [*_merge_loose(loose, uri, everywhere), *products]
            loose = []
    if not found and loose == [uri]:
        return None
    if len(names) > 1:
        _check_there(loose)
    found += _merge_loose(loose, uri, everywhere)
    if len(found) > MOST_PARTS:
        raise ReadError(
            f"{shown_address(uri)}: lists {len(found)} scenes, and at most {MOST_PARTS} are laid side by side; build "
            "one file of them with gdalbuildvrt"
        )
    return tuple(found)


def _places(names: Iterable[str]) -> Iterator[str]:
    """Yield names, and in the place of a pattern the files and folders that it matches."""
    for name in names:
        if not _is_pattern(name):
            yield name
            continue
        matches = _matches(name)
        if not matches:
            raise ReadError(f"{name}: matches no file (looked from {Path.cwd()}); check the pattern")
        yield from _imagery(matches) or matches


def _check_there(names: Iterable[str]) -> None:
    for name in names:
        if _is_local(name) and not os.path.exists(name):
            raise ReadError(f"{name}: no such file; check the list (looked from {Path.cwd()})")


def _products(place: str, everywhere: bool) -> list[Found] | None:
    """Return what a folder, archive, file of metadata or STAC item holds; None for any other file."""
    shown = shown_address(place)
    if is_array(place):
        return None
    if stac.is_item(place):
        return [stac.item_set(place, shown)]
    name = file_name(place)
    if os.path.isfile(place) and (sentinel2.METADATA.search(name) or landsat.METADATA.search(name)):
        place = str(Path(place).parent)
    tree = open_remote_tree(place, shown) if remote.is_remote(place) else open_tree(place)
    if tree is None:
        return None
    product = sentinel2.product_set(tree, shown) or landsat.scene_set(tree, shown)
    if product is not None:
        return [product]
    files = _imagery([tree.gdal_name(name) for name in tree.names if "/" not in name])
    # GDAL opens folders of a few kinds by itself.
    return _merge_loose(files, place, everywhere) if files else None


def _imagery(names: Sequence[str]) -> list[str]:
    """Return the rasters among files, without what lies beside the bands of a product; products themselves stay."""
    rasters = [name for name in names if is_raster(name)]
    if not rasters:
        return [name for name in names if name.lower().endswith(ARCHIVES) or Path(name).is_dir()]
    numbered = [name for name in rasters if NUMBERED.search(Path(file_name(name)).stem)]
    return numbered or rasters


def _merge_loose(files: Sequence[str], shown: str, everywhere: bool) -> list[Found]:
    """Return files as the scenes that they make up: bands of one go together, images lie side by side."""
    if len(files) < 2:
        return list(files)
    labelled = [(*band_label(name), name) for name in files]
    certain = all(
        label is not None and NUMBERED.search(Path(file_name(name)).stem) for label, _, name in labelled
    )
    # Products name their bands so; a header costs a request each where they are on a network.
    headers = [] if certain else [read_header(name, shown_address(name), everywhere) for name in files]
    if any(header.count != 1 for header in headers):
        return _images(files, headers, shown)
    if all(label is not None for label, _, _ in labelled):
        return _by_scene([(str(label), rest, name) for label, rest, name in labelled], shown)
    if len({(header.shape, header.transform, header.crs) for header in headers}) == 1:
        bands = tuple(BandFile(name, label) for label, _, name in labelled)
        return [BandSet(shown_address(shown), bands)]
    return list(files)


def _images(files: Sequence[str], headers: Sequence[Header], shown: str) -> list[Found]:
    """Return images of several bands: side by side, or their bands in one where they show the same ground."""
    if len({len(header.images) for header in headers}) == 1:
        return list(files)
    if len({(header.shape, header.transform, header.crs) for header in headers}) > 1:
        counts = ", ".join(
            f"{file_name(name)}: {len(header.images)}" for name, header in zip(files, headers, strict=True)
        )
        raise ReadError(
            f"{shown_address(shown)}: its files have different numbers of bands ({counts}) and show different ground; "
            "give images of one kind, or the bands of one scene"
        )
    bands = tuple(
        BandFile(
            name,
            header.names[index - 1] or (band_label(name)[0] if len(header.images) == 1 else None),
            index=index,
        )
        for name, header in zip(files, headers, strict=True)
        for index in header.images
    )
    return [BandSet(shown_address(shown), bands)]


def _by_scene(labelled: Sequence[tuple[str, str, str]], shown: str) -> list[Found]:
    """Return band files by the scene that the rest of their names names.

    Args:
        labelled: label, rest of the name, and path or address of each.
        shown: the argument.
    """
    scenes: dict[str, dict[str, str]] = {}
    labels = [label for label, _, _ in labelled]
    together = len(set(labels)) == len(labels)
    for label, rest, name in labelled:
        scene = scenes.setdefault("" if together else rest, {})
        if label not in scene:
            scene[label] = name
        elif (pixel := _pixel_size(name)) is not None and pixel != (other := _pixel_size(scene[label])):
            scene[label] = name if pixel < (other or 0) else scene[label]
        else:
            raise ReadError(
                f"{shown_address(shown)}: names band {label} twice ({file_name(scene[label])}, {file_name(name)}); "
                "leave one out"
            )
    found: list[Found] = []
    order = list(next(iter(scenes.values())))
    for bands in scenes.values():
        if set(bands) == set(order):
            bands = {label: bands[label] for label in order}
        files = list(bands.items())
        name = shown_address(shown if len(scenes) == 1 else files[0][1])
        product = sentinel2.listed_set(files, name) or landsat.listed_set(files, name)
        plain = tuple(BandFile(uri, label) for label, uri in files)
        found.append(product or BandSet(name, plain, product=NAMED_FILES))
    return found


def _pixel_size(name: str) -> int | None:
    match = PIXEL_SIZE.search(urlsplit(name).path)
    return int(match[1]) if match else None
