"""Choice of the bands that a model takes."""

from __future__ import annotations

import pytest
from odc.geo.geobox import GeoBox

from tests.support.images import AFFINE, UTM
from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.reading import choose_bands
from ussfc.pipeline.types import BandInfo, SceneInfo

RGB = (("B04", "red"), ("B03", "green"), ("B02", "blue"))


def scene(*bands: tuple[str | None, str | None]) -> SceneInfo:
    infos = tuple(BandInfo(i + 1, description, color) for i, (description, color) in enumerate(bands))
    return SceneInfo("x.tif", GeoBox((1, 1), AFFINE, UTM), infos, "uint16", "", 1.0)


NAMED = scene(("B02", None), ("B03", None), ("B04", None), ("B08", None))


def test_descriptions_name_the_bands() -> None:
    assert choose_bands(NAMED, RGB, None) == ((3, 2, 1), None)
    common = scene(("blue", None), ("green", None), ("red", None))
    assert choose_bands(common, RGB, None) == ((3, 2, 1), None)


def test_colours_name_the_bands() -> None:
    coloured = scene((None, "blue"), (None, "green"), (None, "red"))
    assert choose_bands(coloured, RGB, None) == ((3, 2, 1), None)


def test_unnamed_bands_are_taken_by_position() -> None:
    bands, notice = choose_bands(scene(("a", None), ("b", None), ("c", None), ("d", None)), RGB, None)
    assert bands == (1, 2, 3)
    assert notice is not None
    assert "by position" in notice


def test_a_configured_choice_takes_precedence() -> None:
    assert choose_bands(NAMED, RGB, (4, 1, 2)) == ((4, 1, 2), None)
    with pytest.raises(ConfigError, match="the file has"):
        choose_bands(NAMED, RGB, (1, 2, 9))


def test_too_few_bands_are_refused() -> None:
    with pytest.raises(ReadError, match="has 1 image band"):
        choose_bands(scene((None, None)), RGB, None)
