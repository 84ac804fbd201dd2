"""Products of Sentinel-2: bands of a .SAFE, scale and offset of its processing baseline, date of acquisition."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.sources.bands import BandFile, BandSet, band_label, file_name
from ussfc.pipeline.reading.sources.trees import Tree, files_above, local_text
from ussfc.pipeline.storage import remote
from ussfc.pipeline.types import SceneMask

METADATA = re.compile(r"(?:^|/)MTD_MSIL(1C|2A)\.xml$")
"""Metadata of a product."""

TILE = re.compile(r"(?:^|/)MTD_TL\.xml$")
"""Metadata of a granule."""

BAND = re.compile(
    r"(?:^|/)(?!MSK_)[^/]*_B(?:0[1-9]|1[0-2]|8A)(?:_(10|20|60)m)?\.(?:jp2|tiff?)$", re.IGNORECASE
)
"""Image of a band; masks in QI_DATA have such names as well."""

CLASSES = re.compile(
    r"(?:^|/)(?!MSK_)(?:[^/]*_)?SCL(?:_(20|60)m)?(?:_[^/_]*)?\.(?:jp2|tiff?)$", re.IGNORECASE
)
"""Image of the scene's classes, with clouds and their shadows among them."""

SIZES = re.compile(r"R[126]0m$")
"""Folder of the bands of one pixel size."""

FILE = re.compile(r"(?:^|_)T\d{2}[A-Z]{3}(?:_(\d{8})T(\d{6}))?_B[01]\d|_B8A", re.IGNORECASE)
"""Name of the file of a band: ``T32TQM_20180630T101029_B04_10m``, before 2016 ``..._T32TQM_B04``."""

NAMED = re.compile(r"S2[A-D]_MSIL(1C|2A)_(\d{8})T(\d{6})_N(\d{2})(\d{2})")
"""Name of a product."""

