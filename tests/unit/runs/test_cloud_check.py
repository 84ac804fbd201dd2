"""A run names the part of its change that looks like clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.support.masks import write_mask
from tests.support.scenes import write_toy_model
from tests.support.stubs import StubRecipe
from tests.support.textures import texture
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.runs import cloud_check
from ussfc.pipeline.runs.cloud_check import cloud_warnings
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.manifest import CloudLikeRecord, RunRecord
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.terminal.advice import with_flags

SIDE = 200
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_000_000)
STUB = Computation(StubRecipe(patch_size=32, bands=3))


def compared(place: Path, cloud: slice, *sets: str, **card: object) -> tuple[RunRecord, list[str]]:
    """Return the record and the warnings of a run over a pair with a cloud, and with a small bright roof."""
    model = write_toy_model(place, **card)
    ground = np.clip(texture(3, (SIDE, SIDE)) / 2, 1, None)
    for date in ("before", "after"):
        image = ground.copy()
        if date == "after":
            image[cloud, cloud] = 4000
            image[-15:, -15:] = 4000
        profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 3, "dtype": "uint16"}
        with rasterio.open(
            place / f"{date}.tif", "w", **profile, transform=TRANSFORM, crs="EPSG:32633"
        ) as file:
            file.write(np.stack([image] * 3).astype(np.uint16))
            file.descriptions = ("B04", "B03", "B02")
    events: list[Event] = []
    config = load_config(
        sets=[f"model={model}", "cluster.kind=serial", "registration=off", "threshold=0.4", *sets]
    )
    pair = str(place / "before.tif"), str(place / "after.tif")
    record = run(*pair, place / "out", config, subscriber=events.append, computation=STUB)
    return record, [event.message for event in events if isinstance(event, Notice) and event.warning]


def test_cloud_is_most_of_the_change(tmp_path: Path) -> None:
    record, warnings = compared(tmp_path, slice(20, 80))
    assert record.cloud_like is not None
    assert record.cloud_like.before == 0
    assert record.cloud_like.after == 3600
    assert record.cloud_like.sampled_change == record.counts.changed_pixels
    assert any("is bright in the later date alone" in warning for warning in warnings)
    assert record.warnings[-1] in warnings


def test_roof_is_no_cloud(tmp_path: Path) -> None:
    record, warnings = compared(tmp_path, slice(20, 21))
    assert record.counts.changed_pixels
    assert record.cloud_like is not None
    assert record.cloud_like.share == 0
    assert not any("bright" in warning for warning in warnings)


def test_dates_are_read_only_where_a_cloud_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(*args: object) -> tuple[int, int]:
        seen.append(1)
        return 0, 0

    monkeypatch.setattr(cloud_check, "cloud_like", counted)
    record, _ = compared(tmp_path, slice(20, 21))
    assert not seen
    assert record.cloud_like is not None
    assert record.cloud_like.sampled_change == record.counts.changed_pixels > 0


def test_masked_cloud_is_no_change(tmp_path: Path) -> None:
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[20:80, 20:80] = 1
    mask = write_mask(tmp_path / "mask.tif", values, TRANSFORM, "EPSG:32633")
    record, _ = compared(tmp_path, slice(20, 80), f"masks.after={mask}")
    assert record.cloud_like is not None
    assert record.cloud_like.share == 0


def test_numbers_without_a_range_are_not_judged(tmp_path: Path) -> None:
    percentiles = {"kind": "percentiles", "low": 1, "high": 99}
    record, _ = compared(tmp_path, slice(20, 80), radiometry=percentiles)
    assert record.cloud_like is None


@pytest.mark.parametrize(
    ("counts", "where"),
    [
        ((100, 9, 0), None),
        ((100, 0, 10), "later"),
        ((100, 30, 2), "earlier"),
        ((100, 30, 20), "earlier and the later"),
    ],
)
def test_warning_names_the_date(counts: tuple[int, int, int], where: str | None) -> None:
    record = CloudLikeRecord(sampled_change=counts[0], before=counts[1], after=counts[2])
    found = cloud_warnings(record)
    assert len(found) == (where is not None)
    if where is not None:
        assert f"in the {where} date alone" in found[0]
        assert "--mask-before" in with_flags(found[0])
    assert cloud_warnings(None) == cloud_warnings(CloudLikeRecord(sampled_change=0, before=0, after=0)) == []
