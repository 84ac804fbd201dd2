"""Choice of the bands of a file that a model takes: by number, by name, by colour, and by position last."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.types import BandInfo, SceneInfo

SPELLINGS = {
    "coastal": "coastal", "aerosol": "coastal", "blue": "blue", "green": "green", "red": "red", "nir": "nir",
    "nearinfrared": "nir", "nir08": "nir08", "nir09": "nir09", "pan": "pan", "panchromatic": "pan",
    "cirrus": "cirrus", "swir16": "swir16", "swir22": "swir22", "rededge": "rededge", "rededge1": "rededge071",
    "rededge2": "rededge075", "rededge3": "rededge078", "rededge071": "rededge071", "rededge075": "rededge075",
    "rededge078": "rededge078",
}  # fmt: skip
"""Words in a band's name, joined and in lower case, and the common name of STAC that they stand for."""

COMMON = {"nir": ("nir", "nir08")}
"""Common names that serve for another one, the best first; Landsat's near infrared is called ``nir08``."""

NUMBER = re.compile(r"(?<![a-z0-9])b(?:and)?[ _-]?0*([0-9]{1,2}a?)(?![a-z0-9])")
"""Number in a band's name: ``B4``, ``B04``, ``Band 4``, ``sr_band4``."""

LANDSAT = re.compile(r"(?<![a-z0-9])(?:sr|toa|lt0[45]|le07|lc0[89])_b(?:and)?_?0*([0-9]{1,2})(?![a-z0-9])")
"""Number in the name of a Landsat band: ``SR_B4``, ``sr_band4``."""

LANDSAT_NAMES = {
    True: {"1": "coastal", "2": "blue", "3": "green", "4": "red", "5": "nir", "6": "swir16", "7": "swir22"},
    False: {"1": "blue", "2": "green", "3": "red", "4": "nir", "5": "swir16", "7": "swir22"},
}
"""Common names of Landsat's bands by number; True for Landsat 8 and 9, which have a band 6 of reflectances."""

SENTINEL2_NAMES = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
"""Common names of Sentinel-2's bands of 10 m by their own; the 20 m ones share theirs."""

WHOLE_SENSOR = 10
"""Bands from which names that only count them (``Band 1``, ``B2``) mean the numbers of a sensor: Sentinel-2 has 12 or
13. In a stack of fewer they say no more than the position."""


def choose_bands(
    scene: SceneInfo, expected: Sequence[tuple[str, str | None]], chosen: Sequence[int | str] | None
) -> tuple[tuple[int, ...], str | None]:
    """Return the bands of a scene in the order of a model.

    A configured choice takes precedence; then names that lead to every band of the model: its own (``B04``), a common
    name in any spelling (``red``, ``Red (B4)``, ``near infrared``), a number (``B4``, ``Band 4``, ``SR_B4``); then
    colour interpretations; then the first bands of the file, which the returned notice reports.

    Args:
        scene: the scene's header.
        expected: (name, common name) of each band of the model, in its order.
        chosen: band numbers from 1, or names of bands, or None.

    Returns:
        Band numbers from 1, and a notice where they were taken by position.

    Raises:
        ReadError: fewer bands than the model takes, or none of a name in a product whose names are certain.
        ConfigError: a configured choice of another length or of a band that does not exist.
    """
    numbers = [band.index for band in scene.bands]
    names = ", ".join(name for name, _ in expected)
    if chosen is not None:
        return _chosen(scene, chosen, expected), None
    found = _by_name(scene.bands, expected, _named_by(scene)) or _by_color(scene.bands, expected)
    if found is not None:
        return found, None
    if scene.product is not None:
        raise ReadError(_missing(scene, expected))
    if len(numbers) < len(expected):
        raise ReadError(
            f"{scene.uri}: has {len(numbers)} image band(s) of {scene.dtype}, the model takes {len(expected)} "
            f"({names}); give a file with all of them, their files with commas between them, or the product's folder"
        )
    taken = tuple(numbers[: len(expected)])
    labels = [band.description for band in scene.bands if band.description]
    shown = ", ".join(labels[:6]) + (" ..." if len(labels) > 6 else "")
    _refuse_other_names(scene, taken, expected)
    why = f"its band names ({shown}) name no others" if labels else "its bands have no names"
    return (
        taken,
        f"{scene.uri}: bands {list(taken)} assigned by position to {names}, since {why}; another order gives a "
        "wrong map: set bands.before and bands.after",
    )


