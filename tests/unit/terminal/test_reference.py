"""The reference pages of the documentation."""

from __future__ import annotations

from ussfc import cli
from ussfc.pipeline.config.load import documented_keys
from ussfc.pipeline.terminal.exit_statuses import ExitStatus
from ussfc.pipeline.terminal.reference import pages


def test_configuration_page_has_every_key() -> None:
    lines = pages(cli.main)["configuration.md"].splitlines()
    rows = {line.split(" | ")[0].strip("| `"): line for line in lines if line.startswith("| `")}
    assert list(rows) == [key for key, _, _ in documented_keys()]
    assert all(description in rows[key] for key, _, description in documented_keys())
    assert "`bilinear`, `cubic`" in rows["grid.resampling"]
    assert "number, at least 0, less than 1" in rows["tiling.overlap"]
    assert "| required |" in rows["cluster.walltime"]
    assert rows["cluster.image"].endswith("| kubernetes |")


def test_commands_page_has_every_command() -> None:
    page = pages(cli.main)["cli.md"]
    for usage in (
        "run BEFORE AFTER",
        "status OUT",
        "demo [OUT]",
        "data check KIND FOLDER",
        "models show [NAME]",
    ):
        assert f"\n## `ussfc {usage}`\n" in page
    assert "| `--set A.B=C` | Set one key; see `ussfc config`. |" in page
    assert "\b" not in page


def test_statuses_page_has_every_status() -> None:
    page = pages(cli.main)["exit-statuses.md"]
    assert all(f"| {int(status)} | {status.meaning} |" in page for status in ExitStatus)
    assert "`StoreError`" in page
