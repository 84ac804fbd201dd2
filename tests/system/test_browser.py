"""The page and the map of a run in a real browser: one run, one browser, wide and narrow, light and dark."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.shown_runs import CHANGES, SHAPE, make_run
from ussfc.pipeline.assessment.label_table import open_labels
from ussfc.pipeline.assessment.sample import SampleRequest, draw_sample
from ussfc.pipeline.report.server import ViewServer
from ussfc.pipeline.report.view import open_view
from ussfc.pipeline.report.write import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt install chromium")

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with its page."""
    out = make_run(tmp_path_factory.mktemp("browser"))
    write_report(out)
    return out


@pytest.fixture(scope="module")
def server(out: Path) -> Iterator[ViewServer]:
    with ExitStack() as stack, ViewServer(open_view(out, stack)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Only root may not have the sandbox.
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """Open a page; nothing may go wrong on it, and nothing be asked of another place."""
    troubles: list[str] = []
    place = address.split("#")[0]
    context = browser.new_context(viewport=WIDE, **options)
    page = context.new_page()
    page.set_default_timeout(15_000)
    # Tests beside this one make and remove network devices, at which Chromium drops requests: no fault of the page.
    page.on(
        "console",
        lambda message: (
            troubles.append(message.text)
            if message.type == "error" and "net::ERR_NETWORK_CHANGED" not in message.text
            else None
        ),
    )
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((place, "data:", "blob:")) else troubles.append(request.url)
        ),
    )
    page.goto(address)
    yield page
    context.close()
    assert troubles == []


@contextmanager
def mapped(browser: Any, server: ViewServer, place: str = "", **options: Any) -> Iterator[Any]:
    """Open the map, and wait until it is drawn."""
    with opened(browser, server.address + place, **options) as page:
        settled(page)
        yield page


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true; Playwright's own way evaluates texts in the page, which its policy forbids."""
    end = time.monotonic() + 15
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)


def settled(page: Any) -> None:
    """Wait until every tile is there and drawn."""
    until(
        page,
        "document.documentElement.dataset.ready && document.getElementById('stage').dataset.loading === '0'",
    )
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixel(page: Any, selector: str, x: float, y: float) -> list[int]:
    """Return red, green, blue, alpha of a canvas at a share of its width and height."""
    return page.evaluate(
        """([selector, x, y]) => {
          const canvas = document.querySelector(selector);
          const [column, row] = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
          return [...canvas.getContext("2d").getImageData(column, row, 1, 1).data];
        }""",
        [selector, x, y],
    )  # type: ignore[no-any-return]


def drawn(page: Any) -> int:
    """Return the pixels of the report's overlay that are not empty."""
    return page.evaluate(
        """() => {
          const canvas = document.querySelector(".overlay");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return data.filter((value, place) => place % 4 === 3 && value > 0).length;
        }"""
    )  # type: ignore[no-any-return]


def set_range(page: Any, selector: str, value: float) -> None:
    page.locator(selector).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        value,
    )