def _refuse_other_names(
    scene: SceneInfo, taken: Sequence[int], expected: Sequence[tuple[str, str | None]]
) -> None:
    """Refuse a choice by position that the names of the bands contradict.

    Raises:
        ReadError: names the first such band.
    """
    labels = {band.index: band.description or "" for band in scene.bands}
    meant = dict(_common_names([(index, label.strip().lower()) for index, label in labels.items()]))
    counted = (
        {} if _only_count(scene.bands) else {index: _number(label.lower()) for index, label in labels.items()}
    )
    for index, (name, common) in zip(taken, expected, strict=True):
        wanted, number = (common or "").lower(), _number(name.lower())
        other = bool(wanted and meant[index] and meant[index] not in COMMON.get(wanted, (wanted,)))
        if other or (number and counted.get(index) and counted[index] != number):
            raise ReadError(
                f"{scene.uri}: its names lead to no band for each of {', '.join(own for own, _ in expected)}, and by "
                f"position band {index}, {labels[index]}, would be taken for {name}, {common}; set bands.before and "
                "bands.after"
            )


def with_possible_scales(info: SceneInfo) -> SceneInfo:
    """Return a header without scales that no number can have, and a note on each band that declared one."""
    wrong = [
        band
        for band in info.bands
        if not band.scale or not math.isfinite(band.scale) or not math.isfinite(band.offset)
    ]
    if not wrong:
        return info
    notes = tuple(
        f"{info.uri}: {band.description or f'band {band.index}'} declares scale {band.scale:g} and offset "
        f"{band.offset:g}, which no number has; they are left out: set before.scale or after.scale if there is one"
        for band in wrong
    )
    bands = tuple(replace(band, scale=1.0, offset=0.0) if band in wrong else band for band in info.bands)
    return replace(info, bands=bands, notes=(*info.notes, *notes))


def find_band(scene: SceneInfo, common_name: str, name: str | None = None) -> int | None:
    """Return the number of the one band that its name or colour gives a common name; None without or with several.

    Args:
        scene: the scene's header.
        common_name: of STAC, for example ``nir``.
        name: the sensor's, which the band may have instead.
    """
    expected = [(name or common_name, common_name)]
    found = _by_name(scene.bands, expected, _named_by(scene)) or _by_color(scene.bands, expected)
    return None if found is None else found[0]


def sensor_name(common_name: str, others: Sequence[tuple[str, str | None]]) -> str | None:
    """Return the name that a sensor gives a band; None where the names of other bands are not Sentinel-2's.

    Args:
        common_name: of the band.
        others: (name, common name) of bands of the same sensor.
    """
    if any(SENTINEL2_NAMES.get(name) != common for name, common in others):
        return None
    return next((name for name, common in SENTINEL2_NAMES.items() if common == common_name), None)


def named_bands(scene: SceneInfo, chosen: Sequence[int | str]) -> tuple[int, ...]:
    """Return the numbers of bands that are chosen by number or name.

    Args:
        scene: the scene's header.
        chosen: band numbers from 1, or names in any spelling.

    Raises:
        ConfigError: the scene has no such band.
    """
    numbers = {band.index for band in scene.bands}
    found = [choice if isinstance(choice, int) else _named_band(scene, choice) for choice in chosen]
    missing = [choice for choice, index in zip(chosen, found, strict=True) if index not in numbers]
    if missing:
        listed = ", ".join(band.description or str(band.index) for band in scene.bands)
        raise ConfigError(f"band {missing[0]} for {scene.uri}: it has {listed}")
    return tuple(int(index) for index in found if index is not None)


def _chosen(
    scene: SceneInfo, chosen: Sequence[int | str], expected: Sequence[tuple[str, str | None]]
) -> tuple[int, ...]:
    """Return the bands of a configured choice."""
    names = ", ".join(name for name, _ in expected)
    numbers = [band.index for band in scene.bands]
    taken = [choice if isinstance(choice, int) else _named_band(scene, choice) for choice in chosen]
    missing = [repr(choice) for choice, index in zip(chosen, taken, strict=True) if index not in numbers]
    if len(taken) != len(expected) or missing:
        listed = ", ".join(band.description for band in scene.bands if band.description)
        wrong = f"{' and '.join(missing)} {'is no band' if len(missing) == 1 else 'are no bands'} of it; "
        raise ConfigError(
            f"bands {list(chosen)} for {scene.uri}: {wrong if missing else ''}"
            f"the model takes {len(expected)} bands ({names}), "
            f"the file has {numbers}{f' ({listed})' if listed else ''}"
        )
    return tuple(int(index) for index in taken if index is not None)


def _named_band(scene: SceneInfo, name: str) -> int | None:
    """Return the band of a name: as the file has it, else in any spelling or as a colour."""
    labels = [(band.index, (band.description or "").strip().lower()) for band in scene.bands]
    return _unique(labels).get(name.lower()) or find_band(scene, name)


