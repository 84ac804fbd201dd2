"""Names under OUT, as they are on disk: other programs and earlier runs rely on them."""

from __future__ import annotations

import pytest

from ussfc.pipeline.storage import layout


def test_products_have_their_names() -> None:
    assert layout.PRODUCTS == (
        "change.tif", "probability.tif", "changes.parquet", "changes.gpkg", "changes.fgb",
        "changes.geojson",
    )  # fmt: skip
    assert layout.MANIFEST == "run.json"
    assert layout.statistics_file(layout.CHANGE) == "change.tif.aux.xml"


def test_intermediate_results_have_their_names() -> None:
    assert layout.in_work(layout.RUN_KEY) == "work/run_key.json"
    assert layout.in_work(layout.INFERENCE) == "work/infer.json"
    assert layout.in_work(layout.RADIOMETRY) == "work/radiometry.json"
    assert layout.in_work(layout.chunk((3, 14))) == "work/probability.zarr/probability/c/3/14"
    assert layout.in_work(layout.done_folder("0a1b")) == "work/done/0a1b"
    assert layout.in_work(layout.failure_record((3, 14))) == "work/failed/3.14.json"
    assert layout.in_work(layout.product_record(layout.CHANGE)) == "work/products/change.tif.json"


@pytest.mark.parametrize(
    ("name", "partial"),
    [
        ("run.json.part", True),
        ("change.tif.part.tif", True),
        ("work/probability.zarr/probability/c/0/0.1b2c.partial", True),
        (".ussfc-probe-x1y2", True),
        ("change.tif", False),
        ("work/done/0/1.1.p1.v1.b1.00000000", False),
        ("partial.tif", False),
    ],
)
def test_partial_files_are_known_by_their_names(name: str, partial: bool) -> None:
    assert layout.is_partial(name) is partial
