"""Scenes on servers that fail: repeated, or an error, never other pixels."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from tests.support.cogs import BOX, assert_same, opened
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import SeaweedFS
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.reading import describe_scene, opening
from ussfc.pipeline.storage import remote
from ussfc.pipeline.types import Box, SceneReader


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        *itertools.product(("status", "drop", "truncate"), ("header", "blocks", "warped blocks")),
        # Each waits for seconds.
        *(pytest.param("delay", what, marks=pytest.mark.soak) for what in ("header", "blocks")),
        ("delay", "warped blocks"),
    ],
)
def test_failures_never_become_pixels(
    proxied: FaultProxy, scene: str, local: Path, quick: None, kind: str, what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    grid = describe_scene(str(local)).geobox
    if kind == "delay":  # each try waits for a second
        monkeypatch.setattr(opening, "READ_BACKOFF", Backoff(attempts=2, first=0.02))
    if what == "warped blocks":
        grid = grid.translate_pix(0.5, 0.25)
    expected = opened(local, grid).read(BOX)
    # The first cut leaves the tags of the header's end out, the other the end of a row of blocks.
    options = {"after": 1500 if what == "header" else 150_000, "seconds": 3}

    def fresh() -> SceneReader:
        reader = opened(scene, grid)
        if what != "header":
            reader.read(Box(1400, 1400, 1410, 1410))
        return reader

    for times in (1,) if kind == "delay" else (1, 3):
        reader = fresh()
        rule = proxied.inject(kind, "GET", times=times, **options)
        assert_same(reader.read(BOX), expected)
        assert proxied.fired(rule) == times
    reader = fresh()
    proxied.inject(kind, "GET", times=None, **options)
    if (kind, what) != ("truncate", "header"):  # the same cut in every answer is no outage
        with pytest.raises(ReadError, match=r"scene\.tif: rows 300\.\.1100, columns 400\.\.1250"):
            reader.read(BOX)
    proxied.heal()
    assert_same(reader.read(BOX), expected)


def test_a_header_cut_short_is_read_again(proxied: FaultProxy, scene: str, local: Path, quick: None) -> None:
    expected = describe_scene(str(local))
    for after in range(0, 2400, 150):
        rule = proxied.inject("truncate", "GET", after=after)
        found = describe_scene(scene)
        assert proxied.fired(rule) == 1
        assert (found.geobox, found.bands) == (expected.geobox, expected.bands), after
        rule = proxied.inject("truncate", "GET", after=after)
        pixels = opened(scene, found.geobox).read(Box(0, 0, 250, 350))
        assert proxied.fired(rule) == 1
        assert not pixels.valid[:200, :300].any(), after
        assert pixels.valid[200:].all()


def test_an_outage_is_waited_for_and_forgotten(
    proxied: FaultProxy, scene: str, local: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = describe_scene(scene).geobox
    reader = opened(scene, grid)
    proxied.pause()
    for request in (lambda: reader.read(BOX), lambda: describe_scene(scene)):
        with pytest.raises(ReadError, match=r"scene\.tif: cannot be read.*check the address"):
            request()
    monkeypatch.setattr(remote, "STORE_BACKOFF", Backoff(attempts=21, first=0.5, factor=1))
    timer = threading.Timer(1, proxied.resume)
    timer.start()
    assert_same(reader.read(BOX), opened(local, grid).read(BOX))
    timer.join()


def test_a_file_that_is_cut_short_is_an_error(
    s3_environment: None, seaweed: SeaweedFS, bucket: str, local: Path, quick: None
) -> None:
    seaweed.put(bucket, "cut.tif", local.read_bytes()[:-300_000])
    uri = f"s3://{bucket}/cut.tif"
    grid = describe_scene(uri).geobox
    with pytest.raises(
        ReadError, match=r"cut\.tif: rows .* cannot be read \(.*\); the file is damaged, cut short"
    ):
        opened(uri, grid).read(Box(0, 0, *grid.shape))
