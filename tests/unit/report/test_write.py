"""Pages of runs: complete, renewed, and of what is missing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from tests.support.shown_runs import CHANGES, copied, make_run
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import PipelineError, ReadError, StoreError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.report import overviews
from ussfc.pipeline.report.overviews import read_level
from ussfc.pipeline.report.page import MOST_FAILED
from ussfc.pipeline.report.write import conclude, write_report
from ussfc.pipeline.runs.products import recorded_config, write_manifest, write_products
from ussfc.pipeline.storage.folder import Folder

HOSTILE = "<script>alert('x')</script>\"&<img src=http://evil.example/a onerror=alert(1)>"


class Page(HTMLParser):
    """Elements of a page, their attributes and the text that is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(out: Path) -> Page:
    return Page((out / "report.html").read_text())


def change_record(out: Path, act: Callable[[dict[str, Any]], object]) -> None:
    """Change ``run.json``, with a checksum that agrees."""
    folder = Folder.of(out)
    content = folder.read_json("run.json")
    act(content)
    folder.write_record("run.json", content)


def test_page_is_complete(finished: Path) -> None:
    path = finished / "report.html"
    assert path.stat().st_size < 3_000_000
    found = page(finished)
    images = found.all("img")
    assert len(images) == 3 + 3 * len(CHANGES)
    assert all(image["src"].startswith("data:image/webp;base64,") for image in images)  # type: ignore[union-attr]
    assert all("alt" in image for image in images)
    assert "Both dates cannot be shown" not in found.text
    with Image.open(finished / "preview.png") as preview:
        assert preview.size == (560, 400)


def test_page_asks_nothing_of_a_network(finished: Path) -> None:
    found = page(finished)
    assert not re.search(
        r"(?:src|href|url|import|action)\s*[=(:]\s*[\"']?\s*(?:https?:)?//",
        (finished / "report.html").read_text(),
    )
    for _, attributes in found.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))
    (policy,) = (each["content"] for each in found.all("meta") if each.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_page_of_the_same_state_stays(own: Path) -> None:
    before = (own / "report.html").stat().st_mtime_ns
    assert not write_report(own)
    assert (own / "report.html").stat().st_mtime_ns == before
    (own / "preview.png").unlink()
    assert write_report(own)


def test_another_threshold_renews(own: Path) -> None:
    write_products(own, load_config(base=recorded_config(own), sets=["threshold=0.8"]))
    write_manifest(own)
    assert write_report(own)
    assert "0.8" in page(own).text


@pytest.mark.parametrize("part", ["warnings", "files", "failed", "model", "config"])
def test_hostile_names_are_text(own: Path, part: str) -> None:
    def act(content: dict[str, Any]) -> None:
        if part == "warnings":
            content["warnings"] = [HOSTILE]
        elif part == "files":
            content["inputs"]["after"] |= {"uri": f"/nowhere/{HOSTILE}.tif", "acquired": None}
        elif part == "failed":
            failed = {"index": [0, 0], "rows": [0, 9], "columns": [0, 9], "error": HOSTILE, "attempts": 3}
            content |= {"failed_tiles": [failed] * (MOST_FAILED + 9), "complete": False}
        elif part == "model":
            content["model"] |= {"name": HOSTILE, "licence": HOSTILE}
        else:
            content["versions"] |= {HOSTILE: HOSTILE}
            content["detector"] = HOSTILE

    change_record(own, act)
    assert write_report(own)
    found = page(own)
    # The page's own data and script.
    assert len(found.all("script")) == 2
    assert all((image["src"] or "").startswith("data:") for image in found.all("img"))
    assert not any("onerror" in attributes for _, attributes in found.elements)
    assert "alert('x')" in found.text
    assert (own / "report.html").stat().st_size < 3_000_000


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, Path]:
    """Return OUT and its later image, which may be moved."""
    out = make_run(tmp_path)
    return out, tmp_path / "scene_after.tif"


def test_dates_that_are_gone_and_back(moved: tuple[Path, Path]) -> None:
    out, image = moved
    aside = image.rename(image.with_suffix(".aside"))
    assert write_report(out)
    assert "Both dates cannot be shown" in page(out).text
    assert str(image) in page(out).text
    assert len(page(out).all("img")) == 1
    # A page that lacks something is made again.
    aside.rename(image)
    assert write_report(out)
    assert len(page(out).all("img")) == 3 + 3 * len(CHANGES)
    assert not write_report(out)


