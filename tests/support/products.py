"""Products of satellites as small files: folders of Sentinel-2 and Landsat, STAC items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from affine import Affine

SIZE = 120
"""Side of a product in pixels of 10 m; a multiple of 6, for bands of 60 m."""

PLACE = Affine(10.0, 0.0, 600000.0, 0.0, -10.0, 5000040.0)
CRS = "EPSG:32632"
BANDS_10M = ("B02", "B03", "B04", "B08")


def band(seed: int, size: int = SIZE) -> npt.NDArray[np.uint16]:
    """Return numbers of a band, (size, size), all valid."""
    return np.random.default_rng(seed).integers(1, 4000, (size, size), dtype=np.uint16)


def write_band(
    path: Path,
    values: npt.NDArray[Any],
    affine: Affine = PLACE,
    crs: str | None = CRS,
    nodata: float | None = None,
    driver: str | None = None,
) -> Path:
    """Write one band; under a name that ends in .jp2 a lossless JPEG 2000."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not values.size:
        path.touch()
        return path
    jpeg = path.suffix == ".jp2"
    place = path.with_suffix(".tmp") if jpeg else path
    profile = {
        "driver": "GTiff",
        "count": 1,
        "dtype": values.dtype,
        "height": values.shape[0],
        "width": values.shape[1],
    }
    with rasterio.open(place, "w", **profile, transform=affine, crs=crs, nodata=nodata) as file:
        file.write(values, 1)
    if jpeg:
        rasterio.shutil.copy(place, path, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
        place.unlink()
    return path


def product_xml(level: str, baseline: str, offset: int | None) -> str:
    """Return the metadata of a product of Sentinel-2, as far as they are read."""
    name, unit = ("BOA", "BOA_QUANTIFICATION_VALUE") if level == "2A" else ("RADIO", "QUANTIFICATION_VALUE")
    offsets = ""
    if offset is not None:
        listed = "".join(
            f'<{name}_ADD_OFFSET band_id="{index}">{offset}</{name}_ADD_OFFSET>' for index in range(13)
        )
        offsets = f"<{name}_ADD_OFFSET_VALUES_LIST>{listed}</{name}_ADD_OFFSET_VALUES_LIST>"
    return (
        f'<?xml version="1.0"?><n1:Level-{level}_User_Product xmlns:n1="https://psd-14.example/PSD/User.xsd">'
        "<n1:General_Info><Product_Info><PRODUCT_START_TIME>2022-06-30T10:10:29.024Z</PRODUCT_START_TIME>"
        f"<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE></Product_Info><Product_Image_Characteristics>"
        f'<QUANTIFICATION_VALUES_LIST><{unit} unit="none">10000</{unit}></QUANTIFICATION_VALUES_LIST>{offsets}'
        f"</Product_Image_Characteristics></n1:General_Info></n1:Level-{level}_User_Product>"
    )


def write_safe(
    folder: Path,
    level: str = "2A",
    baseline: str = "04.00",
    offset: int | None = -1000,
    tile: str = "T32TQM",
    affine: Affine = PLACE,
    crs: str = CRS,
    seed: int = 0,
    size: int = SIZE,
    scl: npt.NDArray[np.uint8] | None = None,
) -> Path:
    """Write a product of Sentinel-2 and return its .SAFE folder; of size 0 the images are empty files.

    Bands of 10 m are numbered from ``seed`` on; an L2A product has B11 and SCL at 20 m and B01 at 60 m too. The classes
    are vegetation everywhere unless ``scl`` holds others.
    """
    number = baseline.replace(".", "")
    safe = folder / f"S2B_MSIL{level}_20220630T101029_N{number}_R022_{tile}_20220630T140000.SAFE"
    granule = safe / "GRANULE" / f"L{level}_{tile}_A000001_20220630T101029"
    images = granule / "IMG_DATA"
    start = f"{tile}_20220630T101029"
    for place, name in enumerate(BANDS_10M):
        end, at = ("_10m", images / "R10m") if level == "2A" else ("", images)
        write_band(at / f"{start}_{name}{end}.jp2", band(seed + place, size), affine, crs)
    if level == "2A":
        middle, coarse = affine * Affine.scale(2), affine * Affine.scale(6)
        write_band(images / "R20m" / f"{start}_B11_20m.jp2", band(seed + 10, size // 2), middle, crs)
        ground = np.full((size // 2, size // 2), 4, np.uint8)
        write_band(images / "R20m" / f"{start}_SCL_20m.jp2", ground if scl is None else scl, middle, crs)
        write_band(images / "R20m" / f"{start}_B04_20m.jp2", band(seed + 11, size // 2), middle, crs)
        write_band(images / "R60m" / f"{start}_B01_60m.jp2", band(seed + 12, size // 6), coarse, crs)
        write_band(images / "R10m" / f"{start}_AOT_10m.jp2", band(seed + 13, size), affine, crs)
    write_band(granule / "QI_DATA" / "MSK_CLASSI_B00.jp2", band(14, 0))
    write_band(granule / "QI_DATA" / "MSK_DETFOO_B04.jp2", band(15, 0))
    (safe / f"MTD_MSIL{level}.xml").write_text(product_xml(level, baseline, offset))
    (granule / "MTD_TL.xml").write_text(
        f'<?xml version="1.0"?><n1:Tile xmlns:n1="https://psd-14.example/PSD/Tile.xsd"><n1:General_Info>'
        f"<TILE_ID>S2B_OPER_MSI_L{level}_TL_X_20220630T140000_A000001_{tile}_N{baseline}</TILE_ID>"
        "<SENSING_TIME>2022-06-30T10:16:32.456Z</SENSING_TIME></n1:General_Info></n1:Tile>"
    )
    return safe


LANDSAT_NAME = "LC08_L2SP_193024_20180630_20200831_02_T1"


def landsat_metadata(numbers: range = range(1, 8)) -> dict[str, dict[str, str]]:
    """Return the metadata of a scene of Landsat 8, by group."""
    reflectance = {f"REFLECTANCE_MULT_BAND_{number}": "2.75e-05" for number in numbers}
    reflectance |= {f"REFLECTANCE_ADD_BAND_{number}": "-0.2" for number in numbers}
    return {
        "IMAGE_ATTRIBUTES": {
            "SPACECRAFT_ID": "LANDSAT_8", "DATE_ACQUIRED": "2018-06-30", "SCENE_CENTER_TIME": "10:02:11.1234560Z",
            "SUN_ELEVATION": "30.0",
        },
        "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS": reflectance,
    }  # fmt: skip


def write_landsat(folder: Path, kind: str | None = "json", seed: int = 0, size: int = SIZE) -> Path:
    """Write a scene of Landsat 8 with its metadata as json, txt or xml, or without, and return its folder."""
    for number in range(1, 8):
        write_band(folder / f"{LANDSAT_NAME}_SR_B{number}.TIF", band(seed + number, size), nodata=0)
    write_band(folder / f"{LANDSAT_NAME}_ST_B10.TIF", band(90, size), nodata=0)
    # Clear land.
    write_band(folder / f"{LANDSAT_NAME}_QA_PIXEL.TIF", np.full((size, size), 21824, np.uint16))
    groups = landsat_metadata()
    texts = {
        "json": json.dumps({"LANDSAT_METADATA_FILE": groups}),
        "txt": "GROUP = LANDSAT_METADATA_FILE\n"
        + "".join(
            f"  GROUP = {name}\n"
            + "".join(f'    {key} = "{value}"\n' for key, value in values.items())
            + f"  END_GROUP = {name}\n"
            for name, values in groups.items()
        )
        + "END_GROUP = LANDSAT_METADATA_FILE\nEND\n",
        "xml": "<LANDSAT_METADATA_FILE>"
        + "".join(
            f"<{name}>" + "".join(f"<{key}>{value}</{key}>" for key, value in values.items()) + f"</{name}>"
            for name, values in groups.items()
        )
        + "</LANDSAT_METADATA_FILE>",
    }
    if kind is not None:
        (folder / f"{LANDSAT_NAME}_MTL.{kind}").write_text(texts[kind])
    return folder


def write_item(
    folder: Path, properties: dict[str, Any] | None = None, seed: int = 0, size: int = SIZE, **raster: Any
) -> Path:
    """Write a STAC item of Sentinel-2 with its bands beside it, and return the item.

    Args:
        folder: place of the files.
        properties: of the item, beside its date and constellation.
        seed: of the numbers.
        size: side of the images, pixels; 0: they are empty files.
        raster: fields of ``raster:bands``; none: the item has none.
    """
    assets: dict[str, Any] = {}
    for place, (name, common) in enumerate(zip(BANDS_10M, ("blue", "green", "red", "nir"), strict=True)):
        write_band(folder / f"{name}.tif", band(seed + place, size))
        fields = {"raster:bands": [{"data_type": "uint16", **raster}]} if raster else {}
        assets[common] = {
            "href": f"./{name}.tif", "type": "image/tiff; application=geotiff", "roles": ["data"], "gsd": 10,
            "eo:bands": [{"name": common, "common_name": common}], **fields,
        }  # fmt: skip
        assets[f"{common}-jp2"] = {**assets[common], "href": f"missing/{name}.jp2", "type": "image/jp2"}
    assets["thumbnail"] = {
        "href": "./thumbnail.jpg",
        "roles": ["thumbnail"],
        "eo:bands": [{"common_name": "red"}],
    }
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "S2B_32TQM_20220630_0_L2A", "collection": "sentinel-2-l2a",
        "geometry": None, "links": [], "assets": assets,
        "properties": {"datetime": "2022-06-30T10:16:32Z", "constellation": "sentinel-2", **(properties or {})},
    }  # fmt: skip
    path = folder / "item.json"
    path.write_text(json.dumps(item))
    return path
