"""Files that GIS programs show as intended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray

from tests.support.rasters import change_of, probabilities, probability_of
from ussfc.pipeline.pixels.encoding import decode


def test_change_has_name_colours_and_nodata(tmp_path: Path) -> None:
    with rasterio.open(change_of(probabilities((300, 400)), tmp_path)) as raster:
        assert (raster.nodata, raster.dtypes, raster.descriptions) == (255, ("uint8",), ("change",))
        colors = raster.colormap(1)
    assert colors[255][3] == 0
    assert colors[1] == (255, 45, 149, 255)
    assert colors[0][:3] == (255, 255, 255)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_readers_get_probabilities(tmp_path: Path, dtype: str) -> None:
    values = probabilities((300, 400), dtype)
    array = rioxarray.open_rasterio(probability_of(values, tmp_path), mask_and_scale=True)
    assert isinstance(array, xarray.DataArray)
    np.testing.assert_allclose(array.to_numpy()[0], decode(values), rtol=1e-6)
    assert array.rio.crs == "EPSG:32632"
    array.close()
