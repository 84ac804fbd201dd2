"""CRS stated by attributes alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from odc.geo.crs import CRS

from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading.array import describe_array, with_bands
from ussfc.pipeline.reading.stacking import image_of

UTM = CRS("EPSG:32636")


def scenes(**attributes: Any) -> xr.Dataset:
    """Return two bands whose rows run north, without a grid mapping."""
    places = {"y": 3_600_000.0 + 10 * np.arange(4), "x": 700_000.0 + 10 * np.arange(5)}
    pixels = np.arange(20, dtype=np.uint16).reshape(4, 5)
    return xr.Dataset(dict.fromkeys(("B04", "B03"), (("y", "x"), pixels)), places, attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"proj:code": "EPSG:32636"},
        {"proj:code": "urn:ogc:def:crs:EPSG::32636"},
        {"proj:epsg": 32636},
        {"proj:epsg": None, "proj:wkt2": UTM.to_wkt()},
        {"proj:projjson": UTM.proj.to_json_dict()},
        {"proj": {"code": "EPSG:32636"}},
        {"crs": "epsg:32636"},
        {"other_metadata": {"horizontal_CRS_code": "EPSG:32636"}},
        {"stac_discovery": {"properties": {"proj:code": None, "proj:epsg": 32636}}},
    ],
    ids=str,
)
def test_attributes_state_the_crs(attributes: dict[str, Any]) -> None:
    """On the data set or on its variables; rows that run north are flipped as in any other file."""
    on_variables = scenes()
    for variable in on_variables.values():
        variable.attrs.update(attributes)
    for dataset in (scenes(**attributes), on_variables, on_variables[["B04"]]):
        found = describe_array(with_bands(image_of(dataset, "scene", True), "scene"), "scene", "")
        assert found.geobox.crs == UTM
        assert (found.geobox.affine.c, found.geobox.affine.f) == (699_995, 3_600_035)
    assert with_bands(on_variables["B04"], "scene").odc.crs == UTM


def test_a_crs_that_is_none_is_named() -> None:
    with pytest.raises(
        ReadError, match=r"scene: its attribute proj:code states the CRS 'EPSG:99999', which is none"
    ):
        image_of(scenes(**{"proj:code": "EPSG:99999"}), "scene", True)


def test_a_grid_mapping_takes_precedence() -> None:
    mapped = scenes(**{"proj:epsg": 4326}).odc.assign_crs(UTM)
    assert image_of(mapped, "scene", True).odc.crs == UTM
