"""The CRS that attributes of a Zarr or NetCDF state where no grid mapping does: GeoZarr, EOPF, STAC, older writers."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import odc.geo.xr  # noqa: F401  (registers the .odc accessor)
import xarray as xr
from odc.geo.crs import CRS
from pyproj.exceptions import CRSError

from ussfc.pipeline.errors import ReadError

KEYS = (
    "proj:wkt2", "proj:projjson", "proj:code", "proj:epsg", "crs_wkt", "spatial_ref", "crs", "horizontal_CRS_code",
)  # fmt: skip
"""Attributes that state a CRS, the most exact first."""

SECTIONS = ("proj", "other_metadata", "stac_discovery", "properties")
"""Attributes that hold others: of GeoZarr, and of EOPF, where a STAC item has its properties."""


def with_stated_crs(array: xr.DataArray, attributes: Mapping[Hashable, Any], shown: str) -> xr.DataArray:
    """Return an array with the CRS that attributes state, unless it has one, or no coordinates to be placed by.

    Args:
        array: with dimensions of rows and columns.
        attributes: of the array or of its data set.
        shown: its name in messages.

    Raises:
        ReadError: what they state is no CRS.
    """
    geobox = array.odc.geobox
    if geobox is None or geobox.crs is not None:
        return array
    for key, value in _stated(attributes):
        try:
            placed: xr.DataArray = array.odc.assign_crs(_crs(value))
            return placed
        except (CRSError, ValueError, TypeError) as error:
            raise ReadError(
                f"{shown}: its attribute {key} states the CRS {str(value)[:80]!r}, which is none; "
                "expected a code such as EPSG:32636, WKT or PROJJSON"
            ) from error
    return array


def _stated(attributes: Mapping[Hashable, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that state a CRS, those of sections after those beside them."""
    for key in KEYS:
        # Within a section named for it, a key has no prefix.
        for name in (key, key.removeprefix("proj:")):
            value = attributes.get(name)
            if value is not None and value != "" and not (name == "spatial_ref" and value == 0):
                yield name, value
                break
    for name in SECTIONS:
        section = attributes.get(name)
        if isinstance(section, Mapping):
            yield from _stated(section)


def _crs(value: Any) -> CRS:
    """Return the CRS of an attribute; a number is an EPSG code."""
    text = json.dumps(value) if isinstance(value, Mapping) else str(value).strip()
    return CRS(f"EPSG:{text}" if text.isdigit() else text)