def _missing(scene: SceneInfo, expected: Sequence[tuple[str, str | None]]) -> str:
    """Return the message for a product that lacks bands of a model."""
    lacking = [
        name
        for name, common in expected
        if _by_name(scene.bands, [(name, common)], _named_by(scene)) is None
        and _by_color(scene.bands, [(name, common)]) is None
    ]
    listed = ", ".join(band.description or f"band {band.index}" for band in scene.bands)
    return (
        f"{scene.uri}: has no band {', '.join(lacking) or 'of its own for each name'} that the model takes (its bands: "
        f"{listed}); add the file, or choose others with bands.before and bands.after"
    )


def _named_by(scene: SceneInfo) -> dict[str, str]:
    """Return the common names of a sensor's own, where they are certain."""
    return SENTINEL2_NAMES if scene.product is not None else {}


def _by_name(
    bands: Sequence[BandInfo], expected: Sequence[tuple[str, str | None]], sensor: Mapping[str, str]
) -> tuple[int, ...] | None:
    """Return the bands that names lead to, None unless each is found once.

    Args:
        bands: of the file.
        expected: (name, common name) of each band of the model.
        sensor: common names of bands that the file calls by numbers.
    """
    labels = [(band.index, (band.description or "").strip().lower()) for band in bands]
    exact = _unique(labels)
    common = _unique(_common_names(labels))
    common |= {name: exact[own.lower()] for own, name in sensor.items() if own.lower() in exact}
    counted = {} if _only_count(bands) else _unique([(index, _number(label)) for index, label in labels])
    found = []
    for name, common_name in expected:
        spellings = [name.lower(), (common_name or "").lower()]
        candidates = [exact.get(text) for text in spellings if text]
        candidates += [
            common.get(text) for text in COMMON.get((common_name or "").lower(), (common_name or "",))
        ]
        number = _number(name.lower())
        candidates.append(counted.get(number) if number else None)
        found.append(next((index for index in candidates if index is not None), None))
    indices = tuple(index for index in found if index is not None)
    return indices if len(set(indices)) == len(expected) else None


def _by_color(
    bands: Sequence[BandInfo], expected: Sequence[tuple[str, str | None]]
) -> tuple[int, ...] | None:
    """Return the bands whose colour interpretation the model takes, None unless each is found once."""
    colors = _unique([(band.index, band.color or "") for band in bands])
    found = [colors.get((common or "").lower() or "\0") for _, common in expected]
    indices = tuple(index for index in found if index is not None)
    return indices if len(set(indices)) == len(expected) else None


def _unique(labels: Sequence[tuple[int, str]]) -> dict[str, int]:
    """Return band numbers by label, without the labels that stand at two bands."""
    texts = [text for _, text in labels]
    return {text: index for index, text in labels if text and texts.count(text) == 1}


def _common_names(labels: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the common name in each label; empty where there is none, or more than one."""
    landsat = [LANDSAT.search(label) for _, label in labels]
    numbers = {match[1] for match in landsat if match}
    # Landsat 4 to 7 have a thermal band 6, which surface reflectances leave out.
    names = LANDSAT_NAMES["6" in numbers or not {"5", "7"} <= numbers]
    found = []
    for (index, label), match in zip(labels, landsat, strict=True):
        mentioned = _mentioned(label)
        if match and not mentioned:
            mentioned = {names.get(match[1], "")}
        found.append((index, mentioned.pop() if len(mentioned) == 1 else ""))
    return found


def _mentioned(label: str) -> set[str]:
    """Return the common names that a label mentions; the longest words first: ``near infrared`` is no ``red``."""
    words = re.findall(r"[a-z]+[0-9]*", label)
    found: set[str] = set()
    place = 0
    while place < len(words):
        for length in (3, 2, 1):
            name = SPELLINGS.get("".join(words[place : place + length]))
            if name is not None and place + length <= len(words):
                found.add(name)
                place += length - 1
                break
        place += 1
    return found


def _number(label: str) -> str:
    """Return the number in a band's name, without leading zeros (``8a`` of ``B8A``); empty where there is none."""
    if LANDSAT.search(label):
        return ""
    match = NUMBER.search(label)
    return match[1] if match else ""


def _only_count(bands: Sequence[BandInfo]) -> bool:
    """Return True if names only count the bands of a stack that is no whole sensor."""
    numbers = [_number((band.description or "").lower()) for band in bands]
    return len(bands) < WHOLE_SENSOR and all(
        number == str(band.index) for number, band in zip(numbers, bands, strict=True)
    )