def fits(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # type: ignore[no-any-return]


def centre(change: int) -> tuple[float, float]:
    """Return the middle of a change as shares of the grid's width and height."""
    row, column, rows, cols = CHANGES[change]
    return (column + cols / 2) / SHAPE[1], (row + rows / 2) / SHAPE[0]


def on_screen(page: Any, change: int) -> tuple[float, float]:
    """Return the middle of a change on the map that shows everything, pixels of the window."""
    box = page.locator("#stage").bounding_box()
    scale = min(box["width"] / SHAPE[1], box["height"] / SHAPE[0])
    x, y = centre(change)
    return (
        box["x"] + box["width"] / 2 + (x - 0.5) * SHAPE[1] * scale,
        box["y"] + box["height"] / 2 + (y - 0.5) * SHAPE[0] * scale,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_every_screen(browser: Any, server: ViewServer, out: Path, scheme: str) -> None:
    backgrounds = []
    with opened(browser, f"file://{out}/report.html", color_scheme=scheme) as page:
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for size in (WIDE, NARROW):
            page.set_viewport_size(size)
            assert fits(page)
        assert page.locator("h1").inner_text().startswith("Change from ")
    with mapped(browser, server, color_scheme=scheme) as page:
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        for size in (WIDE, NARROW):
            page.set_viewport_size(size)
            settled(page)
            assert fits(page)
            assert page.locator("#stage").bounding_box()["height"] > 200
    levels = [sum(map(int, each[4:-1].split(","))) for each in backgrounds]
    assert all(level > 600 for level in levels) if scheme == "light" else all(level < 150 for level in levels)


def test_report(browser: Any, out: Path) -> None:
    with opened(browser, f"file://{out}/report.html") as page:
        until(page, "document.querySelector('.overlay').getContext('2d').getImageData(60, 40, 1, 1).data[3]")
        assert pixel(page, ".overlay", *centre(0))[:3] == pixel(page, ".overlay", *centre(1))[:3]
        assert pixel(page, ".overlay", 0.5, 0.8)[3] == 0

        # The threshold: fewer pixels, another area.
        at, area = drawn(page), page.locator("#area").inner_text()
        assert at == sum(rows * cols for _, _, rows, cols in CHANGES)
        set_range(page, "#threshold", 220)
        assert drawn(page) < at
        assert page.locator("#area").inner_text() != area
        set_range(page, "#threshold", 1)
        assert drawn(page) >= at
        page.get_by_label("probability", exact=True).check()
        assert drawn(page) > at
        page.get_by_label("none").check()
        assert drawn(page) == 0

        # The swipe, by slider and by pointer.
        clip = "getComputedStyle(document.querySelector('img.before')).clipPath"
        seen = [page.evaluate(clip)]
        set_range(page, "#swipe", 20)
        seen.append(page.evaluate(clip))
        page.locator(".stage").scroll_into_view_if_needed()
        box = page.locator(".stage").bounding_box()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + box["height"] / 2)
        page.mouse.up()
        seen.append(page.evaluate(clip))
        assert len(set(seen)) == 3
        assert page.locator("#swipe").input_value() == "70"

        # Keys reach every control, and move it.
        page.locator("#swipe").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#swipe").input_value() == "71"
        for name in ("threshold", "opacity"):
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.id") == name
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")

        page.emulate_media(media="print")
        for selector in (".controls", ".zoom"):
            assert not page.locator(selector).is_visible()
        assert page.locator(".changes").is_visible()


def test_map_shows_the_products(browser: Any, server: ViewServer) -> None:
    with mapped(browser, server) as page:
        box = page.locator("#stage").bounding_box()
        x, y = on_screen(page, 1)
        share = (x - box["x"]) / box["width"], (y - box["y"]) / box["height"]
        page.locator("#outlines").uncheck()
        set_range(page, "#opacity", 100)
        settled(page)
        magenta = page.evaluate("fetch('facts').then((found) => found.json()).then((facts) => facts.color)")
        assert pixel(page, "#map", *share) == [*magenta, 255]
        set_range(page, "#threshold", 254)
        settled(page)
        after = pixel(page, "#map", *share)
        assert after[:3] != magenta
        assert after[3] == 255

        # The edge between both dates, by its keys.
        page.locator("#edge").focus()
        left = page.locator("#edge").evaluate("(edge) => edge.style.left")
        for _ in range(25):
            page.keyboard.press("ArrowRight")
        settled(page)
        assert page.locator("#edge").evaluate("(edge) => edge.style.left") != left
        assert pixel(page, "#map", *share) != after or share[0] < 0.5

        # Arrow keys and the permalink move the map; a reload goes back to the same place.
        page.locator("#stage").focus()
        page.keyboard.press("+")
        page.keyboard.press("ArrowRight")
        until(page, "location.hash.length > 3")
        page.wait_for_timeout(250)
        place = page.evaluate("location.hash")
        page.reload()
        settled(page)
        page.wait_for_timeout(250)
        assert page.evaluate("location.hash") == place
        assert page.locator("#threshold").input_value() == "254"


def test_map_reviews_polygons(browser: Any, server: ViewServer, out: Path) -> None:
    with mapped(browser, server) as page:
        until(page, "document.getElementById('progress').textContent === '0 of 4'")
        page.mouse.click(*on_screen(page, 0))
        until(page, "document.querySelectorAll('#attributes dd').length === 10")
        assert "3,600" in page.locator("#attributes").inner_text()
        assert "looks like" in page.locator("#attributes").inner_text()
        number = int(page.locator("#attributes dd").first.inner_text())
        page.keyboard.press("a")
        until(page, "document.getElementById('progress').textContent === '1 of 4'")
        # The next one follows.
        until(page, f"document.querySelector('#attributes dd').textContent !== '{number}'")
        table = pq.read_table(out / "review.parquet").to_pylist()
        assert [(row["id"], row["verdict"]) for row in table] == [(number, "accepted")]

        page.goto(server.address)
        page.reload()
        settled(page)
        until(page, "document.getElementById('progress').textContent === '1 of 4'")
        for link, text in (("#csv", f"{number},accepted"), ("#geojson", '"verdict": "accepted"')):
            with page.expect_download() as download:
                page.locator(link).click()
            assert text in Path(download.value.path()).read_text()

        # Filters change what is counted.
        set_range(page, "#size", 95)
        until(page, "document.getElementById('progress').textContent.endsWith(' of 2')")
        set_range(page, "#mean", 1)
        until(page, "document.getElementById('progress').textContent.endsWith(' of 0')")


def test_map_labels_a_sample(browser: Any, server: ViewServer, out: Path) -> None:
    folder = draw_sample(out, SampleRequest(points=20)).folder
    view = server.view
    server.view = dataclasses.replace(view, labels=open_labels(out, None))
    try:
        with mapped(browser, server) as page:
            until(page, "document.getElementById('sample-progress').textContent === '0 of 20'")
            # What the map says stays hidden.
            assert page.locator("[name=layer][value=none]").is_checked()
            page.keyboard.press("n")
            settled(page)
            before = page.locator("#map").screenshot()
            page.keyboard.press("f")
            settled(page)
            assert page.locator("#map").screenshot() != before
            for key in ("c", "x", "u"):
                page.keyboard.press(key)
                page.wait_for_timeout(200)
            until(page, "document.getElementById('sample-progress').textContent === 'point 4, 3 of 20'")
            table = pq.read_table(folder / "sample.parquet").to_pylist()
            assert [row["reference"] for row in table[:4]] == ["change", "no change", "unclear", None]
            page.reload()
            settled(page)
            until(page, "document.getElementById('sample-progress').textContent === '3 of 20'")
            # The next one without a label; a polygon that is chosen takes the keys.
            page.keyboard.press("n")
            until(page, "document.getElementById('sample-progress').textContent.startsWith('point 4,')")
    finally:
        server.view = view


def test_wrong_token(browser: Any, server: ViewServer) -> None:
    context = browser.new_context()
    wrong = server.address.replace(server.token, "x" * len(server.token))
    assert context.new_page().goto(wrong).status == 404
    assert context.request.get(f"{wrong}facts").status == 404
    context.close()