IMAGES = re.compile(r"/?(?:IMG_DATA/)?(?:R[126]0m/)?[^/]*$")
"""End of the name of a band's image, below the granule."""

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""Bands by the numbers that the metadata give them, from 0."""

FINE_BANDS, FINE_SIZE = ("B02", "B03", "B04", "B08"), 10
"""Bands in the finest pixels of a product, and the side of these, metres."""

QUANTIFICATION = 10000.0
"""Number of a reflectance of 1."""

OFFSET_BASELINE = 4.0
"""Processing baseline from which on numbers have an offset."""

OFFSET = -1000.0
"""Offset of these, in numbers."""

OFFSET_SINCE = "20220125"
"""First day of acquisition with that baseline."""

LEVELS_UP = 5
"""Folders between the file of a band and the metadata of its product."""


@dataclass(frozen=True)
class Facts:
    """Facts that the metadata of a product state."""

    level: str | None = None
    """``L1C`` or ``L2A``."""
    baseline: float | None = None
    """Processing baseline: 5.09."""
    acquired: str | None = None
    """Time of acquisition."""
    quantification: float = QUANTIFICATION
    """Number of a reflectance of 1."""
    offsets: tuple[tuple[str, float], ...] = ()
    """Offset of each band, in numbers; empty: by the baseline."""

    def scale(self, label: str) -> tuple[float, float]:
        """Return scale and offset of a band."""
        usual = OFFSET if self.baseline is not None and self.baseline >= OFFSET_BASELINE else 0.0
        return 1 / self.quantification, dict(self.offsets).get(label, usual) / self.quantification


def product_set(tree: Tree, shown: str) -> BandSet | None:
    """Return the bands of the one product in a folder or archive; None where it holds none.

    Args:
        tree: files of a .SAFE, of a folder or archive with one in it, or of a granule or its IMG_DATA.
        shown: its name for messages.

    Raises:
        ReadError: there are several products or granules, or metadata that cannot be read.
    """
    bands = [name for name in tree.names if BAND.search(name) and "QI_DATA" not in name]
    metadata = [name for name in tree.names if METADATA.search(name)]
    if not metadata and not any("IMG_DATA/" in name or re.search(r"(^|/)R\d0m/", name) for name in bands):
        return None
    if len(metadata) > 1:
        raise ReadError(
            f"{shown}: holds {len(metadata)} products ({', '.join(metadata[:4])}); give one of them, or several "
            "of one level with commas between them to lay them side by side"
        )
    granules = sorted({IMAGES.split(name)[0] for name in bands})
    if len(granules) > 1:
        raise ReadError(
            f"{shown}: holds {len(granules)} granules ({', '.join(file_name(name) for name in granules[:4])}); give "
            "the folder of one of them, or several with commas between them to lay them side by side"
        )
    if not bands:
        raise ReadError(
            f"{shown}: holds metadata of Sentinel-2 but no image of a band; get the product again"
        )
    finest = _finest(bands)
    classes = [name for name in tree.names if CLASSES.search(name) and "QI_DATA" not in name]
    classes = [tree.gdal_name(name) for name in classes if IMAGES.split(name)[0] == granules[0]]
    tiles = [name for name in tree.names if TILE.search(name)]
    if metadata or tiles:
        facts = _facts([(name, tree.text(name)) for name in (*metadata, *tiles)], shown)
        names = [tree.path, *tree.names[:1]]
    else:
        facts, names = _facts_above(tree.gdal_name(bands[0]), shown), [tree.path]
    files = [(label, tree.gdal_name(name)) for label, name in finest]
    mask = _mask_among(classes or _beside(files[0][1]))
    found = _band_set(files, _named(facts, names), shown)
    return replace(found, mask=mask, notes=(*found.notes, *_coarse_notes(finest, shown)))


def _coarse_notes(finest: Sequence[tuple[str, str]], shown: str) -> list[str]:
    """Return a warning of bands of 10 m of which only coarser copies are there, beside others that are whole."""
    sizes = {label: int(match[1] or 0) for label, name in finest if (match := BAND.search(name))}
    coarse = [label for label in FINE_BANDS if sizes.get(label, 0) > FINE_SIZE]
    if not coarse or not any(sizes.get(label) == FINE_SIZE for label in FINE_BANDS):
        return []
    return [
        f"{shown}: of {', '.join(coarse)} it has no image in pixels of 10 m, and the coarser one is repeated; get the "
        "product again"
    ]


def listed_set(files: Sequence[tuple[str, str]], shown: str) -> BandSet | None:
    """Return the set of band files that are given alone, with what the metadata above them state.

    Args:
        files: (label, path or address) of each.
        shown: name of the scene for messages.

    Returns:
        None where their names are not those of Sentinel-2.

    Raises:
        ReadError: the metadata cannot be read.
    """
    if not all(FILE.search(file_name(uri)) for _, uri in files):
        return None
    first = files[0][1]
    found = _band_set(files, _named(_facts_above(first, shown), [first]), shown)
    return replace(found, mask=_mask_among(_beside(first)))


def _beside(uri: str) -> list[str]:
    """Return images of the scene's classes beside a local band, in folders of other pixel sizes as well."""
    if remote.is_remote(uri) or uri.startswith("/vsi"):
        return []
    folder, start = Path(uri).parent, re.split(r"B[01]\d|B8A", file_name(uri))[0]
    places = (
        [folder] if not SIZES.match(folder.name) else [folder.parent / f"R{size}0m" for size in (1, 2, 6)]
    )
    return [
        str(path)
        for place in places
        if place.is_dir()
        for path in sorted(place.iterdir())
        if path.name.startswith(f"{start}SCL") and CLASSES.search(path.name) and path.is_file()
    ]


def _mask_among(names: Sequence[str]) -> SceneMask | None:
    """Return the finest image of the scene's classes as a mask; None without any."""
    if not names:
        return None
    sizes = [(int(match[1] or 0), name) for name in names if (match := CLASSES.search(name))]
    return SceneMask(min(sizes)[1], "scl")


