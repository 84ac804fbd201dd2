"""The reference pages of the documentation."""

from __future__ import annotations

import re

import ussfc
from ussfc import cli
from ussfc.pipeline.batches.index import COLUMNS
from ussfc.pipeline.config.load import documented_keys
from ussfc.pipeline.polygons.geoparquet import table_schema
from ussfc.pipeline.storage import layout
from ussfc.pipeline.terminal.exit_statuses import ExitStatus
from ussfc.pipeline.terminal.reference import page


def test_configuration_page_has_every_key() -> None:
    lines = page("configuration.md", cli.main).splitlines()
    rows = {line.split(" | ")[0].strip("| `"): line for line in lines if line.startswith("| `")}
    assert list(rows) == [key for key, _, _ in documented_keys()]
    assert all(description in rows[key] for key, _, description in documented_keys())
    assert "`bilinear`, `cubic`" in rows["grid.resampling"]
    assert "number, at least 0, less than 1" in rows["tiling.overlap"]
    assert "| required |" in rows["cluster.walltime"]
    assert rows["cluster.image"].endswith("| kubernetes |")


def test_commands_page_has_every_command() -> None:
    text = page("cli.md", cli.main)
    for usage in (
        "run BEFORE AFTER",
        "status OUT",
        "demo [OUT]",
        "data check KIND FOLDER",
        "models show [NAME]",
    ):
        assert f"\n## `ussfc {usage}`\n" in text
    assert "| `--set A.B=C` | Set one key; see `ussfc config`. |" in text
    assert "\b" not in text


def test_statuses_page_has_every_status() -> None:
    text = page("exit-statuses.md", cli.main)
    assert all(f"| {int(status)} | {status.meaning} |" in text for status in ExitStatus)
    assert "`StoreError`" in text


def test_files_page_has_columns_and_fields_with_their_meaning() -> None:
    lines = page("files.md", cli.main).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    assert all(len(cells) > 1 and cells[-1] for cells in rows)
    named = {cells[0].strip("`") for cells in rows}
    assert set(table_schema().names) <= named
    assert set(COLUMNS) <= named
    assert {"counts.polygon_area_m2", "inputs.before.uri", "products.NAME.sha256", "strata[].points"} <= named
    assert set(layout.PRODUCTS) <= named


def test_python_page_has_every_public_name() -> None:
    text = page("python.md", cli.main)
    headings = re.findall(r"^### `(\w+)`$", text, re.MULTILINE)
    assert sorted(headings) == sorted({*ussfc.__all__} - {"__version__"})
    assert "detect_changes(\n    before: xr.DataArray | xr.Dataset,\n" in text
    assert "| `threshold` | in [0, 1]; a probability of at least this is change." in text
    # Marks of reStructuredText are none of Markdown.
    assert ":func:" not in text
    assert "``" not in text.replace("```", "")
