"""Scenes of Landsat, Collection 2: bands, scale and offset of reflectance, date of acquisition."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from xml.etree import ElementTree

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.bands import LANDSAT_NAMES
from ussfc.pipeline.reading.sources.bands import BandFile, BandSet, band_label, file_name
from ussfc.pipeline.reading.sources.trees import Tree, files_above, local_text
from ussfc.pipeline.types import SceneMask

METADATA = re.compile(r"_MTL\.(json|txt|xml)$", re.IGNORECASE)
"""Metadata of a scene; products hold the same in three formats."""

BAND = re.compile(r"(?:^|/)(L[COETM]0[45789]_(?!.*_ST_B)[^/]+?)_(?:SR_)?B(\d{1,2})\.tiff?$", re.IGNORECASE)
"""Image of a band."""

QUALITY = r"_QA_PIXEL\.tiff?$"
"""Image of clouds, their shadows and snow, after the name of the scene."""

NAMED = re.compile(
    r"^L[COETM]0([45789])_L(1|2)[A-Z]{2}_\d{6}_(\d{4})(\d{2})(\d{2})_\d{8}_(\d{2})_", re.IGNORECASE
)
"""Name of a scene: satellite, level, date of acquisition, collection."""

SURFACE = (2.75e-5, -0.2)
"""Scale and offset of surface reflectances, the same for all of Collection 2."""

Groups = Mapping[str, Mapping[str, str]]
"""Values of a file of metadata by group and key."""


def scene_set(tree: Tree, shown: str) -> BandSet | None:
    """Return the bands of the one scene in a folder or archive; None where it holds none.

    Args:
        tree: files of a scene.
        shown: its name for messages.

    Raises:
        ReadError: there are several scenes, or metadata that cannot be read.
    """
    found = [(match[1], name) for name in tree.names if (match := BAND.search(name))]
    metadata = sorted(name for name in tree.names if METADATA.search(name))
    if not found or not (metadata or NAMED.search(file_name(found[0][1]))):
        return None
    scenes = sorted({scene for scene, _ in found})
    if len(scenes) > 1:
        raise ReadError(
            f"{shown}: holds {len(scenes)} scenes of Landsat ({', '.join(scenes[:4])}); give the folder of one of "
            "them, or several with commas between them to lay them side by side"
        )
    groups = _groups(metadata[0], tree.text(metadata[0]), shown) if metadata else {}
    files = [(str(band_label(name)[0]), tree.gdal_name(name)) for _, name in found]
    bands = _band_set(sorted(files), groups, shown)
    quality = [name for name in tree.names if re.search(re.escape(scenes[0]) + QUALITY, name, re.IGNORECASE)]
    return _masked(bands, [tree.gdal_name(name) for name in quality])


def listed_set(files: Sequence[tuple[str, str]], shown: str) -> BandSet | None:
    """Return the set of band files that are given alone, with what the metadata beside them state.

    Args:
        files: (label, path or address) of each.
        shown: name of the scene for messages.

    Returns:
        None where their names are not those of Landsat.

    Raises:
        ReadError: the metadata cannot be read.
    """
    matches = [BAND.search(uri) for _, uri in files]
    if not all(matches):
        return None
    assert matches[0] is not None
    scene = file_name(matches[0][1])
    beside = files_above(files[0][1], re.compile(rf"^{re.escape(scene)}{METADATA.pattern}", re.IGNORECASE), 0)
    groups = _groups(beside[0].name, local_text(beside[0]), shown) if beside else {}
    quality = files_above(files[0][1], re.compile(f"^{re.escape(scene)}{QUALITY}", re.IGNORECASE), 0)
    return _masked(_band_set(files, groups, shown), [str(path) for path in quality])


def _masked(bands: BandSet, quality: Sequence[str]) -> BandSet:
    """Return a scene with its image of clouds as its mask, where it has one."""
    return replace(bands, mask=SceneMask(quality[0], "qa_pixel")) if quality else bands


def _band_set(files: Sequence[tuple[str, str]], groups: Groups, shown: str) -> BandSet:
    surface = [(label, uri) for label, uri in files if label.startswith("SR_")]
    named = NAMED.search(file_name(files[0][1]))
    attributes = groups.get("IMAGE_ATTRIBUTES", {})
    satellite = attributes.get("SPACECRAFT_ID", "")[-1:] or (named[1] if named else "")
    names = LANDSAT_NAMES[satellite not in ("4", "5", "7")]
    found = []
    for label, uri in surface or files:
        number = label.rpartition("B")[2]
        name = names.get(number)
        if name is None:
            continue
        scale, offset = _scale(number, bool(surface), groups, attributes, shown)
        # The number alone means another colour on another satellite.
        found.append(BandFile(uri, f"{name} ({'SR' if surface else 'TOA'}_B{number})", scale, offset, 0.0))
    date = attributes.get("DATE_ACQUIRED") or ("-".join(named.group(3, 4, 5)) if named else None)
    time = attributes.get("SCENE_CENTER_TIME", "").strip('"').partition(".")[0].rstrip("Z")
    level = "L2" if surface else "L1"
    product = f"Landsat {satellite} {level}".replace("  ", " ")
    return BandSet(shown, tuple(found), f"{date}T{time}Z" if date and time else date, product)


def _scale(
    number: str, surface: bool, groups: Groups, attributes: Mapping[str, str], shown: str
) -> tuple[float, float]:
    """Return scale and offset of a band, to reflectances."""
    group = "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS" if surface else "LEVEL1_RADIOMETRIC_RESCALING"
    values = groups.get(group, {})
    try:
        scale = float(values[f"REFLECTANCE_MULT_BAND_{number}"])
        offset = float(values[f"REFLECTANCE_ADD_BAND_{number}"])
        # Reflectances at the top of the atmosphere are given for a sun in the zenith.
        sun = 1.0 if surface else math.sin(math.radians(float(attributes["SUN_ELEVATION"])))
        if scale <= 0 or not (math.isfinite(scale) and math.isfinite(offset)):
            raise ValueError(f"factor {scale:g} and term {offset:g}")
        return scale / sun, offset / sun
    except (KeyError, ValueError, ZeroDivisionError) as error:
        if surface and not groups:
            return SURFACE
        if not groups:
            raise ReadError(
                f"{shown}: is of level 1 and has no metadata (MTL) beside its bands, which state the scale of its "
                "numbers; put its _MTL.txt, .json or .xml there"
            ) from error
        raise ReadError(
            f"{shown}: its metadata (MTL) state no reflectance of band {number} ({type(error).__name__}: {error}); "
            "get the scene again, of Collection 2"
        ) from error


def _groups(name: str, text: str, shown: str) -> dict[str, dict[str, str]]:
    """Return the values of a file of metadata."""
    found: dict[str, dict[str, str]] = {}
    try:
        if name.lower().endswith(".json"):
            for group, values in json.loads(text)["LANDSAT_METADATA_FILE"].items():
                found[group] = {key: str(value) for key, value in values.items()}
        elif name.lower().endswith(".xml"):
            # Expat refuses entities that grow without end, and the size is bounded.
            for part in ElementTree.fromstring(text.strip()):  # noqa: S314
                found[part.tag] = {value.tag: (value.text or "").strip() for value in part}
        else:
            group = ""
            for line in text.splitlines():
                key, _, value = (part.strip() for part in line.partition("="))
                if key == "GROUP":
                    group = value
                elif key != "END_GROUP" and value:
                    found.setdefault(group, {})[key] = value.strip('"')
    except (ElementTree.ParseError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ReadError(
            f"{shown}: its {file_name(name)} cannot be read ({type(error).__name__}: {error}); get the scene again"
        ) from error
    return found