def _finest(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return label and name of each band in its finest resolution, by label."""
    best: dict[str, tuple[int, str]] = {}
    for name in names:
        label = band_label(name)[0]
        found = BAND.search(name)
        assert label is not None
        assert found is not None
        size = int(found[1] or 0)
        if label not in best or size < best[label][0]:
            best[label] = size, name
    return [(label, best[label][1]) for label in sorted(best, key=BANDS.index)]


def _band_set(files: Iterable[tuple[str, str]], facts: Facts, shown: str) -> BandSet:
    found = [BandFile(uri, label, *facts.scale(label), 0.0) for label, uri in files]
    acquired = facts.acquired or _date_in_name(found[0].uri)
    notes = []
    recent = (acquired or OFFSET_SINCE)[:10].replace("-", "") >= OFFSET_SINCE
    if recent and facts.baseline is None and not facts.offsets:
        notes.append(
            f"{shown}: no MTD_MSIL2A.xml or MTD_TL.xml is above its bands, which would state the offset of the "
            "processing baseline (1000 from 04.00 on); give the .SAFE folder, or unchanged ground may count as change"
        )
    product = f"Sentinel-2 {facts.level}" if facts.level else "Sentinel-2"
    return BandSet(shown, tuple(found), acquired, product, tuple(notes))


def _date_in_name(uri: str) -> str | None:
    match = FILE.search(file_name(uri))
    return _iso(match[1], match[2]) if match and match[1] else None


def _iso(date: str, time: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}Z"


def _facts_above(uri: str, shown: str) -> Facts:
    """Return what the metadata above a local file state."""
    places = [place for pattern in (METADATA, TILE) for place in files_above(uri, pattern, LEVELS_UP)]
    return _facts([(place.name, local_text(place)) for place in places], shown)


def _facts(texts: Iterable[tuple[str, str]], shown: str) -> Facts:
    """Return what files of metadata state.

    Args:
        texts: (name, content) of each: of the product, of the granule.
        shown: name of the scene for messages.
    """
    level = baseline = acquired = None
    quantification, offsets = QUANTIFICATION, tuple[tuple[str, float], ...]()
    for name, text in texts:
        try:
            # Expat refuses entities that grow without end, and the size is bounded.
            root = ElementTree.fromstring(text.strip())  # noqa: S314
            values = [(element.tag.rpartition("}")[2], element) for element in root.iter()]
            found = {tag: (element.text or "").strip() for tag, element in values}
            product = METADATA.search(name)
            if product is not None:
                level = f"L{product[1]}"
                baseline = float(found["PROCESSING_BASELINE"]) if "PROCESSING_BASELINE" in found else baseline
                acquired = found.get("PRODUCT_START_TIME") or acquired
                given = found.get("BOA_QUANTIFICATION_VALUE") or found.get("QUANTIFICATION_VALUE")
                quantification = float(given) if given else quantification
                offsets = tuple(
                    (BANDS[int(element.attrib["band_id"])], float(element.text or 0))
                    for tag, element in values
                    if tag in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
                )
            else:
                tile = re.search(r"_N(\d{2}\.\d{2})$", found.get("L2A_TILE_ID") or found.get("TILE_ID", ""))
                baseline = float(tile[1]) if tile and baseline is None else baseline
                acquired = found.get("SENSING_TIME") or acquired
            numbers = quantification, baseline or 0.0, *(offset for _, offset in offsets)
            if quantification <= 0 or not all(map(math.isfinite, numbers)):
                raise ValueError(f"quantification {quantification:g}, baseline and offsets {numbers[1:]}")
        except (ElementTree.ParseError, ValueError, KeyError, IndexError) as error:
            raise ReadError(
                f"{shown}: its {name} cannot be read ({type(error).__name__}: {error}); get the product again"
            ) from error
    return Facts(level, baseline, acquired, quantification, offsets)


def _named(facts: Facts, names: Iterable[str]) -> Facts:
    """Return the facts with what the name of the product states beside them."""
    match = next((found for name in names if (found := NAMED.search(name))), None)
    if match is None:
        return facts
    return replace(
        facts,
        level=facts.level or f"L{match[1]}",
        baseline=float(f"{match[4]}.{match[5]}") if facts.baseline is None else facts.baseline,
        acquired=facts.acquired or _iso(match[2], match[3]),
    )