def test_dates_that_changed(moved: tuple[Path, Path]) -> None:
    out, image = moved
    with rasterio.open(image, "r+") as file:
        file.write(file.read() + 1)
    assert write_report(out)
    assert f"{image}: has changed since the run" in page(out).text


def test_large_dates_without_overviews(moved: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ussfc.pipeline.report.write.SIDES", (200,))
    monkeypatch.setattr(overviews, "MOST_AVERAGED", 1000)
    monkeypatch.setattr("ussfc.pipeline.reading.raster.RasterReader.overview", lambda *_: None)
    assert write_report(moved[0])
    assert "has no overviews; gdaladdo adds them" in page(moved[0]).text.replace("`", "")


def test_noise_stays_below_3_mb(tmp_path: Path) -> None:
    """Twenty large changes and imagery that no encoder makes small."""
    profile = {"driver": "GTiff", "width": 1500, "height": 1500, "count": 3, "dtype": "uint16", "crs": "EPSG:32636",
               "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)}  # fmt: skip
    rng = np.random.default_rng(1)
    before = rng.integers(1, 900, (3, 1500, 1500), dtype=np.uint16)
    after = before.copy()
    for place in range(25):
        row, column = (20 + 300 * axis for axis in divmod(place, 5))
        after[:, row : row + 250, column : column + 250] += 2500
    paths = []
    for name, image in (("before", before), ("after", after)):
        paths.append(tmp_path / f"scene_{name}.tif")
        with rasterio.open(paths[-1], "w", **profile) as target:
            target.write(image)
    out = make_run(tmp_path, "tiling.tile_size=1024", pair=(str(paths[0]), str(paths[1])))
    assert write_report(out)
    images = [image["src"] or "" for image in page(out).all("img")]
    assert len(images) == 3 + 3 * 20
    # Beside pictures of the whole scene of up to 2.4 MB.
    assert sum(map(len, images[3:])) < 550_000
    assert (out / "report.html").stat().st_size < 3_000_000


def test_run_without_crs(bare: Path, tmp_path: Path) -> None:
    out = copied(bare, tmp_path / "out")
    assert write_report(out)
    assert "px, no CRS" in page(out).text
    assert len(page(out).all("img")) == 3 + 3 * len(CHANGES)


def test_configuration_of_another_version(own: Path) -> None:
    change_record(own, lambda content: content.update(config={"of": "another version"}))
    assert write_report(own)
    assert "Both dates cannot be shown" in page(own).text


@pytest.mark.parametrize("name", ["change.tif", "probability.tif", "changes.parquet"])
@pytest.mark.parametrize("content", [None, b"", b"II*\x00damaged"])
def test_damaged_product_is_one_line(own: Path, name: str, content: bytes | None) -> None:
    change_record(own, lambda record: record["warnings"].append("new state"))
    (own / name).unlink()
    if content is not None:
        (own / name).write_bytes(content)
    notices: list[Event] = []
    conclude(own, notices.append)
    (notice,) = (each for each in notices if isinstance(each, Notice))
    assert re.fullmatch(rf"not everything to look at could be made: .*{re.escape(name)}: .*", notice.message)
    with pytest.raises((ReadError, StoreError)) as error:
        write_report(own)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "field", ["inputs", "grid", "counts", "threshold", "radiometry", "versions", "model", "products"]
)
def test_fields_of_another_version(own: Path, field: str) -> None:
    change_record(own, lambda content: content.pop(field))
    with pytest.raises(PipelineError) as error:
        write_report(own)
    assert "\n" not in str(error.value)


def test_unfinished_run(tmp_path: Path, own: Path) -> None:
    with pytest.raises(StoreError):
        write_report(tmp_path / "nothing")
    (own / "run.json").unlink()
    with pytest.raises(StoreError, match=r"run\.json"):
        write_report(own)


def test_folder_names(finished: Path, tmp_path: Path) -> None:
    for name in ("a b", "ü#1", "q?x=1&y", "100%25"):
        out = copied(finished, tmp_path / name)
        (out / "report.html").unlink()
        assert write_report(str(out))
        assert len(page(out).all("img")) == 3 + 3 * len(CHANGES)
        shutil.rmtree(out)


def test_rasters_are_read_once_and_only_where_something_is_missing(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return read_level(*arguments)

    monkeypatch.setattr("ussfc.pipeline.report.write.read_level", counted)
    for name in ("report.html", "change.tif.aux.xml", "probability.tif.aux.xml"):
        (own / name).unlink(missing_ok=True)
    conclude(own)
    assert len(calls) == 1
    assert (own / "probability.tif.aux.xml").exists()
    conclude(own)
    assert len(calls) == 1
