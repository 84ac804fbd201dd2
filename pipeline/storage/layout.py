"""Names of the files and folders of a run, below its output folder OUT.

::

    OUT/change.tif  probability.tif  changes.parquet (.gpkg, ...)       products
    OUT/*.tif.aux.xml                                                   statistics beside a raster
    OUT/run.json                                                        the manifest, written last
    OUT/report.html  preview.png                                        page about the run, and a picture of its change
    OUT/districts.json  .csv  .parquet                                  changed area by district, where asked for
    OUT/assessment.json                                                 accuracy and area by a labelled sample, likewise
    OUT/item.json                                                       STAC item of the run
    OUT/*.qml  ussfc.qgs                                                styles and project for QGIS, in a local OUT only
    OUT/run.log                                                         what happened, line by line with the time
    OUT/slurm/                                                          scripts and logs of `ussfc submit`
    OUT/work/run_key.json                                               everything that decides a stored byte
    OUT/work/registration.json                                          shift between the dates, window by window
    OUT/work/clouds/NAME.tif                                            clouds that a run found in a date
    OUT/work/radiometry.json                                            constants of the radiometric mappings
    OUT/work/probability.zarr/                                          probabilities, one chunk a tile
    OUT/work/done/RUN/RECORD                                            one empty file a finished tile
    OUT/work/pixels/RUN/ROW/COL                                         both dates where a tile has change
    OUT/work/failed/ROW.COLUMN.json                                     one a tile that kept failing
    OUT/work/infer.json                                                 the inference that ended
    OUT/work/products/NAME.json                                         the bytes of a product and their origin
    OUT/work/squares/NAME/ROW/COL                                       what workers made of a square for the products
    OUT/work/scratch/  dask/                                            temporary files, in a local OUT only

A batch has such a folder for each pair, and beside them ``results.csv`` and ``collection.json``.
"""

from __future__ import annotations

import re

PAIR_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Names of pairs in a batch, which become folders on a disk and prefixes in a store."""

CHANGE = "change.tif"
"""Raster of changed, unchanged and nodata pixels, in OUT."""

PROBABILITY = "probability.tif"
"""Raster of the change probability, in OUT."""

LAYERS = {
    "parquet": "changes.parquet",
    "gpkg": "changes.gpkg",
    "flatgeobuf": "changes.fgb",
    "geojson": "changes.geojson",
}
"""Polygons, in OUT, by ``vector.format``; a run has one or several of them."""

PRODUCTS = (CHANGE, PROBABILITY, *LAYERS.values())
"""Every name that a product may have, in OUT."""

MANIFEST = "run.json"
"""Record of a finished run, in OUT; written last."""

REPORT = "report.html"
"""Page about a finished run, in OUT."""

PREVIEW = "preview.png"
"""Picture of its change, in OUT."""

ASSESSMENT = "assessment.json"
"""Accuracy and area of the map, in OUT and beside the sample that it was estimated from."""

DISTRICTS = "districts.json"
"""Changed area of each district, in OUT."""

DISTRICT_FILES = ("districts.csv", "districts.parquet")
"""The same as a table, and as GeoParquet with the districts."""

PROJECT = "ussfc.qgs"
"""QGIS project with both dates and the products, in a local OUT."""

LOG = "run.log"
"""Log of the runs in OUT, each below those before it."""

SLURM = "slurm"
"""Folder of the scripts and logs of ``ussfc submit``, in a local OUT."""

WORK = "work"
"""Folder of the intermediate results, in OUT."""

RUN_KEY = "run_key.json"
"""Key of the run, in OUT/work."""

REGISTRATION = "registration.json"
"""Shift between both dates, window by window, in OUT/work."""

CLOUDS = "clouds"
"""Folder of the clouds that a run found in its dates, in OUT/work."""

RADIOMETRY = "radiometry.json"
"""Constants of the radiometric mappings, in OUT/work."""

INFERENCE = "infer.json"
"""Record of an inference that ended, in OUT/work."""

PROBABILITIES = "probability.zarr"
"""Zarr group of the probabilities, in OUT/work."""

PROBABILITY_ARRAY = "probability"
"""Array of that group."""

CHUNKS = f"{PROBABILITIES}/{PROBABILITY_ARRAY}/c"
"""Folder of the chunks, in OUT/work."""

DONE = "done"
"""Folder of the tile records, in OUT/work; see :mod:`ussfc.pipeline.storage.tile_records`."""

PIXELS = "pixels"
"""Folder of the pixels of both dates below the change of each tile, in OUT/work."""

FAILED = "failed"
"""Folder of the records of failed tiles, in OUT/work."""

SQUARES = "squares"
"""Folder of blocks and regions that workers made for the products, in OUT/work."""

SCRATCH = "scratch"
"""Folder of temporary files of the stages after the inference, in a local OUT/work."""

DASK_SCRATCH = "dask"
"""Folder of temporary files of workers, in a local OUT/work."""

PROBE = ".ussfc-probe"
"""File that is written and removed to learn whether OUT can be written; on a disk the beginning of its name."""

PART_SUFFIX = ".part"
"""End of the name of a local file until it is complete."""

RESULTS_TABLE = "results.csv"
"""Table of a batch, in its OUT: a row a pair."""

RESULTS_PARQUET = "results.parquet"
"""Table of earlier batches; no pair may have the name."""

COLLECTION = "collection.json"
"""STAC collection of a batch, in its OUT."""

ITEM = "item.json"
"""STAC item of a run, in OUT."""

EVALUATION = "evaluation.json"
"""Scores of an evaluation, in its OUT."""

CURVE_TABLE = "curve.csv"
"""Precision and recall by threshold, in the OUT of an evaluation."""

CURVE_PICTURE = "curve.png"
"""Plot of that table, in the OUT of an evaluation."""

RELIABILITY_PICTURE = "reliability.png"
"""Share of pixels with change against their probability, in the OUT of an evaluation."""


def in_work(name: str) -> str:
    """Return the name relative to OUT of a file that is named relative to OUT/work."""
    return f"{WORK}/{name}"


def statistics_file(raster: str) -> str:
    """Return the name of the file beside a raster that holds its statistics."""
    return f"{raster}.aux.xml"


def style_file(product: str) -> str:
    """Return the name of the style that QGIS takes by itself for a product."""
    return f"{product.rpartition('.')[0]}.qml"


def product_record(product: str) -> str:
    """Return the name, in OUT/work, of the record of a product."""
    return f"products/{product}.json"


def failure_record(index: tuple[int, int]) -> str:
    """Return the name, in OUT/work, of the record of a tile that kept failing."""
    return f"{FAILED}/{index[0]}.{index[1]}.json"


def done_folder(run: str) -> str:
    """Return the name, in OUT/work, of the folder of a run's tile records."""
    return f"{DONE}/{run}"


def chunk(index: tuple[int, int]) -> str:
    """Return the name, in OUT/work, of the chunk of a tile."""
    return f"{CHUNKS}/{index[0]}/{index[1]}"


def errors_picture(scene: str) -> str:
    """Return the name, in the OUT of an evaluation, of the picture of a scene's errors."""
    return f"errors_{scene}.png"


def is_partial(name: str) -> bool:
    """Return whether a file is one that a stopped run left before it was complete."""
    return name.endswith((PART_SUFFIX, ".partial")) or f"{PART_SUFFIX}." in name or name.startswith(PROBE)
