"""Take the pictures of docs/tutorial.md from the run that it makes (needs playwright and chromium).

python benchmarks/tutorial_figures.py OUT docs/figures
"""

from __future__ import annotations

import io
import shutil
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from ussfc.pipeline.report.server import ViewServer
from ussfc.pipeline.report.view import open_view

WIDE = {"width": 1200, "height": 820}
LARGEST = 250_000
TALL = {"width": 1200, "height": 1100}


def save(shot: bytes, target: Path) -> None:
    """Write a picture; a large one in 256 colours, a third of the bytes."""
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    image.save(target, optimize=True)
    if target.stat().st_size > LARGEST:
        image.quantize(256, method=Image.Quantize.MEDIANCUT).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


def section(page: Any, heading: str) -> bytes:
    """Return a picture of the section of a report under a heading."""
    return page.locator("section", has=page.get_by_role("heading", name=heading)).first.screenshot()  # type: ignore[no-any-return]


def report(browser: Any, out: Path, target: Path) -> None:
    page = browser.new_page(viewport=WIDE, color_scheme="light")
    page.goto(f"file://{(out / 'report.html').resolve()}")
    page.wait_for_timeout(500)
    save(page.screenshot(), target / "tutorial_report.png")
    save(section(page, "Whether the inputs can be trusted"), target / "tutorial_trust.png")
    page.close()


def view(browser: Any, out: Path, target: Path) -> None:
    with ExitStack() as stack, ViewServer(open_view(out, stack)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        page = browser.new_page(viewport=TALL, color_scheme="light")
        page.goto(server.address)
        page.wait_for_timeout(1500)
        # A verdict goes on to the next polygon, once it is written.
        for key in ("n", "a", "a", "a", "r"):
            page.keyboard.press(key)
            page.wait_for_timeout(2000)
        save(page.screenshot(), target / "tutorial_review.png")
        page.close()
        server.shutdown()
        thread.join()


def main() -> None:
    out, target = Path(sys.argv[1]), Path(sys.argv[2])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        report(browser, out, target)
        view(browser, out, target)
        browser.close()


if __name__ == "__main__":
    main()
