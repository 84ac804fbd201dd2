"""Choice of the bands that a model takes."""

from __future__ import annotations

import dataclasses
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from tests.support.images import AFFINE, UTM
from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.reading import choose_bands
from ussfc.pipeline.reading.bands import find_band, sensor_name
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
    with pytest.raises(ConfigError, match=r": 'x' and 9 are no bands of it; the model takes 3 bands"):
        choose_bands(NAMED, RGB, (1, "x", 9))


def test_too_few_bands_are_refused() -> None:
    with pytest.raises(ReadError, match="has 1 image band"):
        choose_bands(scene((None, None)), RGB, None)


SPELLED = {
    "red": [
        "B4",
        "b04",
        "Band 4",
        "band_4",
        "Red (B4)",
        "red",
        "RED",
        "S2_B04_10m",
        "B4, central wavelength 665 nm",
    ],
    "green": [
        "B3",
        "b03",
        "Band 3",
        "band_3",
        "Green (B3)",
        "green",
        "Green",
        "S2_B03_10m",
        "green (560 nm)",
    ],
    "blue": ["B2", "b02", "Band 2", "band_2", "Blue (B2)", "blue", "Blue", "S2_B02_10m", "Blue-B2"],
}
OTHERS = [
    "B8",
    "nir",
    "Near Infrared",
    "NIR (B8)",
    "B11",
    "Red Edge 1 (B5)",
    "rededge2",
    "coastal",
    "thermal",
    None,
]
RGBN = (*RGB, ("B08", "nir"))


@given(
    st.tuples(*(st.sampled_from(SPELLED[name]) for name in ("red", "green", "blue"))),
    st.lists(st.sampled_from(OTHERS), max_size=4),
    st.randoms(use_true_random=False),
)
def test_any_spelling_in_any_order_is_found(
    labels: tuple[str, ...], others: list[str | None], random: Random
) -> None:
    stack = [*labels, *others]
    random.shuffle(stack)
    chosen, notice = choose_bands(scene(*((label, None) for label in stack)), RGB, None)
    assert notice is None
    assert tuple(stack[index - 1] for index in chosen) == labels


@pytest.mark.parametrize(
    ("labels", "bands"),
    [
        ("B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12", (4, 3, 2, 8)),
        ("SR_B1 SR_B2 SR_B3 SR_B4 SR_B5 SR_B6 SR_B7", (4, 3, 2, 5)),
        ("sr_band1 sr_band2 sr_band3 sr_band4 sr_band5 sr_band7", (3, 2, 1, 4)),
        ("coastal blue green red nir08 swir16 swir22", (4, 3, 2, 5)),
        ("nir red green blue", (2, 3, 4, 1)),
    ],
)
def test_whole_sensors_are_known(labels: str, bands: tuple[int, ...]) -> None:
    stack = scene(*((label, None) for label in labels.split()))
    assert choose_bands(stack, RGBN, None) == (bands, None)


@pytest.mark.parametrize(
    "labels",
    [
        (None, None, None),
        ("Band 1", "Band 2", "Band 3", "Band 4"),
        ("B1", "B2", "B3", "B4"),
        ("red", None, "third"),
    ],
)
def test_names_that_do_not_decide_are_reported(labels: tuple[str | None, ...]) -> None:
    chosen, notice = choose_bands(scene(*((label, None) for label in labels)), RGB, None)
    assert chosen == (1, 2, 3)
    assert notice is not None
    assert "assigned by position to B04, B03, B02" in notice
    assert "bands.before" in notice


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("red", "red", "green", "blue"), "band 2, red, would be taken for B03, green"),
        (("blue-green", "green", "red"), "band 3, red, would be taken for B02, blue"),
        (("Red Edge", "green", "blue"), "band 1, Red Edge, would be taken for B04, red"),
        (("blue", None, "red", None), "band 1, blue, would be taken for B04, red"),
        (("blue", "green", "red", "nir") * 2, "band 1, blue, would be taken for B04, red"),
    ],
)
def test_names_that_contradict_the_position_are_refused(labels: tuple[str | None, ...], message: str) -> None:
    bands = scene(*((label, None) for label in labels))
    with pytest.raises(ReadError, match=f"{message}; set bands.before and bands.after"):
        choose_bands(bands, RGB, None)
    assert choose_bands(bands, RGB, (3, 2, 1)) == ((3, 2, 1), None)


def test_a_choice_may_name_bands() -> None:
    assert choose_bands(NAMED, RGB, ("B08", "b3", 1)) == ((4, 2, 1), None)
    landsat = scene(("blue (SR_B2)", None), ("green (SR_B3)", None), ("nir (SR_B5)", None))
    assert choose_bands(landsat, RGB, ("nir", "green", "blue")) == ((3, 2, 1), None)
    with pytest.raises(
        ConfigError, match=r"bands \['red', 'B03', 'B02'\] .* the file has .*\(B02, B03, B04, B08\)"
    ):
        choose_bands(NAMED, RGB, ("red", "B03", "B02"))


def product(*names: str) -> SceneInfo:
    return dataclasses.replace(scene(*((name, None) for name in names)), product="Sentinel-2 L2A")


def test_a_product_gives_no_band_by_position() -> None:
    with pytest.raises(ReadError, match=r"has no band B04 that the model takes \(its bands: B02, B03, B08\)"):
        choose_bands(product("B02", "B03", "B08"), RGB, None)
    with pytest.raises(ReadError, match="has no band B04, B03 that the model takes"):
        choose_bands(product("B02"), RGB, None)


def test_a_product_of_sentinel2_has_colours() -> None:
    colours = (("first", "red"), ("second", "nir"))
    assert choose_bands(product("B02", "B03", "B04", "B08"), colours, None) == ((3, 4), None)
    assert find_band(product("B04", "B08"), "nir") == 2


def test_a_band_is_found_by_the_name_of_the_sensor_of_the_others() -> None:
    assert find_band(NAMED, "nir") is None
    assert sensor_name("nir", RGB) == "B08"
    assert find_band(NAMED, "nir", "B08") == 4
    # A common name comes first, and other sensors number their bands otherwise.
    assert find_band(scene(("nir", None), ("Band 8", None)), "nir", "B08") == 1
    assert sensor_name("nir", (("B4", "red"),)) is None
    assert sensor_name("swir16", RGB) is None
